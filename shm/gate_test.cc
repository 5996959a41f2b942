#include "mp/shm/gate.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// ---- What a waiter and a notifier do to each other, step by step.

// Runs hooks where others may come in between, instead of sleeping.
struct HookedPlatform {
  template <class T>
  using Atomic = std::atomic<T>;

  static Token Self() { return 42; }
  static bool IsDead(Token token) { return on_is_dead(token); }
  static ParkResult Park(const FutexWord& word, uint32_t expected,
                         const WatchList&, Deadline, ParkSlices&) {
    return on_park(word.load() == expected);
  }
  static int Unpark(const FutexWord&, int count) {
    unparked.push_back(count);
    return 0;
  }
  static void Relax() { on_relax(); }
  static bool MaySpin() { return on_relax != nullptr; }

  static inline std::function<bool(Token)> on_is_dead;
  // Whether the kernel would put the caller to sleep.
  static inline std::function<ParkResult(bool sleeps)> on_park;
  static inline std::function<void()> on_relax;
  static inline std::vector<int> unparked;
};

class GateStepTest : public ::testing::Test {
 protected:
  GateStepTest() {
    HookedPlatform::on_is_dead = [](Token) { return false; };
    HookedPlatform::on_park = [](bool) {
      ADD_FAILURE() << "nobody should sleep";
      return ParkResult::kTimedOut;
    };
    HookedPlatform::on_relax = nullptr;
    HookedPlatform::unparked.clear();
  }

  bool Wait(Deadline deadline = Deadline::Infinite(),
            Token watched = kNoToken) {
    return gate_.Wait(
        spin_, [this] { return open_; }, deadline,
        BasicGate<HookedPlatform>::WatchOne{watched});
  }

  void OpenAndNotify() {
    open_ = true;
    FenceBeforeNotify();
    gate_.Notify();
  }

  bool open_ = false;
  BasicGate<HookedPlatform> gate_;
  AdaptiveSpin<HookedPlatform, kSpinForPartner> spin_;
};

TEST_F(GateStepTest, DoesNotSleepIfReady) {
  open_ = true;
  EXPECT_TRUE(Wait());
  EXPECT_TRUE(Wait(Deadline::Now()));
  open_ = false;
  EXPECT_FALSE(Wait(Deadline::Now()));
}

TEST_F(GateStepTest, NoSystemCallWithoutSleepers) {
  gate_.Notify();
  gate_.NotifyAll();
  EXPECT_THAT(HookedPlatform::unparked, IsEmpty());
}

TEST_F(GateStepTest, NotifyWakesOne) {
  HookedPlatform::on_park = [&](bool sleeps) {
    EXPECT_TRUE(sleeps);
    OpenAndNotify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
    gate_.Notify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1))
        << "one is on its way and will wake the next";
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
}

TEST_F(GateStepTest, WhoWasWokenKeepsTheOthersKnown) {
  HookedPlatform::on_park = [&](bool) {
    OpenAndNotify();
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
  HookedPlatform::unparked.clear();
  // Others may sleep; it cannot know.
  gate_.Notify();
  EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
}

TEST_F(GateStepTest, NotifyAllWakesAll) {
  HookedPlatform::on_park = [&](bool) {
    open_ = true;
    gate_.NotifyAll();
    gate_.NotifyAll();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(kWakeAll));
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
}

// Notify wakes one of several; the others are not to be forgotten.
TEST_F(GateStepTest, NotifyAllAfterNotify) {
  HookedPlatform::on_park = [&](bool) {
    open_ = true;
    gate_.Notify();
    gate_.NotifyAll();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1, kWakeAll));
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
}

TEST_F(GateStepTest, NotifyBetweenTheLastLookAndTheSleep) {
  for (const bool all : {false, true}) {
    int looks = 0;
    int parks = 0;
    HookedPlatform::on_park = [&](bool sleeps) {
      EXPECT_FALSE(sleeps) << "the word has changed";
      ++parks;
      return ParkResult::kRetry;
    };
    const auto ready = [&] {
      if (++looks != 2) return looks > 2;
      FenceBeforeNotify();
      all ? gate_.NotifyAll() : gate_.Notify();
      return false;  // the answer from before
    };
    EXPECT_TRUE(gate_.Wait(spin_, ready, Deadline::Infinite()));
    EXPECT_EQ(looks, 3);
    EXPECT_EQ(parks, 1);
  }
}

