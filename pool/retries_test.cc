// TaskOptions::retries with real workers; what needs none is in
// front_executor_test.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
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
#include "mp/pool/result_stream.h"
#include "mp/pool/task_control.h"
#include "mp/pool/worker_died.h"
#include "mp/shm/raw_value.h"
#include "mp/sync/event.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kForEver = std::numeric_limits<int>::max();

// What tasks of these tests share: how many times they have begun.
struct Shared {
  RawValue<std::atomic<int>> begun{0};
  Event go;
};

int Begin() { return WorkerState<Shared>().begun->fetch_add(1) + 1; }

// Dies in its first `deaths` attempts, then says which attempt it is.
int DieAtFirst(int deaths) {
  const int attempt = Begin();
  if (attempt <= deaths) raise(SIGKILL);
  return attempt;
}

class RetriesTest : public mp::testing::ProcessTest {
 protected:
  PoolOptions Workers(int processes) const {
    return {
        .processes = processes,
        .initializer = Initializer([](const Shared& s) { return s; }, shared_)};
  }
  int begun() const { return shared_.begun->load(); }

  Shared shared_;
};

TEST_F(RetriesTest, TaskIsRunAgainWhenItsWorkerHasDied) {
  Pool pool(Workers(1));
  EXPECT_THAT(pool.With({.retries = 3}).Apply(DieAtFirst, 3), IsOkAndHolds(4));
  EXPECT_EQ(begun(), 4);
}

TEST_F(RetriesTest, ErrorOfTheLastAttemptSaysHowManyThereWere) {
  Pool pool(Workers(2));
  const absl::StatusOr<int> result =
      pool.With({.retries = 2}).Apply(DieAtFirst, 9);
  EXPECT_TRUE(IsWorkerDied(result.status()));
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kAborted,
                               AllOf(HasSubstr("SIGKILL"),
                                     HasSubstr("the last of 3 attempts"))));
  EXPECT_EQ(begun(), 3);
  // The pool itself has no options.
  EXPECT_FALSE(pool.Apply(DieAtFirst, 9).ok());
  EXPECT_EQ(begun(), 4);
}

TEST_F(RetriesTest, WhatTheFunctionReturnsOrThrowsIsItsResult) {
  Pool pool(Workers(1));
  PoolCalls retrying = pool.With({.retries = 5});
  EXPECT_THAT(retrying.Apply([]() -> absl::Status {
    Begin();
    return absl::AbortedError("no");
  }),
              StatusIs(absl::StatusCode::kAborted, "no"));
  EXPECT_THAT(retrying.Apply([] {
    Begin();
    throw std::runtime_error("never");
  }),
              StatusIs(absl::StatusCode::kUnknown, HasSubstr("never")));
  EXPECT_EQ(begun(), 2);
}

TEST_F(RetriesTest, MapHasEachResultOnceAndInOrder) {
  Pool pool(Workers(2));
  const auto square = [](int n) {
    if (n == 55 && Begin() <= 3) raise(SIGKILL);
    return n * n;
  };
  EXPECT_THAT(pool.With({.retries = 3}).Map(square, Numbers(100), 10),
              IsOkAndHolds(Squares(100)));
  EXPECT_EQ(begun(), 4);
}

