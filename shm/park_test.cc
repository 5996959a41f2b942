#include "mp/shm/park.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/shm/liveness.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

using SharedWord = SharedPage<FutexWord>;

constexpr int64_t kMilli = 1'000'000;

// With the longest slices, so that what ends earlier was woken.
ParkSlices LongSlices() {
  ParkSlices slices;
  for (int i = 0; i < 10; ++i) slices.Grow();
  return slices;
}

ChildProcess StartOwner(SharedWord& token) {
  token->store(kNoToken);
  ChildProcess owner = ChildProcess::Start([&] {
    token->store(Liveness::Self());
    for (;;) pause();
  });
  while (*token == kNoToken) absl::SleepFor(absl::Microseconds(100));
  return owner;
}

class ParkTest : public testing::ProcessTest {
 protected:
  ~ParkTest() override { SetFutexWaitvForTest(true); }
};

TEST(ParkSlicesTest, GrowFromTenToTwoHundredAndFiftyMilliseconds) {
  ParkSlices slices;
  EXPECT_EQ(slices.nanos(), 10 * kMilli);
  slices.Grow();
  EXPECT_EQ(slices.nanos(), 20 * kMilli);
  for (int i = 0; i < 3; ++i) slices.Grow();
  EXPECT_EQ(slices.nanos(), 160 * kMilli);
  for (int i = 0; i < 100; ++i) slices.Grow();
  EXPECT_EQ(slices.nanos(), 250 * kMilli);
  slices.Grow(/*expects_help=*/true);
  EXPECT_EQ(slices.nanos(), 500 * kMilli);
  for (int i = 0; i < 100; ++i) slices.Grow(/*expects_help=*/true);
  EXPECT_EQ(slices.nanos(), 1000 * kMilli);
}

TEST_F(ParkTest, SleepsLongerIfItExpectsHelp) {
  FutexWord word{0};
  ParkSlices slices;
  while (slices.nanos() < 250 * kMilli) slices.Grow();
  for (const bool help : {false, true}) {
    WatchList watched;
    if (help) watched.ExpectHelp();
    EXPECT_EQ(Park(word, 0, watched, Deadline::Infinite(), slices),
              ParkResult::kRetry);
    EXPECT_EQ(slices.nanos(), (help ? 500 : 250) * kMilli);
  }
}

TEST_F(ParkTest, ReturnsAtOnceIfTheWordHasChanged) {
  FutexWord word{1};
  ParkSlices slices;
  EXPECT_EQ(Park(word, 0, kNoToken, Deadline::Infinite(), slices),
            ParkResult::kRetry);
  EXPECT_EQ(Park(word, 0, Liveness::Self(), Deadline::Infinite(), slices),
            ParkResult::kRetry);
  EXPECT_EQ(slices.nanos(), ParkSlices().nanos());  // that was no sleep
}

TEST_F(ParkTest, TimesOutNoEarlierThanTheDeadline) {
  FutexWord word{0};
  for (const Token owner : {kNoToken, Liveness::Self()}) {
    const int64_t begin = MonotonicNanos();
    const Deadline deadline = Deadline::After(absl::Milliseconds(35));
    ParkSlices slices;
    while (Park(word, 0, owner, deadline, slices) == ParkResult::kRetry) {
    }
    EXPECT_GE(MonotonicNanos() - begin, 35 * kMilli);
    EXPECT_EQ(Park(word, 0, owner, deadline, slices), ParkResult::kTimedOut);
  }
}

TEST_F(ParkTest, DoesNotSleepWithoutTime) {
  FutexWord word{0};
  ParkSlices slices;
  EXPECT_EQ(Park(word, 0, kNoToken, Deadline::Now(), slices),
            ParkResult::kTimedOut);
  EXPECT_EQ(slices.nanos(), ParkSlices().nanos());
}

TEST_F(ParkTest, LooksAgainAfterASlice) {
  FutexWord word{0};
  ParkSlices slices;
  int64_t expected = 10 * kMilli;
  for (int i = 0; i < 3; ++i) {
    const int64_t begin = MonotonicNanos();
    EXPECT_EQ(Park(word, 0, kNoToken, Deadline::Infinite(), slices),
              ParkResult::kRetry);
    EXPECT_GE(MonotonicNanos() - begin, expected);
    expected *= 2;
    EXPECT_EQ(slices.nanos(), expected);
  }
}