TEST_F(GateStepTest, SleepsAgainUntilReady) {
  int parks = 0;
  HookedPlatform::on_park = [&](bool sleeps) {
    EXPECT_TRUE(sleeps);
    gate_.Notify();
    EXPECT_EQ(HookedPlatform::unparked.size(), static_cast<size_t>(++parks))
        << "whoever sleeps anew is known anew";
    open_ = parks == 5;
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
  EXPECT_EQ(parks, 5);
}

TEST_F(GateStepTest, LooksOnceMoreAtTheDeadline) {
  HookedPlatform::on_park = [&](bool) {
    open_ = true;
    return ParkResult::kTimedOut;
  };
  EXPECT_TRUE(Wait(Deadline::AtNanos(1)));
  open_ = false;
  HookedPlatform::on_park = [&](bool) { return ParkResult::kTimedOut; };
  EXPECT_FALSE(Wait(Deadline::AtNanos(1)));
}

TEST_F(GateStepTest, EndsWithTheWatchedProcess) {
  bool dead = false;
  int parks = 0;
  HookedPlatform::on_is_dead = [&](Token token) {
    EXPECT_EQ(token, 7u);
    return dead;
  };
  HookedPlatform::on_park = [&](bool) {
    ++parks;
    dead = true;
    return ParkResult::kRetry;
  };
  EXPECT_FALSE(Wait(Deadline::Infinite(), /*watched=*/7));
  EXPECT_EQ(parks, 1);
  EXPECT_FALSE(Wait(Deadline::Infinite(), /*watched=*/7));
  EXPECT_EQ(parks, 1);
}

// Between the look at the state and the look at the process it did its last
// deed.
TEST_F(GateStepTest, SeesTheLastDeedOfTheWatchedProcess) {
  HookedPlatform::on_is_dead = [&](Token) {
    open_ = true;
    return true;
  };
  EXPECT_TRUE(Wait(Deadline::Infinite(), /*watched=*/7));
}

TEST_F(GateStepTest, SpinsBeforeItSleeps) {
  int rounds = 0;
  HookedPlatform::on_relax = [&] { open_ = ++rounds == 3; };
  EXPECT_TRUE(Wait());
  EXPECT_EQ(rounds, 3);
}

TEST_F(GateStepTest, SpinnerSparesTheSleepersAWakeUp) {
  // A sleeper...
  HookedPlatform::on_park = [&](bool) {
    // ...and, meanwhile, a spinner.
    HookedPlatform::on_relax = [&] {
      OpenAndNotify();
      EXPECT_THAT(HookedPlatform::unparked, IsEmpty());
      gate_.NotifyAll();
      EXPECT_THAT(HookedPlatform::unparked, ElementsAre(kWakeAll));
    };
    AdaptiveSpin<HookedPlatform, kSpinForPartner> spin;
    EXPECT_TRUE(gate_.Wait(
        spin, [this] { return open_; }, Deadline::Infinite()));
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
}

// ---- A sleep in two halves.

TEST_F(GateStepTest, NobodyWokeWhoSleptInHalves) {
  const auto ticket = gate_.BeforeSleep();
  EXPECT_EQ(ticket.word->load(), ticket.expected);
  EXPECT_FALSE(gate_.AfterSleep(ticket));
  // It may sleep again.
  OpenAndNotify();
  EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
}

TEST_F(GateStepTest, WhoWasWokenBetweenTheHalvesKeepsTheOthersKnown) {
  for (const bool all : {false, true}) {
    HookedPlatform::unparked.clear();
    const auto ticket = gate_.BeforeSleep();
    all ? gate_.NotifyAll() : gate_.Notify();
    EXPECT_NE(ticket.word->load(), ticket.expected) << "it would not sleep";
    // The one is on its way.
    gate_.Notify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(all ? kWakeAll : 1));
    EXPECT_TRUE(gate_.AfterSleep(ticket));
    // Others may sleep; it cannot know.
    gate_.Notify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(all ? kWakeAll : 1, 1));
  }
}

// A wake-up between the last look and the sleep, and another sleeper since: the
// word looks like a sleeper's again, but it is another one.
TEST_F(GateStepTest, WakeUpBetweenTheHalvesIsNotTakenBack) {
  const auto ticket = gate_.BeforeSleep();
  gate_.Notify();
  const auto another = gate_.BeforeSleep();
  EXPECT_NE(another.expected, ticket.expected);
  EXPECT_TRUE(gate_.AfterSleep(ticket));
  EXPECT_FALSE(gate_.AfterSleep(another));
}

