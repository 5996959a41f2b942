#include "mp/pool/async_result.h"

#include <signal.h>

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/queue.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/sync/event.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// For whatever kind of workers.
class AsyncResultTest : public mp::testing::ProcessTest,
                        public ::testing::WithParamInterface<PoolWorkers> {
 protected:
  static PoolOptions With(PoolOptions options) {
    options.workers = GetParam();
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(
    Workers, AsyncResultTest,
    ::testing::Values(PoolWorkers::kProcesses, PoolWorkers::kThreads),
    [](const ::testing::TestParamInfo<PoolWorkers>& workers) {
      return workers.param == PoolWorkers::kThreads ? "Threads" : "Processes";
    });

class AsyncResultProcessTest : public mp::testing::ProcessTest {};

int SlowIdentity(int n) {
  absl::SleepFor(absl::Milliseconds(100));
  return n;
}

TEST_P(AsyncResultTest, GetWithTimeoutCanBeCalledAgain) {
  Pool pool(With({.processes = 1}));
  const AsyncResult<int> result = pool.ApplyAsync(SlowIdentity, 5);
  const absl::Time begin = absl::Now();
  EXPECT_THAT(result.Get(absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(20));
  EXPECT_FALSE(result.Wait(absl::ZeroDuration()));
  EXPECT_THAT(result.Get(), IsOkAndHolds(5));
  EXPECT_THAT(result.Get(), IsOkAndHolds(5));
}

TEST_P(AsyncResultTest, ReadyAndSuccessful) {
  Pool pool(With({.processes = 1}));
  const AsyncResult<int> fine = pool.ApplyAsync(SlowIdentity, 1);
  EXPECT_FALSE(fine.Ready());
  EXPECT_TRUE(fine.Wait());
  EXPECT_TRUE(fine.Ready());
  EXPECT_TRUE(fine.Successful());
  const AsyncResult<void> failed =
      pool.ApplyAsync([] { return absl::InternalError("no"); });
  EXPECT_TRUE(failed.Wait());
  EXPECT_FALSE(failed.Successful());
}

TEST_F(AsyncResultProcessTest, SuccessfulBeforeTheEndAborts) {
  EXPECT_DEATH(
      {
        Pool pool({.processes = 1});
        pool.ApplyAsync(SlowIdentity, 1).Successful();
      },
      "not ready");
}

TEST_P(AsyncResultTest, ResultOfARvalueIsMovedOut) {
  Pool pool(With({.processes = 1}));
  AsyncResult<std::vector<int>> result =
      pool.ApplyAsync([](int n) { return std::vector<int>(1000, n); }, 3);
  EXPECT_THAT(std::move(result).Get(), IsOkAndHolds(std::vector<int>(1000, 3)));
}

TEST_P(AsyncResultTest, WaitedForByManyThreads) {
  Pool pool(With({.processes = 1}));
  const AsyncResult<int> result = pool.ApplyAsync(SlowIdentity, 9);
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const absl::StatusOr<int> value = result.Get();
      if (value.ok() && *value == 9) ++right;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 8);
}

TEST_P(AsyncResultTest, CallbackComesForValuesAndErrorsEarlyAndLate) {
  Pool pool(With({.processes = 1}));
  std::atomic<int> value{0};
  std::atomic<bool> failed{false};
  std::atomic<int> late{0};
  pool.ApplyAsync(SlowIdentity, 7).OnDone([&](const absl::StatusOr<int>& r) {
    value = *r;
  });
  pool.ApplyAsync([]() -> absl::Status { return absl::NotFoundError(""); })
      .OnDone([&](const absl::Status& status) {
        failed = absl::IsNotFound(status);
      });
  const AsyncResult<int> done = pool.ApplyAsync(SlowIdentity, 8);
  ASSERT_THAT(done.Get(), IsOk());
  done.OnDone([&](const absl::StatusOr<int>& r) { late = *r; });
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(value, 7);
  EXPECT_TRUE(failed);
  EXPECT_EQ(late, 8);
}

TEST_P(AsyncResultTest, CallbackForSuccessOrErrorOnly) {
  Pool pool(With({.processes = 1}));
  std::atomic<int> value{0};
  std::atomic<int> successes{0};
  std::atomic<int> errors{0};
  std::atomic<int> wrong{0};
  const AsyncResult<int> fine = pool.ApplyAsync([] { return 7; });
  fine.OnSuccess([&](int n) { value = n; });
  fine.OnError([&](const absl::Status&) { ++wrong; });
  pool.ApplyAsync([] {}).OnSuccess([&] { ++successes; });
  const AsyncResult<void> failed =
      pool.ApplyAsync([] { return absl::NotFoundError("gone"); });
  failed.OnSuccess([&] { ++wrong; });
  failed.OnError([&](const absl::Status& error) {
    if (absl::IsNotFound(error)) ++errors;
  });
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(value, 7);
  EXPECT_EQ(successes, 1);
  EXPECT_EQ(errors, 1);
  EXPECT_EQ(wrong, 0);
}

TEST_P(AsyncResultTest, CallbacksRunOneAtATimeOnOneThreadThoughNobodyWaits) {
  Pool pool(With({.processes = 2}));
  std::atomic<int> inside{0};
  std::atomic<int> calls{0};
  std::atomic<bool> overlapped{false};
  std::vector<std::thread::id> threads;  // written one at a time
  for (int i = 0; i < 200; ++i) {
    pool.ApplyAsync([] { return 1; }).OnDone([&](const absl::StatusOr<int>&) {
      if (inside.fetch_add(1) != 0) overlapped = true;
      threads.push_back(std::this_thread::get_id());
      inside.fetch_sub(1);
      ++calls;
    });
  }
  while (calls < 200) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(overlapped);
  for (const std::thread::id id : threads) {
    EXPECT_EQ(id, threads[0]);
    EXPECT_NE(id, std::this_thread::get_id());
  }
}

TEST_P(AsyncResultTest, CallbackGetsTheResultThoughItIsMovedOut) {
  Pool pool(With({.processes = 1}));
  std::atomic<int> right{0};
  for (int i = 0; i < 100; ++i) {
    auto result = pool.ApplyAsync([] { return std::string(100'000, 'x'); });
    result.OnSuccess(
        [&](const std::string& text) { right += text.size() == 100'000; });
    const absl::StatusOr<std::string> moved = std::move(result).Get();
    ASSERT_THAT(moved, IsOk());
    EXPECT_EQ(moved->size(), 100'000);
  }
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(right, 100);
}

TEST_P(AsyncResultTest, ResultThatCannotBeCopiedHasCallbacks) {
  Pool pool(With({.processes = 1}));
  std::atomic<int> seen{0};
  auto result = pool.ApplyAsync([] {
    std::vector<std::unique_ptr<int>> numbers;
    numbers.push_back(std::make_unique<int>(7));
    return numbers;
  });
  result.OnSuccess([&](const auto& numbers) { seen = *numbers[0]; });
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(seen, 7);
  const auto numbers = std::move(result).Get();
  ASSERT_THAT(numbers, IsOk());
  EXPECT_EQ(*(*numbers)[0], 7);
}

TEST_P(AsyncResultTest, CallbackMaySubmit) {
  Pool pool(With({.processes = 1}));
  std::atomic<int> result{0};
  pool.ApplyAsync([] { return 20; }).OnDone([&](const absl::StatusOr<int>& r) {
    pool.ApplyAsync([](int n) { return n + 1; }, *r)
        .OnDone([&](const absl::StatusOr<int>& s) { result = *s; });
  });
  while (result == 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(result, 21);
}

TEST_P(AsyncResultTest, CallbackMayDropTheLastResultOfAPoolThatHasGone) {
  std::optional<AsyncResult<int>> result;
  {
    Pool pool(With({.processes = 1}));
    result = pool.ApplyAsync([] { return 7; });
    EXPECT_TRUE(result->Wait());
  }
  int seen = 0;
  result->OnDone([&](const absl::StatusOr<int>& outcome) {
    seen = outcome.value();
    result.reset();
  });
  EXPECT_EQ(seen, 7);
}

TEST_P(AsyncResultTest, ThrowingCallbackDoesNotStopTheOthers) {
  Pool pool(With({.processes = 1}));
  std::atomic<bool> called{false};
  const AsyncResult<int> result = pool.ApplyAsync([] { return 1; });
  result.OnDone([](const absl::StatusOr<int>&) { throw 1; });
  result.OnDone([&](const absl::StatusOr<int>&) { called = true; });
  while (!called) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(pool.Apply([] { return 2; }), IsOkAndHolds(2));
}

// Not begun: it waits behind one that runs until `go`.
TEST_P(AsyncResultTest, CancelTakesBackWhatHasNotBegun) {
  Event go;
  Pool pool(With({.processes = 1,
                  .task_capacity_bytes = 4096,
                  .initializer = Initializer([](Event e) { return e; }, go)}));
  AsyncResult<void> running =
      pool.ApplyAsync([] { WorkerState<Event>().Wait(); });
  // More than the memory for tasks holds.
  std::vector<AsyncResult<int>> waiting;
  for (int i = 0; i < 500; ++i) {
    waiting.push_back(pool.ApplyAsync([](int n) { return n; }, i));
  }
  std::atomic<int> callbacks{0};
  std::set<int> cancelled;
  for (int i = 0; i < 500; i += 3) {
    const AsyncResult<int>& task = waiting[static_cast<size_t>(i)];
    task.OnError([&](const absl::Status& error) {
      if (absl::IsCancelled(error)) ++callbacks;
    });
    EXPECT_TRUE(task.Cancel()) << i;
    EXPECT_TRUE(task.Ready());
    EXPECT_THAT(task.Get(), StatusIs(absl::StatusCode::kCancelled, _));
    EXPECT_FALSE(task.Cancel()) << "already";
    cancelled.insert(i);
  }
  go.Set();
  for (int i = 0; i < 500; ++i) {
    if (cancelled.contains(i)) continue;
    EXPECT_THAT(waiting[static_cast<size_t>(i)].Get(), IsOkAndHolds(i));
  }
  EXPECT_THAT(running.Get(), IsOk());
  EXPECT_FALSE(running.Cancel()) << "it has ended";
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(callbacks, static_cast<int>(cancelled.size()));
}

TEST_P(AsyncResultTest, CancelLeavesATaskThatHasBegunAlone) {
  Event begun;
  Event go;
  Pool pool(
      With({.processes = 1,
            .initializer = Initializer(
                [](Event b, Event g) { return std::pair(b, g); }, begun, go)}));
  const AsyncResult<int> task = pool.ApplyAsync([] {
    auto& [b, g] = WorkerState<std::pair<Event, Event>>();
    b.Set();
    g.Wait();
    return 5;
  });
  begun.Wait();
  EXPECT_FALSE(task.Cancel());
  go.Set();
  EXPECT_THAT(task.Get(), IsOkAndHolds(5));
}

TEST_P(AsyncResultTest, CancelOfAMap) {
  Event go;
  Pool pool(With({.processes = 1,
                  .initializer = Initializer([](Event e) { return e; }, go)}));
  AsyncResult<void> running =
      pool.ApplyAsync([] { WorkerState<Event>().Wait(); });
  const std::vector<int> items(100, 1);
  AsyncResult<std::vector<int>> all =
      pool.MapAsync([](int n) { return n; }, items, 10);
  EXPECT_TRUE(all.Cancel());
  EXPECT_THAT(all.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  go.Set();
  EXPECT_THAT(running.Get(), IsOk());
  EXPECT_THAT(pool.MapAsync([](int n) { return n; }, items, 10).Get(),
              IsOkAndHolds(items));
}

// Whoever wins: what was cancelled has not run, what was not has its result.
TEST_P(AsyncResultTest, CancelBesideWorkers) {
  absl::StatusOr<Queue<int>> ran = Queue<int>::Create();
  ASSERT_THAT(ran.status(), IsOk());
  Pool marking(With({.processes = 2,
                     .initializer = Initializer(
                         [](Queue<int> queue) { return queue; }, *ran)}));
  constexpr int kTasks = 5000;
  std::vector<AsyncResult<int>> tasks;
  std::set<int> taken_back;
  for (int i = 0; i < kTasks; ++i) {
    tasks.push_back(marking.ApplyAsync(
        [](int n) {
          WorkerState<Queue<int>>().Put(n).IgnoreError();
          return n;
        },
        i));
    const int other = i * 7 % (i + 1);
    if (i % 2 == 0 && tasks[static_cast<size_t>(other)].Cancel()) {
      EXPECT_TRUE(taken_back.insert(other).second);
    }
  }
  std::set<int> done;
  for (int i = 0; i < kTasks; ++i) {
    const absl::StatusOr<int> result = tasks[static_cast<size_t>(i)].Get();
    if (result.ok()) {
      EXPECT_EQ(*result, i);
      EXPECT_FALSE(taken_back.contains(i));
      done.insert(i);
    } else {
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled, _));
    }
  }
  std::set<int> have_run;
  for (size_t i = 0; i < done.size(); ++i) {
    EXPECT_TRUE(have_run.insert(ran->Get().value()).second);
  }
  EXPECT_EQ(have_run, done);
  EXPECT_THAT(ran->Get(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
}

// Those that cannot be marked are left alone, and nobody else is skipped.
TEST_F(AsyncResultProcessTest, CancelOfMoreThanCanBeMarked) {
  Pool pool({.processes = 1});
  ASSERT_THAT(pool.Apply([] { return 1; }), IsOk());
  const pid_t worker = pool.pids()[0];
  kill(worker, SIGSTOP);
  constexpr int kTasks = 6000;
  std::vector<AsyncResult<int>> tasks;
  for (int i = 0; i < kTasks; ++i) {
    tasks.push_back(pool.ApplyAsync([](int n) { return n; }, i));
  }
  std::set<int> taken_back;
  for (int i = 0; i < kTasks; ++i) {
    if (tasks[static_cast<size_t>(i)].Cancel()) taken_back.insert(i);
  }
  EXPECT_GE(taken_back.size(), 1000u);
  EXPECT_LT(taken_back.size(), size_t{kTasks});
  kill(worker, SIGCONT);
  for (int i = 0; i < kTasks; ++i) {
    const absl::StatusOr<int> result = tasks[static_cast<size_t>(i)].Get();
    if (taken_back.contains(i)) {
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled, _));
    } else {
      EXPECT_THAT(result, IsOkAndHolds(i));
    }
  }
  // The marks are gone.
  for (int i = 0; i < kTasks; ++i) {
    ASSERT_THAT(pool.Apply([](int n) { return n; }, i), IsOkAndHolds(i));
  }
}

// Who takes the place of the dead skips what is cancelled.
TEST_F(AsyncResultProcessTest, CancelledTasksStaySoWhenTheWorkerDies) {
  Pool pool({.processes = 1});
  ASSERT_THAT(pool.Apply([] { return 1; }), IsOk());
  const pid_t worker = pool.pids()[0];
  kill(worker, SIGSTOP);
  std::vector<AsyncResult<int>> tasks;
  for (int i = 0; i < 100; ++i) {
    tasks.push_back(pool.ApplyAsync([](int n) { return n; }, i));
  }
  for (size_t i = 0; i < 100; i += 2) EXPECT_TRUE(tasks[i].Cancel());
  kill(worker, SIGKILL);
  for (int i = 1; i < 100; i += 2) {
    EXPECT_THAT(tasks[static_cast<size_t>(i)].Get(), IsOkAndHolds(i));
  }
  for (size_t i = 0; i < 100; i += 2) {
    EXPECT_THAT(tasks[i].Get(), StatusIs(absl::StatusCode::kCancelled, _));
  }
}

TEST_P(AsyncResultTest, NeitherWaitedForNorTakenByAForkedChild) {
  Event go;
  Pool pool(With(
      {.processes = 1,
       .initializer = Initializer([](Event event) { return event; }, go)}));
  const auto result = pool.ApplyAsync([] {
    WorkerState<Event>().Wait();
    return 7;
  });
  auto child = ChildProcess::Start([&] {
    EXPECT_THAT(result.Get(), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
    result.OnDone([](const absl::StatusOr<int>&) { FAIL(); });
    EXPECT_FALSE(result.Cancel());
    EXPECT_THAT(pool.pids(), IsEmpty());
  });
  child.ExpectExit(0);
  auto greedy = ChildProcess::Start([&] {
    while (!result.Wait()) {
    }
  });
  go.Set();
  EXPECT_THAT(result.Get(), IsOkAndHolds(7));
  for (int i = 0; i < 200; ++i) {
    EXPECT_THAT(pool.Apply([](int n) { return n; }, i), IsOkAndHolds(i));
  }
  greedy.Kill();
  greedy.ExpectSignal(SIGKILL);
}

TEST_F(AsyncResultProcessTest, OutlivesItsPool) {
  std::optional<AsyncResult<int>> done;
  std::optional<AsyncResult<int>> lost;
  {
    Pool pool({.processes = 1});
    done = pool.ApplyAsync([] { return 4; });
    ASSERT_TRUE(done->Wait());
    lost = pool.ApplyAsync([] {
      absl::SleepFor(absl::Seconds(1000));
      return 5;
    });
  }
  EXPECT_THAT(done->Get(), IsOkAndHolds(4));
  EXPECT_FALSE(lost->Get().ok());
  bool called = false;
  lost->OnDone([&called](const absl::StatusOr<int>&) { called = true; });
  EXPECT_TRUE(called) << "there is no thread left to run it later";
}

TEST_P(AsyncResultTest, SubmissionErrorIsTheResult) {
  Pool pool(With({.processes = 1}));
  pool.Close();
  const AsyncResult<int> result = pool.ApplyAsync([] { return 1; });
  EXPECT_TRUE(result.Ready());
  EXPECT_THAT(result.Get(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                     "the pool is closed"));
}

}  // namespace
}  // namespace mp