// Twice as long each time, until that is as long as anybody sleeps.
TEST_F(ParkTest, LooksAgainSoonIfItExpectsAChange) {
  FutexWord word{0};
  ParkSlices slices;
  WatchList watched;
  watched.ExpectChange();
  for (const int millis : {1, 2, 4, 8}) {
    EXPECT_TRUE(slices.has_brief());
    EXPECT_EQ(slices.brief_nanos(), millis * kMilli);
    EXPECT_EQ(Park(word, 0, watched, Deadline::Infinite(), slices),
              ParkResult::kRetry);
    EXPECT_EQ(slices.nanos(), 10 * kMilli);
  }
  EXPECT_FALSE(slices.has_brief());
  const int64_t begin = MonotonicNanos();
  EXPECT_EQ(Park(word, 0, watched, Deadline::Infinite(), slices),
            ParkResult::kRetry);
  EXPECT_GE(MonotonicNanos() - begin, 10 * kMilli);
  EXPECT_EQ(slices.nanos(), 20 * kMilli);
}

// Of the death of such a process the kernel does not tell.
TEST_F(ParkTest, LooksAgainSoonWithoutACertificate) {
  SharedWord token;
  auto owner = ChildProcess::Start([&] {
    std::thread([&] {
      // The certificate goes with the first thread, some time after its end.
      uint32_t expected;
      const Token self = Liveness::Self();
      while (Liveness::Watch(self, &expected) != nullptr) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      token->store(self);
      for (;;) pause();
    }).detach();
    syscall(SYS_exit, 0);  // of this thread only
  });
  while (*token == kNoToken) absl::SleepFor(absl::Milliseconds(1));
  FutexWord word{0};
  ParkSlices slices;
  EXPECT_EQ(Park(word, 0, Token{*token}, Deadline::Infinite(), slices),
            ParkResult::kRetry);
  EXPECT_EQ(slices.nanos(), 10 * kMilli);
  EXPECT_EQ(slices.brief_nanos(), 2 * kMilli);
  owner.Kill();
  owner.ExpectSignal(SIGKILL);
}

TEST_F(ParkTest, UnparkWakesAsManyAsAskedFor) {
  SharedWord word;
  SharedPage<std::atomic<int>> woken;
  std::vector<ChildProcess> sleepers;
  for (int i = 0; i < 3; ++i) {
    sleepers.push_back(ChildProcess::Start([&, i] {
      ParkSlices slices = LongSlices();
      // One of each kind; the owner of the third is alive.
      const Token owner = i == 2 ? Liveness::Self() : kNoToken;
      while (*word == 0) Park(*word, 0, owner, Deadline::Infinite(), slices);
      ++*woken;
    }));
  }
  for (ChildProcess& sleeper : sleepers) ASSERT_TRUE(sleeper.WaitUntilAsleep());
  // Between two slices a sleeper is awake for a moment.
  while (Unpark(*word, 1) != 1) {
  }
  int total = 0;
  while (total < 3) total += Unpark(*word, kWakeAll);
  EXPECT_EQ(*woken, 0);  // spurious wake-ups: the word has not changed
  word->store(1);
  Unpark(*word, kWakeAll);
  for (ChildProcess& sleeper : sleepers) sleeper.ExpectExit(0);
  EXPECT_EQ(*woken, 3);
  EXPECT_EQ(Unpark(*word, kWakeAll), 0);
}

TEST_F(ParkTest, ASignalIsNoTimeOut) {
  auto child = ChildProcess::Start([] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};  // no SA_RESTART
    ASSERT_EQ(sigaction(SIGALRM, &action, nullptr), 0);
    const itimerval often = {{0, 3'000}, {0, 3'000}};
    ASSERT_EQ(setitimer(ITIMER_REAL, &often, nullptr), 0);
    FutexWord word{0};
    const int64_t begin = MonotonicNanos();
    const Deadline deadline = Deadline::After(absl::Milliseconds(60));
    ParkSlices slices;
    while (Park(word, 0, kNoToken, deadline, slices) == ParkResult::kRetry) {
    }
    EXPECT_GE(MonotonicNanos() - begin, 60 * kMilli);
  });
  child.ExpectExit(0);
}

