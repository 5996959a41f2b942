#include "mp/sync/rlock.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/sync/in_place_lock.h"
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

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { RLock(); }
};

class RLockTest : private WarmUp, public testing::ProcessTest {
 protected:
  // What another thread or process is told that tries to acquire the lock.
  static AcquireResult TryInThread(RLock& lock) {
    AcquireResult result = kTimedOut;
    std::thread([&] {
      result = lock.Acquire(absl::ZeroDuration());
      if (result) {
        EXPECT_OK(lock.Release());
      }
    }).join();
    return result;
  }
  static AcquireResult TryInProcess(RLock& lock) {
    SharedPage<AcquireResult> result(kTimedOut);
    ChildProcess::Start([&] {
      *result = lock.Acquire(absl::ZeroDuration());
      if (*result) {
        EXPECT_OK(lock.Release());
      }
    }).ExpectExit(0);
    return *result;
  }
};

TEST_F(RLockTest, AcquireAndRelease) {
  RLock lock;
  EXPECT_FALSE(lock.Locked());
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_EQ(lock.Acquire(absl::ZeroDuration()), kAcquired);
  EXPECT_EQ(lock.Acquire(absl::Seconds(1)), kAcquired);
  EXPECT_TRUE(lock.Locked());
  for (int i = 0; i < 4; ++i) EXPECT_OK(lock.Release());
  EXPECT_FALSE(lock.Locked());
  EXPECT_THAT(lock.Release(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("does not hold")));
}

TEST_F(RLockTest, ExcludesOthersUntilTheLastRelease) {
  RLock lock;
  lock.Acquire();
  lock.Acquire();
  for (int held = 2; held > 0; --held) {
    EXPECT_EQ(TryInThread(lock), kTimedOut);
    EXPECT_EQ(TryInProcess(lock), kTimedOut);
    EXPECT_OK(lock.Release());
  }
  EXPECT_EQ(TryInThread(lock), kAcquired);
  EXPECT_EQ(TryInProcess(lock), kAcquired);
}

