#include "mp/sync/condition.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/futex.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

// Locks are held across calls that release and acquire them.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { Condition(); }
};

// With both kinds of locks.
class ConditionTest : private WarmUp,
                      public testing::ProcessTest,
                      public ::testing::WithParamInterface<bool> {
 protected:
  ConditionTest() : condition_(Make()) {}
  ~ConditionTest() override { SetFutexWaitvForTest(true); }

  static bool recursive() { return GetParam(); }
  static Condition Make() {
    return recursive() ? Condition(RLock()) : Condition(Lock());
  }

  // A child that waits once, counts itself in `returned_`, and ends with 0 if
  // Wait() said kAcquired.
  ChildProcess StartWaiter() {
    auto waiter = ChildProcess::Start([&] {
      const std::scoped_lock hold(condition_);
      EXPECT_EQ(condition_.Wait(), kAcquired);
      ++*returned_;
    });
    EXPECT_TRUE(waiter.WaitUntilAsleep());
    return waiter;
  }

  int NotifyNow(int count) {
    const std::scoped_lock hold(condition_);
    return condition_.Notify(count);
  }

  Condition condition_;
  SharedPage<std::atomic<int>> returned_;
};

TEST_P(ConditionTest, NotifyWakesOne) {
  auto process = StartWaiter();
  std::atomic<bool> thread_returned{false};
  std::thread thread([&] {
    const std::scoped_lock hold(condition_);
    EXPECT_EQ(condition_.Wait(), kAcquired);
    thread_returned = true;
  });
  while (!condition_.ToString().ends_with(", 2)")) {
  }
  EXPECT_EQ(NotifyNow(1), 1);
  process.ExpectExit(0);
  EXPECT_FALSE(thread_returned);
  EXPECT_TRUE(condition_.ToString().ends_with(", 1)"));
  EXPECT_EQ(NotifyNow(1), 1);
  thread.join();
  EXPECT_EQ(NotifyNow(1), 0);
}

TEST_P(ConditionTest, NotifyAllWakesAll) {
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.push_back(ChildProcess::Start([&] {
      const std::scoped_lock hold(condition_);
      EXPECT_EQ(condition_.Wait(absl::Milliseconds(20)), kTimedOut);
    }));
  }
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
  waiters.clear();
  for (int i = 0; i < 6; ++i) waiters.push_back(StartWaiter());
  {
    const std::scoped_lock hold(condition_);
    EXPECT_EQ(condition_.NotifyAll(), 6);
    EXPECT_EQ(condition_.NotifyAll(), 0);
  }
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
}

// The first two to come, then the others; nothing is remembered.
TEST_P(ConditionTest, NotifyOfMany) {
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 6; ++i) waiters.push_back(StartWaiter());
  EXPECT_EQ(NotifyNow(0), 0);
  EXPECT_EQ(NotifyNow(-1), 0);
  EXPECT_EQ(NotifyNow(2), 2);
  waiters[0].ExpectExit(0);
  waiters[1].ExpectExit(0);
  // The others look once a slice, and must not go on by that.
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(*returned_, 2);
  EXPECT_EQ(NotifyNow(4), 4);
  for (size_t i = 2; i < 6; ++i) waiters[i].ExpectExit(0);
  EXPECT_EQ(NotifyNow(3), 0);
  {
    const std::scoped_lock hold(condition_);
    EXPECT_EQ(condition_.Wait(absl::Milliseconds(1)), kTimedOut);
  }
}

TEST_P(ConditionTest, TimesOutNoEarlierThanAskedFor) {
  const std::scoped_lock hold(condition_);
  EXPECT_EQ(condition_.Wait(absl::ZeroDuration()), kTimedOut);
  EXPECT_EQ(condition_.Wait(-absl::Seconds(1)), kTimedOut);
  const absl::Time begin = absl::Now();
  EXPECT_FALSE(condition_.Wait(absl::Milliseconds(30)));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(29));
}

