#include "mp/pool/pool.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <numeric>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/pool/async_result.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/worker.h"
#include "mp/pool/worker_died.h"
#include "mp/process/process.h"
#include "mp/sync/barrier.h"
#include "mp/sync/event.h"
#include "mp/testing/process_test.h"
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// For whatever kind of workers.
class PoolTest : public pool_internal::AnyWorkersTest {};

INSTANTIATE_TEST_SUITE_P(Workers, PoolTest, pool_internal::AnyWorkers(),
                         pool_internal::WorkersName);

class PoolProcessTest : public mp::testing::ProcessTest {};

// ---- Apply ----

TEST_F(PoolProcessTest, ApplyRunsInAnotherProcess) {
  Pool pool({.processes = 2});
  const absl::StatusOr<pid_t> pid = pool.Apply([] { return getpid(); });
  ASSERT_THAT(pid.status(), IsOk());
  EXPECT_NE(*pid, getpid());
  EXPECT_THAT(pool.pids(), ::testing::Contains(*pid));
}

TEST_P(PoolTest, ApplyTakesFunctionsAndLambdas) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(pool.Apply(&Square, 4), IsOkAndHolds(16));
  EXPECT_THAT(pool.Apply([](int a, int b) { return a - b; }, 7, 2),
              IsOkAndHolds(5));
}

TEST_P(PoolTest, ArgumentsAndResultsOfManyTypes) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Apply([](const std::string& s) { return s + "!"; }, "text"),
              IsOkAndHolds("text!"));
  EXPECT_THAT(
      pool.Apply(
          [](std::vector<std::string> v, double x,
             std::pair<int, std::string> p) {
            return std::make_tuple(v.size(), 2 * x, p.second);
          },
          std::vector<std::string>{"a", "b"}, 1.5,
          std::make_pair(1, std::string("one"))),
      IsOkAndHolds(std::make_tuple(size_t{2}, 3.0, std::string("one"))));
}

TEST_P(PoolTest, VoidAndStatusResults) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Apply([] {}), IsOk());
  EXPECT_THAT(pool.Apply([](int) { return absl::OkStatus(); }, 1), IsOk());
  EXPECT_THAT(pool.Apply([] { return absl::NotFoundError("no such thing"); }),
              StatusIs(absl::StatusCode::kNotFound, "no such thing"));
  EXPECT_THAT(pool.Apply(
                  [](int x) -> absl::StatusOr<int> {
                    if (x < 0) return absl::OutOfRangeError("negative");
                    return x;
                  },
                  -1),
              StatusIs(absl::StatusCode::kOutOfRange, "negative"));
}

TEST_P(PoolTest, ExceptionIsTheCallersError) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Apply([]() -> int { throw std::runtime_error("broken"); }),
              StatusIs(absl::StatusCode::kUnknown,
                       AllOf(HasSubstr("PoolWorker-"),
                             HasSubstr("std::runtime_error: broken"))));
  EXPECT_THAT(pool.Apply([] { throw 7; }),
              StatusIs(absl::StatusCode::kUnknown, HasSubstr("int")));
  EXPECT_THAT(pool.Apply(Square, 2), IsOkAndHolds(4)) << "the worker goes on";
}

