// What the kill tests of the primitives share.

#ifndef MP_SYNC_KILL_TEST_UTIL_H_
#define MP_SYNC_KILL_TEST_UTIL_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/futex.h"
#include "mp/base/spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/process_test.h"

namespace mp {

// Never reached: what is not there after this long never will be.
inline constexpr absl::Duration kGenerous = absl::Seconds(20);

// Of how many instructions one is stepped through, where a run of all would
// take too long for every day. Builds that are not optimised have many times as
// many. A run begins somewhere else each time. With MP_EVERY_INSTRUCTION in the
// environment, none is left out.
struct Stride {
  int64_t quick;
  int64_t slow;      // the operation sleeps
  int64_t sleepers;  // others sleep, and each death waits until they do
};
inline const Stride kStride =
    getenv("MP_EVERY_INSTRUCTION") != nullptr
        ? Stride{.quick = 1, .slow = 1, .sleepers = 1}
#if defined(__SANITIZE_ADDRESS__)
        : Stride{.quick = 7, .slow = 14, .sleepers = 28};
#elif defined(__OPTIMIZE__)
        : Stride{.quick = 1, .slow = 4, .sleepers = 16};
#else
        : Stride{.quick = 1, .slow = 3, .sleepers = 12};
#endif

inline int64_t AnyOf(int64_t stride) {
  return 1 + static_cast<int64_t>(std::random_device()()) % stride;
}

// Well before the end of the first slice (mp/shm/park.h), or the operation
// would not do the same each time.
inline constexpr absl::Duration kAsleepAfter = absl::Milliseconds(2);

// The KillSteps::setup of an operation that spins for a partner. A spin is the
// same look again and again. AddressSanitizer makes a look of hundreds of
// instructions, most of them in loops of its run-time library, on each of whose
// rounds the stepper stops: there the child goes to sleep at once.
inline void SpinUnlessInstrumented() {
#if defined(__SANITIZE_ADDRESS__)
  SetAvailableProcessorsForTest(1);
#endif
}

// Says yes from some instruction on, and not before: an operation takes effect
// at one instruction.
class Once {
 public:
  void Expect(bool now, const testing::KillPoint& point) {
    EXPECT_TRUE(now || !before_) << "took effect, and then not";
    EXPECT_TRUE(now || !point.completed()) << "took no effect";
    before_ = now;
  }
  bool seen() const { return before_; }

 private:
  bool before_ = false;
};

inline void Print(const std::string& what, const testing::KillReport& report) {
  printf("%s: %lld instructions, %lld deaths, %lld sleeps, %lld diverged\n",
         what.c_str(), static_cast<long long>(report.instructions),
         static_cast<long long>(report.deaths),
         static_cast<long long>(report.sleeps),
         static_cast<long long>(report.diverged));
  EXPECT_TRUE(report.completed);
  EXPECT_GT(report.deaths, 0);
}

// The fixture.
class KillTest : public testing::ProcessTest {
 protected:
  KillTest() {
    // Found out once a process; not what is tested.
    AvailableProcessors();
    HaveFutexWaitv();
    Liveness::SelfThread();
    // The end of a slice would be in another place each time.
    ParkSlices::SetFirstForTest(60'000'000);
  }
  ~KillTest() override { ParkSlices::SetFirstForTest(0); }
};

}  // namespace mp

#endif  // MP_SYNC_KILL_TEST_UTIL_H_