// All sleepers are woken by the death, not by the end of their slice. Whether
// one was is told by the clock, so the death may meet the end of a slice: some
// round must show it, and the watchdog bounds the rounds.
TEST_F(ParkTest, TheDeathOfAnyOwnerWakesAllSleepers) {
  if (!HaveFutexWaitv()) GTEST_SKIP() << "the kernel has no futex_waitv";
  constexpr size_t kOwners = 2;
  constexpr size_t kSleepers = 3;
  int rounds_won = 0;
  while (rounds_won < static_cast<int>(kOwners)) {
    const size_t victim = static_cast<size_t>(rounds_won);
    SharedWord word;
    SharedWord tokens[kOwners];
    SharedPage<std::array<std::atomic<int>, kSleepers>> woken;
    std::vector<ChildProcess> owners;
    for (SharedWord& token : tokens) owners.push_back(StartOwner(token));
    std::vector<ChildProcess> sleepers;
    for (size_t i = 0; i < kSleepers; ++i) {
      sleepers.push_back(ChildProcess::Start([&, i] {
        ParkSlices slices = LongSlices();
        WatchList watched = Liveness::Self();
        for (const SharedWord& token : tokens) watched.Add(*token);
        uint32_t alive = 0;
        const FutexWord* const life = Liveness::Watch(*tokens[victim], &alive);
        ASSERT_NE(life, nullptr);
        while (life->load() == alive) {
          const int64_t begin = MonotonicNanos();
          EXPECT_EQ(Park(*word, 0, watched, Deadline::Infinite(), slices),
                    ParkResult::kRetry);
          (*woken)[i] = MonotonicNanos() - begin < slices.nanos() ? 1 : 0;
        }
      }));
    }
    for (ChildProcess& sleeper : sleepers) {
      ASSERT_TRUE(sleeper.WaitUntilAsleep());
    }
    owners[victim].Kill();
    bool all_woken = true;
    for (size_t i = 0; i < kSleepers; ++i) {
      sleepers[i].ExpectExit(0);
      all_woken = all_woken && (*woken)[i] == 1;
    }
    if (all_woken) ++rounds_won;
  }
}

TEST_F(ParkTest, WatchesAsManyAsTheKernelCan) {
  WatchList everybody;
  for (size_t i = 0; i < WatchList::kMax + 3; ++i) {
    everybody.Add(kNoToken);  // nobody
    everybody.Add(Liveness::Self());
  }
  EXPECT_EQ(everybody.tokens().size(), WatchList::kMax);
  SharedWord word;
  auto sleeper = ChildProcess::Start([&] {
    ParkSlices slices = LongSlices();
    while (*word == 0) {
      Park(*word, 0, everybody, Deadline::Infinite(), slices);
    }
  });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  word->store(1);
  Unpark(*word, 1);
  sleeper.ExpectExit(0);
}

TEST_F(ParkTest, WithoutFutexWaitvTheDeathIsNoticedAfterASlice) {
  SharedWord token, word;
  ChildProcess owner = StartOwner(token);
  SetFutexWaitvForTest(false);
  ASSERT_FALSE(HaveFutexWaitv());
  auto sleeper = ChildProcess::Start([&] {
    ASSERT_FALSE(HaveFutexWaitv());
    ParkSlices slices;
    while (!Liveness::IsDead(*token)) {
      EXPECT_EQ(Park(*word, 0, token->load(), Deadline::Infinite(), slices),
                ParkResult::kRetry);
    }
  });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  EXPECT_TRUE(sleeper.IsAlive());
  owner.Kill();
  sleeper.ExpectExit(0);
}

TEST_F(ParkTest, WithoutFutexWaitvAWakeUpEndsTheSleep) {
  SetFutexWaitvForTest(false);
  FutexWord word{0};
  std::thread waker([&word] {
    absl::SleepFor(absl::Milliseconds(20));
    word.store(1);
    Unpark(word, 1);
  });
  ParkSlices slices = LongSlices();
  while (word.load() == 0) {
    EXPECT_EQ(Park(word, 0, Liveness::Self(), Deadline::Infinite(), slices),
              ParkResult::kRetry);
  }
  waker.join();
}

TEST_F(ParkTest, ADeadOwnerDoesNotKeepTheSleeperBeyondItsSlice) {
  FutexWord word{0};
  ParkSlices slices;
  EXPECT_EQ(Park(word, 0, kDeadToken, Deadline::Infinite(), slices),
            ParkResult::kRetry);
}

}  // namespace
}  // namespace mp
