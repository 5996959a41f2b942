#include "mp/sync/rwlock.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_rwlock.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AnyOf;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { RWLock(); }
};

class RWLockTest : private WarmUp, public testing::ProcessTest {};

// ---- Use as it should be, under Clang's thread-safety analysis.

class Account {
 public:
  void Deposit(int amount) ABSL_LOCKS_EXCLUDED(lock_) {
    lock_.Acquire();
    balance_ += amount;
    EXPECT_OK(lock_.Release());
  }
  bool TryDeposit(int amount) ABSL_LOCKS_EXCLUDED(lock_) {
    if (!lock_.Acquire(absl::Milliseconds(1))) return false;
    balance_ += amount;
    lock_.unlock();
    return true;
  }
  int balance() ABSL_LOCKS_EXCLUDED(lock_) {
    lock_.lock_shared();
    const int balance = balance_;
    lock_.unlock_shared();
    return balance;
  }

 private:
  RWLock lock_;
  int balance_ ABSL_GUARDED_BY(lock_) = 0;
};

TEST_F(RWLockTest, WorksWithThreadSafetyAnnotations) {
  Account account;
  account.Deposit(1);
  EXPECT_TRUE(account.TryDeposit(2));
  EXPECT_EQ(account.balance(), 3);
}

// From here on locks are left held, released by others, and so on.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

// ---- One writer or many readers.