TEST_P(PoolTest, ArgumentsLargerThanTheMemoryAreRefused) {
  Pool pool(With({.processes = 1, .task_capacity_bytes = 4096}));
  const auto size = [](const std::string& s) { return s.size(); };
  EXPECT_THAT(pool.Apply(size, std::string(5000, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("task_capacity_bytes")));
  EXPECT_THAT(pool.Apply(size, std::string(4000, 'x')),
              IsOkAndHolds(size_t{4000}));
}

TEST_P(PoolTest, ResultLargerThanTheMemoryFailsItsTask) {
  Pool pool(With({.processes = 1, .result_capacity_bytes = 4096}));
  const auto text = [](size_t size) { return std::string(size, 'x'); };
  EXPECT_THAT(pool.Apply(text, size_t{5000}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("result_capacity_bytes")));
  EXPECT_THAT(pool.Apply(text, size_t{3}), IsOkAndHolds("xxx"));
}

// ---- ApplyAsync ----

TEST_P(PoolTest, ApplyAsyncRunsAtMostProcessesAtOnceAndInParallel) {
  Pool pool(With({.processes = 3}));
  std::vector<AsyncResult<std::pair<absl::Time, absl::Time>>> results;
  for (int i = 0; i < 9; ++i) {
    results.push_back(pool.ApplyAsync([] {
      const absl::Time begin = absl::Now();
      absl::SleepFor(absl::Milliseconds(50));
      return std::make_pair(begin, absl::Now());
    }));
  }
  std::vector<std::pair<absl::Time, int>> events;
  for (const auto& result : results) {
    const auto times = result.Get();
    ASSERT_THAT(times.status(), IsOk());
    events.emplace_back(times->first, +1);
    events.emplace_back(times->second, -1);
  }
  std::sort(events.begin(), events.end());
  int running = 0;
  int most = 0;
  for (const auto& [time, change] : events) {
    running += change;
    most = std::max(most, running);
  }
  EXPECT_EQ(most, 3);
}

TEST_P(PoolTest, SubmittingNeverWaitsForRoom) {
  Pool pool(With({.processes = 2, .task_capacity_bytes = 4096}));
  // Many times what fits, while the workers are busy.
  std::vector<AsyncResult<size_t>> results;
  for (size_t i = 0; i < 1000; ++i) {
    results.push_back(pool.ApplyAsync(
        [](size_t n, const std::string& s) { return n + s.size(); }, i,
        std::string(100, 'x')));
  }
  for (size_t i = 0; i < 1000; ++i) {
    ASSERT_THAT(results[i].Get(), IsOkAndHolds(i + 100));
  }
}

TEST_P(PoolTest, NoWorkerIsIdleWhileTasksWaitForRoom) {
  Event go;
  Barrier all(4);
  Pool pool(With({.processes = 4,
                  .initializer = Initializer(
                      [](Event event, Barrier barrier) {
                        event.Wait();
                        return barrier;
                      },
                      go, all)}));
  // The memory for tasks holds two; none can end before all have begun.
  std::vector<AsyncResult<void>> results;
  for (int i = 0; i < 4; ++i) {
    results.push_back(pool.ApplyAsync(
        [](const std::string&) {
          return WorkerState<Barrier>().Wait().status();
        },
        std::string(400 << 10, 'x')));
  }
  go.Set();
  for (const auto& result : results) EXPECT_THAT(result.Get(), IsOk());
}

TEST_F(PoolProcessTest, TasksOfOneSubmitterStartInOrder) {
  Pool pool({.processes = 1, .task_capacity_bytes = 4096});
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 2000; ++i) {
    results.push_back(pool.ApplyAsync([] {
      static int count = 0;  // the worker's
      return count++;
    }));
  }
  for (int i = 0; i < 2000; ++i) {
    ASSERT_THAT(results[static_cast<size_t>(i)].Get(), IsOkAndHolds(i));
  }
}

TEST_P(PoolTest, SubmissionsFromManyThreads) {
  Pool pool(With({.processes = 2}));
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&pool, &right, t] {
      for (int i = 0; i < 200; ++i) {
        const absl::StatusOr<int> result = pool.Apply(Square, t * 1000 + i);
        if (result.ok() && *result == Square(t * 1000 + i)) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 8 * 200);
}

TEST_P(PoolTest, ResultsDroppedUnread) {
  Pool pool(With({.processes = 2}));
  for (int i = 0; i < 10'000; ++i) pool.ApplyAsync(Square, i);
  EXPECT_THAT(pool.Apply(Square, 5), IsOkAndHolds(25));
}

// ---- Map ----

TEST_P(PoolTest, MapKeepsTheOrder) {
  Pool pool(With({.processes = 3}));
  EXPECT_THAT(pool.Map(Square, Numbers(10'000)), IsOkAndHolds(Squares(10'000)));
}

TEST_P(PoolTest, MapOfNothing) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Map(Square, std::vector<int>()), IsOkAndHolds(IsEmpty()));
}

TEST_P(PoolTest, MapWithAnyChunkSize) {
  Pool pool(With({.processes = 2}));
  for (const size_t chunksize : {1, 2, 7, 99, 100, 101, 1'000'000}) {
    EXPECT_THAT(pool.Map(Square, Numbers(100), chunksize),
                IsOkAndHolds(Squares(100)))
        << chunksize;
  }
}

