#include "mp/pool/result_stream.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <numeric>
#include <optional>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/queue.h"
#include "mp/pool/async_result.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/worker_died.h"
#include "mp/sync/event.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::GeneratedRange;
using ::mp::pool_internal::Integers;
using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// For whatever kind of workers.
class ResultStreamTest : public pool_internal::AnyWorkersTest {};

INSTANTIATE_TEST_SUITE_P(Workers, ResultStreamTest, pool_internal::AnyWorkers(),
                         pool_internal::WorkersName);

class ResultStreamProcessTest : public mp::testing::ProcessTest {};

// All values of a stream, which must have no errors.
template <class T>
std::vector<T> Values(ResultStream<T> stream) {
  std::vector<T> values;
  for (absl::StatusOr<T>& each : stream) {
    EXPECT_THAT(each, IsOk());
    if (each.ok()) values.push_back(*std::move(each));
  }
  return values;
}

template <class T>
std::vector<T> Sorted(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  return values;
}

TEST_P(ResultStreamTest, ImapKeepsTheOrder) {
  Pool pool(With({.processes = 3}));
  EXPECT_EQ(Values(pool.Imap(Square, Numbers(5000))), Squares(5000));
  for (const size_t chunksize : {0, 1, 2, 7, 100, 5000, 10'000}) {
    EXPECT_EQ(Values(pool.Imap(Square, Numbers(1000), chunksize)),
              Squares(1000))
        << chunksize;
  }
}

TEST_P(ResultStreamTest, ImapUnorderedHasEachResultOnce) {
  Pool pool(With({.processes = 3}));
  EXPECT_EQ(Sorted(Values(pool.ImapUnordered(Square, Numbers(5000)))),
            Squares(5000));
  EXPECT_EQ(Sorted(Values(pool.ImapUnordered(Square, Numbers(1000), 7))),
            Squares(1000));
}

TEST_P(ResultStreamTest, UnorderedResultsComeAsTheyAreReady) {
  Pool pool(With({.processes = 2}));
  auto stream = pool.ImapUnordered(
      [](int n) {
        if (n == 0) absl::SleepFor(absl::Milliseconds(200));
        return n;
      },
      Numbers(10));
  EXPECT_NE(stream.Next().value(), 0);
}

TEST_P(ResultStreamTest, OfNothing) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(Values(pool.Imap(Square, Numbers(0))), IsEmpty());
  ResultStream<int> stream = pool.ImapUnordered(Square, Numbers(0), 3);
  EXPECT_TRUE(stream.Wait());
  EXPECT_FALSE(stream.Done());
  EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
  EXPECT_TRUE(stream.Done());
}

TEST_P(ResultStreamTest, NextGoesToTheEndAndStaysThere) {
  Pool pool(With({.processes = 2}));
  ResultStream<int> stream = pool.Imap(Square, Numbers(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(stream.Next(), IsOkAndHolds(Square(i)));
    EXPECT_FALSE(stream.Done());
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
    EXPECT_TRUE(stream.Done());
    EXPECT_TRUE(stream.Wait(absl::ZeroDuration()));
  }
}

TEST_P(ResultStreamTest, NextWithTimeoutCanBeCalledAgain) {
  Pool pool(With({.processes = 1}));
  for (const size_t chunksize : {1, 2}) {
    ResultStream<int> stream = pool.Imap(
        [](int n) {
          absl::SleepFor(absl::Milliseconds(100));
          return n;
        },
        Numbers(2), chunksize);
    const absl::Time begin = absl::Now();
    EXPECT_THAT(stream.Next(absl::Milliseconds(20)),
                StatusIs(absl::StatusCode::kDeadlineExceeded, _));
    EXPECT_GE(absl::Now() - begin, absl::Milliseconds(20));
    EXPECT_FALSE(stream.Wait(absl::ZeroDuration()));
    EXPECT_THAT(stream.Next(), IsOkAndHolds(0));
    EXPECT_TRUE(stream.Wait());
    EXPECT_THAT(stream.Next(absl::ZeroDuration()), IsOkAndHolds(1));
    EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
  }
}

TEST_P(ResultStreamTest, IsARange) {
  static_assert(std::ranges::input_range<ResultStream<int>>);
  static_assert(std::ranges::input_range<ResultStream<void>>);
  static_assert(std::is_same_v<std::ranges::range_value_t<ResultStream<int>>,
                               absl::StatusOr<int>>);
  static_assert(!std::is_copy_constructible_v<ResultStream<int>>);
  Pool pool(With({.processes = 2}));
  auto stream = pool.Imap(Square, Integers());
  int n = 0;
  for (auto it = stream.begin(); it != stream.end() && n < 5; ++it) {
    EXPECT_THAT(*it, IsOkAndHolds(Square(n++)));
    EXPECT_TRUE(it->ok());
  }
#ifdef MP_POOL_TEST_HAS_STD_VIEWS
  auto more = pool.Imap(Square, std::views::iota(0));
  int sum = 0;
  for (const int each : more | std::views::take(5) |
                            std::views::transform([](absl::StatusOr<int>& s) {
                              return s.value();
                            })) {
    sum += each;
  }
  EXPECT_EQ(sum, 0 + 1 + 4 + 9 + 16);
#endif
}

TEST_P(ResultStreamTest, CanBeMoved) {
  Pool pool(With({.processes = 2}));
  ResultStream<int> stream = pool.Imap(Square, Numbers(10));
  EXPECT_THAT(stream.Next(), IsOkAndHolds(0));
  ResultStream<int> other = std::move(stream);
  EXPECT_THAT(other.Next(), IsOkAndHolds(1));
  stream = pool.Imap(Square, Numbers(3));
  other = std::move(stream);
  EXPECT_EQ(Values(std::move(other)), Squares(3));
}

TEST_P(ResultStreamTest, ResultsOfManyTypes) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(Values(pool.Imap([](const std::string& s) { return s + "!"; },
                               std::vector<const char*>{"a", "b"})),
              ElementsAre("a!", "b!"));
  int count = 0;
  for (const absl::Status& each : pool.Imap([](int) {}, Numbers(10), 3)) {
    EXPECT_THAT(each, IsOk());
    ++count;
  }
  EXPECT_EQ(count, 10);
  EXPECT_THAT(Values(pool.Imap([](int n) { return n > 1; }, Numbers(4), 2)),
              ElementsAre(false, false, true, true));
}