TEST_F(RWLockTest, AcquireAndRelease) {
  RWLock lock;
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_EQ(lock.Acquire(absl::ZeroDuration()), kTimedOut);
  EXPECT_EQ(lock.AcquireShared(absl::Milliseconds(2)), kTimedOut);
  EXPECT_THAT(lock.ReleaseShared(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_OK(lock.Release());
  EXPECT_THAT(lock.Release(), StatusIs(absl::StatusCode::kFailedPrecondition));

  EXPECT_EQ(lock.AcquireShared(), kAcquired);
  EXPECT_EQ(lock.AcquireShared(absl::ZeroDuration()), kAcquired);
  EXPECT_EQ(lock.Acquire(absl::Milliseconds(2)), kTimedOut);
  EXPECT_THAT(lock.Release(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_THAT(lock.ReleaseShared(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

// A process that gives back what another holds would let a third one in.
TEST_F(RWLockTest, OnlyTheHolderReleases) {
  RWLock lock;
  lock.Acquire();
  ChildProcess::Start([&] {
    EXPECT_THAT(lock.Release(),
                StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_EQ(lock.AcquireShared(absl::ZeroDuration()), kTimedOut);
  }).ExpectExit(0);
  EXPECT_OK(lock.Release());
  lock.AcquireShared();
  ChildProcess::Start([&] {
    EXPECT_THAT(lock.ReleaseShared(),
                StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_EQ(lock.Acquire(absl::ZeroDuration()), kTimedOut);
  }).ExpectExit(0);
  EXPECT_OK(lock.ReleaseShared());
}

TEST_F(RWLockTest, UnlockOfWhatIsNotHeldAborts) {
  RWLock lock;
  EXPECT_DEATH(lock.unlock(), "does not hold");
  EXPECT_DEATH(lock.unlock_shared(), "does not read under");
}

TEST_F(RWLockTest, ReadersReadTogether) {
  constexpr int kReaders = 3;
  RWLock lock;
  SharedPage<std::atomic<int>> inside;
  std::vector<ChildProcess> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.push_back(ChildProcess::Start([&] {
      const std::shared_lock hold(lock);
      ++*inside;
      while (*inside != kReaders) absl::SleepFor(absl::Milliseconds(1));
    }));
  }
  for (ChildProcess& reader : readers) reader.ExpectExit(0);
}

struct Counters {
  int a = 0;
  int b = 0;
};

// Some write and some read, in several processes with several threads each.
TEST_F(RWLockTest, AWriterIsAlone) {
  constexpr int kTimes = 3'000;
  RWLock lock;
  SharedPage<Counters> counters;
  const auto work = [&] {
    for (int i = 0; i < kTimes; ++i) {
      if (i % 4 == 0) {
        const std::scoped_lock hold(lock);
        ++counters->a;
        ++counters->b;
      } else {
        const std::shared_lock hold(lock);
        ASSERT_EQ(counters->a, counters->b);
      }
    }
  };
  std::vector<ChildProcess> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(ChildProcess::Start([&] {
      std::thread other(work);
      work();
      other.join();
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(counters->a, 3 * 2 * kTimes / 4);
  EXPECT_EQ(lock.ToString(), "RWLock(owner=None)");
}

// Or a stream of readers would keep the writer out for ever.
TEST_F(RWLockTest, WhoComesAfterAWaitingWriterWaits) {
  RWLock lock;
  lock.AcquireShared();
  auto writer = ChildProcess::Start([&] {
    EXPECT_EQ(lock.Acquire(), kAcquired);
    EXPECT_OK(lock.Release());
  });
  ASSERT_TRUE(writer.WaitUntilAsleep());
  EXPECT_EQ(lock.AcquireShared(absl::Milliseconds(5)), kTimedOut);
  auto reader = ChildProcess::Start([&] {
    EXPECT_EQ(lock.AcquireShared(), kAcquired);
    EXPECT_OK(lock.ReleaseShared());
  });
  ASSERT_TRUE(reader.WaitUntilAsleep());
  EXPECT_OK(lock.ReleaseShared());
  writer.ExpectExit(0);
  reader.ExpectExit(0);
}

TEST_F(RWLockTest, AWriterThatGivesUpLetsTheOthersIn) {
  RWLock lock;
  lock.AcquireShared();
  auto writer = ChildProcess::Start(
      [&] { EXPECT_EQ(lock.Acquire(absl::Milliseconds(300)), kTimedOut); });
  writer.WaitUntilAsleep();  // on a busy machine it may have given up by now
  auto reader = ChildProcess::Start([&] {
    EXPECT_EQ(lock.AcquireShared(), kAcquired);
    EXPECT_OK(lock.ReleaseShared());
  });
  reader.ExpectExit(0);
  writer.ExpectExit(0);
  EXPECT_OK(lock.ReleaseShared());
}

TEST_F(RWLockTest, TimesOutNoEarlierThanAskedFor) {
  RWLock lock;
  lock.Acquire();
  ChildProcess::Start([&] {
    constexpr absl::Duration kTimeout = absl::Milliseconds(30);
    Deadline end = Deadline::After(kTimeout);
    EXPECT_EQ(lock.Acquire(kTimeout), kTimedOut);
    EXPECT_TRUE(end.Expired());
    end = Deadline::After(kTimeout);
    EXPECT_EQ(lock.AcquireShared(kTimeout), kTimedOut);
    EXPECT_TRUE(end.Expired());
  }).ExpectExit(0);
}

TEST_F(RWLockTest, MoreProcessesReadThanThereAreSlots) {
  constexpr size_t kReaders = InPlaceRWLock::kMaxReaders;
  RWLock lock;
  SharedPage<std::atomic<bool>> leave;
  std::vector<ChildProcess> readers;
  for (size_t i = 0; i < kReaders; ++i) {
    SharedPage<std::atomic<bool>> inside;
    readers.push_back(ChildProcess::Start([&] {
      lock.AcquireShared();
      *inside = true;
      while (!*leave) absl::SleepFor(absl::Milliseconds(5));
      EXPECT_OK(lock.ReleaseShared());
    }));
    while (!*inside) absl::SleepFor(absl::Microseconds(100));
  }
  EXPECT_EQ(lock.AcquireShared(absl::Milliseconds(5)), kTimedOut);
  // A death frees a slot, and so does who leaves.
  auto after_a_death = ChildProcess::Start([&] {
    EXPECT_EQ(lock.AcquireShared(), kAcquired);
    while (!*leave) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_OK(lock.ReleaseShared());
  });
  ASSERT_TRUE(after_a_death.WaitUntilAsleep());
  readers.back().Kill();
  readers.back().ExpectSignal(SIGKILL);
  readers.pop_back();
  while (lock.ToString().find(absl::StrCat("pid ", after_a_death.pid())) ==
         std::string::npos) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  auto after_who_leaves = ChildProcess::Start([&] {
    EXPECT_EQ(lock.AcquireShared(), kAcquired);
    EXPECT_OK(lock.ReleaseShared());
  });
  ASSERT_TRUE(after_who_leaves.WaitUntilAsleep());
  *leave = true;
  after_who_leaves.ExpectExit(0);
  after_a_death.ExpectExit(0);
  for (ChildProcess& reader : readers) reader.ExpectExit(0);
  EXPECT_EQ(lock.Acquire(), kAcquired);
  // The slots of processes that have left serve others.
  EXPECT_OK(lock.Release());
  for (int i = 0; i < 3; ++i) {
    ChildProcess::Start([&] {
      const std::shared_lock hold(lock);
    }).ExpectExit(0);
  }
}

// ---- The handle.

TEST_F(RWLockTest, CopiesMeanTheSameLock) {
  RWLock lock;
  const RWLock other;
  RWLock copy = lock;
  EXPECT_EQ(copy, lock);
  EXPECT_FALSE(other == lock);
  lock.Acquire();
  EXPECT_EQ(copy.Acquire(absl::ZeroDuration()), kTimedOut);
  RWLock moved = std::move(lock);
  EXPECT_OK(moved.Release());
  EXPECT_EQ(copy.Acquire(absl::ZeroDuration()), kAcquired);
  EXPECT_OK(copy.Release());
}

TEST_F(RWLockTest, ToStringNamesTheHolders) {
  RWLock lock;
  EXPECT_EQ(lock.ToString(), "RWLock(owner=None)");
  lock.Acquire();
  EXPECT_EQ(lock.ToString(), absl::StrCat("RWLock(owner=pid ", getpid(), ")"));
  EXPECT_OK(lock.Release());
  lock.AcquireShared();
  EXPECT_EQ(lock.ToString(),
            absl::StrCat("RWLock(readers=pid ", getpid(), ")"));
  ChildProcess::Start([&] {
    const std::shared_lock hold(lock);
    EXPECT_THAT(lock.ToString(),
                AnyOf(absl::StrCat("RWLock(readers=pid ", getpid(), ", pid ",
                                   getppid(), ")"),
                      absl::StrCat("RWLock(readers=pid ", getppid(), ", pid ",
                                   getpid(), ")")));
  }).ExpectExit(0);
  EXPECT_OK(lock.ReleaseShared());
}

TEST_F(RWLockTest, WorksWithTheStandardGuards) {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  RWLock lock;
  {
    std::shared_lock<RWLock> hold(lock, std::defer_lock);
    EXPECT_TRUE(hold.try_lock());
    hold.unlock();
    EXPECT_TRUE(hold.try_lock_for(seconds(1)));
    hold.unlock();
    EXPECT_TRUE(hold.try_lock_until(std::chrono::steady_clock::now() +
                                    std::chrono::hours(1)));
    EXPECT_FALSE(lock.try_lock());
    EXPECT_FALSE(lock.try_lock_for(milliseconds(1)));
  }
  std::unique_lock<RWLock> hold(lock);
  EXPECT_FALSE(lock.try_lock_shared());
  EXPECT_FALSE(lock.try_lock_shared_for(milliseconds(1)));
  EXPECT_FALSE(lock.try_lock_shared_until(std::chrono::steady_clock::now()));
  EXPECT_FALSE(lock.try_lock_until(std::chrono::system_clock::now()));
  hold.unlock();
  EXPECT_TRUE(hold.try_lock_for(seconds(1)));
}

// ---- Death. With and without futex_waitv.

class RWLockDeathTest : public RWLockTest,
                        public ::testing::WithParamInterface<bool> {
 protected:
  RWLockDeathTest() { SetFutexWaitvForTest(GetParam()); }
  ~RWLockDeathTest() override { SetFutexWaitvForTest(true); }

  // A child that holds the lock, and waits to be killed.
  static ChildProcess Start(RWLock lock, bool reads) {
    SharedPage<std::atomic<bool>> holds;
    auto child = ChildProcess::Start([&] {
      EXPECT_TRUE(reads ? lock.AcquireShared() : lock.Acquire());
      *holds = true;
      for (;;) pause();
    });
    while (!*holds) absl::SleepFor(absl::Microseconds(100));
    return child;
  }
  static void Kill(ChildProcess& child) {
    child.Kill();
    child.ExpectSignal(SIGKILL);
  }
};

INSTANTIATE_TEST_SUITE_P(FutexWaitv, RWLockDeathTest, ::testing::Bool(),
                         [](const auto& param) {
                           return param.param ? "on" : "off";
                         });

TEST_P(RWLockDeathTest, ADeadReaderLeavesNoTrace) {
  RWLock lock;
  for (int i = 0; i < 3; ++i) {
    ChildProcess first = Start(lock, /*reads=*/true);
    ChildProcess second = Start(lock, /*reads=*/true);
    auto writer = ChildProcess::Start([&] {
      EXPECT_EQ(lock.Acquire(), kAcquired);
      EXPECT_OK(lock.Release());
    });
    ASSERT_TRUE(writer.WaitUntilAsleep());
    Kill(first);
    EXPECT_EQ(lock.Acquire(absl::Milliseconds(5)), kTimedOut);
    Kill(second);
    writer.ExpectExit(0);
    EXPECT_EQ(lock.AcquireShared(absl::ZeroDuration()), kAcquired);
    EXPECT_OK(lock.ReleaseShared());
  }
}

TEST_P(RWLockDeathTest, ATryGetsPastDeadReaders) {
  RWLock lock;
  ChildProcess::Start([&] { lock.AcquireShared(); }).ExpectExit(0);
  EXPECT_EQ(lock.Acquire(absl::ZeroDuration()), kAcquired);
}

TEST_P(RWLockDeathTest, AllReadersAreToldUntilAWriterIs) {
  RWLock lock;
  ChildProcess::Start([&] { lock.Acquire(); }).ExpectExit(0);
  EXPECT_EQ(lock.AcquireShared(absl::ZeroDuration()), kOwnerDied);
  ChildProcess::Start([&] {
    EXPECT_EQ(lock.AcquireShared(), kOwnerDied);
    EXPECT_OK(lock.ReleaseShared());
  }).ExpectExit(0);
  EXPECT_EQ(lock.Acquire(absl::Milliseconds(2)), kTimedOut);
  EXPECT_EQ(lock.AcquireShared(), kOwnerDied);
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_EQ(lock.Acquire(), kOwnerDied);
  EXPECT_OK(lock.Release());
  EXPECT_EQ(lock.AcquireShared(), kAcquired);
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_EQ(lock.Acquire(), kAcquired);
}

TEST_P(RWLockDeathTest, ADeadWriterWakesAllWhoWait) {
  RWLock lock;
  ChildProcess holder = Start(lock, /*reads=*/false);
  SharedPage<std::atomic<int>> writers_told;
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.push_back(ChildProcess::Start([&, reads = i % 2 == 0] {
      if (reads) {
        EXPECT_TRUE(lock.AcquireShared());
        EXPECT_OK(lock.ReleaseShared());
      } else {
        *writers_told += lock.Acquire() == kOwnerDied ? 1 : 0;
        EXPECT_OK(lock.Release());
      }
    }));
  }
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  Kill(holder);
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
  EXPECT_EQ(*writers_told, 1);
}

// It has changed nothing yet.
TEST_P(RWLockDeathTest, AWriterThatDiesWaitingForReadersLeavesNoTrace) {
  RWLock lock;
  lock.AcquireShared();
  auto writer = ChildProcess::Start([&] { lock.Acquire(); });
  ASSERT_TRUE(writer.WaitUntilAsleep());
  auto reader = ChildProcess::Start([&] {
    EXPECT_EQ(lock.AcquireShared(), kAcquired);
    EXPECT_OK(lock.ReleaseShared());
  });
  ASSERT_TRUE(reader.WaitUntilAsleep());
  Kill(writer);
  reader.ExpectExit(0);
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_EQ(lock.Acquire(), kAcquired);
}

TEST_P(RWLockDeathTest, AStoppedHolderIsAlive) {
  for (const bool reads : {true, false}) {
    RWLock lock;
    ChildProcess holder = Start(lock, reads);
    ASSERT_TRUE(holder.Stop());
    EXPECT_EQ(lock.Acquire(absl::Milliseconds(30)), kTimedOut);
    Kill(holder);
    EXPECT_EQ(lock.Acquire(), reads ? kAcquired : kOwnerDied);
  }
}

// ---- Repair.

TEST_F(RWLockTest, AReaderRepairsAsAWriter) {
  RWLock lock;
  ChildProcess::Start([&] { lock.Acquire(); }).ExpectExit(0);
  int repairs = 0;
  lock.set_repair([&] {
    EXPECT_EQ(lock.ToString(),
              absl::StrCat("RWLock(owner=pid ", getpid(), ")"));
    ++repairs;
  });
  EXPECT_EQ(lock.AcquireShared(), kOwnerDied);
  EXPECT_EQ(repairs, 1);
  EXPECT_EQ(lock.AcquireShared(), kAcquired);
  EXPECT_EQ(repairs, 1);
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_EQ(lock.Acquire(), kAcquired);
}

TEST_F(RWLockTest, AWriterRepairs) {
  RWLock lock;
  ChildProcess::Start([&] { lock.Acquire(); }).ExpectExit(0);
  int repairs = 0;
  lock.set_repair([&] { ++repairs; });
  lock.lock();
  EXPECT_EQ(repairs, 1);
  lock.unlock();
  lock.lock_shared();
  EXPECT_EQ(repairs, 1);
  lock.unlock_shared();
}

TEST_F(RWLockTest, ARepairThatCannotBeginTimesOut) {
  RWLock lock;
  ChildProcess::Start([&] { lock.Acquire(); }).ExpectExit(0);
  EXPECT_EQ(lock.AcquireShared(), kOwnerDied);  // without a callback
  int repairs = 0;
  lock.set_repair([&] { ++repairs; });
  EXPECT_EQ(lock.AcquireShared(absl::Milliseconds(5)), kTimedOut);
  EXPECT_EQ(repairs, 0);
  EXPECT_OK(lock.ReleaseShared());
  EXPECT_EQ(lock.AcquireShared(absl::Milliseconds(5)), kOwnerDied);
  EXPECT_EQ(repairs, 1);
}

TEST_F(RWLockTest, ARepairThatThrowsLeavesItToTheNext) {
  RWLock lock;
  ChildProcess::Start([&] { lock.Acquire(); }).ExpectExit(0);
  RWLock other = lock;
  lock.set_repair([] { throw std::runtime_error("no"); });
  EXPECT_THROW(lock.AcquireShared(), std::runtime_error);
  EXPECT_THROW(lock.lock(), std::runtime_error);
  EXPECT_EQ(other.AcquireShared(), kOwnerDied);
  EXPECT_OK(other.ReleaseShared());
  EXPECT_EQ(other.Acquire(), kOwnerDied);
}

}  // namespace
}  // namespace mp
