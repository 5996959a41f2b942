// Cases that CPython has tests of, for its Pool or its ProcessPoolExecutor, and
// that no other test here is about. The table is in README.md.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/codec.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/sync/event.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

// Counts those that exist in this process.
class Counted {
 public:
  explicit Counted(int n) : n_(n) { ++alive_; }
  Counted(const Counted& other) : n_(other.n_) { ++alive_; }
  Counted& operator=(const Counted&) = default;
  ~Counted() { --alive_; }

  int n() const { return n_; }
  static int alive() { return alive_; }

 private:
  static inline std::atomic<int> alive_{0};
  int n_;
};

// Travels as an argument; as a result it cannot be encoded.
struct Unsendable {
  bool is_result = false;
};

}  // namespace

template <>
struct Codec<Counted> {
  static size_t Size(const Counted&) { return sizeof(int); }
  static void Write(const Counted& counted, Writer& writer) {
    writer.Write(counted.n());
  }
  static Counted Read(Reader& reader) { return Counted(reader.Read<int>()); }
};

template <>
struct Codec<Unsendable> {
  static size_t Size(const Unsendable&) { return 1; }
  static void Write(const Unsendable& value, Writer& writer) {
    if (value.is_result) {
      writer.Fail(absl::UnimplementedError("cannot be sent"));
    } else {
      writer.Write(value.is_result);
    }
  }
  static Unsendable Read(Reader& reader) { return {reader.Read<bool>()}; }
};

namespace {

using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::IsSubsetOf;
using ::testing::SizeIs;

class PoolCasesTest : public pool_internal::AnyWorkersTest {};

INSTANTIATE_TEST_SUITE_P(Workers, PoolCasesTest, pool_internal::AnyWorkers(),
                         pool_internal::WorkersName);

class PoolCasesProcessTest : public mp::testing::ProcessTest {};

// test_release_task_refs.
TEST_P(PoolCasesTest, ArgumentsAndResultsAreReleasedAfterUse) {
  Pool pool(With({.processes = 1}));
  const auto same = [](Counted counted) { return counted; };
  {
    std::vector<Counted> items;
    for (int i = 0; i < 10; ++i) items.emplace_back(i);
    {
      const AsyncResult<Counted> kept = pool.ApplyAsync(same, items[3]);
      EXPECT_EQ(kept.Get()->n(), 3);
      const auto all = pool.Map(same, items);
      ASSERT_THAT(all.status(), IsOk());
      EXPECT_THAT(*all, SizeIs(10));
      auto stream = pool.Imap(same, items, 3);
      for (int i = 0; i < 5; ++i) EXPECT_EQ(stream.Next()->n(), i);
      pool.ApplyAsync(same, items[4]);  // dropped unread
    }
    // What was under way has ended.
    EXPECT_THAT(pool.Apply(Square, 2), IsOkAndHolds(4));
    while (Counted::alive() > 10) absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(Counted::alive(), 0);
  // Nor has the worker kept one.
  EXPECT_THAT(pool.Apply([] { return Counted::alive(); }), IsOkAndHolds(0));
}

// test_unpickleable_result.
TEST_F(PoolCasesProcessTest, ResultsThatCannotBeSentLeaveTheWorkersAlone) {
  Pool pool({.processes = 2});
  const std::vector<pid_t> pids = pool.pids();
  std::atomic<int> errors{0};
  constexpr int kRounds = 20;
  for (int i = 0; i < kRounds; ++i) {
    const AsyncResult<Unsendable> result = pool.ApplyAsync(
        [](Unsendable) { return Unsendable{true}; }, Unsendable());
    result.OnError([&](const absl::Status& error) {
      if (absl::IsUnimplemented(error)) ++errors;
    });
    EXPECT_THAT(result.Get().status(),
                StatusIs(absl::StatusCode::kUnimplemented, "cannot be sent"));
  }
  EXPECT_EQ(pool.pids(), pids);
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_EQ(errors, kRounds);
}

// test_map_no_failfast: errors that are larger than the results' memory, too.
TEST_P(PoolCasesTest, LargeErrorsDoNotKeepThePoolFromItsEnd) {
  for (const size_t size : {size_t{1} << 20, size_t{1} << 18}) {
    Pool pool(With({.processes = 2}));
    std::atomic<int> done{0};
    const auto failing = [](size_t n) {
      if (n > 0) throw std::runtime_error(std::string(n, 'e'));
    };
    const std::vector<size_t> items = {size, 0, 0, size};
    EXPECT_FALSE(pool.Map(failing, items, 1).ok());
    const AsyncResult<void> late = pool.MapAsync(failing, items, 1);
    late.OnError([&](const absl::Status&) { ++done; });
    pool.Close();
    EXPECT_THAT(pool.Join(), IsOk());
    EXPECT_FALSE(late.Get().ok());
    EXPECT_EQ(done, 1);
  }
}

// test_wrapped_exception, test_traceback: what was thrown, and where.
TEST_P(PoolCasesTest, ErrorsSayTypeMessageAndWorker) {
  Pool pool(With({.processes = 1}));
  const auto fail = [](int n) -> int {
    throw std::out_of_range("no " + std::to_string(n));
  };
  for (const absl::Status& status :
       {pool.Apply(fail, 7).status(), pool.Map(fail, std::vector{7}).status(),
        pool.Imap(fail, std::vector{7}).Next().status()}) {
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kUnknown,
                         ::testing::MatchesRegex(
                             "PoolWorker-.*: std::out_of_range: no 7")));
  }
}