TEST_F(RetriesTest, PartsOfAResultThatWereLostDoNotComeTwice) {
  Pool pool(Workers(2));
  // More than a part, before the worker dies.
  const auto text = [](int n) {
    if (n == 90 && Begin() <= 2) raise(SIGKILL);
    return std::string(10'000, static_cast<char>('a' + n % 26));
  };
  const auto all = pool.With({.retries = 2}).Map(text, Numbers(100), 100);
  ASSERT_THAT(all.status(), IsOk());
  ASSERT_EQ(all->size(), 100u);
  for (size_t n = 0; n < 100; ++n) {
    EXPECT_EQ((*all)[n], std::string(10'000, static_cast<char>('a' + n % 26)));
  }
  EXPECT_EQ(begun(), 3);
}

TEST_F(RetriesTest, StreamsHaveEachResultOnce) {
  Pool pool(Workers(2));
  PoolCalls retrying = pool.With({.retries = 2});
  const auto text = [](int n) {
    if (n % 50 == 40 && Begin() % 3 != 0) raise(SIGKILL);
    return std::pair(n, std::string(5'000, 'x'));
  };
  for (const bool ordered : {true, false}) {
    auto stream = ordered ? retrying.Imap(text, Numbers(200), 50)
                          : retrying.ImapUnordered(text, Numbers(200), 50);
    std::vector<bool> seen(200);
    int count = 0;
    for (auto& each : stream) {
      // Each third beginning survives, so two retries may be too few.
      if (!each.ok()) {
        EXPECT_TRUE(IsWorkerDied(each.status())) << each.status();
        ++count;
        continue;
      }
      const auto n = static_cast<size_t>(each->first);
      EXPECT_FALSE(seen[n]);
      seen[n] = true;
      if (ordered) {
        EXPECT_EQ(each->first, count);
      }
      ++count;
    }
    EXPECT_EQ(count, 200);
  }
}

TEST_F(RetriesTest, CloseAndJoinWaitForRetries) {
  Pool pool(Workers(2));
  const AsyncResult<int> result =
      pool.With({.retries = kForEver}).ApplyAsync([] {
        WorkerState<Shared>().go.Wait();
        const int attempt = Begin();
        if (attempt <= 3) raise(SIGKILL);
        return attempt;
      });
  pool.Close();
  EXPECT_THAT(pool.Apply(Square, 3),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(pool.With({.retries = 1}).Apply(Square, 3),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(pool.Join(absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  shared_.go.Set();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_TRUE(result.Ready());
  EXPECT_THAT(result.Get(), IsOkAndHolds(4));
}

// Nobody joins, or waits.
TEST_F(RetriesTest, WorkersLeaveWhenTheLastRetriedTaskHasEnded) {
  Pool pool(Workers(2));
  const AsyncResult<int> result = pool.With({.retries = 1}).ApplyAsync([] {
    WorkerState<Shared>().go.Wait();
    return 1;
  });
  pool.Close();
  EXPECT_FALSE(pool.pids().empty());
  shared_.go.Set();
  while (!pool.pids().empty()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(result.Ready());
}

TEST_F(RetriesTest, TerminateEndsTasksThatDieForEver) {
  Pool pool(Workers(2));
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 20; ++i) {
    results.push_back(
        pool.With({.retries = kForEver}).ApplyAsync(DieAtFirst, kForEver));
  }
  while (begun() < 10) absl::SleepFor(absl::Milliseconds(1));
  pool.Close();
  pool.Terminate();
  EXPECT_THAT(pool.Join(), IsOk());
  for (const AsyncResult<int>& each : results) {
    ASSERT_TRUE(each.Ready());
    EXPECT_THAT(each.Get(), StatusIs(absl::StatusCode::kCancelled,
                                     "the pool was terminated"));
  }
}

TEST_F(RetriesTest, DestructorEndsTasksThatDieForEver) {
  std::optional<AsyncResult<int>> result;
  {
    Pool pool(Workers(1));
    result = pool.With({.retries = kForEver}).ApplyAsync(DieAtFirst, kForEver);
    while (begun() < 3) absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_THAT(result->Get(), StatusIs(absl::StatusCode::kCancelled, _));
}

TEST_F(RetriesTest, CancelReachesATaskThatDiesForEver) {
  Pool pool(Workers(1));
  const AsyncResult<int> result =
      pool.With({.retries = kForEver}).ApplyAsync(DieAtFirst, kForEver);
  while (begun() < 3) absl::SleepFor(absl::Milliseconds(1));
  while (!result.Cancel()) {
  }
  EXPECT_THAT(result.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  const int at_the_end = begun();
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  // One may have been about to begin.
  EXPECT_LE(begun(), at_the_end + 1);
}

TEST_F(RetriesTest, WhoIsKilledForItsTimeOrByCancelIsNotRetried) {
  Pool pool(Workers(2));
  PoolCalls retrying = pool.With({.retries = kForEver});
  const auto for_ever = [] {
    Begin();
    for (;;) absl::SleepFor(absl::Hours(1));
  };
  EXPECT_THAT(
      retrying.With({.retries = kForEver, .timeout = absl::Milliseconds(20)})
          .Apply(for_ever),
      StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  EXPECT_EQ(begun(), 1);
  const AsyncResult<void> cancelled = retrying.ApplyAsync(for_ever);
  while (begun() < 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(cancelled.Cancel(CancelMode::kKill));
  EXPECT_THAT(cancelled.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_EQ(begun(), 2);
}

TEST_F(RetriesTest, StreamThatIsDroppedTakesRetriesBack) {
  Pool pool(Workers(2));
  {
    auto stream =
        pool.With({.retries = kForEver})
            .Imap([](int) { return DieAtFirst(kForEver); }, Numbers(1000));
    while (begun() < 5) absl::SleepFor(absl::Milliseconds(1));
  }
  // What was just running may have to die once more.
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
}

TEST_F(RetriesTest, InThreadsTheyDoNothing) {
  PoolOptions options = Workers(2);
  options.workers = PoolWorkers::kThreads;
  Pool pool(options);
  PoolCalls retrying = pool.With({.retries = 2});
  EXPECT_THAT(retrying.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(retrying.Map(Square, Numbers(100)), IsOkAndHolds(Squares(100)));
  const AsyncResult<int> late = retrying.ApplyAsync([] {
    WorkerState<Shared>().go.Wait();
    return 5;
  });
  pool.Close();
  shared_.go.Set();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(late.Get(), IsOkAndHolds(5));
}

// As one that a task got from another pool.
TEST_F(RetriesTest, StatusThatATaskReturnsIsItsResult) {
  Pool other({.processes = 1});
  const absl::Status died = other.Apply([] { raise(SIGKILL); });
  ASSERT_TRUE(IsWorkerDied(died));
  static std::atomic<int> runs;
  runs = 0;
  static const absl::Status* const returned = new absl::Status(died);
  const auto run = [] {
    ++runs;
    return *returned;
  };
  Pool pool({.processes = 1});
  EXPECT_EQ(pool.With({.retries = 3}).Apply(run), pool.Apply(run));
  Pool threads({.processes = 1, .workers = PoolWorkers::kThreads});
  EXPECT_FALSE(threads.With({.retries = 3}).Apply(run).ok());
  EXPECT_EQ(runs, 1);
}

constexpr int kKills = mp::testing::kSanitized ? 50 : 500;

// Workers are killed at random, and each task comes to its result.
TEST_F(RetriesTest, Storm) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  Pool pool({.processes = 4, .task_capacity_bytes = 16 << 10});
  std::atomic<bool> killing{true};
  std::thread killer([&] {
    std::minstd_rand random(seed);
    for (int kills = 0; kills < kKills;) {
      const std::vector<pid_t> pids = pool.pids();
      if (!pids.empty() && kill(pids[random() % pids.size()], SIGKILL) == 0) {
        ++kills;
      }
      absl::SleepFor(absl::Microseconds(random() % 4000));
    }
    killing = false;
  });
  const absl::Cleanup join = [&] { killer.join(); };
  const auto slow_square = [](int n) {
    uint64_t x = static_cast<uint64_t>(n);
    for (int i = 0; i < 1000; ++i) x = x * 6364136223846793005u + 1;
    return x == 0 ? 0 : n * n;
  };
  PoolCalls retrying = pool.With({.retries = kForEver});
  int rounds = 0;
  for (; killing; ++rounds) {
    ASSERT_THAT(retrying.Map(slow_square, Numbers(2000)),
                IsOkAndHolds(Squares(2000)));
    std::vector<AsyncResult<int>> results;
    for (int n = 0; n < 500; ++n) {
      results.push_back(retrying.ApplyAsync(slow_square, n));
    }
    int next = 0;
    for (auto& each : retrying.Imap(slow_square, Numbers(500), 3)) {
      ASSERT_THAT(each, IsOkAndHolds(next * next));
      ++next;
    }
    EXPECT_EQ(next, 500);
    for (int n = 0; n < 500; ++n) {
      ASSERT_THAT(results[static_cast<size_t>(n)].Get(), IsOkAndHolds(n * n));
    }
  }
  // And those that are under way when the pool is closed.
  const AsyncResult<std::vector<int>> last =
      retrying.MapAsync(slow_square, Numbers(2000), 1);
  pool.Close();
  for (const pid_t pid : pool.pids()) kill(pid, SIGKILL);
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(last.Get(), IsOkAndHolds(Squares(2000)));
  RecordProperty("rounds", rounds);
}

}  // namespace
}  // namespace mp