TEST_P(ResultStreamTest, AnErrorIsItsItemsOwn) {
  Pool pool(With({.processes = 2}));
  const auto work = [](int n) -> absl::StatusOr<int> {
    if (n % 10 == 3) return absl::NotFoundError("three");
    if (n % 10 == 5) throw std::out_of_range("five");
    return n;
  };
  for (const size_t chunksize : {1, 4, 100}) {
    int n = 0;
    for (const absl::StatusOr<int>& each :
         pool.Imap(work, Numbers(100), chunksize)) {
      if (n % 10 == 3) {
        EXPECT_THAT(each, StatusIs(absl::StatusCode::kNotFound, "three"));
      } else if (n % 10 == 5) {
        EXPECT_THAT(each, StatusIs(absl::StatusCode::kUnknown,
                                   HasSubstr("out_of_range: five")));
      } else {
        EXPECT_THAT(each, IsOkAndHolds(n));
      }
      ++n;
    }
    EXPECT_EQ(n, 100);
  }
}

TEST_P(ResultStreamTest, TasksOwnOutOfRangeIsNotTheEnd) {
  Pool pool(With({.processes = 1}));
  auto stream = pool.Imap(
      [](int) -> absl::Status { return absl::OutOfRangeError("mine"); },
      Numbers(2));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, "mine"));
    EXPECT_FALSE(stream.Done());
  }
  EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
  EXPECT_TRUE(stream.Done());
}

TEST_P(ResultStreamTest, ItemsAndResultsThatAreTooLarge) {
  Pool pool(With({.processes = 1,
                  .task_capacity_bytes = 4096,
                  .result_capacity_bytes = 4096}));
  const auto twice = [](const std::string& s) { return s + s; };
  const std::vector<std::string> items = {"a", std::string(5000, 'x'), "b",
                                          std::string(3000, 'y'), "c"};
  for (const size_t chunksize : {1, 3}) {
    auto stream = pool.Imap(twice, items, chunksize);
    EXPECT_THAT(stream.Next(), IsOkAndHolds("aa"));
    EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("task_capacity_bytes")));
    EXPECT_THAT(stream.Next(), IsOkAndHolds("bb"));
    EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kResourceExhausted,
                                        HasSubstr("result_capacity_bytes")));
    EXPECT_THAT(stream.Next(), IsOkAndHolds("cc"));
    EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
  }
}

