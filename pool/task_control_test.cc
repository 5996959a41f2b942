#include "mp/pool/task_control.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/pool/async_result.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/worker_died.h"
#include "mp/sync/event.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using pool_internal::AnyWorkers;
using pool_internal::AnyWorkersTest;
using pool_internal::Numbers;
using pool_internal::Square;
using pool_internal::Squares;
using pool_internal::TaskStop;
using pool_internal::WorkersName;
using ::testing::_;
using ::testing::HasSubstr;

// ---- TaskStopRequested()

class TaskStopTest : public mp::testing::ProcessTest {};

TEST_F(TaskStopTest, FalseOutsideOfTasks) { EXPECT_FALSE(TaskStopRequested()); }

TEST_F(TaskStopTest, TrueForTheTaskThatIsAskedOnly) {
  std::atomic<uint64_t> asked{0};
  TaskStop stop;
  stop.asked = &asked;
  pool_internal::SetProcessTaskStop(&stop);
  EXPECT_FALSE(TaskStopRequested()) << "no task runs";
  stop.task = 5;
  EXPECT_FALSE(TaskStopRequested());
  asked = 4;
  EXPECT_FALSE(TaskStopRequested());
  asked = 5;
  EXPECT_TRUE(TaskStopRequested());
  std::thread([] { EXPECT_TRUE(TaskStopRequested()); }).join();
  TaskStop own;
  own.asked = &asked;
  own.task = 6;
  pool_internal::SetThreadTaskStop(&own);
  EXPECT_FALSE(TaskStopRequested());
  pool_internal::SetThreadTaskStop(nullptr);
  EXPECT_TRUE(TaskStopRequested());
  pool_internal::SetProcessTaskStop(nullptr);
  EXPECT_FALSE(TaskStopRequested());
}

TEST_F(TaskStopTest, TrueAfterTheSoftLimit) {
  std::atomic<uint64_t> asked{0};
  TaskStop stop;
  stop.asked = &asked;
  stop.task = 5;
  stop.soft_deadline_nanos = 1'000;
  pool_internal::SetThreadTaskStop(&stop);
  int64_t now = 999;
  SetThreadClockForTest(&now);
  EXPECT_FALSE(TaskStopRequested());
  now = 1'000;
  EXPECT_TRUE(TaskStopRequested());
  SetThreadClockForTest(nullptr);
  pool_internal::SetThreadTaskStop(nullptr);
}

// ---- AsyncResult::Cancel() of what has begun

class TaskControlTest : public AnyWorkersTest {
 protected:
  // A task that runs until it is asked to stop.
  static AsyncResult<int> Begin(Pool& pool, Event& begun) {
    // The event is in the initializer's state: handles do not travel with
    // tasks.
    AsyncResult<int> task = pool.ApplyAsync([] {
      WorkerState<Event>().Set();
      while (!TaskStopRequested()) absl::SleepFor(absl::Microseconds(100));
      return 7;
    });
    begun.Wait();
    begun.Clear();
    return task;
  }
  static Initializer Keep(const Event& event) {
    return Initializer([](Event e) { return e; }, event);
  }
};

INSTANTIATE_TEST_SUITE_P(In, TaskControlTest, AnyWorkers(), WorkersName);

TEST_P(TaskControlTest, TaskThatIsAskedDecides) {
  Event begun;
  Pool pool(With({.processes = 1, .initializer = Keep(begun)}));
  for (int i = 0; i < 3; ++i) {
    const AsyncResult<int> task = Begin(pool, begun);
    const AsyncResult<bool> next = pool.ApplyAsync(TaskStopRequested);
    EXPECT_FALSE(task.Cancel());
    EXPECT_FALSE(task.Wait(absl::Milliseconds(5))) << "it was not asked";
    EXPECT_FALSE(task.Cancel(CancelMode::kAskToStop));
    EXPECT_THAT(task.Get(), IsOkAndHolds(7));
    EXPECT_FALSE(task.Cancel(CancelMode::kAskToStop)) << "it has ended";
    EXPECT_THAT(next.Get(), IsOkAndHolds(false));
  }
}

TEST_P(TaskControlTest, TaskThatHasNotBegunIsTakenBackInEachMode) {
  Event begun;
  Pool pool(With({.processes = 1, .initializer = Keep(begun)}));
  const AsyncResult<int> running = Begin(pool, begun);
  for (const CancelMode mode :
       {CancelMode::kUnbegun, CancelMode::kAskToStop, CancelMode::kKill}) {
    const AsyncResult<int> waiting = pool.ApplyAsync(Square, 3);
    EXPECT_TRUE(waiting.Cancel(mode));
    EXPECT_THAT(waiting.Get(absl::ZeroDuration()),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("began")));
  }
  running.Cancel(CancelMode::kAskToStop);
  EXPECT_THAT(running.Get(), IsOkAndHolds(7));
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
}