TEST_P(ConditionTest, WaitForAPredicate) {
  SharedPage<std::atomic<int>> value;
  auto child = ChildProcess::Start([&] {
    const std::scoped_lock hold(condition_);
    *value = 0;
    condition_.Notify();
    EXPECT_TRUE(condition_.WaitFor([&] { return *value == 4; }));
  });
  {
    std::unique_lock hold(condition_);
    EXPECT_TRUE(condition_.WaitFor([&] { return *value == 0; }));
  }
  for (int i = 0; i < 4; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
    const std::scoped_lock hold(condition_);
    ++*value;
    condition_.Notify();
  }
  child.ExpectExit(0);
}

TEST_P(ConditionTest, WaitForWithATimeout) {
  const std::scoped_lock hold(condition_);
  int asked = 0;
  const absl::Time begin = absl::Now();
  EXPECT_FALSE(condition_.WaitFor(
      [&] {
        ++asked;
        return false;
      },
      absl::Milliseconds(30)));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(29));
  EXPECT_EQ(asked, 2) << "at once, and when it gave up";
  EXPECT_TRUE(condition_.WaitFor([] { return true; }, absl::ZeroDuration()));
}

// In the middle of the wait the lock is free, however often it was held.
TEST_P(ConditionTest, ReleasesTheLockWhileWaiting) {
  auto waiter = ChildProcess::Start([&] {
    const int times = recursive() ? 3 : 1;
    for (int i = 0; i < times; ++i) condition_.lock();
    EXPECT_EQ(condition_.Wait(), kAcquired);
    const std::string lock =
        recursive() ? "RLock(owner=me, 3)"
                    : absl::StrCat("Lock(owner=pid ", getpid(), ")");
    EXPECT_EQ(condition_.ToString(), absl::StrCat("Condition(", lock, ", 0)"));
    for (int i = 0; i < times; ++i) EXPECT_OK(condition_.Release());
    EXPECT_FALSE(condition_.Release().ok());
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  EXPECT_EQ(NotifyNow(1), 1);
  waiter.ExpectExit(0);
}

TEST_P(ConditionTest, TheLockOfACondition) {
  EXPECT_EQ(condition_.Acquire(), kAcquired);
  ChildProcess::Start([&] {
    EXPECT_FALSE(condition_.try_lock());
    EXPECT_FALSE(condition_.try_lock_for(std::chrono::milliseconds(1)));
    EXPECT_FALSE(condition_.try_lock_until(std::chrono::steady_clock::now()));
    EXPECT_EQ(condition_.Acquire(absl::Milliseconds(1)), kTimedOut);
  }).ExpectExit(0);
  EXPECT_OK(condition_.Release());
  EXPECT_FALSE(condition_.Release().ok());
}

TEST_P(ConditionTest, MisuseAborts) {
  for (const int call : {0, 1, 2, 3}) {
    ChildProcess::Start([&] {
      signal(SIGABRT, [](int) { _exit(42); });
      if (call == 0) condition_.Wait();
      if (call == 1) condition_.Notify();
      if (call == 2) condition_.NotifyAll();
      if (call == 3) condition_.unlock();
    }).ExpectExit(42);
  }
}

// ---- Deaths.

TEST_P(ConditionTest, DeadWaitersGetNoNotification) {
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 4; ++i) waiters.push_back(StartWaiter());
  for (size_t i = 0; i < 3; ++i) {
    waiters[i].Kill();
    waiters[i].ExpectSignal(SIGKILL);
  }
  EXPECT_EQ(NotifyNow(1), 1);
  waiters[3].ExpectExit(0);
  EXPECT_EQ(NotifyNow(5), 0);
}

// It is notified, and killed before it has got the lock back.
TEST_P(ConditionTest, ANotificationOfTheDeadIsPassedOn) {
  for (const bool waitv : {true, false}) {
    SetFutexWaitvForTest(waitv);
    auto first = StartWaiter();
    auto second = StartWaiter();
    {
      const std::scoped_lock hold(condition_);
      EXPECT_EQ(condition_.Notify(), 1);
      first.Kill();
      first.ExpectSignal(SIGKILL);
    }
    second.ExpectExit(0);
    EXPECT_EQ(NotifyNow(1), 0);
  }
}

// It has changed what they wait for, and told nobody.
TEST_P(ConditionTest, TheDeathOfTheHolderNotifiesAll) {
  for (const bool waitv : {true, false}) {
    SetFutexWaitvForTest(waitv);
    SharedPage<std::atomic<bool>> open(false);
    SharedPage<std::atomic<int>> told;
    std::vector<ChildProcess> waiters;
    for (int i = 0; i < 3; ++i) {
      waiters.push_back(ChildProcess::Start([&] {
        const std::scoped_lock hold(condition_);
        while (!*open) {
          if (condition_.Wait() == kOwnerDied) ++*told;
        }
      }));
      ASSERT_TRUE(waiters.back().WaitUntilAsleep());
    }
    ChildProcess::Start([&] {
      condition_.Acquire();
      *open = true;
      raise(SIGKILL);
    }).ExpectSignal(SIGKILL);
    for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
    EXPECT_EQ(*told, 1);
  }
}

// The same, but another one has acquired the lock before the waiters could.
TEST_P(ConditionTest, WhoAcquiresAfterADeathNotifiesAll) {
  std::vector<ChildProcess> waiters;
  SharedPage<std::atomic<bool>> open(false);
  for (int i = 0; i < 3; ++i) {
    waiters.push_back(ChildProcess::Start([&] {
      const std::scoped_lock hold(condition_);
      EXPECT_TRUE(condition_.WaitFor([&] { return open->load(); }));
    }));
    ASSERT_TRUE(waiters.back().WaitUntilAsleep());
    EXPECT_TRUE(waiters.back().Stop());
  }
  ChildProcess::Start([&] {
    condition_.Acquire();
    *open = true;
    raise(SIGKILL);
  }).ExpectSignal(SIGKILL);
  EXPECT_EQ(condition_.Acquire(), kOwnerDied);
  EXPECT_OK(condition_.Release());
  for (ChildProcess& waiter : waiters) waiter.Continue();
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
}

// And that other one knows only the lock.
TEST_P(ConditionTest, TheLockIsTakenOverBehindTheCondition) {
  Lock lock;
  RLock rlock;
  Condition condition = recursive() ? Condition(rlock) : Condition(lock);
  SharedPage<std::atomic<bool>> open(false);
  auto waiter = ChildProcess::Start([&] {
    const std::scoped_lock hold(condition);
    while (!*open) EXPECT_EQ(condition.Wait(), kAcquired);
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  EXPECT_TRUE(waiter.Stop());
  ChildProcess::Start([&] {
    condition.Acquire();
    *open = true;
    raise(SIGKILL);
  }).ExpectSignal(SIGKILL);
  if (recursive()) {
    const std::scoped_lock hold(rlock);
  } else {
    const std::scoped_lock hold(lock);
  }
  waiter.Continue();
  waiter.ExpectExit(0);
}

TEST_P(ConditionTest, ALateComerGetsNoNotificationOfTheDead) {
  auto waiter = StartWaiter();
  {
    const std::scoped_lock hold(condition_);
    EXPECT_EQ(condition_.Notify(), 1);
    waiter.Kill();
    waiter.ExpectSignal(SIGKILL);
  }
  const std::scoped_lock hold(condition_);
  EXPECT_EQ(condition_.Wait(absl::Milliseconds(30)), kTimedOut);
}

TEST_P(ConditionTest, SetRepairThroughTheCondition) {
  int repaired = 0;
  condition_.set_repair([&] { ++repaired; });
  ChildProcess::Start([&] { condition_.Acquire(); }).ExpectExit(0);
  const std::scoped_lock hold(condition_);
  EXPECT_EQ(repaired, 1);
}

TEST_P(ConditionTest, TheRepairCallbackRunsBeforeWaitReturns) {
  RLock rlock;
  Lock lock;
  SharedPage<std::atomic<int>> repaired;
  const auto repair = [&] { ++*repaired; };
  rlock.set_repair(repair);
  lock.set_repair(repair);
  Condition condition = recursive() ? Condition(rlock) : Condition(lock);
  auto waiter = ChildProcess::Start([&] {
    const std::scoped_lock hold(condition);
    EXPECT_EQ(condition.Wait(), kOwnerDied);
    EXPECT_EQ(*repaired, 1);
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  ChildProcess::Start([&] { condition.Acquire(); }).ExpectExit(0);
  waiter.ExpectExit(0);
}

// ---- Handles.

TEST_P(ConditionTest, HandlesMeanTheSameCondition) {
  Condition second = condition_;
  EXPECT_TRUE(second == condition_);
  EXPECT_FALSE(Make() == condition_);
  auto waiter = StartWaiter();
  {
    const std::scoped_lock hold(second);
    EXPECT_EQ(second.Notify(), 1);
  }
  waiter.ExpectExit(0);
}

// Two conditions of one lock: who waits for room, and who waits for items.
TEST_P(ConditionTest, ConditionsShareALock) {
  Lock lock;
  RLock rlock;
  Condition filled = recursive() ? Condition(rlock) : Condition(lock);
  Condition emptied = recursive() ? Condition(rlock) : Condition(lock);
  constexpr int kItems = 300;
  SharedPage<std::atomic<int>> items;
  std::vector<ChildProcess> children;
  for (int i = 0; i < 2; ++i) {
    children.push_back(ChildProcess::Start([&] {
      for (int n = 0; n < kItems; ++n) {
        const std::scoped_lock hold(emptied);
        EXPECT_TRUE(emptied.WaitFor([&] { return *items < 2; }));
        ++*items;
        filled.Notify();
      }
    }));
    children.push_back(ChildProcess::Start([&] {
      for (int n = 0; n < kItems; ++n) {
        const std::scoped_lock hold(filled);
        EXPECT_TRUE(filled.WaitFor([&] { return *items > 0; }));
        --*items;
        emptied.Notify();
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(*items, 0);
}

TEST_P(ConditionTest, Threads) {
  int turn = 0;  // TSan checks that the lock orders
  std::vector<std::thread> threads;
  for (int self = 0; self < 3; ++self) {
    threads.emplace_back([&, self] {
      for (int round = 0; round < 100; ++round) {
        const std::scoped_lock hold(condition_);
        condition_.WaitFor([&] { return turn % 3 == self; });
        ++turn;
        condition_.NotifyAll();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(turn, 300);
}

TEST_P(ConditionTest, ToString) {
  const std::string kind = recursive() ? "RLock" : "Lock";
  EXPECT_EQ(condition_.ToString(),
            absl::StrCat("Condition(", kind, "(owner=None), 0)"));
  auto waiter = StartWaiter();
  EXPECT_EQ(condition_.ToString(),
            absl::StrCat("Condition(", kind, "(owner=None), 1)"));
  EXPECT_EQ(NotifyNow(1), 1);
  waiter.ExpectExit(0);
}

INSTANTIATE_TEST_SUITE_P(Locks, ConditionTest, ::testing::Bool(),
                         [](const auto& which) {
                           return which.param ? "RLock" : "Lock";
                         });

TEST(ConditionOptionsTest, HasAnRLockIfNoneIsGiven) {
  EXPECT_EQ(Condition().ToString(), "Condition(RLock(owner=None), 0)");
  EXPECT_OK(Condition::Create());
  EXPECT_OK(Condition::Create(Lock()));
  EXPECT_OK(Condition::Create(RLock()));
}

}  // namespace
}  // namespace mp
