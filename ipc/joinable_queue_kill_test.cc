// SIGKILL at every instruction of what JoinableQueue adds to Queue.

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/joinable_queue.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::StatusIs;
using ::testing::AnyOf;
using ::testing::StartsWith;

class JoinableQueueKillTest : public MessageKillTest {
 protected:
  static auto OneLost() {
    return StatusIs(absl::StatusCode::kAborted,
                    StartsWith("1 items were lost"));
  }
  static auto Unfinished() {
    return StatusIs(absl::StatusCode::kDeadlineExceeded);
  }
  void GetAndFinish() {
    ASSERT_OK(queue_->Get(kStranded));
    EXPECT_THAT(queue_->Join(absl::ZeroDuration()), Unfinished());
    EXPECT_OK(queue_->TaskDone());
  }
  void ExpectWorks() {
    ASSERT_OK(queue_->Put(9, kStranded));
    GetAndFinish();
    EXPECT_OK(queue_->Join(kStranded));
  }

  std::optional<JoinableQueue<int>> queue_;
  Outcomes outcomes_;
};

// The item is in the queue or lost with its getter, never both or neither;
// whether another is gotten afterwards or not.
TEST_F(JoinableQueueKillTest, Get) {
  for (const size_t items : {1, 2}) {
    Run({.prepare =
             [&] {
               queue_.emplace();
               for (size_t i = 0; i < items; ++i) ASSERT_OK(queue_->Put(1));
             },
         .op = [&] { queue_->Get().IgnoreError(); },
         .check =
             [&](const KillPoint& point) {
               const size_t left = queue_->qsize();
               ASSERT_THAT(left, AnyOf(items, items - 1));
               outcomes_.Saw(left < items, point);
               for (size_t i = 0; i < left; ++i) GetAndFinish();
               if (left < items) {
                 EXPECT_THAT(queue_->Join(kStranded), OneLost());
               }
               EXPECT_OK(queue_->Join(kStranded));
               ExpectWorks();
             }});
  }
}

TEST_F(JoinableQueueKillTest, TaskDone) {
  Run({.prepare =
           [&] {
             queue_.emplace();
             ASSERT_OK(queue_->Put(1));
           },
       .setup = [&] { ASSERT_OK(queue_->Get()); },
       .op = [&] { queue_->TaskDone().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const absl::Status joined = queue_->Join(kStranded);
             outcomes_.Saw(joined.ok(), point);
             if (!joined.ok()) {
               EXPECT_THAT(joined, OneLost());
             }
             ExpectWorks();
           }});
}

}  // namespace
}  // namespace mp
