#include "mp/sync/barrier.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/futex.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int kParties = 5;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { Barrier(1); }
};

class BarrierTest : private WarmUp, public testing::ProcessTest {
 protected:
  ~BarrierTest() override { SetFutexWaitvForTest(true); }

  // Runs `body` in so many children; all must end well.
  static void RunInChildren(int count, const std::function<void(int)>& body) {
    std::vector<ChildProcess> children;
    for (int i = 0; i < count; ++i) {
      children.push_back(ChildProcess::Start([&, i] { body(i); }));
    }
    for (ChildProcess& child : children) child.ExpectExit(0);
  }
};

const auto IsBroken = [] {
  return StatusIs(absl::StatusCode::kAborted, "broken barrier");
};

TEST_F(BarrierTest, AllPassTogether) {
  Barrier barrier(kParties);
  SharedPage<std::atomic<int>> came;
  SharedPage<std::atomic<int>> places;
  RunInChildren(kParties, [&](int) {
    ++*came;
    const absl::StatusOr<int> place = barrier.Wait();
    EXPECT_EQ(*came, kParties);
    ASSERT_OK(place);
    *places += 1 << *place;
  });
  EXPECT_EQ(*places, (1 << kParties) - 1) << "each place once";
  EXPECT_EQ(barrier.n_waiting(), 0);
  EXPECT_FALSE(barrier.broken());
  EXPECT_EQ(barrier.parties(), kParties);
}

TEST_F(BarrierTest, TenRounds) {
  Barrier barrier(kParties);
  SharedPage<std::atomic<int>> came;
  RunInChildren(kParties, [&](int) {
    for (int round = 1; round <= 10; ++round) {
      ++*came;
      ASSERT_OK(barrier.Wait());
      EXPECT_GE(*came, round * kParties);
      ASSERT_OK(barrier.Wait());
    }
  });
  EXPECT_EQ(*came, 10 * kParties);
}

TEST_F(BarrierTest, AThousandRoundsInStep) {
  Barrier barrier(kParties);
  SharedPage<std::atomic<int>> came;
  RunInChildren(kParties, [&](int) {
    for (int round = 1; round <= 1'000; ++round) {
      const int now = ++*came;
      EXPECT_GT(now, (round - 1) * kParties);
      EXPECT_LE(now, round * kParties) << "somebody is a round ahead";
      ASSERT_OK(barrier.Wait());
    }
  });
}

TEST_F(BarrierTest, TheActionRunsOnceBeforeAnybodyLeaves) {
  SharedPage<std::atomic<int>> acted;
  Barrier barrier(kParties, [&] { ++*acted; });
  RunInChildren(kParties, [&](int) {
    ASSERT_OK(barrier.Wait());
    EXPECT_EQ(*acted, 1);
  });
  EXPECT_EQ(*acted, 1);
}

TEST_F(BarrierTest, AnActionThatThrowsBreaksIt) {
  Barrier barrier(kParties, [] { throw std::runtime_error("on purpose"); });
  SharedPage<std::atomic<int>> threw;
  RunInChildren(kParties, [&](int) {
    try {
      EXPECT_THAT(barrier.Wait(), IsBroken());
    } catch (const std::runtime_error&) {
      ++*threw;
    }
  });
  EXPECT_EQ(*threw, 1);
  EXPECT_TRUE(barrier.broken());
}

TEST_F(BarrierTest, Abort) {
  Barrier barrier(kParties);
  RunInChildren(kParties, [&](int self) {
    if (self == 0) {
      while (barrier.n_waiting() < kParties - 1) {
      }
      barrier.Abort();
    } else {
      EXPECT_THAT(barrier.Wait(), IsBroken());
    }
  });
  EXPECT_TRUE(barrier.broken());
  EXPECT_EQ(barrier.n_waiting(), 0);
  EXPECT_THAT(barrier.Wait(), IsBroken());
}

TEST_F(BarrierTest, ResetFreesWhoWaits) {
  Barrier barrier(kParties);
  RunInChildren(kParties, [&](int self) {
    if (self == 0) {
      while (barrier.n_waiting() < kParties - 1) {
      }
      barrier.Reset();
    } else {
      EXPECT_THAT(barrier.Wait(), IsBroken());
    }
    EXPECT_OK(barrier.Wait());
  });
  EXPECT_FALSE(barrier.broken());
}

TEST_F(BarrierTest, AbortAndReset) {
  Barrier barrier(kParties);
  Barrier other(kParties);
  RunInChildren(kParties, [&](int self) {
    if (self == 0) {
      barrier.Abort();
    } else {
      EXPECT_THAT(barrier.Wait(), IsBroken());
    }
    // Only one resets it, when all have left.
    absl::StatusOr<int> place = other.Wait();
    ASSERT_OK(place);
    if (*place == kParties - 1) barrier.Reset();
    ASSERT_OK(other.Wait());
    EXPECT_OK(barrier.Wait());
  });
}

TEST_F(BarrierTest, ATimeoutBreaksItForAll) {
  Barrier barrier(kParties);
  SharedPage<std::atomic<int>> timed_out;
  RunInChildren(kParties - 1, [&](int self) {
    const absl::Time begin = absl::Now();
    const absl::Status status =
        (self == 0 ? barrier.Wait(absl::Milliseconds(30)) : barrier.Wait())
            .status();
    if (self == 0) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                   HasSubstr("5 parties")));
      EXPECT_GE(absl::Now() - begin, absl::Milliseconds(29));
    } else {
      EXPECT_THAT(status, IsBroken());
    }
  });
  EXPECT_TRUE(barrier.broken());
}

