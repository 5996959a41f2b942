#include "mp/sync/semaphore.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
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
using ::testing::AllOf;
using ::testing::HasSubstr;

// Never reached: what is not there after this long never will be.
constexpr absl::Duration kGenerous = absl::Seconds(20);

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { Semaphore(); }
};

class SemaphoreTest : private WarmUp, public testing::ProcessTest {
 protected:
  ~SemaphoreTest() override { SetFutexWaitvForTest(true); }

  // Ends a child that has `permits` on its account by SIGKILL.
  static void KillAHolder(const Semaphore& semaphore, int permits) {
    ChildProcess::Start([copy = semaphore, permits]() mutable {
      for (int i = 0; i < permits; ++i) copy.lock();
      raise(SIGKILL);
    }).ExpectSignal(SIGKILL);
  }
};

// ---- Anonymous permits.

TEST_F(SemaphoreTest, ValueWalksDownAndUp) {
  Semaphore semaphore(2);
  EXPECT_EQ(semaphore.value(), 2);
  EXPECT_FALSE(semaphore.Locked());
  semaphore.Acquire();
  EXPECT_EQ(semaphore.value(), 1);
  EXPECT_TRUE(semaphore.Acquire(absl::ZeroDuration()));
  EXPECT_EQ(semaphore.value(), 0);
  EXPECT_TRUE(semaphore.Locked());
  EXPECT_FALSE(semaphore.Acquire(absl::ZeroDuration()));
  // Beyond what it began with, too.
  for (int value = 1; value <= 4; ++value) {
    EXPECT_OK(semaphore.Release());
    EXPECT_EQ(semaphore.value(), value);
  }
}

TEST_F(SemaphoreTest, BeginsWithOne) {
  EXPECT_EQ(Semaphore().value(), 1);
  EXPECT_EQ(BoundedSemaphore().value(), 1);
  EXPECT_EQ(Semaphore(0).value(), 0);
  EXPECT_EQ(Semaphore(Semaphore::kMaxValue).value(), Semaphore::kMaxValue);
}

TEST_F(SemaphoreTest, ReleaseOfMany) {
  Semaphore semaphore(0);
  EXPECT_OK(semaphore.Release(3));
  EXPECT_EQ(semaphore.value(), 3);
  for (const int permits : {0, -1, -Semaphore::kMaxValue - 1}) {
    EXPECT_THAT(
        semaphore.Release(permits),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Release(")));
  }
  EXPECT_THAT(semaphore.Release(Semaphore::kMaxValue - 2),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("has 3 of at most 2147483647 permits")));
  EXPECT_OK(semaphore.Release(Semaphore::kMaxValue - 3));
  EXPECT_FALSE(semaphore.Release().ok());
  EXPECT_EQ(semaphore.value(), Semaphore::kMaxValue);
}

TEST_F(SemaphoreTest, ABoundedOneHasABound) {
  BoundedSemaphore semaphore(2);
  EXPECT_FALSE(semaphore.Release().ok());
  semaphore.Acquire();
  EXPECT_FALSE(semaphore.Release(2).ok());
  EXPECT_EQ(semaphore.value(), 1);
  EXPECT_OK(semaphore.Release());
  EXPECT_THAT(semaphore.Release(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("has 2 of at most 2 permits")));
}

TEST_F(SemaphoreTest, Timeouts) {
  Semaphore semaphore(0);
  EXPECT_FALSE(semaphore.Acquire(absl::ZeroDuration()));
  EXPECT_FALSE(semaphore.Acquire(-absl::InfiniteDuration()));
  EXPECT_FALSE(semaphore.try_lock());
  EXPECT_FALSE(semaphore.try_lock_for(std::chrono::seconds::min()));
  EXPECT_FALSE(semaphore.try_lock_until(std::chrono::steady_clock::now()));
  const absl::Time begin = absl::Now();
  EXPECT_FALSE(semaphore.Acquire(absl::Milliseconds(30)));
  EXPECT_FALSE(semaphore.try_lock_for(std::chrono::milliseconds(30)));
  EXPECT_FALSE(semaphore.try_lock_until(std::chrono::system_clock::now() +
                                        std::chrono::milliseconds(30)));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(87));
}

TEST_F(SemaphoreTest, AnyProcessGivesBack) {
  Semaphore semaphore(1);
  semaphore.Acquire();
  auto child = ChildProcess::Start([&] { EXPECT_OK(semaphore.Release()); });
  semaphore.Acquire();
  child.ExpectExit(0);
}

