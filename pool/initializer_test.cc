#include "mp/pool/initializer.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/queue.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/worker.h"
#include "mp/pool/worker_died.h"
#include "mp/process/process.h"
#include "mp/sync/event.h"
#include "mp/sync/lock.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::Square;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// For whatever kind of workers.
class InitializerTest : public pool_internal::AnyWorkersTest {};

INSTANTIATE_TEST_SUITE_P(Workers, InitializerTest, pool_internal::AnyWorkers(),
                         pool_internal::WorkersName);

class InitializerProcessTest : public mp::testing::ProcessTest {};

// ---- alone ----

TEST(InitializerRunTest, KeepsWhatTheFunctionReturns) {
  const Initializer initializer(
      [](std::string& text, int n) { return text + std::to_string(n); },
      std::string("n"), 3);
  ASSERT_TRUE(initializer);
  for (int i = 0; i < 2; ++i) {  // each time with fresh copies
    const absl::StatusOr<pool_internal::WorkerObject> object =
        initializer.Run();
    ASSERT_THAT(object.status(), IsOk());
    EXPECT_EQ(*object->type, typeid(std::string));
    EXPECT_EQ(*static_cast<std::string*>(object->object.get()), "n3");
  }
}

TEST(InitializerRunTest, FunctionsWithoutResultLeaveNone) {
  EXPECT_FALSE(Initializer());
  for (const Initializer& initializer :
       {Initializer([] {}), Initializer([] { return absl::OkStatus(); })}) {
    const auto object = initializer.Run();
    ASSERT_THAT(object.status(), IsOk());
    EXPECT_EQ(object->type, nullptr);
  }
}

TEST(InitializerRunTest, ErrorsAndExceptionsAreStatuses) {
  EXPECT_THAT(Initializer([] { return absl::NotFoundError("gone"); }).Run(),
              StatusIs(absl::StatusCode::kNotFound, "gone"));
  EXPECT_THAT(Initializer([]() -> absl::StatusOr<int> {
                return absl::NotFoundError("gone");
              }).Run(),
              StatusIs(absl::StatusCode::kNotFound, "gone"));
  EXPECT_THAT(
      Initializer([]() -> int { throw std::runtime_error("bad"); }).Run(),
      StatusIs(absl::StatusCode::kUnknown, HasSubstr("runtime_error: bad")));
}

TEST(WorkerStateTest, AbortsWhereThereIsNone) {
  EXPECT_DEATH(WorkerState<int>(), "no initializer has returned anything");
  const pool_internal::WorkerObject object = {std::make_shared<int>(1),
                                              &typeid(int)};
  pool_internal::CurrentWorkerObject() = object;
  EXPECT_DEATH(WorkerState<double>(), "the initializer returned i");
  pool_internal::CurrentWorkerObject() = {};
}

// ---- in a pool ----

// CPython's test_pool_initializer.
TEST_F(InitializerProcessTest, RunsOnceInEachWorkerBeforeItsTasks) {
  absl::StatusOr<Queue<pid_t>> started = Queue<pid_t>::Create();
  ASSERT_THAT(started.status(), IsOk());
  Pool pool({.processes = 3,
             .initializer = Initializer(
                 [](Queue<pid_t>& queue, int n) {
                   queue.Put(getpid()).IgnoreError();
                   return n;
                 },
                 *started, 7)});
  EXPECT_THAT(pool.Map([](int n) { return n * WorkerState<int>(); },
                       std::vector<int>{1, 2, 3}, 1),
              IsOkAndHolds(std::vector<int>{7, 14, 21}));
  std::set<pid_t> pids;
  for (int i = 0; i < 3; ++i) pids.insert(started->Get().value());
  const std::vector<pid_t> expected = pool.pids();
  EXPECT_EQ(pids, std::set<pid_t>(expected.begin(), expected.end()));
  EXPECT_THAT(started->Get(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, ::testing::_));
}

struct Counter {
  int Next() { return ++count; }
  int count = 0;
};

TEST_P(InitializerTest, StateIsKeptFromTaskToTask) {
  Pool pool(
      {.processes = 1, .initializer = Initializer([] { return Counter(); })});
  for (int i = 1; i <= 3; ++i) {
    EXPECT_THAT(pool.Apply([] { return WorkerState<Counter>().Next(); }),
                IsOkAndHolds(i));
  }
}

