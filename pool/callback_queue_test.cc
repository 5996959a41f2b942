#include "mp/pool/callback_queue.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::ElementsAre;

class CallbackQueueTest : public mp::testing::ProcessTest {};

TEST_F(CallbackQueueTest, RunsInTheOrderOfTheCallsAlsoThoseThatComeMeanwhile) {
  CallbackQueue queue;
  std::vector<int> ran;
  int wakes = 0;
  const auto wake = [&] { ++wakes; };
  EXPECT_FALSE(queue.HasAny());
  queue.Post(
      [&] {
        ran.push_back(1);
        queue.Post([&] { ran.push_back(3); }, wake);
      },
      wake);
  queue.Post([&] { ran.push_back(2); }, wake);
  EXPECT_TRUE(queue.HasAny());
  EXPECT_EQ(wakes, 2);
  EXPECT_THAT(ran, ElementsAre());
  queue.RunAll();
  EXPECT_THAT(ran, ElementsAre(1, 2, 3));
  EXPECT_FALSE(queue.HasAny());
}

TEST_F(CallbackQueueTest, ExceptionIsReportedAndTheNextIsRun) {
  CallbackQueue queue;
  bool next_ran = false;
  queue.Post([] { throw std::runtime_error("bad"); }, [] {});
  queue.Post([&] { next_ran = true; }, [] {});
  ::testing::internal::CaptureStderr();
  queue.RunAll();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "mp::Pool: a callback threw std::runtime_error: bad\n");
  EXPECT_TRUE(next_ran);
}

TEST_F(CallbackQueueTest, AfterTheEndWhoPostsRunsIt) {
  CallbackQueue queue;
  bool ran = false;
  queue.Post([&] { ran = true; }, [] {});
  EXPECT_THAT(queue.WaitForEnd(Deadline::Now()),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       "the pool's workers have not ended"));
  queue.End();
  EXPECT_TRUE(ran);
  EXPECT_THAT(queue.WaitForEnd(Deadline::Now()), IsOk());
  ran = false;
  queue.Post([&] { ran = true; }, [] {});
  EXPECT_TRUE(ran);
}

TEST_F(CallbackQueueTest, NoneIsLostAtTheEnd) {
  for (int round = 0; round < 1000; ++round) {
    CallbackQueue queue;
    std::atomic<int> ran{0};
    std::thread poster([&] {
      for (int i = 0; i < 5; ++i) queue.Post([&] { ++ran; }, [] {});
    });
    queue.End();
    EXPECT_THAT(queue.WaitForEnd(Deadline::Infinite()), IsOk());
    poster.join();
    EXPECT_EQ(ran, 5);
  }
}

}  // namespace
}  // namespace mp::pool_internal