TEST_F(SemaphoreTest, ReleaseOfManyLetsAsManyGo) {
  Semaphore semaphore(0);
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 6; ++i) {
    waiters.push_back(ChildProcess::Start([&, i] {
      if (i % 2 == 0) {
        semaphore.Acquire();
        EXPECT_OK(semaphore.Release());
      } else {
        const std::scoped_lock permit(semaphore);
      }
    }));
  }
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  EXPECT_OK(semaphore.Release(3));
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
  EXPECT_EQ(semaphore.value(), 3);
}

TEST_F(SemaphoreTest, WaitersMayDie) {
  Semaphore semaphore(0);
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.push_back(ChildProcess::Start(
        [&, i] { i < 2 ? semaphore.Acquire() : semaphore.lock(); }));
  }
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  for (ChildProcess& waiter : waiters) {
    waiter.Kill();
    waiter.ExpectSignal(SIGKILL);
  }
  EXPECT_OK(semaphore.Release());
  EXPECT_TRUE(semaphore.Acquire(absl::ZeroDuration()));
}

// ---- Permits on an account.

TEST_F(SemaphoreTest, WorksWithTheStandardGuards) {
  Semaphore semaphore(2);
  {
    const std::scoped_lock permit(semaphore);
    EXPECT_EQ(semaphore.value(), 1);
    std::unique_lock second(semaphore, std::try_to_lock);
    EXPECT_TRUE(second.owns_lock());
    EXPECT_EQ(semaphore.value(), 0);
    EXPECT_FALSE(std::unique_lock(semaphore, std::chrono::milliseconds(1)));
  }
  EXPECT_EQ(semaphore.value(), 2);
}

TEST_F(SemaphoreTest, PermitsOfTheDeadComeBack) {
  for (const bool waitv : {true, false}) {
    SetFutexWaitvForTest(waitv);
    Semaphore semaphore(3);
    KillAHolder(semaphore, 2);
    EXPECT_EQ(semaphore.value(), 1) << "nobody has needed them yet";
    EXPECT_TRUE(semaphore.try_lock());
    EXPECT_TRUE(semaphore.try_lock());
    EXPECT_TRUE(semaphore.Acquire(absl::ZeroDuration()));
    EXPECT_FALSE(semaphore.try_lock());
    semaphore.unlock();
    semaphore.unlock();
    EXPECT_OK(semaphore.Release());
    EXPECT_EQ(semaphore.value(), 3);
  }
}

TEST_F(SemaphoreTest, AnonymousPermitsOfTheDeadAreGone) {
  Semaphore semaphore(2);
  ChildProcess::Start([&] { semaphore.Acquire(); }).ExpectExit(0);
  EXPECT_TRUE(semaphore.try_lock());
  EXPECT_FALSE(semaphore.try_lock());
  semaphore.unlock();
}

// However it ends.
TEST_F(SemaphoreTest, SleepersGetThePermitsOfWhoDies) {
  for (const bool waitv : {true, false}) {
    SetFutexWaitvForTest(waitv);
    Semaphore semaphore(2);
    std::vector<ChildProcess> holders;
    for (int i = 0; i < 2; ++i) {
      holders.push_back(ChildProcess::Start([&] {
        semaphore.lock();
        for (;;) pause();
      }));
      ASSERT_TRUE(holders.back().WaitUntilAsleep());
    }
    std::vector<ChildProcess> sleepers;
    for (int i = 0; i < 4; ++i) {
      sleepers.push_back(ChildProcess::Start([&, i] {
        if (i % 2 == 0) {
          EXPECT_TRUE(semaphore.try_lock_for(std::chrono::seconds(20)));
          semaphore.unlock();
        } else {
          EXPECT_TRUE(semaphore.Acquire(kGenerous));
          EXPECT_OK(semaphore.Release());
        }
      }));
    }
    for (ChildProcess& sleeper : sleepers) {
      ASSERT_TRUE(sleeper.WaitUntilAsleep());
    }
    holders[1].Kill();
    holders[1].ExpectSignal(SIGKILL);
    for (ChildProcess& sleeper : sleepers) sleeper.ExpectExit(0);
    EXPECT_EQ(semaphore.value(), 1);
    holders[0].Kill();
    holders[0].ExpectSignal(SIGKILL);
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(semaphore.try_lock());
    EXPECT_FALSE(semaphore.try_lock());
    for (int i = 0; i < 2; ++i) semaphore.unlock();
  }
}

TEST_F(SemaphoreTest, UnlockByWhoHasNoneAborts) {
  Semaphore semaphore(2);
  semaphore.lock();
  auto child = ChildProcess::Start([&] {
    signal(SIGABRT, [](int) { _exit(42); });
    semaphore.lock();
    semaphore.unlock();
    semaphore.unlock();  // the other one is its parent's
  });
  child.ExpectExit(42);
  semaphore.unlock();
  EXPECT_EQ(semaphore.value(), 2);
}

