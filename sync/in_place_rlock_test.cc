#include "mp/sync/in_place_rlock.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/sync/in_place_lock.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/simulated_machine.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;

class InPlaceRLockTest : public testing::ProcessTest {
 protected:
  // In a mapping of the user's own: zero-filled, nothing constructed.
  InPlaceRLockTest()
      : memory_(mmap(nullptr, sizeof(InPlaceRLock), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
        lock_(*static_cast<InPlaceRLock*>(memory_)) {
    MP_PCHECK(memory_ != MAP_FAILED) << "mmap";
  }
  ~InPlaceRLockTest() override { munmap(memory_, sizeof(InPlaceRLock)); }

  void* const memory_;
  InPlaceRLock& lock_;
};

TEST_F(InPlaceRLockTest, ZeroFilledMemoryIsAFreeLock) {
  EXPECT_FALSE(lock_.IsHeld());
  EXPECT_FALSE(lock_.IsOwned());
  EXPECT_FALSE(lock_.Release());
  EXPECT_TRUE(lock_.TryAcquire());
  EXPECT_TRUE(lock_.TryAcquire());
  EXPECT_EQ(lock_.depth(), 2u);
  ChildProcess::Start([&] {
    EXPECT_TRUE(lock_.IsHeld());
    EXPECT_FALSE(lock_.IsOwned());
    EXPECT_FALSE(lock_.TryAcquire());
    EXPECT_FALSE(lock_.try_lock());
    EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kTimedOut);
  }).ExpectExit(0);
  EXPECT_TRUE(lock_.Release());
  EXPECT_TRUE(lock_.Release());
  EXPECT_FALSE(lock_.Release());
  EXPECT_FALSE(lock_.IsHeld());
}

TEST_F(InPlaceRLockTest, TakesOverFromADeadHolder) {
  ChildProcess::Start([&] { lock_.Acquire(); }).ExpectExit(0);
  EXPECT_FALSE(lock_.TryAcquire());
  EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kOwnerDied);
  EXPECT_EQ(lock_.depth(), 1u);
  lock_.ReleaseUnrepaired();
  EXPECT_FALSE(lock_.IsOwned());
  EXPECT_EQ(lock_.Acquire(), kOwnerDied);
  lock_.unlock();
  {
    const std::scoped_lock hold(lock_);
    EXPECT_TRUE(lock_.IsOwned());
  }
  EXPECT_FALSE(lock_.IsHeld());
}

// ---- The algorithm on a simulated machine.

// Some processes use one lock, which each acquires up to three times; `kills`
// of them are killed.
void Simulate(uint64_t seed, int kills) {
  BasicInPlaceRLock<SimulatedPlatform> lock;
  std::optional<size_t> holder;
  SimulatedMachine machine(seed);
  const bool ended = machine.Run(4, kills, [&](size_t self) {
    for (int i = 0; i < 2; ++i) {
      const int depth = 1 + static_cast<int>(machine.Random(3));
      for (int d = 0; d < depth; ++d) {
        const AcquireResult result = lock.Acquire();
        if (d > 0) {
          EXPECT_EQ(result, kAcquired);
          EXPECT_EQ(holder, self);
        } else if (holder.has_value()) {
          EXPECT_EQ(result, kOwnerDied);
          EXPECT_TRUE(machine.IsDead(SimulatedMachine::TokenOf(*holder)))
              << "two holders";
        }
        holder = self;
        machine.Step();  // may die here
        EXPECT_EQ(holder, self);
      }
      for (int d = 0; d < depth; ++d) {
        EXPECT_TRUE(lock.IsOwned());
        if (d == depth - 1) holder.reset();
        EXPECT_TRUE(lock.Release());
      }
      EXPECT_FALSE(lock.IsOwned());
      EXPECT_FALSE(lock.Release());
    }
  });
  EXPECT_TRUE(ended);
  if (kills == 0) {
    EXPECT_EQ(machine.slices_ended(), 0);
  }
}

TEST(InPlaceRLockInterleavingsTest, ExcludesAndStrandsNobody) {
  for (uint64_t seed = 0; seed < 5'000; ++seed) {
    Simulate(seed, /*kills=*/static_cast<int>(seed % 3));
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

}  // namespace
}  // namespace mp