TEST_P(InitializerTest, StateMayBeMovableOnly) {
  Pool pool(With({.processes = 1,
                  .initializer = Initializer(
                      [](int n) { return std::make_unique<int>(n); }, 5)}));
  EXPECT_THAT(pool.Apply([] { return *WorkerState<std::unique_ptr<int>>(); }),
              IsOkAndHolds(5));
}

TEST_P(InitializerTest, HandlesMeanTheSameObjects) {
  Lock lock;
  Event event;
  Pool pool(
      {.processes = 2,
       .initializer = Initializer(
           [](Lock l, Event e) { return std::make_pair(l, e); }, lock, event)});
  const std::lock_guard held(lock);
  const auto done = pool.ApplyAsync([] {
    auto& [l, e] = WorkerState<std::pair<Lock, Event>>();
    e.Set();
    return l.Acquire(absl::ZeroDuration()) ? 1 : 0;
  });
  event.Wait();
  EXPECT_THAT(done.Get(), IsOkAndHolds(0)) << "this process holds it";
}

TEST_F(InitializerProcessTest, RunsInWorkersThatReplaceOthers) {
  Pool pool(
      {.processes = 1, .initializer = Initializer([] { return getpid(); })});
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(pool.Apply([] { raise(SIGKILL); }),
                StatusIs(absl::StatusCode::kAborted, HasSubstr("SIGKILL")));
    EXPECT_THAT(pool.Apply([] { return WorkerState<pid_t>() == getpid(); }),
                IsOkAndHolds(true));
  }
}

class Goodbye {
 public:
  explicit Goodbye(Queue<int> queue) : queue_(std::move(queue)) {}
  Goodbye(Goodbye&& other) noexcept
      : queue_(other.queue_), owner_(std::exchange(other.owner_, false)) {}
  ~Goodbye() {
    if (owner_) queue_.Put(1).IgnoreError();
  }

 private:
  Queue<int> queue_;
  bool owner_ = true;
};

TEST_P(InitializerTest, StateIsDestroyedWhenAWorkerLeaves) {
  absl::StatusOr<Queue<int>> queue = Queue<int>::Create();
  ASSERT_THAT(queue.status(), IsOk());
  Pool pool(
      With({.processes = 1,
            .initializer = Initializer(
                [](Queue<int> q) { return Goodbye(std::move(q)); }, *queue),
            .maxtasksperchild = 2}));
  EXPECT_THAT(pool.Map(Square, std::vector<int>{1, 2, 3, 4, 5}, 1), IsOk());
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  for (int i = 0; i < 3; ++i) EXPECT_THAT(queue->Get(), IsOkAndHolds(1));
  EXPECT_THAT(queue->Get(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, ::testing::_));
}

// ---- that fails ----

