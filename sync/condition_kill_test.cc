// A condition's users are killed: at every instruction of each operation, and
// at random in a storm. Whatever happens, no notification is lost, and who
// waits goes on.

#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/sync/condition.h"
#include "mp/sync/in_place_condition.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/kill_test_util.h"
#include "mp/sync/lock.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

// Locks are held across calls that release and acquire them.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillAtEveryInstruction;
using ::mp::testing::KillPoint;
using ::mp::testing::KillReport;
using ::mp::testing::SharedPage;
using ::mp::testing::Storm;
using ::mp::testing::StormReport;
using ::mp::testing::StormWorker;

class ConditionKillTest : public KillTest {
 protected:
  // In place: all of it is compiled here, as it is for users.
  struct Monitor {
    InPlaceLock lock;
    InPlaceCondition condition;
    std::atomic<bool> open{false};

    AcquireResult Acquire() {
      return lock.AcquireUntil(Deadline::After(kGenerous));
    }
    void WaitUntilOpen() {
      while (!open) condition.Wait(lock);
    }
  };

  ConditionKillTest() { Reset(); }

  void Reset() { monitor_ = new (&*page_) Monitor; }

  // A child that waits until it is open, once it is asleep.
  ChildProcess StartWaiter() {
    auto waiter = ChildProcess::Start([&] {
      const std::scoped_lock hold(monitor_->lock);
      monitor_->WaitUntilOpen();
    });
    EXPECT_TRUE(waiter.WaitUntilAsleep());
    return waiter;
  }

  void Open() {
    EXPECT_TRUE(monitor_->Acquire());
    monitor_->open = true;
    monitor_->condition.NotifyAll();
    EXPECT_TRUE(monitor_->lock.Release());
  }

  // Nobody is entered as waiting, and all calls work.
  void ExpectWell() {
    EXPECT_TRUE(monitor_->Acquire());
    EXPECT_EQ(monitor_->condition.NotifyAll(), 0);
    EXPECT_EQ(monitor_->condition.WaitUntil(monitor_->lock, Deadline::Now()),
              kTimedOut);
    EXPECT_TRUE(monitor_->lock.Release());
  }

  SharedPage<Monitor> page_;
  Monitor* monitor_;
};

// It opens, notifies and releases, or dies at that: who waits sees either, and
// goes on if it is open.
TEST_F(ConditionKillTest, OpenAndNotify) {
  std::optional<ChildProcess> waiters[2];
  Once opened;
  const auto end_waiters = [&] {
    for (std::optional<ChildProcess>& waiter : waiters) {
      if (waiter) waiter->ExpectExit(0);
      waiter.reset();
    }
  };
  Print("notify all, two asleep",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      end_waiters();  // of the first run
                                      Reset();
                                      for (auto& waiter : waiters) {
                                        waiter.emplace(StartWaiter());
                                      }
                                    },
                                .op =
                                    [&] {
                                      monitor_->lock.Acquire();
                                      monitor_->open = true;
                                      monitor_->condition.NotifyAll();
                                      monitor_->lock.Release();
                                    },
                                .check =
                                    [&](const KillPoint& point) {
                                      opened.Expect(monitor_->open, point);
                                      if (!monitor_->open) Open();
                                      end_waiters();
                                      ExpectWell();
                                    },
                                .first = AnyOf(kStride.sleepers),
                                .stride = kStride.sleepers}));
}

TEST_F(ConditionKillTest, WaitThatTimesOut) {
  Print(
      "wait, timed out",
      KillAtEveryInstruction({.prepare = [&] { Reset(); },
                              .op =
                                  [&] {
                                    monitor_->lock.Acquire();
                                    monitor_->condition.WaitUntil(
                                        monitor_->lock, Deadline::Now());
                                    monitor_->lock.Release();
                                  },
                              .check = [&](const KillPoint&) { ExpectWell(); },
                              .first = AnyOf(kStride.quick),
                              .stride = kStride.quick}));
}

// Killed before, while and after it waits.
TEST_F(ConditionKillTest, Wait) {
  const KillReport report =
      KillAtEveryInstruction({.prepare = [&] { Reset(); },
                              .setup = SpinUnlessInstrumented,
                              .op =
                                  [&] {
                                    monitor_->lock.Acquire();
                                    monitor_->WaitUntilOpen();
                                    monitor_->lock.Release();
                                  },
                              .unblock = [&] { Open(); },
                              .check =
                                  [&](const KillPoint&) {
                                    Open();
                                    ExpectWell();
                                  },
                              .first = AnyOf(kStride.slow),
                              .stride = kStride.slow,
                              .asleep_after = kAsleepAfter});
  Print("wait", report);
  EXPECT_GT(report.sleeps, 0);
}

// There is one notification. Either the victim has taken what it was for, or
// the other one gets it.
TEST_F(ConditionKillTest, WaitBesideAWaiter) {
  SharedPage<std::atomic<int>> items;
  std::optional<ChildProcess> other;
  const auto take = [&] {
    monitor_->lock.Acquire();
    while (*items == 0 && !monitor_->open) {
      monitor_->condition.Wait(monitor_->lock);
    }
    if (*items > 0) --*items;
    monitor_->lock.Release();
  };
  const auto put_one = [&] {
    EXPECT_TRUE(monitor_->Acquire());
    ++*items;
    monitor_->condition.Notify();
    EXPECT_TRUE(monitor_->lock.Release());
  };
  const auto end_other = [&] {
    if (!other) return;
    Open();
    other->ExpectExit(0);
    other.reset();
  };
  int passed_on = 0;
  Print("wait beside a waiter",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      end_other();  // of the first run
                                      Reset();
                                      *items = 0;
                                    },
                                .setup = SpinUnlessInstrumented,
                                .op = take,
                                .unblock =
                                    [&] {
                                      other.emplace(ChildProcess::Start(take));
                                      EXPECT_TRUE(other->WaitUntilAsleep());
                                      put_one();
                                    },
                                .check =
                                    [&](const KillPoint& point) {
                                      if (other && *items > 0) {
                                        // Not taken: without anybody's help,
                                        // the other one does.
                                        EXPECT_FALSE(point.completed());
                                        other->ExpectExit(0);
                                        other.reset();
                                        EXPECT_EQ(*items, 0);
                                        ++passed_on;
                                      }
                                      end_other();
                                      ExpectWell();
                                    },
                                .first = AnyOf(kStride.sleepers),
                                .stride = kStride.sleepers,
                                .asleep_after = kAsleepAfter}));
  EXPECT_GT(passed_on, 0);
}

// ---- The storm

// Producers and consumers of a count, each of which notifies one. Everybody may
// die with the lock or a notification, and nobody looks whether somebody did.
TEST_F(ConditionKillTest, Storm) {
  struct State {
    std::atomic<int> items{0};
  };
  SharedPage<State> state;
  Lock lock;
  Condition filled(lock);
  Condition emptied(lock);
  Storm storm({.kills = 500, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("producer", 3, [&](StormWorker&) {
    const std::scoped_lock hold(lock);
    while (state->items >= 2) emptied.Wait();
    ++state->items;
    filled.Notify();
  });
  storm.AddRole("consumer", 3, [&](StormWorker&) {
    const std::scoped_lock hold(filled);
    while (state->items == 0) filled.Wait();
    --state->items;
    emptied.Notify();
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, storm.kills());
  EXPECT_GE(state->items, 0);
  EXPECT_LE(state->items, 2);
}

}  // namespace
}  // namespace mp
