#include "mp/shm/platform.h"

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/base/spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

static_assert(
    std::is_same_v<KernelPlatform::Atomic<uint32_t>, std::atomic<uint32_t>>);

class PlatformTest : public testing::ProcessTest {};

TEST_F(PlatformTest, TheRealMachine) {
  EXPECT_EQ(KernelPlatform::Self(), Liveness::Self());
  EXPECT_FALSE(KernelPlatform::IsDead(KernelPlatform::Self()));
  EXPECT_TRUE(KernelPlatform::IsDead(kDeadToken));
  EXPECT_EQ(KernelPlatform::MaySpin(), AvailableProcessors() > 1);
  KernelPlatform::Relax();
}

TEST_F(PlatformTest, ParksAndUnparksBetweenProcesses) {
  SharedPage<FutexWord> word;
  auto child = ChildProcess::Start([&] {
    ParkSlices slices;
    const Deadline deadline = Deadline::Infinite();
    while (*word == 0) {
      EXPECT_EQ(KernelPlatform::Park(*word, 0, kNoToken, deadline, slices),
                ParkResult::kRetry);
    }
  });
  ASSERT_TRUE(child.WaitUntilAsleep());
  // Between two slices it is awake for a moment.
  while (KernelPlatform::Unpark(*word, 1) != 1) {
  }
  word->store(1);
  KernelPlatform::Unpark(*word, 1);
  child.ExpectExit(0);
  ParkSlices slices;
  EXPECT_EQ(
      KernelPlatform::Park(*word, 1, kNoToken,
                           Deadline::After(absl::Milliseconds(1)), slices),
      ParkResult::kTimedOut);
}

}  // namespace
}  // namespace mp