// The executor's test_saturation, test_idle_process_reuse_*.
TEST_F(PoolCasesProcessTest, WorkersAreUsedAgainHoweverManyTasksThereAre) {
  Event go;
  Pool pool({.processes = 3,
             .initializer = Initializer([](Event e) { return e; }, go)});
  const std::vector<pid_t> pids = pool.pids();
  std::vector<AsyncResult<pid_t>> results;
  for (int i = 0; i < 45; ++i) {
    results.push_back(pool.ApplyAsync([] {
      WorkerState<Event>().Wait();
      return getpid();
    }));
  }
  EXPECT_EQ(pool.pids(), pids);
  go.Set();
  std::set<pid_t> by;
  for (const auto& result : results) {
    ASSERT_THAT(result.Get(), IsOk());
    by.insert(*result.Get());
  }
  EXPECT_THAT(by, IsSubsetOf(pids));
  EXPECT_EQ(pool.pids(), pids);
}

// The executor's crash with large pending data (gh-94777).
TEST_F(PoolCasesProcessTest, DeathWhileLargeTasksWait) {
  Pool pool({.processes = 1});
  const auto size = [](int n, const std::string& text) {
    if (n % 5 == 0) raise(SIGKILL);
    return text.size();
  };
  std::vector<AsyncResult<size_t>> results;
  const std::string large(900'000, 'x');
  for (int i = 0; i < 20; ++i) {
    results.push_back(pool.ApplyAsync(size, i, large));
  }
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  for (int i = 0; i < 20; ++i) {
    const auto result = results[static_cast<size_t>(i)].Get();
    if (i % 5 == 0) {
      EXPECT_TRUE(IsWorkerDied(result.status())) << result.status();
    } else {
      EXPECT_THAT(result, IsOkAndHolds(large.size()));
    }
  }
}

// The executor's tests of its shutdown: with a task that cannot be encoded, and
// one that kills its worker.
TEST_F(PoolCasesProcessTest, CloseAfterTasksThatFail) {
  Pool pool({.processes = 1});
  const auto killed = pool.ApplyAsync([] { raise(SIGKILL); });
  const auto refused = pool.ApplyAsync([](Unsendable) {}, Unsendable{true});
  const auto fine = pool.ApplyAsync(Square, 3);
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_TRUE(IsWorkerDied(killed.Get()));
  EXPECT_THAT(refused.Get(), StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_THAT(fine.Get(), IsOkAndHolds(9));
}

// The executor's test_submit_after_interpreter_shutdown: what runs at the end
// of a program finds its pool terminated.
TEST(PoolCasesTestee, DISABLED_SubmitsAtItsEnd) {
  static Pool* pool;
  std::atexit([] {
    const absl::Status status = pool->Apply(Square, 2).status();
    _exit(absl::IsFailedPrecondition(status) ? 5 : 6);
  });
  pool = new Pool({.processes = 1});
  EXPECT_THAT(pool->Apply(Square, 2), IsOkAndHolds(4));
  std::exit(HasFailure() ? 7 : 0);
}

TEST_F(PoolCasesProcessTest, SubmittingAtTheEndOfTheProgramIsRefused) {
  const testing_internal::SelfRun run =
      testing_internal::RunSelf("PoolCasesTestee.DISABLED_SubmitsAtItsEnd");
  EXPECT_EQ(run.status, mp::testing::ExitStatus::Code(5)) << run.output;
}

// The executor's cancel_futures.
TEST_P(PoolCasesTest, WhatHasNotBegunCanBeCancelledBeforeTheEnd) {
  Event go;
  Pool pool(With({.processes = 1,
                  .initializer = Initializer([](Event e) { return e; }, go)}));
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 50; ++i) {
    results.push_back(pool.ApplyAsync(
        [](int n) {
          WorkerState<Event>().Wait();
          return n;
        },
        i));
  }
  pool.Close();
  int cancelled = 0;
  for (const auto& result : results) cancelled += result.Cancel() ? 1 : 0;
  EXPECT_GE(cancelled, 49);
  go.Set();
  EXPECT_THAT(pool.Join(), IsOk());
  int done = 0;
  for (const auto& result : results) done += result.Get().ok() ? 1 : 0;
  EXPECT_EQ(done + cancelled, 50);
}

// test_imap: a thousand items in chunks of a hundred.
TEST_P(PoolCasesTest, ImapInLargeChunks) {
  Pool pool(With({.processes = 3}));
  std::vector<int> squares;
  for (const auto& each : pool.Imap(Square, Numbers(1000), 100)) {
    ASSERT_THAT(each.status(), IsOk());
    squares.push_back(*each);
  }
  EXPECT_EQ(squares, Squares(1000));
}

}  // namespace
}  // namespace mp