TEST_F(BarrierTest, TheDefaultTimeout) {
  Barrier barrier(2, nullptr, absl::Milliseconds(20));
  EXPECT_THAT(barrier.Wait(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("2")));
  EXPECT_THAT(barrier.Wait(), IsBroken());
  barrier.Reset();
  EXPECT_THAT(barrier.Wait(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("2")));
}

TEST_F(BarrierTest, OfOne) {
  Barrier barrier(1);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(barrier.Wait(absl::ZeroDuration()), testing::IsOkAndHolds(0));
  }
}

TEST_F(BarrierTest, Threads) {
  Barrier barrier(4);
  int plain[4] = {};  // TSan checks that the barrier orders
  std::vector<std::thread> threads;
  for (size_t self = 0; self < 4; ++self) {
    threads.emplace_back([&, self] {
      for (int round = 1; round <= 50; ++round) {
        plain[self] = round;
        EXPECT_OK(barrier.Wait());
        for (const int other : plain) EXPECT_EQ(other, round);
        EXPECT_OK(barrier.Wait());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(BarrierTest, TheDeathOfAPartyBreaksIt) {
  for (const bool waitv : {true, false}) {
    SetFutexWaitvForTest(waitv);
    Barrier barrier(kParties);
    std::vector<ChildProcess> parties;
    for (int i = 0; i < kParties - 1; ++i) {
      parties.push_back(ChildProcess::Start(
          [&] { EXPECT_THAT(barrier.Wait(), IsBroken()); }));
      ASSERT_TRUE(parties.back().WaitUntilAsleep());
    }
    EXPECT_EQ(barrier.n_waiting(), kParties - 1);
    // The last one: the others watch it only after their next slice.
    parties.back().Kill();
    parties.back().ExpectSignal(SIGKILL);
    parties.pop_back();
    for (ChildProcess& party : parties) party.ExpectExit(0);
    EXPECT_TRUE(barrier.broken());
    EXPECT_THAT(barrier.Wait(), IsBroken());
    barrier.Reset();
    RunInChildren(kParties, [&](int) { EXPECT_OK(barrier.Wait()); });
  }
}

// It comes when nobody is there to notice.
TEST_F(BarrierTest, TheOnlyPartyDies) {
  Barrier barrier(2);
  auto party = ChildProcess::Start([&] { (void)barrier.Wait(); });
  ASSERT_TRUE(party.WaitUntilAsleep());
  party.Kill();
  party.ExpectSignal(SIGKILL);
  EXPECT_THAT(barrier.Wait(), IsBroken());
}

TEST_F(BarrierTest, WhoRunsTheActionDies) {
  Barrier barrier(3, [] { raise(SIGKILL); });
  std::vector<ChildProcess> parties;
  for (int i = 0; i < 2; ++i) {
    parties.push_back(
        ChildProcess::Start([&] { EXPECT_THAT(barrier.Wait(), IsBroken()); }));
    ASSERT_TRUE(parties.back().WaitUntilAsleep());
  }
  ChildProcess::Start([&] { (void)barrier.Wait(); }).ExpectSignal(SIGKILL);
  for (ChildProcess& party : parties) party.ExpectExit(0);
}

// Then it is not missed.
TEST_F(BarrierTest, WhoDiesOutsideLeavesNoTrace) {
  Barrier barrier(1);
  ChildProcess::Start([&] {
    EXPECT_OK(barrier.Wait());
    raise(SIGKILL);
  }).ExpectSignal(SIGKILL);
  EXPECT_FALSE(barrier.broken());
  EXPECT_OK(barrier.Wait());
}

TEST_F(BarrierTest, HandlesMeanTheSameBarrier) {
  Barrier barrier(2);
  Barrier copy = barrier;
  EXPECT_TRUE(copy == barrier);
  EXPECT_FALSE(copy == Barrier(2));
  auto child = ChildProcess::Start([&] { EXPECT_OK(copy.Wait()); });
  EXPECT_OK(barrier.Wait());
  child.ExpectExit(0);
}

TEST_F(BarrierTest, ToString) {
  Barrier barrier(3);
  EXPECT_EQ(barrier.ToString(), "Barrier(waiters=0/3)");
  auto child =
      ChildProcess::Start([&] { EXPECT_THAT(barrier.Wait(), IsBroken()); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  EXPECT_EQ(barrier.ToString(), "Barrier(waiters=1/3)");
  barrier.Abort();
  EXPECT_EQ(barrier.ToString(), "Barrier(broken)");
  child.ExpectExit(0);
}

TEST_F(BarrierTest, CreateReportsWhatIsWrong) {
  EXPECT_OK(Barrier::Create(1));
  for (const int parties : {0, -1}) {
    EXPECT_THAT(Barrier::Create(parties).status(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(std::to_string(parties))));
  }
  ChildProcess::Start([] {
    signal(SIGABRT, [](int) { _exit(42); });
    Barrier(0);
  }).ExpectExit(42);
}

}  // namespace
}  // namespace mp