TEST_F(GateStepTest, SpinnerThatOutlastsBothHalvesSparesNobody) {
  gate_.BeforeSleep();
  HookedPlatform::on_relax = [] {};
  gate_.Spin(spin_, [this] {
    const auto ticket = gate_.BeforeSleep();
    EXPECT_NE(ticket.spinner, kNoToken);
    gate_.Notify();
    EXPECT_THAT(HookedPlatform::unparked, IsEmpty());
    EXPECT_FALSE(gate_.AfterSleep(ticket));
    gate_.Notify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
    return true;
  });
}

TEST_F(GateStepTest, SpinnerThatIsThroughSparesNobody) {
  HookedPlatform::on_park = [&](bool) {
    HookedPlatform::on_relax = [&] { open_ = true; };
    AdaptiveSpin<HookedPlatform, kSpinForPartner> spin;
    EXPECT_TRUE(gate_.Wait(
        spin, [this] { return open_; }, Deadline::Infinite()));
    EXPECT_THAT(HookedPlatform::unparked, IsEmpty());
    gate_.Notify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
}

TEST_F(GateStepTest, AnnouncedSpinSparesTheSleepersUntilItIsWithdrawn) {
  EXPECT_FALSE(gate_.AnnounceSpin()) << "there is nobody to be spared";
  EXPECT_FALSE(gate_.IsSpinner());
  gate_.BeforeSleep();
  EXPECT_TRUE(gate_.AnnounceSpin());
  EXPECT_TRUE(gate_.AnnounceSpin());
  EXPECT_TRUE(gate_.IsSpinner());
  gate_.Notify();
  EXPECT_THAT(HookedPlatform::unparked, IsEmpty());
  gate_.WithdrawSpin();
  EXPECT_FALSE(gate_.IsSpinner());
  gate_.Notify();
  EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
}

// Who does not know it any more is woken, and then not passed over.
TEST_F(GateStepTest, NotifyAllForgetsASpinnerThatMayBeDead) {
  gate_.BeforeSleep();
  EXPECT_TRUE(gate_.AnnounceSpin());
  gate_.NotifyAll();
  gate_.BeforeSleep();
  gate_.Notify();
  EXPECT_THAT(HookedPlatform::unparked, ElementsAre(kWakeAll, 1));
}

TEST_F(GateStepTest, AnnouncedSpinEndsWithTheSpin) {
  gate_.BeforeSleep();
  gate_.AnnounceSpin();
  HookedPlatform::on_relax = [this] { gate_.Notify(); };
  gate_.Spin(spin_, [this] { return open_; });
  EXPECT_THAT(HookedPlatform::unparked, IsEmpty());
  gate_.Notify();
  EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
}

TEST_F(GateStepTest, SpinnerThatThrowsSparesNobody) {
  HookedPlatform::on_park = [&](bool) {
    AdaptiveSpin<HookedPlatform, kSpinForPartner> spin;
    HookedPlatform::on_relax = [] {};
    const auto fail = []() -> bool { throw std::runtime_error("done"); };
    EXPECT_THROW(gate_.Spin(spin, fail), std::runtime_error);
    OpenAndNotify();
    EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
}

TEST_F(GateStepTest, SpinnerThatGivesUpSparesNobody) {
  int parks = 0;
  HookedPlatform::on_park = [&](bool) {
    if (++parks == 1) {
      HookedPlatform::on_relax = [] {};
      AdaptiveSpin<HookedPlatform, kSpinForPartner> spin;
      EXPECT_TRUE(gate_.Wait(
          spin, [this] { return open_; }, Deadline::Infinite()));
    } else {
      OpenAndNotify();
      EXPECT_THAT(HookedPlatform::unparked, ElementsAre(1));
    }
    return ParkResult::kRetry;
  };
  EXPECT_TRUE(Wait());
  EXPECT_EQ(parks, 2);
}

// ---- Processes.

// Real sleeps, and a hook for those who spin.
struct SpinHookPlatform : KernelPlatform {
  static int Unpark(const FutexWord& word, int count) {
    ++unparks;
    return KernelPlatform::Unpark(word, count);
  }
  static void Relax() { on_relax(); }
  static bool MaySpin() { return on_relax != nullptr; }

  static inline std::function<void()> on_relax;
  static inline int unparks = 0;
};

class GateTest : public testing::ProcessTest {
 protected:
  template <class Platform>
  struct Shared {
    BasicGate<Platform> gate;
    AdaptiveSpin<Platform, kSpinForPartner> spin;
    std::atomic<bool> open{false};
    std::atomic<bool> spinning{false};
    std::atomic<Token> token{kNoToken};

    bool Wait(Deadline deadline, Token watched = kNoToken) {
      return gate.Wait(
          spin, [this] { return open.load(); }, deadline,
          typename BasicGate<Platform>::WatchOne{watched});
    }
  };
};

TEST_F(GateTest, Deadline) {
  Shared<KernelPlatform> shared;
  const int64_t start = MonotonicNanos();
  EXPECT_FALSE(shared.Wait(Deadline::After(absl::Milliseconds(50))));
  EXPECT_GE(MonotonicNanos() - start, 50'000'000);
}

TEST_F(GateTest, WakesAnotherProcess) {
  const SharedPage<Shared<KernelPlatform>> shared;
  auto sleeper = ChildProcess::Start(
      [&] { EXPECT_TRUE(shared->Wait(Deadline::Infinite())); });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  shared->open = true;
  FenceBeforeNotify();
  shared->gate.Notify();
  sleeper.ExpectExit();
}

TEST_F(GateTest, WatchedProcessDies) {
  const SharedPage<Shared<KernelPlatform>> shared;
  ASSERT_TRUE(Liveness::Join().ok());
  auto watched = ChildProcess::Start([&] {
    shared->token = Liveness::Self();
    pause();
  });
  while (shared->token == kNoToken) absl::SleepFor(absl::Milliseconds(1));
  auto sleeper = ChildProcess::Start(
      [&] { EXPECT_FALSE(shared->Wait(Deadline::Infinite(), shared->token)); });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  watched.Kill();
  watched.ExpectSignal(SIGKILL);
  sleeper.ExpectExit();
}

// A process that is killed, or stopped, while it spins has told the notifiers
// to leave the sleepers alone.
class StuckSpinnerTest : public GateTest,
                         public ::testing::WithParamInterface<int> {};

TEST_P(StuckSpinnerTest, SleepersGoOn) {
  const SharedPage<Shared<SpinHookPlatform>> shared;
  SpinHookPlatform::on_relax = nullptr;
  auto sleeper = ChildProcess::Start(
      [&] { EXPECT_TRUE(shared->Wait(Deadline::Infinite())); });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  auto spinner = ChildProcess::Start([&] {
    SpinHookPlatform::on_relax = [&] {
      shared->spinning = true;
      pause();
    };
    shared->Wait(Deadline::Infinite());
  });
  while (!shared->spinning) absl::SleepFor(absl::Milliseconds(1));
  if (GetParam() == SIGKILL) {
    spinner.Kill();
    spinner.ExpectSignal(SIGKILL);
  } else {
    ASSERT_TRUE(spinner.Stop());
  }
  // Not for ever: sooner or later somebody is woken again.
  const int before = SpinHookPlatform::unparks;
  while (SpinHookPlatform::unparks == before) {
    FenceBeforeNotify();
    shared->gate.Notify();
    absl::SleepFor(absl::Milliseconds(1));
  }
  shared->open = true;
  FenceBeforeNotify();
  shared->gate.Notify();
  sleeper.ExpectExit();
}

INSTANTIATE_TEST_SUITE_P(, StuckSpinnerTest,
                         ::testing::Values(SIGKILL, SIGSTOP),
                         [](const auto& test) {
                           return test.param == SIGKILL ? "Killed" : "Stopped";
                         });

// ---- Many at once.

// Sleeps until it is woken: a wake-up that is lost hangs the test, where the
// real platform would find out at the end of a slice.
struct PatientPlatform : KernelPlatform {
  static ParkResult Park(const FutexWord& word, uint32_t expected,
                         const WatchList&, Deadline deadline, ParkSlices&) {
    return FutexWait(word, expected, deadline) ? ParkResult::kRetry
                                               : ParkResult::kTimedOut;
  }
};

// Goods are brought and taken away; who finds none waits.
class Shop {
 public:
  void Bring() {
    goods_.fetch_add(1, std::memory_order_release);
    FenceBeforeNotify();
    gate_.Notify();
  }

  // False when the shop is closed and nothing is left.
  bool Take() {
    for (;;) {
      // As who has a supplier come.
      gate_.AnnounceSpin();
      gate_.Wait(
          spin_,
          [this] {
            return goods_.load(std::memory_order_acquire) > 0 ||
                   closed_.load(std::memory_order_acquire);
          },
          Deadline::Infinite());
      int goods = goods_.load(std::memory_order_relaxed);
      while (goods > 0) {
        if (goods_.compare_exchange_weak(goods, goods - 1)) {
          taken_.fetch_add(1, std::memory_order_relaxed);
          if (gate_.IsSpinner()) gate_.WithdrawSpin();
          // The first rule of the gate.
          if (goods_.load(std::memory_order_relaxed) > 0) {
            FenceBeforeNotify();
            gate_.Notify();
          }
          return true;
        }
      }
      if (closed_.load(std::memory_order_acquire)) return false;
    }
  }

  void WaitUntilSoldOut() {
    while (goods_ > 0) absl::SleepFor(absl::Milliseconds(1));
  }

  void Close() {
    closed_.store(true, std::memory_order_release);
    FenceBeforeNotify();
    gate_.NotifyAll();
  }

  int taken() const { return taken_; }

 private:
  BasicGate<PatientPlatform> gate_;
  AdaptiveSpin<PatientPlatform, kSpinForPartner> spin_;
  std::atomic<int> goods_{0};
  std::atomic<int> taken_{0};
  std::atomic<bool> closed_{false};
};

constexpr int kSuppliers = 3;
constexpr int kCustomers = 4;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kGoodsEach = 4'000;
#else
constexpr int kGoodsEach = 20'000;
#endif

// With pauses, so that the customers sometimes spin and sometimes sleep.
void Supply(Shop& shop, unsigned seed) {
  std::minstd_rand random(seed);
  for (int i = 0; i < kGoodsEach; ++i) {
    shop.Bring();
    const auto pause = random() % 64;
    if (pause == 0) absl::SleepFor(absl::Microseconds(random() % 100));
    for (unsigned j = 0; j < pause * 20; ++j) asm volatile("");
  }
}

TEST_F(GateTest, LosesNoWakeUpOfProcesses) {
  const SharedPage<Shop> shop;
  std::vector<ChildProcess> customers;
  for (int i = 0; i < kCustomers; ++i) {
    customers.push_back(ChildProcess::Start([&] {
      while (shop->Take()) {
      }
    }));
  }
  std::vector<ChildProcess> suppliers;
  for (unsigned i = 0; i < kSuppliers; ++i) {
    suppliers.push_back(ChildProcess::Start([&] { Supply(*shop, i + 1); }));
  }
  for (ChildProcess& supplier : suppliers) supplier.ExpectExit();
  shop->WaitUntilSoldOut();
  shop->Close();
  for (ChildProcess& customer : customers) customer.ExpectExit();
  EXPECT_EQ(shop->taken(), kSuppliers * kGoodsEach);
}

TEST_F(GateTest, LosesNoWakeUpOfThreads) {
  Shop shop;
  std::vector<std::thread> customers;
  for (int i = 0; i < kCustomers; ++i) {
    customers.emplace_back([&] {
      while (shop.Take()) {
      }
    });
  }
  std::vector<std::thread> suppliers;
  for (unsigned i = 0; i < kSuppliers; ++i) {
    suppliers.emplace_back([&, i] { Supply(shop, i + 1); });
  }
  for (std::thread& supplier : suppliers) supplier.join();
  shop.WaitUntilSoldOut();
  shop.Close();
  for (std::thread& customer : customers) customer.join();
  EXPECT_EQ(shop.taken(), kSuppliers * kGoodsEach);
}

// Also when many doors open and close around a crowd.
TEST_F(GateTest, NotifyAllLetsEverybodyOut) {
  const SharedPage<Shared<PatientPlatform>> shared;
  for (int round = 0; round < 20; ++round) {
    shared->open = false;
    std::vector<ChildProcess> sleepers;
    for (int i = 0; i < 5; ++i) {
      sleepers.push_back(ChildProcess::Start(
          [&] { EXPECT_TRUE(shared->Wait(Deadline::Infinite())); }));
    }
    for (ChildProcess& sleeper : sleepers) {
      if (round % 2 == 0) {
        ASSERT_TRUE(sleeper.WaitUntilAsleep());
      }
    }
    // For nothing; it finds the gate shut.
    shared->gate.Notify();
    shared->open = true;
    FenceBeforeNotify();
    shared->gate.NotifyAll();
    for (ChildProcess& sleeper : sleepers) sleeper.ExpectExit();
  }
}

}  // namespace
}  // namespace mp
