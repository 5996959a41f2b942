// How pools end: with the process that made them, by its callbacks, by Ctrl-C,
// and in forked copies. No worker is left behind, whatever it does.

#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/ipc/codec.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/process/process.h"
#include "mp/sync/event.h"
#include "mp/testing/pipe.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

enum Fault : int { kExitWithHandlers, kExit, kCrash, kKill };
enum Place : int { kInMain, kInCallback, kInArgumentEncode, kInResultDecode };

[[noreturn]] void GoOff(Fault fault) {
  switch (fault) {
    case kExitWithHandlers:
      std::exit(3);
    case kExit:
      _exit(3);
    case kCrash:
      std::abort();
    case kKill:
      raise(SIGKILL);
  }
  std::abort();
}

// Ends the pool's own process while it is encoded, or decoded.
struct Bomb {
  Fault fault = kExit;
  Place place = kInMain;
  bool is_result = false;
};

Bomb Pass(Bomb bomb) {
  bomb.is_result = true;
  return bomb;
}

}  // namespace

template <>
struct Codec<Bomb> {
  static size_t Size(const Bomb&) { return 2 * sizeof(int) + 1; }
  static void Write(const Bomb& bomb, Writer& writer) {
    if (bomb.place == kInArgumentEncode && !bomb.is_result) GoOff(bomb.fault);
    writer.Write(int{bomb.fault});
    writer.Write(int{bomb.place});
    writer.Write(bomb.is_result);
  }
  static Bomb Read(Reader& reader) {
    Bomb bomb;
    bomb.fault = static_cast<Fault>(reader.Read<int>());
    bomb.place = static_cast<Place>(reader.Read<int>());
    bomb.is_result = reader.Read<bool>();
    if (bomb.place == kInResultDecode && bomb.is_result) GoOff(bomb.fault);
    return bomb;
  }
};

namespace {

using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::MakePipe;
using ::mp::testing::PipeEnds;
using ::mp::testing::SleepingIn;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

// For children and threads, which have no matchers.
bool MapsRight(Pool& pool) {
  return pool.Map(Square, Numbers(50)).value_or(std::vector<int>()) ==
         Squares(50);
}

class PoolEndTest : public mp::testing::ProcessTest {};

// A pipe that tells when all processes have gone that had its write end.
class Survivors {
 public:
  int fd() const { return pipe_.writer.get(); }
  // In the owner of a pool: says that all is ready.
  void SayReady() const { MP_PCHECK(write(fd(), "r", 1) == 1) << "write"; }
  // In the test, when those who should have it do.
  void AwaitReady() {
    pipe_.writer.reset();
    char byte;
    EXPECT_EQ(read(pipe_.reader.get(), &byte, 1), 1);
  }
  // Hangs if one is left.
  void ExpectNone() {
    char byte;
    EXPECT_EQ(read(pipe_.reader.get(), &byte, 1), 0);
  }

