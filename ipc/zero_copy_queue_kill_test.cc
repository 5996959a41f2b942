// SIGKILL at every instruction of what a ZeroCopyQueue does: all its loans come
// back, and its items are whole.

#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/ipc/zero_copy_queue.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::StatusIs;
using ::testing::AnyOf;
using ::testing::ElementsAre;

class ZeroCopyQueueKillTest : public MessageKillTest {
 protected:
  static constexpr size_t kLoans = 3;
  // What first maps memory, or looks for the dead, has thousands of
  // instructions. Set it to 1 to step through Reserve and Borrow whole.
  static constexpr int64_t kDailyStride = 3;

  void Fresh() { queue_.emplace(ZeroCopyQueueOptions{.loans = kLoans}); }
  absl::Status Put(int item) { return queue_->Put(std::vector{item}); }

  // All loans are free that carry no item; and then each carries one.
  void ExpectWorks() {
    std::vector<Reservation<int>> all;
    while (all.size() + queue_->qsize() < kLoans) {
      absl::StatusOr<Reservation<int>> place = queue_->Reserve(1, kStranded);
      ASSERT_OK(place) << "a loan has not come back";
      all.push_back(*std::move(place));
    }
    EXPECT_THAT(queue_->Reserve(1, absl::ZeroDuration()),
                StatusIs(absl::StatusCode::kDeadlineExceeded));
    all.clear();
    while (!queue_->Empty()) ASSERT_OK(queue_->Get(kStranded));
    for (int i = 0; i < static_cast<int>(kLoans); ++i) ASSERT_OK(Put(i));
    for (int i = 0; i < static_cast<int>(kLoans); ++i) {
      EXPECT_THAT(queue_->Get(kStranded), IsOkAndHolds(ElementsAre(i)));
    }
  }

  std::optional<ZeroCopyQueue<int>> queue_;
};

TEST_F(ZeroCopyQueueKillTest, Reserve) {
  Run({.prepare = [&] { Fresh(); },
       .op = [&] { queue_->Reserve(1).IgnoreError(); },
       .check =
           [&](const KillPoint&) {
             EXPECT_TRUE(queue_->Empty());
             ExpectWorks();
           },
       .stride = kDailyStride});
}

// Beside an item on the way, which stays.
TEST_F(ZeroCopyQueueKillTest, Commit) {
  Outcomes outcomes;
  std::optional<Reservation<int>> place;
  Run({.prepare =
           [&] {
             Fresh();
             ASSERT_OK(Put(1));
           },
       .setup =
           [&] {
             place = queue_->Reserve(1).value();
             place->data()[0] = 2;
           },
       .op = [&] { place->Commit().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const size_t items = queue_->qsize();
             EXPECT_THAT(items, AnyOf(1u, 2u));
             outcomes.Saw(items == 2, point);
             EXPECT_THAT(queue_->Get(kStranded), IsOkAndHolds(ElementsAre(1)));
             if (items == 2) {
               EXPECT_THAT(queue_->Get(kStranded),
                           IsOkAndHolds(ElementsAre(2)));
             }
             ExpectWorks();
           }});
}

TEST_F(ZeroCopyQueueKillTest, Borrow) {
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             Fresh();
             ASSERT_OK(Put(1));
             ASSERT_OK(Put(2));
           },
       .op = [&] { queue_->Borrow().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const size_t items = queue_->qsize();
             EXPECT_THAT(items, AnyOf(1u, 2u));
             outcomes.Saw(items == 1, point);
             if (items == 2) {
               EXPECT_THAT(queue_->Get(kStranded),
                           IsOkAndHolds(ElementsAre(1)));
             }
             EXPECT_THAT(queue_->Get(kStranded), IsOkAndHolds(ElementsAre(2)));
             ExpectWorks();
           },
       .stride = kDailyStride});
}

TEST_F(ZeroCopyQueueKillTest, Release) {
  std::optional<Borrowed<int>> item;
  Run({.prepare =
           [&] {
             Fresh();
             ASSERT_OK(Put(1));
           },
       .setup = [&] { item = queue_->Borrow().value(); },
       .op = [&] { item->Release(); },
       .check =
           [&](const KillPoint&) {
             EXPECT_TRUE(queue_->Empty());
             ExpectWorks();
           }});
}

// The victim collects the loans of one who died before, who had one of each
// kind.
TEST_F(ZeroCopyQueueKillTest, ReserveWhatTheDeadHad) {
  Run({.prepare =
           [&] {
             Fresh();
             ASSERT_OK(Put(1));
             ChildProcess dead = ChildProcess::Start([&] {
               const absl::StatusOr<Borrowed<int>> read = queue_->Borrow();
               const absl::StatusOr<Reservation<int>> place =
                   queue_->Reserve(1);
               ASSERT_OK(Put(2));
               raise(SIGKILL);
             });
             dead.ExpectSignal(SIGKILL);
             EXPECT_THAT(queue_->qsize(), 1u);
           },
       .op = [&] { queue_->Reserve(1).IgnoreError(); },
       .check =
           [&](const KillPoint&) {
             EXPECT_THAT(queue_->Get(kStranded), IsOkAndHolds(ElementsAre(2)));
             ExpectWorks();
           },
       .stride = 3 * kDailyStride});
}

// The victim waits for a loan, and is given one; or another waiter is.
TEST_F(ZeroCopyQueueKillTest, ReserveThatWaits) {
  std::vector<Reservation<int>> all;
  Run({.prepare =
           [&] {
             all.clear();
             Fresh();
             while (all.size() < kLoans) {
               all.push_back(queue_->Reserve(1).value());
             }
           },
       // It shall sleep until it is woken.
       .setup = [] { ParkSlices::SetFirstForTest(3600'000'000'000); },
       .op = [&] { queue_->Reserve(1).IgnoreError(); },
       .unblock = [&] { all.pop_back(); },
       .check =
           [&](const KillPoint&) {
             all.clear();
             ExpectWorks();
           },
       .stride = 5 * kDailyStride});
}

}  // namespace
}  // namespace mp
