// Workers that come and go: because the pool is resized, because there is
// nothing to do, because they have grown. And where they run, and Stats().

#include <sched.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/pool/async_result.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/worker_died.h"
#include "mp/sync/barrier.h"
#include "mp/sync/event.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::AnyWorkers;
using ::mp::pool_internal::AnyWorkersTest;
using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::pool_internal::WorkersName;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class PoolResizeTest : public AnyWorkersTest {};
INSTANTIATE_TEST_SUITE_P(Workers, PoolResizeTest, AnyWorkers(), WorkersName);

class PoolSizeTest : public mp::testing::ProcessTest {};

// Hangs if that never comes: the test's watchdog tells.
template <class Condition>
void Await(Condition condition) {
  while (!condition()) absl::SleepFor(absl::Milliseconds(1));
}

size_t Present(const Pool& pool) { return pool.Stats().workers.size(); }

// As many tasks as the barrier has parties, all of which must run at a time.
void ExpectAllRunAtATime(Pool& pool, int parties) {
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < parties; ++i) {
    results.push_back(pool.ApplyAsync(
        []() -> absl::StatusOr<int> { return WorkerState<Barrier>().Wait(); }));
  }
  std::set<int> places;
  for (const AsyncResult<int>& result : results) {
    const absl::StatusOr<int> place = result.Get();
    ASSERT_THAT(place.status(), IsOk());
    places.insert(*place);
  }
  EXPECT_THAT(places, SizeIs(parties));
}

Initializer KeepBarrier(const Barrier& barrier) {
  return Initializer([](Barrier b) { return b; }, barrier);
}

TEST_P(PoolResizeTest, MoreWorkersWorkAtATime) {
  Pool pool(With(
      {.processes = 1, .initializer = KeepBarrier(Barrier(/*parties=*/5))}));
  EXPECT_THAT(pool.Resize(5), IsOk());
  EXPECT_EQ(pool.processes(), 5);
  ExpectAllRunAtATime(pool, 5);
  Await([&] { return Present(pool) == 5; });
}