 private:
  PipeEnds pipe_ = MakePipe();
};

// Has workers that sleep, work, wait for a task, and are stopped.
Pool MakeBusyPool() {
  Pool pool({.processes = 4});
  pool.ApplyAsync([] { absl::SleepFor(absl::InfiniteDuration()); });
  pool.ApplyAsync([] {
    for (std::atomic<bool> go_on = true; go_on;) {
    }
  });
  MP_CHECK_OK(pool.Apply(Square, 1).status());
  // Not one that holds the lock of the queue: the others would have to wait.
  pid_t asleep = 0;
  while (asleep == 0) {
    for (const pid_t pid : pool.pids()) {
      const std::string call = SleepingIn(pid);
      absl::SleepFor(absl::Milliseconds(2));
      if (!call.empty() && call == SleepingIn(pid)) asleep = pid;
    }
  }
  MP_CHECK(kill(asleep, SIGSTOP) == 0);
  return pool;
}

class PoolOwnerTest
    : public PoolEndTest,
      public ::testing::WithParamInterface<std::tuple<Fault, Place>> {};

TEST_P(PoolOwnerTest, TakesItsWorkersAlong) {
  const auto [fault, place] = GetParam();
  Survivors survivors;
  Process owner([&, fault = fault, place = place] {
    Pool pool = MakeBusyPool();
    survivors.SayReady();
    switch (place) {
      case kInMain:
        GoOff(fault);
      case kInCallback:
        pool.ApplyAsync(Square, 2).OnDone(
            [fault](const absl::StatusOr<int>&) { GoOff(fault); });
        break;
      default:
        pool.ApplyAsync(Pass, Bomb{.fault = fault, .place = place});
    }
    absl::SleepFor(absl::InfiniteDuration());
  });
  ASSERT_THAT(owner.Start(), IsOk());
  survivors.AwaitReady();
  ASSERT_THAT(owner.Join(), IsOk());
  EXPECT_EQ(owner.exitcode(), fault == kCrash  ? -SIGABRT
                              : fault == kKill ? -SIGKILL
                                               : 3);
  survivors.ExpectNone();
}

INSTANTIATE_TEST_SUITE_P(
    Anywhere, PoolOwnerTest,
    ::testing::Combine(::testing::Values(kExit, kCrash, kKill),
                       ::testing::Values(kInMain, kInCallback,
                                         kInArgumentEncode, kInResultDecode)));
INSTANTIATE_TEST_SUITE_P(
    ByExit, PoolOwnerTest,
    ::testing::Combine(::testing::Values(kExitWithHandlers),
                       ::testing::Values(kInMain, kInCallback)));

// ---- the end of the program, or of a child, with pools open ----

// Runs `body` in a child, which is to end with exit code 7, and its workers
// with it.
void ExpectEnds(const std::function<int(const Survivors&)>& body) {
  Survivors survivors;
  Process owner([&] { return body(survivors); });
  ASSERT_THAT(owner.Start(), IsOk());
  survivors.AwaitReady();
  ASSERT_THAT(owner.Join(), IsOk());
  EXPECT_EQ(owner.exitcode(), 7);
  survivors.ExpectNone();
}

void DoNothing(int) {}

// Workers inherit the handler: a polite signal does not end them.
TEST_F(PoolEndTest, AChildThatHandlesSigtermEndsWithAnOpenPool) {
  for (const bool returns : {false, true}) {
    ExpectEnds([returns](const Survivors& survivors) {
      signal(SIGTERM, DoNothing);
      auto* const pool = new Pool({.processes = 2});
      MP_CHECK_OK(pool->Apply(Square, 3).status());
      survivors.SayReady();
      if (!returns) Exit(7);
      return 7;
    });
  }
}

TEST_F(PoolEndTest, AtExitACallbackMayDestroyAnotherPool) {
  ExpectEnds([](const Survivors& survivors) -> int {
    auto* const pool = new Pool({.processes = 1});
    auto* const other = new std::optional<Pool>(PoolOptions{.processes = 1});
    pool->ApplyAsync([] { absl::SleepFor(absl::InfiniteDuration()); })
        .OnError([other](const absl::Status&) { other->reset(); });
    survivors.SayReady();
    std::exit(7);
  });
}

TEST_F(PoolEndTest, AtExitACallbackMayMakeAnotherPool) {
  ExpectEnds([](const Survivors& survivors) -> int {
    auto* const pool = new Pool({.processes = 1});
    pool->ApplyAsync([] { absl::SleepFor(absl::InfiniteDuration()); })
        .OnError(
            [](const absl::Status&) { const Pool other({.processes = 1}); });
    survivors.SayReady();
    std::exit(7);
  });
}

TEST_F(PoolEndTest, AChildThatHasDroppedItsCopyExits) {
  std::optional<Pool> pool(PoolOptions{.processes = 1});
  Process child([&] {
    pool.reset();
    // Has what was freed used for something else.
    std::vector<std::string> others;
    for (size_t size = 16; size < 4096; size += 16) {
      others.emplace_back(size, 'x');
    }
    std::exit(7);
  });
  ASSERT_THAT(child.Start(), IsOk());
  ASSERT_THAT(child.Join(), IsOk());
  EXPECT_EQ(child.exitcode(), 7);
  EXPECT_THAT(pool->Apply(Square, 3), IsOkAndHolds(9));
}

TEST_F(PoolEndTest, ATaskInAThreadOfAStaticPoolExits) {
  ExpectEnds([](const Survivors& survivors) {
    static Pool pool({.processes = 1, .workers = PoolWorkers::kThreads});
    survivors.SayReady();
    pool.ApplyAsync([] { std::exit(7); });
    absl::SleepFor(absl::InfiniteDuration());
    return 0;
  });
}

// ---- callbacks ----

class PoolCallbackTest : public pool_internal::AnyWorkersTest {};

INSTANTIATE_TEST_SUITE_P(Workers, PoolCallbackTest, pool_internal::AnyWorkers(),
                         pool_internal::WorkersName);

// Each callback throws; all are called, and all results come.
TEST_P(PoolCallbackTest, ThatThrowsHurtsNobody) {
  Pool pool(With({.processes = 2}));
  std::atomic<int> called{0};
  std::vector<AsyncResult<int>> results;
  constexpr int kTasks = 100;
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < kTasks; ++i) {
    results.push_back(pool.ApplyAsync(
        [](int n) -> absl::StatusOr<int> {
          if (n % 2 == 1) return absl::DataLossError("odd");
          return n;
        },
        i));
    results.back().OnDone([&called, i](const absl::StatusOr<int>&) {
      ++called;
      if (i % 3 == 0) throw i;
      throw std::runtime_error("a callback that throws");
    });
  }
  const auto all = pool.MapAsync(Square, Numbers(10), 1);
  all.OnSuccess([](const std::vector<int>&) { throw std::string("text"); });
  for (int i = 0; i < kTasks; ++i) {
    const auto result = results[static_cast<size_t>(i)].Get();
    if (i % 2 == 0) {
      EXPECT_THAT(result, IsOkAndHolds(i));
    } else {
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kDataLoss, "odd"));
    }
  }
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(10)));
  EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(called, kTasks);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("std::runtime_error: a callback that throws"));
}

