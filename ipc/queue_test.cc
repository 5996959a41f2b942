#include "mp/ipc/queue.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::Pointee;

class QueueTest : public testing::ProcessTest {};

// Sleepers do not look around by themselves, so a wake-up that is lost hangs
// the test. For tests in which nobody dies.
class PatientQueueTest : public QueueTest {
 protected:
  PatientQueueTest() { ParkSlices::SetFirstForTest(3600'000'000'000); }
  ~PatientQueueTest() override { ParkSlices::SetFirstForTest(0); }
};

// ---- One process.

TEST_F(QueueTest, FirstInFirstOut) {
  Queue<int> queue;
  for (int i = 0; i < 100; ++i) ASSERT_OK(queue.Put(i));
  for (int i = 0; i < 100; ++i) ASSERT_THAT(queue.Get(), IsOkAndHolds(i));
}

// ---- Many at a time.

TEST_F(QueueTest, ManyKeepTheirOrder) {
  Queue<std::string> queue;
  std::vector<std::string> items;
  for (int i = 0; i < 100; ++i) items.push_back(std::string(i, 'x'));
  EXPECT_THAT(queue.PutMany(items), IsOkAndHolds(100u));
  EXPECT_EQ(queue.qsize(), 100u);
  EXPECT_THAT(queue.Get(), IsOkAndHolds(items[0]));
  EXPECT_THAT(queue.GetMany(40),
              IsOkAndHolds(ElementsAreArray(items.data() + 1, 40)));
  EXPECT_EQ(queue.qsize(), 59u);
  EXPECT_THAT(queue.GetMany(1000),
              IsOkAndHolds(ElementsAreArray(items.data() + 41, 59)));
  EXPECT_TRUE(queue.Empty());
}

TEST_F(QueueTest, ManyUpToTheLimit) {
  Queue<int> queue(/*maxsize=*/3);
  const std::vector<int> items = {1, 2, 3, 4, 5};
  EXPECT_THAT(queue.PutMany(items, absl::ZeroDuration()), IsOkAndHolds(3u));
  EXPECT_THAT(queue.PutMany(items, absl::Milliseconds(10)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(queue.GetMany(2), IsOkAndHolds(ElementsAre(1, 2)));
  EXPECT_THAT(queue.PutMany(std::span(items).subspan(3), absl::ZeroDuration()),
              IsOkAndHolds(2u));
  EXPECT_THAT(queue.GetMany(9), IsOkAndHolds(ElementsAre(3, 4, 5)));
  EXPECT_THAT(queue.GetMany(9, absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(queue.PutMany({}), IsOkAndHolds(0u));
  EXPECT_THAT(queue.GetMany(0), IsOkAndHolds(IsEmpty()));
  queue.Close();
  EXPECT_THAT(queue.PutMany(items),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.GetMany(9), StatusIs(absl::StatusCode::kOutOfRange));
}

// Whether they come one by one or many at a time, and whoever waits.
TEST_F(QueueTest, NeverHoldsMoreThanMaxsize) {
  constexpr size_t kMaxsize = 2;
  constexpr int kEach = 5'000;
  Queue<int> queue(kMaxsize);
  std::vector<ChildProcess> children;
  for (int i = 0; i < 2; ++i) {
    children.push_back(ChildProcess::Start([&, i] {
      for (int n = 0; n < kEach; ++n) {
        ASSERT_OK(i == 0 ? queue.Put(n)
                         : queue.PutMany(std::vector{n}).status());
      }
    }));
  }
  for (int n = 0; n < 2 * kEach; ++n) {
    ASSERT_LE(queue.qsize(), kMaxsize);
    ASSERT_OK(queue.Get());
  }
  for (ChildProcess& child : children) child.ExpectExit();
}

// An item that cannot go ends the row before it and is the next call's error.
TEST_F(QueueTest, ManyWithABadOneAmongThem) {
  Queue<std::string> queue({.capacity_bytes = 4096});
  const std::vector<std::string> items = {"a", "b", std::string(5000, 'c'),
                                          "d"};
  EXPECT_THAT(queue.PutMany(items), IsOkAndHolds(2u));
  EXPECT_THAT(queue.PutMany(std::span(items).subspan(2)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(queue.GetMany(9), IsOkAndHolds(ElementsAre("a", "b")));
}

// Bytes that are no T do not hide in a row: what was before comes first.
TEST_F(QueueTest, ManyWithADamagedOneAmongThem) {
  struct Damaged {
    static void Put(const Queue<std::string>& queue) {
      ipc_internal::Ring ring = std::get<0>(HandleAccess::Parts(queue));
      ASSERT_EQ(
          ring.Put(
              3, [](std::byte*, uint32_t) { return true; }, Deadline::Now()),
          ipc_internal::RingResult::kDone);
    }
  };
  Queue<std::string> queue;
  ASSERT_OK(queue.Put("a"));
  Damaged::Put(queue);
  ASSERT_OK(queue.Put("b"));
  EXPECT_THAT(queue.GetMany(9), IsOkAndHolds(ElementsAre("a")));
  EXPECT_EQ(queue.qsize(), 2u);
  EXPECT_THAT(queue.GetMany(9), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(queue.qsize(), 1u);
  EXPECT_THAT(queue.GetMany(9), IsOkAndHolds(ElementsAre("b")));
}

// What a codec throws in the middle of many does not take the others along.
struct Thrower {
  int number = 0;
};

}  // namespace

template <>
struct Codec<Thrower> {
  static size_t Size(const Thrower& t) { return EncodedSize(t.number); }
  static void Write(const Thrower& t, Writer& writer) {
    if (t.number == 13) throw std::runtime_error("unlucky");
    writer.Write(t.number);
  }
  static Thrower Read(Reader& reader) {
    const int number = reader.Read<int>();
    if (number == 23) throw std::runtime_error("not now");
    return {number};
  }
};

namespace {

TEST_F(QueueTest, ManyWithExceptions) {
  Queue<Thrower> queue;
  const std::vector<Thrower> items = {{1}, {13}, {2}};
  EXPECT_THAT(queue.PutMany(items), IsOkAndHolds(1u));
  EXPECT_THROW(queue.PutMany(std::span(items).subspan(1)).IgnoreError(),
               std::runtime_error);
  EXPECT_EQ(queue.qsize(), 1u);
  ASSERT_OK(queue.Put({23}));
  absl::StatusOr<std::vector<Thrower>> gotten = queue.GetMany(9);
  ASSERT_OK(gotten);
  EXPECT_EQ(gotten->size(), 1u);
  EXPECT_THROW(queue.GetMany(9).IgnoreError(), std::runtime_error);
  EXPECT_EQ(queue.qsize(), 1u) << "it has stayed";
}

// More than there is ever room for, between processes, in both ways.
TEST_F(PatientQueueTest, ManyThroughANarrowQueue) {
  constexpr int kItems = 20'000;
  Queue<int> queue(/*maxsize=*/7);
  ChildProcess producer = ChildProcess::Start([queue]() mutable {
    std::vector<int> items(kItems);
    for (int i = 0; i < kItems; ++i) items[i] = i;
    EXPECT_THAT(queue.PutMany(items), IsOkAndHolds(size_t{kItems}));
  });
  int next = 0;
  while (next < kItems) {
    absl::StatusOr<std::vector<int>> items = queue.GetMany(5);
    ASSERT_OK(items);
    ASSERT_THAT(items->size(), AllOf(Ge(1u), Le(5u)));
    for (const int item : *items) ASSERT_EQ(item, next++);
  }
  producer.ExpectExit(0);
}

// CPython: test_put, test_get, test_qsize.
TEST_F(QueueTest, SizesAreExact) {
  Queue<std::string> queue(/*maxsize=*/3);
  for (size_t size = 0; size < 3; ++size) {
    EXPECT_EQ(queue.qsize(), size);
    EXPECT_EQ(queue.Empty(), size == 0);
    EXPECT_FALSE(queue.Full());
    ASSERT_OK(queue.Put("x"));
  }
  EXPECT_EQ(queue.qsize(), 3u);
  EXPECT_FALSE(queue.Empty());
  EXPECT_TRUE(queue.Full());
  EXPECT_THAT(
      queue.PutNowait("y"),
      StatusIs(absl::StatusCode::kResourceExhausted, "the queue is full"));
  EXPECT_EQ(queue.qsize(), 3u);
  ASSERT_OK(queue.Get());
  EXPECT_EQ(queue.qsize(), 2u);
  EXPECT_FALSE(queue.Full());
  ASSERT_OK(queue.PutNowait("y"));
  EXPECT_TRUE(queue.Full());
  while (queue.GetNowait().ok()) {
  }
  EXPECT_EQ(queue.qsize(), 0u);
  EXPECT_TRUE(queue.Empty());
}

TEST_F(QueueTest, LimitedByMemoryAlone) {
  Queue<std::array<char, 56>> queue({.capacity_bytes = 4096});
  size_t count = 0;
  while (queue.PutNowait({}).ok()) ++count;
  // 64 bytes an item, in whole pages of whatever size.
  EXPECT_GE(count, 4096u / 64);
  EXPECT_EQ(count * 64 % 4096, 0u);
  EXPECT_EQ(queue.qsize(), count);
  EXPECT_FALSE(queue.Full()) << "there is no maximum number";
}

// Nobody need be there to take what is put.
TEST_F(QueueTest, UnlimitedByDefault) {
  Queue<std::string> queue;
  const std::string item(1000, 'x');
  for (int i = 0; i < 20'000; ++i) ASSERT_OK(queue.PutNowait(item));
  ASSERT_OK(queue.PutNowait(std::string(10'000'000, 'y')));
  EXPECT_EQ(queue.qsize(), 20'001U);
  for (int i = 0; i < 20'000; ++i) ASSERT_THAT(queue.Get(), IsOkAndHolds(item));
  ASSERT_OK_AND_ASSIGN(const std::string large, queue.Get());
  EXPECT_TRUE(large == std::string(10'000'000, 'y'));
}

TEST_F(QueueTest, MaxsizeItemsFit) {
  Queue<std::array<char, 1000>> queue(/*maxsize=*/5000);
  for (int i = 0; i < 5000; ++i) ASSERT_OK(queue.PutNowait({}));
  EXPECT_TRUE(queue.Full());
  EXPECT_THAT(queue.PutNowait({}),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(QueueTest, EmptyQueue) {
  Queue<int> queue;
  EXPECT_THAT(queue.GetNowait(),
              StatusIs(absl::StatusCode::kUnavailable, "the queue is empty"));
  EXPECT_THAT(
      queue.Get(absl::ZeroDuration()),
      StatusIs(absl::StatusCode::kDeadlineExceeded, "the queue stayed empty"));
  EXPECT_THAT(queue.Get(absl::Seconds(-1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(queue.Get(-absl::InfiniteDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  // With an item there, even no time is enough.
  ASSERT_OK(queue.Put(1));
  EXPECT_THAT(queue.Get(absl::ZeroDuration()), IsOkAndHolds(1));
}

TEST_F(QueueTest, FullQueue) {
  Queue<int> queue(/*maxsize=*/1);
  ASSERT_OK(queue.Put(1, absl::ZeroDuration()));
  EXPECT_THAT(
      queue.Put(2, absl::ZeroDuration()),
      StatusIs(absl::StatusCode::kDeadlineExceeded, "the queue stayed full"));
  EXPECT_THAT(queue.Put(2, absl::Seconds(-1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(queue.PutNowait(2),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(1));
  EXPECT_TRUE(queue.Empty());
}

// CPython: test_timeout, and the timed parts of test_put and test_get.
TEST_F(QueueTest, Timeouts) {
  Queue<int> queue(/*maxsize=*/1);
  constexpr absl::Duration kTimeout = absl::Milliseconds(40);
  int64_t start = MonotonicNanos();
  EXPECT_THAT(queue.Get(kTimeout),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_GE(MonotonicNanos() - start, absl::ToInt64Nanoseconds(kTimeout));
  ASSERT_OK(queue.Put(1));
  start = MonotonicNanos();
  EXPECT_THAT(queue.Put(2, kTimeout),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_GE(MonotonicNanos() - start, absl::ToInt64Nanoseconds(kTimeout));
  EXPECT_EQ(queue.qsize(), 1u);
}

// ---- Making queues.

TEST_F(QueueTest, Handles) {
  Queue<int> queue;
  Queue<int> same = queue;
  Queue<int> other;
  EXPECT_EQ(queue, same);
  EXPECT_NE(queue, other);
  ASSERT_OK(queue.Put(1));
  EXPECT_THAT(same.Get(), IsOkAndHolds(1));
  ASSERT_OK(same.Put(2));
  {
    const Queue<int> moved = std::move(queue);
    EXPECT_EQ(moved, same);
  }
  queue = other;
  EXPECT_TRUE(queue.Empty());
  EXPECT_THAT(same.Get(), IsOkAndHolds(2)) << "the last handle is left";
}

TEST_F(QueueTest, Create) {
  ASSERT_OK_AND_ASSIGN(Queue<int> queue, Queue<int>::Create({.maxsize = 2}));
  ASSERT_OK(queue.Put(1));
  EXPECT_FALSE(queue.Full());
  EXPECT_OK(Queue<int>::Create());
}

TEST_F(QueueTest, AbsurdOptions) {
  EXPECT_THAT(
      Queue<int>::Create({.maxsize = size_t{1} << 32}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("at most 4294967296 items: the limit is 4294967295")));
  EXPECT_THAT(Queue<int>::Create({.capacity_bytes = size_t{1} << 60}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("capacity of 1152921504606846976 bytes")));
}

TEST_F(QueueTest, ConstructorAborts) {
  EXPECT_DEATH(Queue<int>{std::numeric_limits<size_t>::max()},
               "a queue of at most 18446744073709551615 items");
}

// There is nothing to join; the calls are there for who knows Python.
TEST_F(QueueTest, JoinThread) {
  Queue<int> queue;
  ASSERT_OK(queue.Put(1));
  queue.Close();
  queue.JoinThread();
  queue.CancelJoinThread();
  EXPECT_THAT(queue.Get(), IsOkAndHolds(1));
}

// ---- Types.

struct Point {
  int x = 0;
  double y = 0;
  friend bool operator==(const Point&, const Point&) = default;
};

struct Person {
  std::string name;
  std::vector<Point> path;
  std::optional<int> age;
  friend bool operator==(const Person&, const Person&) = default;
};

// Sends `value` to a child and back.
template <class T>
void RoundTrip(const T& value) {
  Queue<T> there;
  Queue<T> back;
  auto child = ChildProcess::Start([&] {
    ASSERT_OK_AND_ASSIGN(const T got, there.Get());
    EXPECT_EQ(got, value);
    ASSERT_OK(back.Put(got));
  });
  ASSERT_OK(there.Put(value));
  EXPECT_THAT(back.Get(), IsOkAndHolds(value));
  child.ExpectExit();
}

TEST_F(QueueTest, Types) {
  RoundTrip<char>('x');
  RoundTrip<bool>(true);
  RoundTrip<double>(-1.5);
  RoundTrip<std::string>("");
  RoundTrip<std::string>(std::string("a\0b", 3));
  RoundTrip<std::string>(std::string(100'000, 'x'));
  RoundTrip<std::vector<int>>({1, 2, 3});
  RoundTrip<std::vector<std::string>>({"", "a", std::string(1000, 'b')});
  RoundTrip<std::tuple<int, std::string, Point>>({1, "two", {.x = 3, .y = 4}});
  RoundTrip<std::pair<int, std::string>>({1, "two"});
  RoundTrip<std::map<std::string, int>>({{"a", 1}, {"b", 2}});
  RoundTrip<std::variant<int, std::string>>("text");
  RoundTrip<std::optional<std::string>>(std::nullopt);
  RoundTrip<Point>({.x = 1, .y = 2});
  RoundTrip<Person>({.name = "Ada", .path = {{1, 2}, {3, 4}}, .age = 36});
  RoundTrip<std::tuple<>>({});
}

TEST_F(QueueTest, TypeThatCanOnlyBeMoved) {
  Queue<std::unique_ptr<std::string>> queue;
  const auto item = std::make_unique<std::string>("mine");
  ASSERT_OK(queue.Put(item));
  EXPECT_EQ(*item, "mine") << "Put copies";
  ASSERT_OK(queue.Put(nullptr));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<std::string> gotten, queue.Get());
  EXPECT_THAT(gotten, Pointee(std::string("mine")));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<std::string> null, queue.Get());
  EXPECT_EQ(null, nullptr);
}

// Without a default constructor.
class Celsius {
 public:
  explicit Celsius(double degrees) : degrees_(degrees) {}
  double degrees() const { return degrees_; }

 private:
  double degrees_;
};

TEST_F(QueueTest, TypeWithoutDefaultConstructor) {
  Queue<Celsius> queue;
  ASSERT_OK(queue.Put(Celsius(21.5)));
  ASSERT_OK_AND_ASSIGN(const Celsius gotten, queue.Get());
  EXPECT_EQ(gotten.degrees(), 21.5);
}

// ---- Items that cannot be put.

TEST_F(QueueTest, TooLargeItem) {
  Queue<std::string> queue({.capacity_bytes = 4096});
  const absl::Status status = queue.Put(std::string(1'000'000, 'x'));
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("1000008 encoded bytes"),
                             HasSubstr("QueueOptions::capacity_bytes"))));
  EXPECT_THAT(queue.PutNowait(std::string(1'000'000, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(queue.Empty());
  ASSERT_OK(queue.Put("x"));
}

// Nothing but luck decides how its values are encoded.
struct Fickle {
  enum Mood { kFine, kRefuses, kThrows };
  Mood mood = kFine;
};

}  // namespace

template <>
struct Codec<Fickle> {
  static size_t Size(const Fickle&) { return 1; }
  static void Write(const Fickle& value, Writer& writer) {
    if (value.mood == Fickle::kThrows) throw std::runtime_error("moody");
    if (value.mood == Fickle::kRefuses) {
      writer.Fail(absl::InvalidArgumentError("not today"));
    }
    writer.Write('f');
  }
  static Fickle Read(Reader& reader) {
    reader.Read<char>();
    return {};
  }
};

namespace {

// CPython: test_queue_feeder_donot_stop_onexc, with the error where it belongs.
TEST_F(QueueTest, ItemThatCannotBeEncoded) {
  Queue<Fickle> queue(/*maxsize=*/1);
  EXPECT_THAT(queue.Put({Fickle::kRefuses}),
              StatusIs(absl::StatusCode::kInvalidArgument, "not today"));
  EXPECT_THROW(queue.Put({Fickle::kThrows}).IgnoreError(), std::runtime_error);
  EXPECT_EQ(queue.qsize(), 0u);
  // The slot is not lost, and nobody else finds the queue locked.
  auto child = ChildProcess::Start(
      [&] { ASSERT_OK(queue.Put({Fickle::kFine}, absl::Seconds(30))); });
  EXPECT_OK(queue.Get());
  child.ExpectExit();
}

// ---- Closing.

// CPython: test_closed_queue_put_get_exceptions and
// test_closed_queue_empty_exceptions, where Close() is of one process only.
TEST_F(QueueTest, Close) {
  Queue<int> queue;
  EXPECT_FALSE(queue.closed());
  ASSERT_OK(queue.Put(1));
  ASSERT_OK(queue.Put(2));
  queue.Close();
  queue.Close();
  EXPECT_TRUE(queue.closed());
  EXPECT_THAT(queue.Put(3), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.PutNowait(3),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(1));
  EXPECT_EQ(queue.qsize(), 1u);
  EXPECT_THAT(queue.GetNowait(), IsOkAndHolds(2));
  EXPECT_THAT(queue.Get(), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(queue.GetNowait(), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_TRUE(queue.Empty());
}

TEST_F(QueueTest, CloseOfAFullQueue) {
  Queue<int> queue(/*maxsize=*/1);
  ASSERT_OK(queue.Put(1));
  queue.Close();
  EXPECT_THAT(queue.PutNowait(2),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(PatientQueueTest, CloseWakesWhoWaitsInOtherProcesses) {
  Queue<int> empty;
  Queue<std::string> full(/*maxsize=*/1);
  ASSERT_OK(full.Put("x"));
  std::vector<ChildProcess> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(ChildProcess::Start([&] {
      EXPECT_THAT(empty.Get(), StatusIs(absl::StatusCode::kOutOfRange));
    }));
    children.push_back(ChildProcess::Start([&] {
      EXPECT_THAT(full.Put("y"),
                  StatusIs(absl::StatusCode::kFailedPrecondition));
    }));
  }
  for (ChildProcess& child : children) ASSERT_TRUE(child.WaitUntilAsleep());
  // By one child, for all.
  ChildProcess::Start([&] {
    empty.Close();
    full.Close();
  }).ExpectExit();
  for (ChildProcess& child : children) child.ExpectExit();
  EXPECT_TRUE(empty.closed());
  EXPECT_THAT(full.Get(), IsOkAndHolds("x"));
}

// ---- Processes.

// CPython: test_fork.
TEST_F(QueueTest, ItemsFromBeforeAndAfterTheFork) {
  Queue<int> queue;
  for (int i = 0; i < 10; ++i) ASSERT_OK(queue.Put(i));
  ChildProcess::Start([&] {
    for (int i = 10; i < 20; ++i) ASSERT_OK(queue.Put(i));
  }).ExpectExit();
  for (int i = 0; i < 20; ++i) EXPECT_THAT(queue.Get(), IsOkAndHolds(i));
  EXPECT_TRUE(queue.Empty());
}

TEST_F(QueueTest, HandlesCapturedByValue) {
  std::optional<Queue<int>> queue(std::in_place);
  auto child = ChildProcess::Start([copy = *queue]() mutable {
    Queue<int> another = copy;
    ASSERT_OK(another.Put(1));
  });
  EXPECT_THAT(queue->Get(), IsOkAndHolds(1));
  child.ExpectExit();
}

// The queue lives on in the child when the parent has dropped it.
TEST_F(QueueTest, OutlivesItsMaker) {
  std::optional<Queue<int>> queue(std::in_place);
  Queue<int> go;
  auto child = ChildProcess::Start([&] {
    ASSERT_OK(go.Get());
    ASSERT_OK(queue->Put(1));
    EXPECT_THAT(queue->Get(), IsOkAndHolds(1));
  });
  queue.reset();
  ASSERT_OK(go.Put(1));
  child.ExpectExit();
}

TEST_F(QueueTest, GrandchildrenUseIt) {
  Queue<std::string> queue;
  ChildProcess::Start([&] {
    ChildProcess::Start([&] { ASSERT_OK(queue.Put("hello")); }).ExpectExit();
  }).ExpectExit();
  EXPECT_THAT(queue.Get(), IsOkAndHolds("hello"));
}

// CPython, programming guidelines: "joining processes that use queues" hangs.
TEST_F(QueueTest, JoinBeforeDraining) {
  Queue<std::string> queue({.capacity_bytes = 8 << 20});
  auto child = ChildProcess::Start([&] {
    for (int i = 0; i < 7; ++i) ASSERT_OK(queue.Put(std::string(1 << 20, 'x')));
  });
  child.ExpectExit();
  for (int i = 0; i < 7; ++i) {
    ASSERT_OK_AND_ASSIGN(const std::string item, queue.Get());
    EXPECT_EQ(item, std::string(1 << 20, 'x'));
  }
  EXPECT_TRUE(queue.Empty());
}

TEST_F(PatientQueueTest, BlockedGetAndPut) {
  Queue<int> queue(/*maxsize=*/1);
  auto getter =
      ChildProcess::Start([&] { EXPECT_THAT(queue.Get(), IsOkAndHolds(1)); });
  ASSERT_TRUE(getter.WaitUntilAsleep());
  ASSERT_OK(queue.Put(1));
  getter.ExpectExit();
  ASSERT_OK(queue.Put(2));
  auto putter = ChildProcess::Start([&] { ASSERT_OK(queue.Put(3)); });
  ASSERT_TRUE(putter.WaitUntilAsleep());
  EXPECT_EQ(queue.qsize(), 1u);
  EXPECT_THAT(queue.Get(), IsOkAndHolds(2));
  putter.ExpectExit();
  EXPECT_THAT(queue.Get(), IsOkAndHolds(3));
}

// What was written before Put is seen after Get.
TEST_F(PatientQueueTest, OrdersMemory) {
  constexpr int kRounds = 5000;
  const SharedPage<std::array<int, kRounds>> values;  // no atomics
  Queue<int> there(/*maxsize=*/1);
  Queue<int> back(/*maxsize=*/1);
  auto child = ChildProcess::Start([&] {
    for (int i = 0; i < kRounds; ++i) {
      ASSERT_THAT(there.Get(), IsOkAndHolds(i));
      ASSERT_EQ((*values)[static_cast<size_t>(i)], i + 1);
      (*values)[static_cast<size_t>(i)] = -i;
      ASSERT_OK(back.Put(i));
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    (*values)[static_cast<size_t>(i)] = i + 1;
    ASSERT_OK(there.Put(i));
    ASSERT_THAT(back.Get(), IsOkAndHolds(i));
    ASSERT_EQ((*values)[static_cast<size_t>(i)], -i);
  }
  child.ExpectExit();
}

// ---- Many at once.

struct Message {
  uint32_t producer = 0;
  uint32_t sequence = 0;
  std::string payload;
};

// The payload follows from the rest, so that it can be checked.
std::string Payload(uint32_t producer, uint32_t sequence, size_t max_size) {
  std::minstd_rand random(producer * 1'000'003 + sequence);
  std::string payload(random() % max_size, ' ');
  for (char& c : payload) c = static_cast<char>(random());
  return payload;
}

constexpr uint32_t kProducers = 4;
constexpr uint32_t kConsumers = 4;

void Produce(Queue<Message>& queue, uint32_t producer, uint32_t count,
             size_t max_size) {
  for (uint32_t i = 0; i < count; ++i) {
    ASSERT_OK(queue.Put({producer, i, Payload(producer, i, max_size)}));
  }
}

// Until the queue is closed and empty. Counts what each producer's items were
// gotten.
void Consume(Queue<Message>& queue,
             std::array<std::atomic<uint32_t>, kProducers>& counts,
             size_t max_size) {
  std::array<uint32_t, kProducers> next = {};
  for (;;) {
    const absl::StatusOr<Message> message = queue.Get();
    if (absl::IsOutOfRange(message.status())) return;
    ASSERT_OK(message);
    ASSERT_LT(message->producer, kProducers);
    // A consumer does not see all of them, but what it sees is in order.
    ASSERT_GE(message->sequence, next[message->producer]);
    next[message->producer] = message->sequence + 1;
    ASSERT_EQ(message->payload,
              Payload(message->producer, message->sequence, max_size));
    ++counts[message->producer];
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint32_t kEach = 5'000;
#else
constexpr uint32_t kEach = 50'000;
#endif

void RunProcesses(const QueueOptions& options, uint32_t each, size_t max_size) {
  Queue<Message> queue(options);
  const SharedPage<std::array<std::atomic<uint32_t>, kProducers>> counts;
  std::vector<ChildProcess> consumers;
  for (uint32_t i = 0; i < kConsumers; ++i) {
    consumers.push_back(
        ChildProcess::Start([&] { Consume(queue, *counts, max_size); }));
  }
  std::vector<ChildProcess> producers;
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.push_back(
        ChildProcess::Start([&, i] { Produce(queue, i, each, max_size); }));
  }
  for (ChildProcess& producer : producers) producer.ExpectExit();
  queue.Close();
  for (ChildProcess& consumer : consumers) consumer.ExpectExit();
  EXPECT_TRUE(queue.Empty());
  for (const auto& count : *counts) EXPECT_EQ(count, each);
}

TEST_F(PatientQueueTest, ManyProcesses) { RunProcesses({}, kEach, 100); }

// Full or empty most of the time.
TEST_F(PatientQueueTest, ManyProcessesOneSlot) {
  RunProcesses({.maxsize = 1}, kEach / 20, 100);
}

// Items of all sizes up to that of the memory: some find room, some do not.
TEST_F(PatientQueueTest, ManyProcessesLargeItems) {
  RunProcesses({.capacity_bytes = 4096}, kEach / 20, 4000);
}

TEST_F(PatientQueueTest, ManyThreads) {
  constexpr size_t kMaxSize = 100;
  Queue<Message> queue({.capacity_bytes = 4096});
  std::array<std::atomic<uint32_t>, kProducers> counts = {};
  std::vector<std::thread> consumers;
  for (uint32_t i = 0; i < kConsumers; ++i) {
    consumers.emplace_back([&] { Consume(queue, counts, kMaxSize); });
  }
  std::vector<std::thread> producers;
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.emplace_back([&, i] { Produce(queue, i, kEach, kMaxSize); });
  }
  for (std::thread& producer : producers) producer.join();
  queue.Close();
  for (std::thread& consumer : consumers) consumer.join();
  EXPECT_TRUE(queue.Empty());
  for (const auto& count : counts) EXPECT_EQ(count, kEach);
}

#if !defined(__SANITIZE_THREAD__)
// A fork while other threads are at it. Not for ThreadSanitizer: what one
// thread did reaches the other through the child, where it cannot see it.
TEST_F(QueueTest, ForkWhileThreadsUseIt) {
  Queue<int> queue(/*maxsize=*/4);
  std::atomic<bool> stop{false};
  std::thread putter([&] {
    for (int i = 0; !stop; ++i) ASSERT_OK(queue.Put(i));
    queue.Close();
  });
  std::thread getter([&] {
    while (queue.Get().ok()) {
    }
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      // The child has no such threads, and is not blocked by what they held.
      const bool got = queue.Get().ok();
      const bool put = queue.Put(-1).ok();
      _exit(got && put ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  stop = true;
  putter.join();
  getter.join();
}

#endif  // !defined(__SANITIZE_THREAD__)

}  // namespace
}  // namespace mp