TEST_P(TaskControlTest, AllChunksOfAMapAreAsked) {
  Event begun;
  Pool pool(With({.processes = 2, .initializer = Keep(begun)}));
  const AsyncResult<std::vector<int>> all = pool.MapAsync(
      [](int x) {
        WorkerState<Event>().Set();
        while (!TaskStopRequested()) absl::SleepFor(absl::Microseconds(100));
        return x;
      },
      Numbers(10), 1);
  begun.Wait();
  EXPECT_FALSE(all.Cancel(CancelMode::kAskToStop));
  EXPECT_THAT(all.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
}

class TaskControlProcessTest : public mp::testing::ProcessTest {};

TEST_F(TaskControlProcessTest, ThreadsThatATaskHasStartedMayAsk) {
  Event begun;
  Pool pool({.processes = 1,
             .initializer = Initializer([](Event e) { return e; }, begun)});
  const AsyncResult<bool> task = pool.ApplyAsync([] {
    WorkerState<Event>().Set();
    bool asked = false;
    std::thread([&asked] {
      while (!(asked = TaskStopRequested())) {
        absl::SleepFor(absl::Microseconds(100));
      }
    }).join();
    return asked;
  });
  begun.Wait();
  EXPECT_FALSE(task.Cancel(CancelMode::kAskToStop));
  EXPECT_THAT(task.Get(), IsOkAndHolds(true));
}

// ---- kKill

class KillTest : public mp::testing::ProcessTest {};

TEST_F(KillTest, KilledTaskIsCancelledAtOnceAndNobodyElseIsHarmed) {
  Event begun;
  Pool pool({.processes = 2,
             .initializer = Initializer([](Event e) { return e; }, begun)});
  for (int round = 0; round < 10; ++round) {
    const AsyncResult<int> task = pool.ApplyAsync(
        [](int how) {
          WorkerState<Event>().Set();
          if (how == 0) raise(SIGSTOP);
          if (how == 1) absl::SleepFor(absl::InfiniteDuration());
          for (std::atomic<bool> go{true}; go;) {
          }
          return 0;
        },
        round % 3);
    begun.Wait();
    begun.Clear();
    const AsyncResult<std::vector<int>> others =
        pool.MapAsync(Square, Numbers(100), 1);
    EXPECT_FALSE(task.Cancel());
    EXPECT_TRUE(task.Cancel(CancelMode::kKill));
    EXPECT_THAT(task.Get(absl::ZeroDuration()),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("killed")));
    EXPECT_FALSE(task.Cancel(CancelMode::kKill)) << "it has been";
    EXPECT_THAT(others.Get(), IsOkAndHolds(Squares(100)));
  }
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(KillTest, AllChunksOfAMapAreKilled) {
  Event begun;
  Pool pool({.processes = 2,
             .initializer = Initializer([](Event e) { return e; }, begun)});
  const AsyncResult<std::vector<int>> all = pool.MapAsync(
      [](int x) {
        WorkerState<Event>().Set();
        absl::SleepFor(absl::InfiniteDuration());
        return x;
      },
      Numbers(10), 1);
  begun.Wait();
  // A worker may be about to begin its chunk.
  while (!all.Ready()) all.Cancel(CancelMode::kKill);
  EXPECT_THAT(all.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
}

TEST_F(KillTest, ThreadsCannotBeKilledAndAreAsked) {
  Pool pool({.processes = 1, .workers = PoolWorkers::kThreads});
  const AsyncResult<int> task = pool.ApplyAsync([] {
    while (!TaskStopRequested()) absl::SleepFor(absl::Microseconds(100));
    return 7;
  });
  while (!task.Wait(absl::Milliseconds(1))) {
    if (task.Cancel(CancelMode::kKill)) return;  // it had not begun
  }
  EXPECT_THAT(task.Get(), IsOkAndHolds(7));
}

// The task ends, and its worker goes on to others, at the moment of the kill.
TEST_F(KillTest, KillAtTheEndOfATaskHitsNoOther) {
  const int rounds = mp::testing::kSanitized ? 100 : 1000;
  constexpr int kOthers = 20;
  Pool pool({.processes = 2});
  std::minstd_rand random(1);
  int killed = 0;
  int ended = 0;
  int taken_back = 0;
  // On, until all of it has happened: how fast a machine is decides that.
  for (int round = 0; round < rounds || killed == 0 || ended == 0; ++round) {
    const AsyncResult<int> victim = pool.ApplyAsync(
        [](int spins) {
          for (int i = 0; i < spins; ++i) {
            static std::atomic<int> last;
            last = i;
          }
          return spins;
        },
        static_cast<int>(random() % 20'000));
    std::vector<AsyncResult<int>> others;
    for (int i = 0; i < kOthers; ++i) {
      others.push_back(pool.ApplyAsync(Square, i));
    }
    const int64_t until =
        MonotonicNanos() + static_cast<int64_t>(random() % 30'000);
    while (MonotonicNanos() < until) {
    }
    const bool cancelled = victim.Cancel(CancelMode::kKill);
    const absl::StatusOr<int> outcome = victim.Get();
    if (cancelled) {
      ASSERT_THAT(outcome, StatusIs(absl::StatusCode::kCancelled, _));
      ++(outcome.status().message().find("killed") != absl::string_view::npos
             ? killed
             : taken_back);
    } else {
      ASSERT_TRUE(outcome.ok() || absl::IsCancelled(outcome.status()))
          << outcome.status();
      ++ended;
    }
    for (int i = 0; i < kOthers; ++i) {
      ASSERT_THAT(others[static_cast<size_t>(i)].Get(), IsOkAndHolds(i * i))
          << "round " << round;
    }
  }
  RecordProperty("killed", killed);
  RecordProperty("ended", ended);
  RecordProperty("taken_back", taken_back);
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

}  // namespace
}  // namespace mp