// Every way to submit says so, and nothing hangs.
template <class Matcher>
void ExpectFailed(Initializer initializer, const Matcher& matcher,
                  PoolWorkers workers = PoolWorkers::kProcesses) {
  Pool pool({.processes = 2,
             .initializer = std::move(initializer),
             .workers = workers});
  std::vector<AsyncResult<int>> pending;
  for (int i = 0; i < 10; ++i) pending.push_back(pool.ApplyAsync(Square, i));
  for (const AsyncResult<int>& each : pending) {
    EXPECT_THAT(each.Get(), matcher);
    EXPECT_FALSE(IsWorkerDied(each.Get().status()));
  }
  EXPECT_THAT(pool.Apply(Square, 1), matcher);
  EXPECT_THAT(pool.Map(Square, std::vector<int>{1, 2, 3}), matcher);
  auto stream = pool.Imap(Square, std::vector<int>{1, 2, 3});
  EXPECT_THAT(stream.Next(), matcher);
  EXPECT_THAT(stream.Next(),
              StatusIs(absl::StatusCode::kOutOfRange, ::testing::_));
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(pool.pids(), ::testing::IsEmpty());
  pool.Close();
  pool.Terminate();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_P(InitializerTest, WithAStatusFailsThePool) {
  ExpectFailed(Initializer([] { return absl::NotFoundError("no database"); }),
               StatusIs(absl::StatusCode::kNotFound,
                        "the pool's initializer failed: no database"),
               GetParam());
}

TEST_F(InitializerProcessTest, WithAVeryLongStatusFailsThePool) {
  ExpectFailed(Initializer([] {
                 return absl::NotFoundError(std::string(3 << 20, 'x'));
               }),
               StatusIs(absl::StatusCode::kNotFound, HasSubstr("xxxx")));
}

TEST_P(InitializerTest, ThatThrowsFailsThePool) {
  ExpectFailed(
      Initializer([] { throw std::runtime_error("no database"); }),
      StatusIs(absl::StatusCode::kUnknown,
               AllOf(HasSubstr("the pool's initializer failed: PoolWorker-"),
                     HasSubstr("std::runtime_error: no database"))),
      GetParam());
}

TEST_F(InitializerProcessTest, ThatExitsFailsThePool) {
  ExpectFailed(
      Initializer([] { _exit(3); }),
      StatusIs(absl::StatusCode::kAborted,
               AllOf(HasSubstr("the pool's initializer failed: PoolWorker-"),
                     HasSubstr("exited with code 3"))));
  ExpectFailed(
      Initializer([] { Exit(0); }),
      StatusIs(absl::StatusCode::kAborted, HasSubstr("exited with code 0")));
}

TEST_F(InitializerProcessTest, ThatCrashesFailsThePool) {
  ExpectFailed(Initializer([] { std::abort(); }),
               StatusIs(absl::StatusCode::kAborted, HasSubstr("SIGABRT")));
}

TEST_F(InitializerProcessTest, ThatIsKilledAgainAndAgainFailsThePool) {
  ExpectFailed(Initializer([] { raise(SIGKILL); }),
               StatusIs(absl::StatusCode::kAborted,
                        HasSubstr("SIGKILL, as others before")));
}

TEST_F(InitializerProcessTest, ThatIsKilledOnceIsRunAgain) {
  absl::StatusOr<Queue<pid_t>> started = Queue<pid_t>::Create();
  ASSERT_THAT(started.status(), IsOk());
  Event go;
  Pool pool({.processes = 1,
             .initializer = Initializer(
                 [](Queue<pid_t> queue, Event event) {
                   queue.Put(getpid()).IgnoreError();
                   event.Wait();
                 },
                 *started, go)});
  const AsyncResult<int> result = pool.ApplyAsync(Square, 3);
  for (int i = 0; i < 5; ++i) kill(started->Get().value(), SIGKILL);
  EXPECT_FALSE(result.Ready());
  go.Set();
  EXPECT_THAT(result.Get(), IsOkAndHolds(9));
}

// One that works at first, but not in the worker that replaces another.
TEST_F(InitializerProcessTest, ThatFailsLaterFailsThePool) {
  Event broken;
  Pool pool({.processes = 2,
             .initializer = Initializer(
                 [](Event event) {
                   return event.IsSet() ? absl::DataLossError("broken")
                                        : absl::OkStatus();
                 },
                 broken)});
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  const AsyncResult<void> pending =
      pool.ApplyAsync([] { absl::SleepFor(absl::Seconds(1000)); });
  broken.Set();
  EXPECT_FALSE(pool.Apply([] { raise(SIGKILL); }).ok());
  EXPECT_THAT(pending.Get(), StatusIs(absl::StatusCode::kDataLoss,
                                      "the pool's initializer failed: broken"));
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_P(InitializerTest, CallbacksHearOfIt) {
  std::vector<absl::Status> errors;
  Pool pool(With({.processes = 1, .initializer = Initializer([] {
                                    absl::SleepFor(absl::Milliseconds(50));
                                    return absl::NotFoundError("gone");
                                  })}));
  pool.MapAsync(Square, std::vector<int>{1, 2, 3})
      .OnError([&](const absl::Status& error) { errors.push_back(error); });
  while (!absl::IsNotFound(pool.Apply(Square, 1).status())) {
  }
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(errors, ::testing::ElementsAre(
                          StatusIs(absl::StatusCode::kNotFound,
                                   "the pool's initializer failed: gone")));
}

}  // namespace
}  // namespace mp