TEST_P(PoolTest, MapOfStringsAndOtherRanges) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(pool.Map([](const std::string& s) { return s.size(); },
                       std::set<std::string>{"a", "bcd", "ef"}),
              IsOkAndHolds(ElementsAre(1, 3, 2)));
  const char* const words[] = {"one", "three"};
  EXPECT_THAT(pool.Map([](const std::string& s) { return s + "?"; }, words),
              IsOkAndHolds(ElementsAre("one?", "three?")));
}

TEST_P(PoolTest, MapOfMoreThanTheMemoryHolds) {
  Pool pool(With({.processes = 2,
                  .task_capacity_bytes = 4096,
                  .result_capacity_bytes = 64 << 10}));
  EXPECT_THAT(pool.Map(Square, Numbers(40'000)), IsOkAndHolds(Squares(40'000)));
}

TEST_P(PoolTest, MapOfResultsLargerThanTheirArguments) {
  Pool pool(With({.processes = 2, .result_capacity_bytes = 1 << 20}));
  const absl::StatusOr<std::vector<std::string>> texts = pool.Map(
      [](int n) {
        return std::string(10'000, static_cast<char>('a' + n % 26));
      },
      Numbers(1000));
  ASSERT_THAT(texts.status(), IsOk());
  ASSERT_THAT(*texts, SizeIs(1000));
  EXPECT_EQ((*texts)[27], std::string(10'000, 'b'));
}

TEST_P(PoolTest, MapWithoutResults) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(pool.Map([](int) {}, Numbers(100)), IsOk());
}

TEST_P(PoolTest, MapReportsTheErrorAndDoesTheRest) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(pool.Map(
                  [](int n) {
                    if (n == 37) throw std::invalid_argument("not 37");
                    return n;
                  },
                  Numbers(100)),
              StatusIs(absl::StatusCode::kUnknown,
                       HasSubstr("std::invalid_argument: not 37")));
  EXPECT_THAT(pool.Map(
                  [](int n) -> absl::Status {
                    if (n < 50) return absl::OkStatus();
                    return absl::DataLossError("late");
                  },
                  Numbers(100)),
              StatusIs(absl::StatusCode::kDataLoss, "late"));
  EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
}

TEST_F(PoolProcessTest, MapReportsADeadWorker) {
  Pool pool({.processes = 2});
  const absl::Status status = pool.Map(
      [](int n) {
        if (n == 5) raise(SIGKILL);
      },
      Numbers(100), 10);
  EXPECT_TRUE(IsWorkerDied(status)) << status;
  EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
}

TEST_P(PoolTest, MapReportsTheErrorThatComesFirstInOrder) {
  Pool pool(With({.processes = 2}));
  for (int round = 0; round < 20; ++round) {
    EXPECT_THAT(pool.Map(
                    [](int n) {
                      if (n == 1) {
                        absl::SleepFor(absl::Milliseconds(1));
                        throw std::runtime_error("first");
                      }
                      if (n > 1) throw std::runtime_error("later");
                    },
                    Numbers(10), 1),
                StatusIs(absl::StatusCode::kUnknown, HasSubstr("first")));
  }
}

// CPython's test_map_no_failfast.
TEST_F(PoolProcessTest, MapDoesAllItemsThoughSomeFail) {
  Pool pool({.processes = 2});
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::vector<std::pair<int, int>> items;
  for (int i = 0; i < 100; ++i) items.emplace_back(ends[1], i);
  Pool late({.processes = 2});  // with the pipe
  EXPECT_THAT(late.Starmap(
                  [](int fd, int n) {
                    MP_CHECK(write(fd, "x", 1) == 1);
                    if (n % 7 == 0) throw std::runtime_error("seven");
                  },
                  items, 10),
              StatusIs(absl::StatusCode::kUnknown, HasSubstr("seven")));
  char bytes[101];
  EXPECT_EQ(read(ends[0], bytes, sizeof(bytes)), 100);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(PoolProcessTest, MapOfAResultThatIsTooLargeLeavesTheWorkerAlone) {
  Pool pool({.processes = 1, .result_capacity_bytes = 4096});
  const std::vector<pid_t> pids = pool.pids();
  EXPECT_THAT(pool.Map([](size_t size) { return std::string(size, 'x'); },
                       std::vector<size_t>{1, 100'000, 2}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("result_capacity_bytes")));
  EXPECT_THAT(
      pool.Map([](size_t size) { return std::string(size, 'x').size(); },
               std::vector<size_t>{1, 100'000, 2}),
      IsOkAndHolds(ElementsAre(1, 100'000, 2)));
  EXPECT_EQ(pool.pids(), pids);
}

TEST_P(PoolTest, MapOfAnItemThatIsTooLargeDoesTheRest) {
  Pool pool(With({.processes = 1, .task_capacity_bytes = 4096}));
  const auto size = [](const std::string& s) { return s.size(); };
  const std::string large(3000, 'x');
  EXPECT_THAT(pool.Map(size, std::vector<std::string>{"a", large, "b"}),
              IsOkAndHolds(ElementsAre(1, 3000, 1)));
  EXPECT_THAT(
      pool.Map(size, std::vector<std::string>{"a", std::string(9000, 'x')}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("task_capacity_bytes")));
}

TEST_P(PoolTest, MapOfRangesThatCanBeReadOnce) {
  Pool pool(With({.processes = 2}));
  const auto items = [] {
    return pool_internal::GeneratedRange([](int n) { return n; }, 100);
  };
  EXPECT_THAT(pool.Map(Square, items()), IsOkAndHolds(Squares(100)));
  EXPECT_THAT(pool.Map(Square, items(), 7), IsOkAndHolds(Squares(100)));
  EXPECT_THAT(pool.MapAsync(Square, items()).Get(), IsOkAndHolds(Squares(100)));
#ifdef MP_POOL_TEST_HAS_STD_VIEWS
  EXPECT_THAT(
      pool.Map(Square, std::views::iota(0, 5) | std::views::filter([](int n) {
                         return n % 2 == 0;
                       })),
      IsOkAndHolds(ElementsAre(0, 4, 16)));
#endif
}

// CPython's test_map_handle_iterable_exception.
// The elements of a vector, themselves; can be read once.
class ReferringRange {
 public:
  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using value_type = std::string;
    using difference_type = std::ptrdiff_t;

    std::string& operator*() const { return *at_; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& iterator, std::default_sentinel_t) {
      return iterator.at_ == iterator.end_;
    }

   private:
    friend class ReferringRange;
    explicit Iterator(std::vector<std::string>& elements)
        : at_(elements.data()), end_(at_ + elements.size()) {}

    std::string* at_;
    std::string* end_;
  };

  explicit ReferringRange(std::vector<std::string>& elements)
      : elements_(elements) {}

  Iterator begin() const { return Iterator(elements_); }
  std::default_sentinel_t end() const { return std::default_sentinel; }

 private:
  std::vector<std::string>& elements_;
};

TEST_P(PoolTest, MapLeavesTheItemsThatARangeRefersToAlone) {
  Pool pool(With({.processes = 1}));
  const std::string text(100, 'x');
  std::vector<std::string> texts(3, text);
  const auto size = [](const std::string& s) { return s.size(); };
  const ReferringRange range(texts);
  EXPECT_THAT(pool.Map(size, range), IsOkAndHolds(ElementsAre(100, 100, 100)));
  EXPECT_THAT(pool.Map(size, range, 2),
              IsOkAndHolds(ElementsAre(100, 100, 100)));
  EXPECT_THAT(texts, ElementsAre(text, text, text));
}

TEST_P(PoolTest, MapThrowsWhatTheRangeThrows) {
  Pool pool(With({.processes = 2}));
  for (const int bad : {0, 0, 3}) {
    const auto items = [bad] {
      return pool_internal::GeneratedRange([bad](int n) {
        if (n == bad) throw std::out_of_range("bad");
        return n;
      });
    };
    EXPECT_THROW(pool.Map(Square, items(), 1).status().IgnoreError(),
                 std::out_of_range);
    EXPECT_THROW(pool.MapAsync(Square, items()), std::out_of_range);
  }
  EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
}

TEST_P(PoolTest, MapOfAClosedPoolIsRefused) {
  Pool pool(With({.processes = 1}));
  pool.Close();
  EXPECT_THAT(pool.Map(Square, Numbers(10), 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(pool.MapAsync(Square, Numbers(10)).Get(),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

TEST_P(PoolTest, MapAsync) {
  Pool pool(With({.processes = 2}));
  AsyncResult<std::vector<int>> all = pool.MapAsync(Square, Numbers(1000));
  AsyncResult<void> nothing = pool.MapAsync([](int) {}, Numbers(1000), 7);
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(1000)));
  EXPECT_THAT(nothing.Get(), IsOk());
  EXPECT_THAT(pool.MapAsync(Square, Numbers(0), 1).Get(),
              IsOkAndHolds(IsEmpty()));
}

TEST_F(PoolProcessTest, MapAsyncOfMoreThanTheMemoryHoldsDoesNotWait) {
  Pool pool({.processes = 1, .task_capacity_bytes = 4096});
  // Nothing can be done before the worker goes on.
  ASSERT_THAT(pool.Apply(Square, 1), IsOk());
  const std::vector<pid_t> pids = pool.pids();
  for (const pid_t pid : pids) kill(pid, SIGSTOP);
  AsyncResult<std::vector<int>> all = pool.MapAsync(Square, Numbers(40'000));
  EXPECT_FALSE(all.Ready());
  for (const pid_t pid : pids) kill(pid, SIGCONT);
  EXPECT_THAT(all.Get(), IsOkAndHolds(Squares(40'000)));
}

// CPython's test_map_async_callbacks.
TEST_P(PoolTest, MapAsyncCallsBackOnceWithAllResults) {
  Pool pool(With({.processes = 2}));
  std::vector<std::vector<int>> results;  // the pool's thread's
  std::vector<absl::Status> errors;
  const auto fine = pool.MapAsync(Square, Numbers(4), 1);
  fine.OnSuccess([&](const std::vector<int>& all) { results.push_back(all); });
  fine.OnError([&](const absl::Status& error) { errors.push_back(error); });
  const auto failed = pool.MapAsync(
      [](int n) -> absl::StatusOr<int> {
        if (n == 1) return absl::NotFoundError("one");
        return n;
      },
      Numbers(4), 1);
  failed.OnSuccess(
      [&](const std::vector<int>& all) { results.push_back(all); });
  failed.OnError([&](const absl::Status& error) { errors.push_back(error); });
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(results, ElementsAre(ElementsAre(0, 1, 4, 9)));
  EXPECT_THAT(errors,
              ElementsAre(StatusIs(absl::StatusCode::kNotFound, "one")));
}

int Minus(int a, int b) { return a - b; }

TEST_P(PoolTest, StarmapSpreadsItems) {
  Pool pool(With({.processes = 2}));
  std::vector<std::pair<int, int>> pairs;
  std::vector<int> differences;
  for (int i = 0; i < 100; ++i) {
    pairs.emplace_back(i * i, i);
    differences.push_back(i * i - i);
  }
  EXPECT_THAT(pool.Starmap(Minus, pairs), IsOkAndHolds(differences));
  EXPECT_THAT(pool.Starmap(Minus, pairs, 20), IsOkAndHolds(differences));
  EXPECT_THAT(pool.StarmapAsync(Minus, pairs).Get(), IsOkAndHolds(differences));
  EXPECT_THAT(
      pool.Starmap(
          [](int n, const std::string& s, double x) {
            return s + std::to_string(n + static_cast<int>(x));
          },
          std::vector<std::tuple<int, const char*, double>>{{1, "a", 2.0}}),
      IsOkAndHolds(ElementsAre("a3")));
  EXPECT_THAT(pool.Starmap([](int a, int b, int c) { return a + b * c; },
                           std::vector<std::array<int, 3>>{{1, 2, 3}}),
              IsOkAndHolds(ElementsAre(7)));
  EXPECT_THAT(pool.Starmap([](int, int) {}, pairs), IsOk());
}

// ---- death ----

TEST_F(PoolProcessTest, DeadWorkerFailsItsOwnTaskOnly) {
  Pool pool({.processes = 2});
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 100; ++i) {
    results.push_back(pool.ApplyAsync(
        [](int n) {
          if (n % 10 == 3) raise(SIGKILL);
          return n;
        },
        i));
  }
  for (int i = 0; i < 100; ++i) {
    const absl::StatusOr<int> result = results[static_cast<size_t>(i)].Get();
    if (i % 10 == 3) {
      EXPECT_TRUE(IsWorkerDied(result.status())) << i << result.status();
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kAborted,
                                   AllOf(HasSubstr("PoolWorker-"),
                                         HasSubstr("SIGKILL"))));
    } else {
      EXPECT_THAT(result, IsOkAndHolds(i));
    }
  }
  // The dead are replaced.
  while (pool.pids().size() != 2) absl::SleepFor(absl::Milliseconds(1));
}

TEST_F(PoolProcessTest, WorkerThatExitsIsReportedWithItsCode) {
  Pool pool({.processes = 1});
  EXPECT_THAT(pool.Apply([] { _exit(7); }),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("code 7")));
  EXPECT_THAT(pool.Apply([] { std::abort(); }),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("SIGABRT")));
  EXPECT_THAT(pool.Apply(Square, 2), IsOkAndHolds(4));
}

TEST_F(PoolProcessTest, IdleWorkerKilledIsReplacedAndNothingFails) {
  Pool pool({.processes = 2});
  ASSERT_THAT(pool.Apply(Square, 1), IsOk());
  for (int round = 0; round < 20; ++round) {
    for (const pid_t pid : pool.pids()) kill(pid, SIGKILL);
    EXPECT_THAT(pool.Apply(Square, round), IsOkAndHolds(Square(round)));
  }
}

TEST_F(PoolProcessTest, PoolInsideAProcess) {
  Process process([] {
    Pool pool(PoolOptions{.processes = 2});
    const auto squares =
        pool.Map([](int x) { return x * x; }, std::vector<int>{1, 2, 3});
    return squares.ok() && *squares == std::vector<int>{1, 4, 9} ? 0 : 1;
  });
  ASSERT_OK(process.Start());
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), 0);
}

TEST_F(PoolProcessTest, PoolInsideAThread) {
  Pool threads({.processes = 1,
                .initializer = Initializer([] { return 5; }),
                .workers = PoolWorkers::kThreads});
  EXPECT_THAT(threads.Apply([] {
    Pool pool({.processes = 1});
    return pool.Apply([]() -> absl::Status {
      if (pool_internal::CurrentWorkerObject().type != nullptr) {
        return absl::InternalError("it has the thread's object");
      }
      if (pool_internal::WorkerName() != CurrentProcess().name) {
        return absl::InternalError("it has the thread's name");
      }
      return absl::OkStatus();
    });
  }),
              IsOk());
}

TEST_F(PoolProcessTest, BusyWorkersEndWhenThePoolsProcessIsKilled) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Process owner([&] {
    Pool pool(PoolOptions{.processes = 1});
    const auto never = pool.ApplyAsync(
        [](int fd) {
          MP_CHECK(write(fd, "x", 1) == 1);
          for (;;) pause();
        },
        ends[1]);
    for (;;) pause();
  });
  ASSERT_OK(owner.Start());
  close(ends[1]);
  char byte;
  EXPECT_EQ(read(ends[0], &byte, 1), 1);
  ASSERT_OK(owner.Kill());
  ASSERT_OK(owner.Join());
  EXPECT_EQ(read(ends[0], &byte, 1), 0) << "nobody has it any more";
  close(ends[0]);
}

TEST_F(PoolProcessTest, WorkersEndWhenThePoolsProcessIsKilled) {
  // The worker's pid comes back through a pipe, of which the worker holds the
  // write end: end of file means that every process that had it is gone.
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t owner = fork();
  ASSERT_GE(owner, 0);
  if (owner == 0) {
    close(ends[0]);
    Pool pool({.processes = 3});
    if (!pool.Apply(Square, 1).ok()) _exit(1);
    char ready = 'r';
    if (write(ends[1], &ready, 1) != 1) _exit(1);
    pause();
  }
  close(ends[1]);
  char byte;
  ASSERT_EQ(read(ends[0], &byte, 1), 1);
  kill(owner, SIGKILL);
  ASSERT_EQ(waitpid(owner, nullptr, 0), owner);
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
  close(ends[0]);
}

// ---- workers come and go ----

// CPython's test_pool_worker_lifetime.
TEST_F(PoolProcessTest, WorkersLeaveAfterTheirTasks) {
  Pool pool({.processes = 3, .maxtasksperchild = 10});
  const std::vector<pid_t> before = pool.pids();
  std::vector<AsyncResult<std::pair<pid_t, int>>> results;
  for (int i = 0; i < 200; ++i) {
    results.push_back(pool.ApplyAsync([] {
      static int count = 0;  // the worker's
      return std::make_pair(getpid(), ++count);
    }));
  }
  std::map<pid_t, std::set<int>> done;
  for (const auto& result : results) {
    ASSERT_THAT(result.Get(), IsOk());
    const auto [pid, count] = *result.Get();
    EXPECT_TRUE(done[pid].insert(count).second);
  }
  EXPECT_GE(done.size(), 20u);
  for (const auto& [pid, counts] : done) EXPECT_LE(*counts.rbegin(), 10);
  while (pool.pids().size() != 3) absl::SleepFor(absl::Milliseconds(1));
  for (const pid_t pid : pool.pids()) {
    EXPECT_THAT(before, Not(::testing::Contains(pid)));
  }
}

// CPython's test_pool_worker_lifetime_early_close.
TEST_P(PoolTest, WorkersLeaveAfterTheirTasksThoughThePoolIsClosed) {
  Pool pool(With({.processes = 3, .maxtasksperchild = 1}));
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 30; ++i) results.push_back(pool.ApplyAsync(Square, i));
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  for (int i = 0; i < 30; ++i) {
    EXPECT_THAT(results[static_cast<size_t>(i)].Get(), IsOkAndHolds(Square(i)));
  }
}

TEST_F(PoolProcessTest, AChunkIsOneTask) {
  Pool pool({.processes = 1, .maxtasksperchild = 1});
  const absl::StatusOr<std::vector<pid_t>> pids =
      pool.Map([](int) { return getpid(); }, Numbers(30), 10);
  ASSERT_THAT(pids.status(), IsOk());
  EXPECT_EQ(std::set<pid_t>(pids->begin(), pids->end()).size(), 3u);
}

// Whatever kills them, and however fast: the pool does not burn a processor on
// new ones, and goes on when it stops.
TEST_F(PoolProcessTest, WorkersThatAreKilledIdleAreReplacedMoreSlowly) {
  Pool pool({.processes = 1});
  const absl::Time begin = absl::Now();
  std::set<pid_t> killed;
  while (killed.size() < 18) {
    for (const pid_t pid : pool.pids()) {
      if (killed.insert(pid).second) kill(pid, SIGKILL);
    }
  }
  // 2 + 4 + 8 + ... + 100 milliseconds.
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(100));
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
}

// ---- the end ----

TEST_P(PoolTest, CloseHasDoneWhatWasSubmitted) {
  Pool pool(With({.processes = 2, .task_capacity_bytes = 4096}));
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 1000; ++i) results.push_back(pool.ApplyAsync(Square, i));
  pool.Close();
  EXPECT_THAT(pool.Apply(Square, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(pool.Join(), IsOk());
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(results[static_cast<size_t>(i)].Ready());
    EXPECT_THAT(results[static_cast<size_t>(i)].Get(), IsOkAndHolds(Square(i)));
  }
  EXPECT_THAT(pool.pids(), IsEmpty());
}

TEST_F(PoolProcessTest, CloseDespiteDeaths) {
  Pool pool({.processes = 2});
  std::vector<AsyncResult<int>> results;
  for (int i = 0; i < 200; ++i) {
    results.push_back(pool.ApplyAsync(
        [](int n) {
          if (n % 20 == 0) raise(SIGKILL);
          return n;
        },
        i));
  }
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  for (int i = 0; i < 200; ++i) {
    const absl::StatusOr<int> result = results[static_cast<size_t>(i)].Get();
    EXPECT_EQ(result.ok(), i % 20 != 0) << i << result.status();
  }
}

TEST_P(PoolTest, JoinBeforeCloseIsRefused) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Join(), StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

TEST_P(PoolTest, JoinWithTimeout) {
  Pool pool(With({.processes = 1}));
  const auto slow =
      pool.ApplyAsync([] { absl::SleepFor(absl::Milliseconds(200)); });
  pool.Close();
  const absl::Time begin = absl::Now();
  EXPECT_THAT(pool.Join(absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(20));
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(slow.Get(), IsOk());
}

TEST_F(PoolProcessTest, TerminateFailsWhatHasNotEnded) {
  Pool pool({.processes = 2});
  std::vector<AsyncResult<void>> results;
  for (int i = 0; i < 10; ++i) {
    results.push_back(
        pool.ApplyAsync([] { absl::SleepFor(absl::Seconds(1000)); }));
  }
  pool.Terminate();
  EXPECT_THAT(pool.Join(), IsOk());
  for (const auto& result : results) {
    EXPECT_THAT(result.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  }
  EXPECT_THAT(pool.Apply(Square, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

TEST_F(PoolProcessTest, TerminateEndsStoppedWorkers) {
  Pool pool({.processes = 2});
  ASSERT_THAT(pool.Apply(Square, 1), IsOk());
  for (const pid_t pid : pool.pids()) kill(pid, SIGSTOP);
  pool.Terminate();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(PoolProcessTest, DestructorTerminates) {
  std::vector<pid_t> pids;
  {
    Pool pool({.processes = 3});
    pids = pool.pids();
    pool.ApplyAsync([] { absl::SleepFor(absl::Seconds(1000)); });
  }
  ASSERT_THAT(pids, SizeIs(3));
  for (const pid_t pid : pids) EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(PoolProcessTest, MoveAssignmentTerminatesTheOldPool) {
  Pool pool({.processes = 1});
  const std::vector<pid_t> old = pool.pids();
  pool = Pool({.processes = 1});
  EXPECT_NE(kill(old[0], 0), 0);
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
}

// ---- surroundings ----

TEST_P(PoolTest, TwoPoolsAtOnce) {
  Pool a(With({.processes = 1}));
  Pool b(With({.processes = 2}));
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(a.Apply(Square, i), IsOkAndHolds(Square(i)));
    EXPECT_THAT(b.Apply(Square, i), IsOkAndHolds(Square(i)));
  }
}

TEST_P(PoolTest, ManyWorkersOnFewProcessors) {
  Pool pool(With({.processes = 100}));
  EXPECT_THAT(pool.Map(Square, Numbers(10'000), 1),
              IsOkAndHolds(Squares(10'000)));
}

TEST_F(PoolProcessTest, DefaultIsAWorkerForEachProcessor) {
  Pool pool;
  EXPECT_EQ(pool.processes(), CpuCount());
}

TEST_F(PoolProcessTest, BadOptionsAreReported) {
  EXPECT_THAT(Pool::Create({.processes = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(Pool::Create({.processes = 1, .maxtasksperchild = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(Pool::Create({.processes = 1, .task_capacity_bytes = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_P(PoolTest, InheritedPoolIsRefusedInAChild) {
  Pool pool(With({.processes = 1}));
  Process child([&pool] {
    const absl::Status refused = pool.Apply(Square, 1).status();
    return refused.code() == absl::StatusCode::kFailedPrecondition ? 0 : 1;
  });
  ASSERT_THAT(child.Start(), IsOk());
  ASSERT_THAT(child.Join(), IsOk());
  EXPECT_EQ(child.exitcode(), 0);
  EXPECT_THAT(pool.Apply(Square, 2), IsOkAndHolds(4));
}

TEST_F(PoolProcessTest, PoolInAChild) {
  Process child({.daemon = false}, [] {
    Pool pool({.processes = 2});
    return pool.Apply(Square, 3) == absl::StatusOr<int>(9) ? 0 : 1;
  });
  ASSERT_THAT(child.Start(), IsOk());
  ASSERT_THAT(child.Join(), IsOk());
  EXPECT_EQ(child.exitcode(), 0);
}

TEST_F(PoolProcessTest, ProgramThatExitsWithAnOpenPoolEnds) {
  Process program([] {
    static auto* const pool = new Pool({.processes = 2});
    pool->ApplyAsync([] { absl::SleepFor(absl::Seconds(1000)); });
    std::exit(5);
  });
  ASSERT_THAT(program.Start(), IsOk());
  ASSERT_THAT(program.Join(), IsOk());
  EXPECT_EQ(program.exitcode(), 5);
}

TEST_P(PoolTest, IdlePoolIsWokenAfterALongSleep) {
  Pool pool(With({.processes = 2}));
  for (int i = 0; i < 3; ++i) {
    absl::SleepFor(absl::Milliseconds(300));
    EXPECT_THAT(pool.Apply(Square, i), IsOkAndHolds(Square(i)));
  }
}

}  // namespace
}  // namespace mp