// More processes than have an account at once, which are nine here.
TEST_F(SemaphoreTest, ManyProcessesTakeTurns) {
  constexpr int kProcesses = 24;
  Semaphore semaphore(3);
  SharedPage<std::atomic<int>> inside;
  std::vector<ChildProcess> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([&] {
      for (int round = 0; round < 50; ++round) {
        const std::scoped_lock permit(semaphore);
        EXPECT_LE(++*inside, 3);
        --*inside;
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(semaphore.value(), 3);
}

TEST_F(SemaphoreTest, MorePermitsThanAccounts) {
  constexpr int kProcesses = 12;
  Semaphore semaphore(1);
  EXPECT_OK(semaphore.Release(kProcesses));
  std::vector<ChildProcess> holders;
  SharedPage<std::atomic<int>> holding;
  SharedPage<std::atomic<bool>> go_on;
  for (int i = 0; i < kProcesses; ++i) {
    holders.push_back(ChildProcess::Start([&] {
      semaphore.lock();
      ++*holding;
      while (!*go_on) absl::SleepFor(absl::Milliseconds(1));
      semaphore.unlock();
    }));
  }
  while (*holding < 9) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(semaphore.try_lock()) << "a tenth account";
  EXPECT_TRUE(semaphore.Acquire(absl::ZeroDuration())) << "needs none";
  EXPECT_OK(semaphore.Release());
  *go_on = true;
  for (ChildProcess& holder : holders) holder.ExpectExit(0);
  EXPECT_EQ(*holding, kProcesses);
  EXPECT_EQ(semaphore.value(), kProcesses + 1);
}

TEST_F(SemaphoreTest, ThreadsShareTheAccount) {
  Semaphore semaphore(2);
  std::vector<std::thread> threads;
  std::atomic<int> inside{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        const std::scoped_lock permit(semaphore);
        EXPECT_LE(++inside, 2);
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(semaphore.value(), 2);
}

TEST_F(SemaphoreTest, ThreadsAndAnonymousPermits) {
  Semaphore semaphore(0);
  std::vector<std::thread> threads;
  int plain = 0;  // TSan checks that permits order
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        semaphore.Acquire();
        ++plain;
        EXPECT_OK(semaphore.Release());
      }
    });
  }
  EXPECT_OK(semaphore.Release());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(plain, 600);
}

// ---- Handles.

TEST_F(SemaphoreTest, HandlesMeanTheSameSemaphore) {
  std::optional<Semaphore> first(std::in_place, 2);
  Semaphore second = *first;
  EXPECT_TRUE(second == *first);
  EXPECT_FALSE(second == Semaphore(2));
  first->Acquire();
  first.reset();
  EXPECT_EQ(second.value(), 1);
  BoundedSemaphore bounded(1);
  Semaphore base = bounded;
  EXPECT_TRUE(base == bounded);
  EXPECT_FALSE(base.Release().ok()) << "it has its bound still";
}

TEST_F(SemaphoreTest, ToString) {
  Semaphore semaphore(3);
  EXPECT_EQ(semaphore.ToString(), "Semaphore(value=3)");
  BoundedSemaphore bounded(3);
  bounded.Acquire();
  EXPECT_EQ(bounded.ToString(), "BoundedSemaphore(value=2, maxvalue=3)");
}

TEST_F(SemaphoreTest, CreateReportsWhatIsWrong) {
  EXPECT_OK(Semaphore::Create());
  EXPECT_OK(BoundedSemaphore::Create(5));
  EXPECT_THAT(Semaphore::Create(-1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
  EXPECT_THAT(BoundedSemaphore::Create(-7).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-7")));
  ChildProcess::Start([] {
    signal(SIGABRT, [](int) { _exit(42); });
    Semaphore(-1);
  }).ExpectExit(42);
  ChildProcess::Start([] {
    rlimit limit;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    // Only for the call: UBSan needs descriptors, too.
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    const absl::Status status = Semaphore::Create().status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                                 AllOf(HasSubstr("memfd_create"),
                                       HasSubstr("EMFILE"))));
  }).ExpectExit(0);
}

// With room for an account for each process that can live.
TEST_F(SemaphoreTest, ALargeOne) {
  Semaphore semaphore(1'000'000);
  semaphore.lock();
  KillAHolder(semaphore, 3);
  EXPECT_EQ(semaphore.value(), 999'996);
  semaphore.unlock();
}

}  // namespace
}  // namespace mp