TEST_P(PoolResizeTest, FewerRemainAndNoTaskIsLost) {
  Pool pool(With({.processes = 4}));
  auto all = pool.MapAsync(Square, Numbers(10'000), 1);
  EXPECT_THAT(pool.Resize(1), IsOk());
  EXPECT_EQ(pool.processes(), 1);
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(10'000)));
  Await([&] { return Present(pool) == 1; });
  EXPECT_THAT(pool.Map(Square, Numbers(100), 1), IsOkAndHolds(Squares(100)));
}

TEST_P(PoolResizeTest, IdleOnesLeaveAtOnce) {
  Pool pool(With({.processes = 4}));
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_THAT(pool.Resize(2), IsOk());
  Await([&] { return Present(pool) == 2; });
}

TEST_P(PoolResizeTest, WhoHasATaskLeavesWhenThatIsDone) {
  Event go_on;
  Pool pool(
      With({.processes = 2,
            .initializer = Initializer([](Event e) { return e; }, go_on)}));
  const auto wait = [] { return WorkerState<Event>().Wait() ? 1 : 0; };
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 2; ++i) results.push_back(pool.ApplyAsync(wait));
  Await([&] { return pool.Stats().running == 2; });
  EXPECT_THAT(pool.Resize(1), IsOk());
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(Present(pool), 2u);
  go_on.Set();
  for (const auto& result : results) EXPECT_THAT(result.Get(), IsOkAndHolds(1));
  Await([&] { return Present(pool) == 1; });
}

TEST_P(PoolResizeTest, UpAndDownAgainAndAgain) {
  Pool pool(With({.processes = 2}));
  auto all = pool.MapAsync(Square, Numbers(20'000), 1);
  std::mt19937 random(1);
  while (!all.Ready()) {
    EXPECT_THAT(pool.Resize(1 + static_cast<int>(random() % 6)), IsOk());
    absl::SleepFor(absl::Microseconds(random() % 2000));
  }
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(20'000)));
  EXPECT_THAT(pool.Resize(3), IsOk());
  Await([&] { return Present(pool) == 3; });
  EXPECT_THAT(pool.Map(Square, Numbers(100), 1), IsOkAndHolds(Squares(100)));
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_P(PoolResizeTest, Refuses) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Resize(0), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("0 workers")));
  EXPECT_THAT(pool.Resize(-1), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(pool.processes(), 1);
  pool.Close();
  EXPECT_THAT(pool.Resize(2), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(pool.Resize(2), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_P(PoolResizeTest, EndsWhileWorkersComeAndGo) {
  for (int i = 0; i < 20; ++i) {
    Pool pool(With({.processes = 2}));
    auto all = pool.MapAsync(Square, Numbers(1000), 1);
    EXPECT_THAT(pool.Resize(1 + i % 5), IsOk());
    if (i % 2 == 0) {
      pool.Close();
      EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(1000)));
      EXPECT_THAT(pool.Join(), IsOk());
    }
  }
}

// Exactly one outcome for each task, while workers are resized and killed.
TEST_F(PoolSizeTest, KillsWhileWorkersComeAndGo) {
  Pool pool({.processes = 3, .idle_timeout = absl::Milliseconds(2)});
  std::atomic<bool> done = false;
  std::thread killer([&] {
    std::mt19937 random(2);
    while (!done) {
      const std::vector<pid_t> pids = pool.pids();
      if (!pids.empty()) kill(pids[random() % pids.size()], SIGKILL);
      EXPECT_THAT(pool.Resize(1 + static_cast<int>(random() % 4)), IsOk());
      absl::SleepFor(absl::Milliseconds(2));
    }
  });
  for (int round = 0; round < 50; ++round) {
    std::vector<AsyncResult<int>> results;
    for (int i = 0; i < 200; ++i) results.push_back(pool.ApplyAsync(Square, i));
    for (int i = 0; i < 200; ++i) {
      const absl::StatusOr<int> result = results[static_cast<size_t>(i)].Get();
      EXPECT_TRUE(IsWorkerDied(result.status()) || *result == i * i)
          << result.status();
    }
    if (round % 5 == 0) absl::SleepFor(absl::Milliseconds(10));
  }
  done = true;
  killer.join();
  EXPECT_THAT(pool.With({.retries = 3}).Map(Square, Numbers(100), 1),
              IsOkAndHolds(Squares(100)));
}

// ---- idle workers ----

TEST_F(PoolSizeTest, IdleWorkersLeaveAndComeBack) {
  Pool pool({.processes = 3,
             .initializer = KeepBarrier(Barrier(/*parties=*/3)),
             .idle_timeout = absl::Milliseconds(30)});
  for (int round = 0; round < 3; ++round) {
    ExpectAllRunAtATime(pool, 3);
    Await([&] { return pool.pids().empty(); });
    EXPECT_THAT(pool.Stats().workers, IsEmpty());
    EXPECT_EQ(pool.processes(), 3);
  }
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(PoolSizeTest, OnlyAsManyComeBackAsAreNeeded) {
  Pool pool({.processes = 4, .idle_timeout = absl::Milliseconds(200)});
  Await([&] { return pool.pids().empty(); });
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  // The result may be there before the pool has noted who did it. And one more
  // comes if the pool looks just when that one takes the task.
  size_t present = 0;
  Await([&] { return (present = Present(pool)) > 0; });
  EXPECT_LE(present, 2u);
}

// Hangs if a task waits for a worker that is just leaving.
TEST_F(PoolSizeTest, NoTaskWaitsForWhoIsLeaving) {
  Pool pool({.processes = 2, .idle_timeout = absl::Milliseconds(1)});
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    absl::SleepFor(absl::Microseconds(random() % 3000));
    EXPECT_THAT(pool.Apply(Square, i), IsOkAndHolds(i * i));
  }
}

TEST_F(PoolSizeTest, WhoIsNeededStays) {
  Pool pool({.processes = 1, .idle_timeout = absl::Minutes(1)});
  const absl::StatusOr<pid_t> pid = pool.Apply(getpid);
  for (int i = 0; i < 20; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(pool.Apply(getpid).value_or(0), pid.value_or(-1));
  }
}

TEST_F(PoolSizeTest, TasksOfAPoolThatIsClosedAreDoneByWhoComesBack) {
  Pool pool({.processes = 2, .idle_timeout = absl::Milliseconds(1)});
  Await([&] { return pool.pids().empty(); });
  auto all = pool.MapAsync(Square, Numbers(1000), 1);
  pool.Close();
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(1000)));
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(PoolSizeTest, RefusesATimeThatIsNotPositive) {
  for (const absl::Duration timeout :
       {absl::ZeroDuration(), -absl::Seconds(1)}) {
    EXPECT_THAT(
        Pool::Create({.idle_timeout = timeout}).status(),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("idle")));
  }
}

// ---- workers that grow ----

pid_t Take(size_t bytes) {
  static auto* const taken = new std::vector<char*>;
  taken->push_back(static_cast<char*>(malloc(bytes)));
  memset(taken->back(), 1, bytes);
  return getpid();
}

TEST_F(PoolSizeTest, WhoHasGrownTooMuchIsReplaced) {
  constexpr size_t kMiB = size_t{1} << 20;
  Pool pool({.processes = 1, .max_growth_bytes = 64 * kMiB});
  const absl::StatusOr<pid_t> first = pool.Apply(Take, size_t{1});
  ASSERT_THAT(first.status(), IsOk());
  EXPECT_THAT(pool.Apply(Take, kMiB), IsOkAndHolds(*first));
  EXPECT_THAT(pool.Apply(Take, 128 * kMiB), IsOkAndHolds(*first));
  const absl::StatusOr<pid_t> second = pool.Apply(Take, kMiB);
  ASSERT_THAT(second.status(), IsOk());
  EXPECT_NE(*first, *second);
  EXPECT_THAT(pool.Apply(Take, kMiB), IsOkAndHolds(*second));
  Await([&] { return Present(pool) == 1; });
  EXPECT_EQ(pool.Stats().workers[0].restarts, 1);
}

// ---- processors ----

std::vector<int> ProcessorsOfThisThread() {
  cpu_set_t set;
  std::vector<int> processors;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

TEST_P(PoolResizeTest, WorkersRunWhereTheyAreTold) {
  const std::vector<int> before = ProcessorsOfThisThread();
  const int last = before.back();
  Pool pool(With({.processes = 2,
                  .initializer = KeepBarrier(Barrier(/*parties=*/2)),
                  .processors = {last}}));
  EXPECT_THAT(pool.Map(
                  [](int) {
                    WorkerState<Barrier>().Wait().IgnoreError();
                    return ProcessorsOfThisThread();
                  },
                  Numbers(2), 1),
              IsOkAndHolds(Each(ElementsAre(last))));
  EXPECT_EQ(ProcessorsOfThisThread(), before);
}

TEST_P(PoolResizeTest, EachHasItsOwnProcessor) {
  const std::vector<int> all = ProcessorsOfThisThread();
  const int count = static_cast<int>(all.size());
  Pool pool(With({.processes = count,
                  .initializer = KeepBarrier(Barrier(count)),
                  .processors = all}));
  const auto where = pool.Map(
      [](int) {
        WorkerState<Barrier>().Wait().IgnoreError();
        return ProcessorsOfThisThread();
      },
      Numbers(count), 1);
  ASSERT_THAT(where.status(), IsOk());
  EXPECT_THAT(*where, Each(SizeIs(1)));
  std::set<int> used;
  for (const std::vector<int>& one : *where) used.insert(one[0]);
  EXPECT_EQ(used, std::set<int>(all.begin(), all.end()));
}

TEST_P(PoolResizeTest, RefusesAProcessorThatIsNotThere) {
  EXPECT_THAT(
      Pool::Create(With({.processors = {-1}})).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("processor -1")));
}

// ---- Stats() ----

TEST_P(PoolResizeTest, StatsTellWhatWorkersDo) {
  Event go_on;
  Pool pool(
      With({.processes = 2,
            .initializer = Initializer([](Event e) { return e; }, go_on)}));
  EXPECT_THAT(pool.Map(Square, Numbers(100), 1), IsOkAndHolds(Squares(100)));
  // The result is there before its worker has counted it.
  Await([&] {
    int64_t tasks = 0;
    for (const WorkerStats& worker : pool.Stats().workers)
      tasks += worker.tasks;
    return tasks == 100;
  });
  Await([&] { return pool.Stats().running == 0; });

  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 5; ++i) {
    results.push_back(
        pool.ApplyAsync([] { return WorkerState<Event>().Wait() ? 1 : 0; }));
  }
  Await([&] { return pool.Stats().running == 2; });
  Await([&] { return pool.Stats().waiting == 3; });
  const PoolStats busy = pool.Stats();
  absl::SleepFor(absl::Milliseconds(20));
  const PoolStats busier = pool.Stats();
  for (size_t i = 0; i < 2; ++i) {
    const WorkerStats& worker = busier.workers[i];
    EXPECT_THAT(worker.name, HasSubstr("PoolWorker-"));
    EXPECT_EQ(worker.pid != 0, GetParam() == PoolWorkers::kProcesses);
    EXPECT_EQ(worker.restarts, 0);
    // All of the time between the two in a task.
    EXPECT_EQ(worker.idle, busy.workers[i].idle);
    EXPECT_GE(worker.alive, busy.workers[i].alive + absl::Milliseconds(20));
    EXPECT_LE(worker.idle, worker.alive);
  }
  go_on.Set();
  for (const auto& result : results) EXPECT_THAT(result.Get(), IsOkAndHolds(1));
  Await([&] { return pool.Stats().running == 0; });
  const absl::Duration before = pool.Stats().workers[0].idle;
  Await([&] {
    return pool.Stats().workers[0].idle > before + absl::Milliseconds(20);
  });
  EXPECT_EQ(pool.Stats().waiting, 0);
}

TEST_P(PoolResizeTest, StatsCountRestarts) {
  Pool pool(With({.processes = 1, .maxtasksperchild = 2}));
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(pool.Apply(Square, i), IsOkAndHolds(i * i));
  }
  Await([&] {
    const std::vector<WorkerStats> workers = pool.Stats().workers;
    return workers.size() == 1 && workers[0].restarts == 2 &&
           workers[0].tasks == 1;
  });
}

}  // namespace
}  // namespace mp