TEST_F(RLockTest, OnlyTheHolderReleases) {
  RLock lock;
  lock.Acquire();
  std::thread([&] {
    EXPECT_THAT(lock.Release(),
                StatusIs(absl::StatusCode::kFailedPrecondition));
  }).join();
  ChildProcess::Start([&] {
    EXPECT_THAT(lock.Release(),
                StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_EQ(lock.Acquire(absl::ZeroDuration()), kTimedOut)
        << "a child does not hold what its parent holds";
  }).ExpectExit(0);
  EXPECT_OK(lock.Release());
  EXPECT_DEATH(lock.unlock(), "this thread does not hold");
}

TEST_F(RLockTest, LockedInTwoProcesses) {
  RLock lock;
  SharedPage<std::atomic<int>> stage;
  auto child = ChildProcess::Start([&] {
    lock.Acquire();
    lock.Acquire();
    *stage = 1;
    while (*stage != 2) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_OK(lock.Release());
    *stage = 3;
    while (*stage != 4) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_OK(lock.Release());
  });
  while (*stage != 1) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(lock.Locked());
  *stage = 2;
  while (*stage != 3) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(lock.Acquire(absl::Milliseconds(5)), kTimedOut);
  *stage = 4;
  EXPECT_EQ(lock.Acquire(), kAcquired);
  child.ExpectExit(0);
  EXPECT_OK(lock.Release());
}

TEST_F(RLockTest, MutualExclusionOfProcessesAndThreads) {
  constexpr int kTimes = 3'000;
  struct Count {
    int value = 0;  // not atomic: the lock orders it
  };
  RLock lock;
  SharedPage<Count> count;
  const auto add = [&] {
    for (int i = 0; i < kTimes; ++i) {
      const std::scoped_lock outer(lock);
      const std::scoped_lock inner(lock);
      ++count->value;
    }
  };
  const auto in_two_threads = [&] {
    std::thread other(add);
    add();
    other.join();
  };
  std::vector<ChildProcess> children;
  for (int i = 0; i < 2; ++i) {
    children.push_back(ChildProcess::Start(in_two_threads));
  }
  in_two_threads();
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(count->value, 6 * kTimes);
}

TEST_F(RLockTest, WorksWithTheStandardGuards) {
  RLock lock;
  {
    std::unique_lock hold(lock, std::defer_lock);
    EXPECT_TRUE(hold.try_lock_for(std::chrono::seconds(1)));
    std::unique_lock again(lock, std::defer_lock);
    EXPECT_TRUE(again.try_lock_until(std::chrono::steady_clock::now()));
    EXPECT_EQ(TryInThread(lock), kTimedOut);
  }
  EXPECT_FALSE(lock.Locked());
  std::thread([&] { lock.lock(); }).join();
  EXPECT_FALSE(lock.try_lock()) << "held by a thread that has ended";
  EXPECT_FALSE(lock.try_lock_for(std::chrono::milliseconds(1)));
}

TEST_F(RLockTest, TheNextOneIsToldOfADeadHolderOnce) {
  RLock lock;
  ChildProcess::Start([&] {
    lock.Acquire();
    lock.Acquire();
  }).ExpectExit(0);
  EXPECT_THAT(lock.Release(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(lock.Acquire(), kOwnerDied);
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_OK(lock.Release());
  EXPECT_EQ(TryInThread(lock), kTimedOut) << "its depth went with it";
  EXPECT_OK(lock.Release());
  EXPECT_EQ(TryInProcess(lock), kAcquired);
}

TEST_F(RLockTest, AWaiterIsWokenWhenTheHolderDies) {
  RLock lock;
  SharedPage<std::atomic<bool>> held;
  auto holder = ChildProcess::Start([&] {
    lock.Acquire();
    *held = true;
    absl::SleepFor(absl::InfiniteDuration());
  });
  while (!*held) absl::SleepFor(absl::Milliseconds(1));
  auto waiter = ChildProcess::Start([&] {
    EXPECT_EQ(lock.Acquire(), kOwnerDied);
    EXPECT_OK(lock.Release());
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  holder.Kill();
  holder.ExpectSignal(SIGKILL);
  waiter.ExpectExit(0);
}

TEST_F(RLockTest, RepairRunsWithTheLockHeld) {
  RLock lock;
  int repairs = 0;
  lock.set_repair([&] {
    const std::scoped_lock again(lock);
    EXPECT_EQ(TryInThread(lock), kTimedOut);
    if (++repairs == 1) throw std::runtime_error("cannot repair");
  });
  ChildProcess::Start([&] { lock.Acquire(); }).ExpectExit(0);
  EXPECT_THROW(lock.Acquire(), std::runtime_error);
  EXPECT_EQ(lock.Acquire(), kOwnerDied) << "nobody has repaired yet";
  EXPECT_EQ(repairs, 2);
  EXPECT_OK(lock.Release());
  EXPECT_FALSE(lock.Locked());
}

TEST_F(RLockTest, ToString) {
  RLock lock;
  EXPECT_EQ(lock.ToString(), "RLock(owner=None)");
  lock.Acquire();
  lock.Acquire();
  EXPECT_EQ(lock.ToString(), "RLock(owner=me, 2)");
  std::string elsewhere;
  std::thread([&] { elsewhere = lock.ToString(); }).join();
  EXPECT_EQ(elsewhere, absl::StrCat("RLock(owner=pid ", getpid(), ")"));
}

TEST_F(RLockTest, CopiesMeanTheSameLock) {
  ASSERT_OK_AND_ASSIGN(RLock lock, RLock::Create());
  const RLock other;
  RLock copy = lock;
  EXPECT_EQ(copy, lock);
  EXPECT_NE(copy, other);
  lock.Acquire();
  EXPECT_OK(copy.Release());
  EXPECT_FALSE(lock.Locked());
}

}  // namespace
}  // namespace mp