TEST_F(ResultStreamProcessTest, DeadWorkerFailsItsChunkOnly) {
  Pool pool({.processes = 2});
  const auto work = [](int n) {
    if (n % 30 == 5) raise(SIGKILL);
    return n;
  };
  int n = 0;
  for (const absl::StatusOr<int>& each : pool.Imap(work, Numbers(100))) {
    if (n % 30 == 5) {
      EXPECT_TRUE(IsWorkerDied(each.status())) << n << each.status();
    } else {
      EXPECT_THAT(each, IsOkAndHolds(n));
    }
    ++n;
  }
  EXPECT_EQ(n, 100);
  n = 0;
  for (const absl::StatusOr<int>& each : pool.Imap(work, Numbers(100), 10)) {
    EXPECT_EQ(each.ok(), n / 10 % 3 != 0) << n;
    EXPECT_EQ(IsWorkerDied(each.status()), n / 10 % 3 == 0) << n;
    ++n;
  }
  EXPECT_EQ(n, 100);
  std::multiset<int> values;
  int died = 0;
  for (const absl::StatusOr<int>& each :
       pool.ImapUnordered(work, Numbers(100))) {
    if (each.ok()) {
      values.insert(*each);
    } else {
      EXPECT_TRUE(IsWorkerDied(each.status()));
      ++died;
    }
  }
  EXPECT_EQ(died, 4);
  EXPECT_EQ(values.size(), 96u);
  EXPECT_EQ(std::set<int>(values.begin(), values.end()).size(), 96u);
}

// Counts how many items have been read.
auto Counted(int& read) {
  return GeneratedRange([&read](int n) {
    ++read;
    return n;
  });
}

TEST_P(ResultStreamTest, ReadsNoFurtherThanTheBuffer) {
  Pool pool(With({.processes = 2}));
  for (const bool ordered : {true, false}) {
    int read = 0;
    auto stream = ordered ? pool.Imap(Square, Counted(read), 1, 10)
                          : pool.ImapUnordered(Square, Counted(read), 1, 10);
    for (int i = 1; i <= 1000; ++i) {
      ASSERT_THAT(stream.Next(), IsOk());
      ASSERT_GE(read, i);
      ASSERT_LE(read, i + 10);
    }
  }
}

TEST_P(ResultStreamTest, ReadsNoFurtherThanTheDefaultBuffer) {
  Pool pool(With({.processes = 2}));
  int read = 0;
  auto stream = pool.ImapUnordered(Square, Counted(read));
  for (int i = 1; i <= 10'000; ++i) {
    ASSERT_THAT(stream.Next(), IsOk());
    ASSERT_LE(read, i + 1024);
  }
}

TEST_P(ResultStreamTest, ReadsNotMuchMoreThanTheMemoryForTasks) {
  Pool pool(With({.processes = 1, .task_capacity_bytes = 64 << 10}));
  int read = 0;
  GeneratedRange items([&read](int) {
    ++read;
    return std::string(8000, 'x');
  });
  auto stream = pool.Imap([](const std::string& s) { return s.size(); }, items);
  for (int i = 1; i <= 200; ++i) {
    ASSERT_THAT(stream.Next(), IsOkAndHolds(size_t{8000}));
    ASSERT_LE(read, i + 9);
  }
}

