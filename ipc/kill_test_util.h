// What the kill tests of queues and pipes share.

#ifndef MP_IPC_KILL_TEST_UTIL_H_
#define MP_IPC_KILL_TEST_UTIL_H_

#include <atomic>
#include <cstdint>
#include <cstdio>

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/process_test.h"

namespace mp {

// Nothing may take that long, on whatever machine: an operation that does has
// been stranded by the dead process.
inline constexpr absl::Duration kStranded = absl::Seconds(20);

// An instrumented operation has many times the instructions. And what one
// compiler makes of it is stepped whole, so of the other one's a sample does.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr int64_t kStride = 11;
#elif defined(__clang__)
inline constexpr int64_t kStride = 5;
#else
inline constexpr int64_t kStride = 1;
#endif

// For operations that wait or do many things: those are not in the headers,
// which the kill tests build for speed, and so have ten times the instructions
// unless everything is.
#if defined(__OPTIMIZE__) && defined(NDEBUG)
inline constexpr int64_t kOutOfLineStride = 1;
#else
inline constexpr int64_t kOutOfLineStride = 13;
#endif

// The fixture.
class MessageKillTest : public testing::ProcessTest {
 protected:
  void Run(const testing::KillSteps& steps) {
    EXPECT_EQ(RunSteps(steps), steps.unblock ? 1 : 0);
  }

  // The same, however often the operation sleeps; returns that.
  static int64_t RunSteps(testing::KillSteps steps) {
    steps.stride *= kStride;
    const testing::KillReport report = testing::KillAtEveryInstruction(steps);
    printf("%d instructions, %d deaths, %d sleeps, %d diverged\n",
           static_cast<int>(report.instructions),
           static_cast<int>(report.deaths), static_cast<int>(report.sleeps),
           static_cast<int>(report.diverged));
    EXPECT_TRUE(report.completed);
    return report.sleeps;
  }

  // How the operation ended, for each death.
  class Outcomes {
   public:
    void Saw(bool done, const testing::KillPoint& point) {
      if (point.completed()) {
        EXPECT_TRUE(done);
      } else {
        ++(done ? done_ : not_done_);
      }
    }
    ~Outcomes() {
      // Otherwise the deaths have not been where they should.
      EXPECT_GT(not_done_, 0);
      EXPECT_GT(done_, 0);
    }

   private:
    int not_done_ = 0;
    int done_ = 0;
  };
};

// Waits until `done()`, which some survivor sees to.
inline void AwaitSurvivor(absl::FunctionRef<bool()> done) {
  const absl::Time stranded = absl::Now() + kStranded;
  while (!done()) {
    ASSERT_LT(absl::Now(), stranded) << "a survivor has been stranded";
    absl::SleepFor(absl::Microseconds(50));
  }
}

// What a survivor on the other side gets, for as long as it lives.
//
// Not each run of the stepper is checked, and a victim may have died before it
// woke the survivor, which finds out later what is there. So before each death:
//
//   AwaitSurvivor([&] { return <nothing is left for it>; });
//   ASSERT_TRUE(survivor.WaitUntilAsleep());
//   seen = log->count;
struct Log {
  static constexpr int kMax = 1 << 16;
  std::atomic<int> count{0};
  int items[kMax] = {};

  void Add(int item) {
    items[count] = item;
    ++count;
  }
  // Waits until there are so many.
  void Await(int wanted) {
    AwaitSurvivor([&] { return count >= wanted; });
  }
};

}  // namespace mp

#endif  // MP_IPC_KILL_TEST_UTIL_H_
