#include "mp/pool/worker_meter.h"

#include <cstdint>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"

namespace mp::pool_internal {
namespace {

int64_t now = 1000;

class WorkerMeterTest : public ::testing::Test {
 protected:
  WorkerMeterTest() { SetThreadClockForTest(&now); }
  ~WorkerMeterTest() override { SetThreadClockForTest(nullptr); }

  WorkerMeter meter_;
};

TEST_F(WorkerMeterTest, IsNotAliveBeforeItIsReady) {
  EXPECT_EQ(meter_.Alive(), absl::ZeroDuration());
  EXPECT_EQ(meter_.Idle(meter_.Alive()), absl::ZeroDuration());
  EXPECT_EQ(meter_.waits_since_nanos(), 0);
}

TEST_F(WorkerMeterTest, CountsWaitsThatEndedAndTheOneUnderWay) {
  meter_.Ready();
  now += 10;
  meter_.BeginWait();
  EXPECT_EQ(meter_.waits_since_nanos(), now);
  now += 20;
  meter_.EndWait();
  EXPECT_EQ(meter_.waits_since_nanos(), 0);
  now += 30;
  EXPECT_EQ(meter_.Alive(), absl::Nanoseconds(60));
  EXPECT_EQ(meter_.Idle(meter_.Alive()), absl::Nanoseconds(20));
  meter_.BeginWait();
  now += 5;
  EXPECT_EQ(meter_.Idle(meter_.Alive()), absl::Nanoseconds(25));
}

TEST_F(WorkerMeterTest, WaitsNoLongerThanItLives) {
  meter_.Ready();
  meter_.BeginWait();
  now += 50;
  EXPECT_EQ(meter_.Idle(absl::Nanoseconds(40)), absl::Nanoseconds(40));
}

TEST_F(WorkerMeterTest, BeginsAnew) {
  meter_.Ready();
  meter_.BeginWait();
  now += 50;
  meter_.EndWait();
  meter_.Clear();
  EXPECT_EQ(meter_.Alive(), absl::ZeroDuration());
  meter_.Ready();
  now += 7;
  EXPECT_EQ(meter_.Alive(), absl::Nanoseconds(7));
  EXPECT_EQ(meter_.Idle(meter_.Alive()), absl::ZeroDuration());
}

}  // namespace
}  // namespace mp::pool_internal