TEST_P(ResultStreamTest, ReadsLessAheadIfResultsAreLarge) {
  Pool pool(With({.processes = 2}));
  int read = 0;
  auto stream = pool.ImapUnordered(
      [](int) { return std::string(200'000, 'x'); }, Counted(read));
  for (int i = 1; i <= 300; ++i) {
    absl::SleepFor(absl::Microseconds(200));
    ASSERT_THAT(stream.Next(), IsOk());
    if (i > 100) {
      ASSERT_LE(read, i + 20);
    }
  }
}

TEST_P(ResultStreamTest, WorkBeginsBeforeTheFirstNext) {
  Pool pool(With({.processes = 1}));
  int read = 0;
  auto stream = pool.Imap(Square, Counted(read));
  EXPECT_GT(read, 0);
  ASSERT_TRUE(stream.Wait());
  EXPECT_THAT(stream.Next(absl::ZeroDuration()), IsOkAndHolds(0));
}

TEST_P(ResultStreamTest, RefersToNamedRangesAndKeepsTemporaryOnes) {
  Pool pool(With({.processes = 1}));
  std::vector<int> numbers = {1, 2, 3};
  auto stream = pool.Imap(Square, numbers, 1, 1);
  EXPECT_THAT(stream.Next(), IsOkAndHolds(1));
  numbers[2] = 5;
  EXPECT_THAT(stream.Next(), IsOkAndHolds(4));
  EXPECT_THAT(stream.Next(), IsOkAndHolds(25));

  auto owner = std::make_unique<std::vector<int>>(std::vector{4, 5, 6});
  auto kept = pool.Imap(Square, std::move(*owner), 1, 1);
  owner.reset();
  EXPECT_EQ(Values(std::move(kept)), (std::vector{16, 25, 36}));
}

// CPython's test_imap_handle_iterable_exception. There the items of the chunk
// that has the bad one are lost.
TEST_P(ResultStreamTest, ThrowsWhatTheInputThrowsInItsPlace) {
  Pool pool(With({.processes = 2}));
  for (const int bad : {0, 1, 5}) {
    for (const size_t chunksize : {1, 2, 4}) {
      for (const bool ordered : {true, false}) {
        GeneratedRange items([bad](int n) {
          if (n == bad) throw std::out_of_range("bad");
          return n;
        });
        auto stream = ordered ? pool.Imap(Square, items, chunksize)
                              : pool.ImapUnordered(Square, items, chunksize);
        std::vector<int> values;
        for (int i = 0; i < bad; ++i) values.push_back(stream.Next().value());
        EXPECT_EQ(Sorted(values), Squares(bad));
        EXPECT_THROW(stream.Next().status().IgnoreError(), std::out_of_range);
        EXPECT_FALSE(stream.Done());
        EXPECT_THAT(stream.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
        EXPECT_TRUE(stream.Done());
      }
    }
  }
  EXPECT_EQ(Values(pool.Imap(Square, Numbers(10))), Squares(10));
}

TEST_P(ResultStreamTest, DroppedHalfRead) {
  Pool pool(With({.processes = 2}));
  for (int round = 0; round < 100; ++round) {
    auto stream = pool.ImapUnordered(Square, Integers());
    for (int i = 0; i < round; ++i) ASSERT_THAT(stream.Next(), IsOk());
  }
  EXPECT_THAT(pool.Apply(Square, 5), IsOkAndHolds(25));
}

TEST_P(ResultStreamTest, DroppedStreamTakesItsTasksBack) {
  Event go;
  absl::StatusOr<Queue<int>> ran = Queue<int>::Create();
  ASSERT_THAT(ran.status(), IsOk());
  Pool pool(With(
      {.processes = 1,
       .initializer = Initializer(
           [](Event e, Queue<int> q) { return std::pair(e, q); }, go, *ran)}));
  const auto work = [](int n) {
    auto& [event, queue] = WorkerState<std::pair<Event, Queue<int>>>();
    queue.Put(n).IgnoreError();
    event.Wait();
  };
  {
    auto stream = pool.ImapUnordered(work, Integers(), 1, 50);
    EXPECT_FALSE(stream.Wait(absl::ZeroDuration()));
    EXPECT_THAT(ran->Get(), IsOkAndHolds(0));
  }
  go.Set();
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(ran->Get(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
}

TEST_P(ResultStreamTest, DroppedStreamLeavesTheTasksOfOthersAlone) {
  Event go;
  Pool pool(With({.processes = 1,
                  .initializer = Initializer([](Event e) { e.Wait(); }, go)}));
  // The pool's first, whose id is as low as any.
  const AsyncResult<int> other = pool.ApplyAsync(Square, 3);
  {
    const std::vector<std::string> too_large(1, std::string(2 << 20, 'x'));
    const auto stream = pool.Imap(
        [](const std::string& text) { return text.size(); }, too_large);
  }
  go.Set();
  EXPECT_THAT(other.Get(), IsOkAndHolds(9));
}

TEST_P(ResultStreamTest, OfAClosedPoolIsRefusedOnce) {
  Pool pool(With({.processes = 2}));
  auto early = pool.Imap(Square, Integers(), 1, 10);
  pool.Close();
  int done = 0;
  absl::StatusOr<int> next = early.Next();
  for (; next.ok(); next = early.Next()) EXPECT_EQ(*next, Square(done++));
  EXPECT_GE(done, 1);
  EXPECT_LE(done, 10);
  EXPECT_THAT(next, StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(early.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
  auto late = pool.Imap(Square, Integers());
  EXPECT_THAT(late.Next(), StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(late.Next(), StatusIs(absl::StatusCode::kOutOfRange, _));
}

TEST_F(ResultStreamProcessTest, OutlivesItsPool) {
  std::optional<ResultStream<int>> stream;
  {
    Pool pool({.processes = 1});
    stream = pool.Imap(
        [](int n) {
          if (n > 0) absl::SleepFor(absl::Seconds(1000));
          return n;
        },
        Integers(), 1, 3);
    EXPECT_THAT(stream->Next(), IsOkAndHolds(0));
  }
  int errors = 0;
  for (const absl::StatusOr<int>& each : *stream) {
    EXPECT_FALSE(each.ok());
    ++errors;
  }
  EXPECT_LE(errors, 4);
  EXPECT_GE(errors, 2);
}

TEST_P(ResultStreamTest, TwoStreamsOfOnePool) {
  Pool pool(With({.processes = 2}));
  auto squares = pool.Imap(Square, Integers());
  auto negatives = pool.Imap([](int n) { return -n; }, Integers(), 3);
  for (int i = 0; i < 2000; ++i) {
    ASSERT_THAT(squares.Next(), IsOkAndHolds(Square(i)));
    ASSERT_THAT(negatives.Next(), IsOkAndHolds(-i));
  }
}

}  // namespace
}  // namespace mp