TEST_P(PoolCallbackTest, MayEndThePoolButNotWaitForThat) {
  Pool pool(With({.processes = 2}));
  std::atomic<bool> called{false};
  pool.ApplyAsync(Square, 1).OnDone([&](const absl::StatusOr<int>&) {
    pool.Close();
    EXPECT_THAT(pool.Join(),
                StatusIs(absl::StatusCode::kFailedPrecondition, _));
    called = true;
  });
  while (!called) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(pool.Apply(Square, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(pool.Join(), IsOk());
}

// The callback's thread is the one that would deliver the retried task.
TEST_P(PoolCallbackTest, MayNotWaitForATaskThatMayBeRetried) {
  Pool pool(With({.processes = 2}));
  std::atomic<bool> called{false};
  const auto later = pool.With({.retries = 1}).ApplyAsync([] {
    absl::SleepFor(absl::Milliseconds(100));
  });
  pool.ApplyAsync(Square, 1).OnDone([&](const absl::StatusOr<int>&) {
    pool.Close();
    EXPECT_THAT(pool.Join(),
                StatusIs(absl::StatusCode::kFailedPrecondition, _));
    called = true;
  });
  while (!called) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(later.Get(), IsOk());
}

TEST_P(PoolCallbackTest, MayDestroyThePool) {
  std::optional<Pool> pool(With({.processes = 2}));
  std::atomic<bool> called{false};
  const auto result = pool->ApplyAsync(Square, 3);
  result.OnDone([&](const absl::StatusOr<int>&) {
    pool.reset();
    called = true;
  });
  while (!called) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(result.Get(), IsOkAndHolds(9));
}

// ---- Ctrl-C ----

// What is ignored, exec() leaves so.
TEST_F(PoolEndTest, ProgramsThatATaskRunsDoNotIgnoreCtrlC) {
  Pool pool({.processes = 1});
  EXPECT_THAT(pool.Apply([] {
    struct sigaction action;
    return sigaction(SIGINT, nullptr, &action) == 0 &&
           action.sa_handler != SIG_IGN;
  }),
              IsOkAndHolds(true));
}

// Runs `body` in a process group of its own, which gets `signal` when it says
// that it is ready.
void InGroup(int signal, int exitcode,
             const std::function<void(const Survivors&)>& body) {
  Survivors survivors;
  Process owner([&] {
    MP_PCHECK(setpgid(0, 0) == 0) << "setpgid";
    body(survivors);
  });
  ASSERT_THAT(owner.Start(), IsOk());
  survivors.AwaitReady();
  ASSERT_EQ(kill(-*owner.pid(), signal), 0);
  ASSERT_THAT(owner.Join(), IsOk());
  EXPECT_EQ(owner.exitcode(), exitcode);
  survivors.ExpectNone();
}

TEST_F(PoolEndTest, CtrlCEndsTheProgramAndItsWorkers) {
  InGroup(SIGINT, -SIGINT, [](const Survivors& survivors) {
    const Pool pool = MakeBusyPool();
    survivors.SayReady();
    absl::SleepFor(absl::InfiniteDuration());
  });
}

std::atomic<bool> interrupted{false};
void OnInterrupt(int) { interrupted = true; }

// Who handles it decides what becomes of the tasks, also of those that run.
TEST_F(PoolEndTest, CtrlCLeavesWorkersToAProgramThatHandlesIt) {
  for (const bool before : {false, true}) {
    InGroup(SIGINT, 0, [before](const Survivors& survivors) {
      if (before) signal(SIGINT, OnInterrupt);
      Event go;
      Pool pool({.processes = 2,
                 .initializer = Initializer([](Event e) { return e; }, go)});
      if (!before) signal(SIGINT, OnInterrupt);
      std::vector<AsyncResult<int>> results;
      for (int i = 0; i < 10; ++i) {
        results.push_back(pool.ApplyAsync(
            [](int n) {
              WorkerState<Event>().Wait();
              return n;
            },
            i));
      }
      survivors.SayReady();
      while (!interrupted) absl::SleepFor(absl::Milliseconds(1));
      pool.Close();
      go.Set();
      MP_CHECK_OK(pool.Join());
      for (int i = 0; i < 10; ++i) {
        const auto result = results[static_cast<size_t>(i)].Get();
        MP_CHECK_OK(result.status());
        MP_CHECK(*result == i);
      }
    });
  }
}

TEST_F(PoolEndTest, CtrlCAndTerminate) {
  InGroup(SIGINT, 0, [](const Survivors& survivors) {
    signal(SIGINT, OnInterrupt);
    Pool pool = MakeBusyPool();
    auto stream = pool.ImapUnordered(Square, Numbers(1'000'000));
    survivors.SayReady();
    while (!interrupted) MP_CHECK_OK(stream.Next().status());
    pool.Terminate();
    MP_CHECK_OK(pool.Join());
  });
}

TEST_F(PoolEndTest, StopAndContinueOfTheWholeProgramChangesNothing) {
  Survivors survivors;
  Process owner([&] {
    MP_PCHECK(setpgid(0, 0) == 0) << "setpgid";
    Pool pool({.processes = 3});
    survivors.SayReady();
    int n = 0;
    for (const auto& each : pool.Imap(Square, Numbers(20'000))) {
      MP_CHECK_OK(each.status());
      MP_CHECK(*each == Square(n++));
    }
    MP_CHECK(n == 20'000);
  });
  ASSERT_THAT(owner.Start(), IsOk());
  survivors.AwaitReady();
  const pid_t group = -*owner.pid();
  for (int i = 0; i < 5; ++i) {
    kill(group, SIGSTOP);
    absl::SleepFor(absl::Milliseconds(3));
    kill(group, SIGCONT);
    absl::SleepFor(absl::Milliseconds(3));
  }
  ASSERT_THAT(owner.Join(), IsOk());
  EXPECT_EQ(owner.exitcode(), 0);
  survivors.ExpectNone();
}

// ---- Terminate ----

// Wherever they stand: some hold a lock of the rings, or are about to sleep.
TEST_F(PoolEndTest, TerminateEndsWorkersThatWereStoppedAtWork) {
  std::minstd_rand random(1);
  const int rounds = mp::testing::kSanitized ? 5 : 40;
  for (int round = 0; round < rounds; ++round) {
    Pool pool({.processes = 3,
               .task_capacity_bytes = 4096,
               .result_capacity_bytes = 4096});
    std::vector<AsyncResult<std::string>> results;
    for (int i = 0; i < 1000; ++i) {
      results.push_back(
          pool.ApplyAsync([](const std::string& text) { return text + text; },
                          std::string(100, 'x')));
    }
    absl::SleepFor(absl::Microseconds(random() % 2000));
    for (const pid_t pid : pool.pids()) kill(pid, SIGSTOP);
    pool.Terminate();
    ASSERT_THAT(pool.Join(), IsOk());
    for (const auto& result : results) {
      ASSERT_TRUE(result.Ready());
      const absl::StatusOr<std::string> text = result.Get();
      if (text.ok()) {
        ASSERT_EQ(*text, std::string(200, 'x'));
      } else {
        ASSERT_THAT(text, StatusIs(absl::StatusCode::kCancelled, _));
      }
    }
  }
}

// ---- forked copies ----

TEST_F(PoolEndTest, DroppedCopyInAForkedChildLeavesThePoolAlone) {
  if (mp::testing::kThreadSanitizer) {
    GTEST_SKIP() << "takes the child's threads for the parent's";
  }
  std::optional<Pool> pool(std::in_place, PoolOptions{.processes = 2});
  auto stream = pool->Imap(Square, Numbers(10'000));
  auto all = pool->MapAsync(Square, Numbers(10'000));
  EXPECT_THAT(stream.Next(), IsOkAndHolds(0));
  for (int i = 0; i < 3; ++i) {
    Process child([&] {
      pool->Terminate();
      pool.reset();
      Pool own({.processes = 2});
      return MapsRight(own) ? 0 : 1;
    });
    ASSERT_THAT(child.Start(), IsOk());
    ASSERT_THAT(child.Join(), IsOk());
    EXPECT_EQ(child.exitcode(), 0);
  }
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(10'000)));
  int n = 1;
  for (const auto& each : stream) EXPECT_THAT(each, IsOkAndHolds(Square(n++)));
  EXPECT_EQ(n, 10'000);
}

// A child is forked while other threads use the pool, whose locks it inherits
// in whatever state.
TEST_F(PoolEndTest, ForkBesideThreadsThatSubmit) {
  if (mp::testing::kSanitized) {
    GTEST_SKIP() << "their run-time libraries have locks that a child inherits";
  }
  Pool pool({.processes = 2});
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
    });
  }
  for (int i = 0; i < 30; ++i) {
    Process child([&] {
      Pool own({.processes = 1});
      return MapsRight(own) ? 0 : 1;
    });
    ASSERT_THAT(child.Start(), IsOk());
    ASSERT_THAT(child.Join(), IsOk());
    ASSERT_EQ(child.exitcode(), 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

// ---- pools within pools ----

TEST_F(PoolEndTest, WorkersMayHavePoolsOfThreads) {
  Pool pool({.processes = 2});
  EXPECT_THAT(
      pool.Map(
          [](int n) -> absl::StatusOr<int> {
            Pool threads({.processes = 2, .workers = PoolWorkers::kThreads});
            return threads.Apply(Square, n);
          },
          Numbers(20), 1),
      IsOkAndHolds(Squares(20)));
}

TEST_F(PoolEndTest, ManyPoolsAtOnceFromManyThreads) {
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) {
        Pool a({.processes = 2});
        Pool b({.processes = 1});
        const auto later = a.MapAsync(Square, Numbers(50), 1);
        if (MapsRight(b)) ++right;
        if (later.Get().value_or(std::vector<int>()) == Squares(50)) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 4 * 5 * 2);
}

}  // namespace
}  // namespace mp
