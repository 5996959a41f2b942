#include "mp/ipc/wait.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <random>
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
#include "mp/base/futex.h"
#include "mp/base/unique_fd.h"
#include "mp/base/unix_socket.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/joinable_queue.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/simple_queue.h"
#include "mp/shm/park.h"
#include "mp/sync/event.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {

// Its sender stops while it holds the connection.
struct StopsOnTheWay {};
template <>
struct Codec<StopsOnTheWay> {
  static size_t Size(const StopsOnTheWay&) { return 1; }
  static void Write(const StopsOnTheWay&, Writer& writer) {
    kill(getpid(), SIGSTOP);
    writer.Write('x');
  }
  static StopsOnTheWay Read(Reader& reader) {
    reader.Read<char>();
    return {};
  }
};

namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::FailSystemCall;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::MakePipe;
using ::mp::testing::PipeEnds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kNow = absl::ZeroDuration();

class WaitTest : public testing::ProcessTest {};

// Sleepers do not look around by themselves, so a wake-up that is lost hangs
// the test. For tests in which nobody dies but who leaves an end of file.
class PatientWaitTest : public WaitTest {
 protected:
  PatientWaitTest() { ParkSlices::SetFirstForTest(3600'000'000'000); }
  ~PatientWaitTest() override { ParkSlices::SetFirstForTest(0); }
};

void WriteByte(const UniqueFd& fd) { EXPECT_EQ(write(fd.get(), "x", 1), 1); }
void ReadByte(const UniqueFd& fd) {
  char byte;
  EXPECT_EQ(read(fd.get(), &byte, 1), 1);
}

// ---- One process.

TEST_F(WaitTest, QueueIsReadyWithAnItemOrClosed) {
  const auto test = [](auto queue) {
    EXPECT_THAT(Wait({queue}, kNow), IsOkAndHolds(IsEmpty()));
    ASSERT_OK(queue.Put(1));
    EXPECT_THAT(Wait({queue}), IsOkAndHolds(ElementsAre(0)));
    EXPECT_THAT(queue.Get(), IsOkAndHolds(1));  // nothing was taken
    EXPECT_THAT(Wait({queue}, kNow), IsOkAndHolds(IsEmpty()));
    queue.Close();
    EXPECT_THAT(Wait({queue}), IsOkAndHolds(ElementsAre(0)));
  };
  test(Queue<int>());
  test(JoinableQueue<int>());
  test(SimpleQueue<int>());
}

TEST_F(WaitTest, EventIsReadyWhileItIsSet) {
  Event event;
  EXPECT_THAT(Wait({event}, kNow), IsOkAndHolds(IsEmpty()));
  event.Set();
  EXPECT_THAT(Wait({event}), IsOkAndHolds(ElementsAre(0)));
  event.Clear();
  EXPECT_THAT(Wait({event}, kNow), IsOkAndHolds(IsEmpty()));
}

TEST_F(WaitTest, ConnectionIsReadyWithAMessageOrAtTheEndOfTheFile) {
  auto [a, b] = Pipe<int>();
  EXPECT_THAT(Wait({a}, kNow), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(Wait({a}, absl::Milliseconds(1)), IsOkAndHolds(IsEmpty()));
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(b.Send(i));
    EXPECT_THAT(Wait({a}), IsOkAndHolds(ElementsAre(0)));
    EXPECT_THAT(a.Recv(), IsOkAndHolds(i));
    EXPECT_THAT(Wait({a}, kNow), IsOkAndHolds(IsEmpty()));
    EXPECT_THAT(Wait({a}, absl::Milliseconds(1)), IsOkAndHolds(IsEmpty()));
  }
  ASSERT_OK(b.Send(4));
  b.Close();
  EXPECT_THAT(Wait({a}), IsOkAndHolds(ElementsAre(0)));
  EXPECT_THAT(a.Recv(), IsOkAndHolds(4));
  EXPECT_THAT(Wait({a}), IsOkAndHolds(ElementsAre(0)));
  EXPECT_THAT(a.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
}

// CPython: test_wait_socket, in the small.
TEST_F(WaitTest, DescriptorIsReadyWhenPollSaysSo) {
  PipeEnds pipe = MakePipe();
  EXPECT_THAT(Wait({pipe.reader.get()}, kNow), IsOkAndHolds(IsEmpty()));
  WriteByte(pipe.writer);
  EXPECT_THAT(Wait({pipe.reader.get()}), IsOkAndHolds(ElementsAre(0)));
  ReadByte(pipe.reader);
  EXPECT_THAT(Wait({pipe.reader.get()}, absl::Milliseconds(1)),
              IsOkAndHolds(IsEmpty()));
  pipe.writer.reset();
  EXPECT_THAT(Wait({pipe.reader.get()}), IsOkAndHolds(ElementsAre(0)));
  // A broken pipe is an error for poll().
  PipeEnds broken = MakePipe();
  broken.reader.reset();
  EXPECT_THAT(Wait({broken.writer.get()}), IsOkAndHolds(ElementsAre(0)));
}

TEST_F(WaitTest, TellsAllThatAreReady) {
  Queue<int> queue;
  Event event;
  auto [a, b] = Pipe<int>();
  auto [c, d] = Pipe<std::string>();
  PipeEnds pipe = MakePipe();
  const auto wait = [&, &a = a, &c = c] {
    return Wait({pipe.reader.get(), a, queue, c, event, queue}, kNow);
  };
  EXPECT_THAT(wait(), IsOkAndHolds(IsEmpty()));
  ASSERT_OK(b.Send(1));
  EXPECT_THAT(wait(), IsOkAndHolds(ElementsAre(1)));
  event.Set();
  EXPECT_THAT(wait(), IsOkAndHolds(ElementsAre(1, 4)));
  WriteByte(pipe.writer);
  EXPECT_THAT(wait(), IsOkAndHolds(ElementsAre(0, 1, 4)));
  d.Close();
  EXPECT_THAT(wait(), IsOkAndHolds(ElementsAre(0, 1, 3, 4)));
  ASSERT_OK(queue.Put(1));
  EXPECT_THAT(wait(), IsOkAndHolds(ElementsAre(0, 1, 2, 3, 4, 5)));
  EXPECT_THAT(a.Recv(kNow), IsOkAndHolds(1));
  EXPECT_THAT(queue.GetNowait(), IsOkAndHolds(1));
  event.Clear();
  EXPECT_THAT(wait(), IsOkAndHolds(ElementsAre(0, 3)));
}

// CPython: test_neg_timeout.
TEST_F(WaitTest, NegativeTimeoutLooksOnce) {
  auto [a, b] = Pipe<int>();
  Queue<int> queue;
  EXPECT_THAT(Wait({a, queue}, absl::Seconds(-1)), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(Wait({a, queue}, -absl::InfiniteDuration()),
              IsOkAndHolds(IsEmpty()));
  ASSERT_OK(b.Send(1));
  EXPECT_THAT(Wait({a, queue}, absl::Seconds(-1)),
              IsOkAndHolds(ElementsAre(0)));
}

// CPython: test_wait_timeout.
TEST_F(WaitTest, Timeouts) {
  constexpr absl::Duration kTimeout = absl::Milliseconds(60);
  auto [a, b] = Pipe<int>();
  auto [c, d] = Pipe<int>();
  Queue<int> queue;
  Event event;
  PipeEnds pipe = MakePipe();
  const int fd = pipe.reader.get();
  const std::vector<std::vector<Waitable>> mixtures = {
      {},         {a, c},         {queue},           {queue, event},
      {fd},       {fd, a},        {fd, queue},       {a, event},
      {a, queue}, {a, fd, event}, {a, c, queue, fd}, {a, queue, event, fd}};
  for (const std::vector<Waitable>& mixture : mixtures) {
    const absl::Time start = absl::Now();
    EXPECT_THAT(Wait(mixture, kTimeout), IsOkAndHolds(IsEmpty()));
    // The clocks are different ones.
    EXPECT_GE(absl::Now() - start, kTimeout - absl::Milliseconds(1));
  }
  ASSERT_OK(b.Send(1));
  EXPECT_THAT(Wait({a, c}, absl::Seconds(20)), IsOkAndHolds(ElementsAre(0)));
}

// CPython: TestInvalidHandle.
TEST_F(WaitTest, InvalidDescriptors) {
  Queue<int> queue;
  ASSERT_OK(queue.Put(1));
  PipeEnds pipe = MakePipe();
  for (const int bad : {-1, -5, 44977608}) {
    for (const absl::Duration timeout : {kNow, absl::InfiniteDuration()}) {
      EXPECT_THAT(
          Wait({queue, pipe.reader.get(), bad}, timeout),
          StatusIs(absl::StatusCode::kInvalidArgument,
                   HasSubstr("object 2: descriptor " + std::to_string(bad))));
    }
  }
}

TEST_F(WaitTest, InvalidHandles) {
  auto [a, b] = Pipe<int>();
  auto [receiver, sender] = Pipe<int>(/*duplex=*/false);
  EXPECT_THAT(Wait({receiver, sender}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("object 1: this end of a one-way pipe")));
  a.Close();
  EXPECT_THAT(Wait({receiver, b, a}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("object 2: the connection is closed")));

  Queue<int> queue;
  Event event;
  const Queue<int> to = std::move(queue);
  const Event there = std::move(event);
  const Connection<int> here = std::move(receiver);
  EXPECT_THAT(Wait({to, there, here}, kNow), IsOkAndHolds(IsEmpty()));
  // NOLINTBEGIN(bugprone-use-after-move)
  EXPECT_THAT(Wait({queue}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Wait({event}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Wait({b, receiver}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("object 1: an empty handle")));
  // NOLINTEND(bugprone-use-after-move)
}

TEST_F(WaitTest, NothingToWaitFor) {
  EXPECT_THAT(Wait({}, kNow), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(Wait(std::vector<Waitable>()),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(WaitTest, KeepsWhatItWaitsFor) {
  std::vector<Waitable> kept;
  std::optional<Event> event(std::in_place);
  kept.emplace_back(*event);
  kept.emplace_back(Queue<int>());
  {
    auto [a, b] = Pipe<int>();
    kept.emplace_back(a);
    ASSERT_OK(b.Send(1));
  }
  event->Set();
  event.reset();
  EXPECT_THAT(Wait(kept), IsOkAndHolds(ElementsAre(0, 2)));
  EXPECT_THAT(Wait({Queue<int>(), Event()}, absl::Milliseconds(1)),
              IsOkAndHolds(IsEmpty()));
}

// ---- Other processes.

// An object of each kind, and what makes it ready.
struct World {
  Queue<int> queue;
  Event event;
  std::pair<Connection<int>, Connection<int>> pipe = Pipe<int>();
  PipeEnds bytes = MakePipe();

  static constexpr int kKinds = 4;
  Waitable Object(int kind) const {
    switch (kind) {
      case 0:
        return queue;
      case 1:
        return event;
      case 2:
        return pipe.first;
      default:
        return bytes.reader.get();
    }
  }
  void MakeReady(int kind) {
    if (kind == 1) return event.Set();
    if (kind == 3) return WriteByte(bytes.writer);
    EXPECT_OK(kind == 0 ? queue.Put(1) : pipe.second.Send(1));
  }
  void Take(int kind) {
    if (kind == 1) return event.Clear();
    if (kind == 3) return ReadByte(bytes.reader);
    EXPECT_OK(kind == 0 ? queue.GetNowait() : pipe.first.Recv(kNow));
  }
};

// A child waits for the objects. One after the other is made ready while it
// sleeps, and found, and taken.
void WakeOneByOne(const std::vector<Waitable>& objects,
                  const std::vector<size_t>& order,
                  const std::function<void(size_t)>& make_ready,
                  const std::function<void(size_t)>& take) {
  const SharedPage<std::atomic<size_t>> taken;
  auto waiter = ChildProcess::Start([&] {
    for (const size_t i : order) {
      ASSERT_THAT(Wait(objects), IsOkAndHolds(ElementsAre(i)));
      take(i);
      ++*taken;
    }
  });
  for (size_t k = 0; k < order.size(); ++k) {
    while (*taken < k && waiter.IsAlive()) sched_yield();
    ASSERT_TRUE(waiter.WaitUntilAsleep());
    make_ready(order[k]);
  }
  waiter.ExpectExit();
}

// Every mixture of kinds, and every kind in it makes it end.
void TestEveryMixture(int rounds) {
  for (unsigned mixture = 1; mixture < 1u << World::kKinds; ++mixture) {
    World world;
    std::vector<int> kinds;
    std::vector<Waitable> objects;
    for (int kind = 0; kind < World::kKinds; ++kind) {
      if ((mixture & 1u << kind) == 0) continue;
      kinds.push_back(kind);
      objects.push_back(world.Object(kind));
    }
    std::vector<size_t> order;
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < kinds.size(); ++i) order.push_back(i);
    }
    WakeOneByOne(
        objects, order, [&](size_t i) { world.MakeReady(kinds[i]); },
        [&](size_t i) { world.Take(kinds[i]); });
  }
}

TEST_F(PatientWaitTest, AnyKindInAnyMixtureWakes) { TestEveryMixture(3); }

// CPython: test_wait.
void TestWriters(bool slow) {
  constexpr int kWriters = 4;
  constexpr int kEach = 10;
  std::vector<Connection<std::pair<int, int>>> readers;
  std::vector<ChildProcess> writers;
  for (int w = 0; w < kWriters; ++w) {
    auto [reader, writer] = Pipe<std::pair<int, int>>(/*duplex=*/false);
    readers.push_back(reader);
    writers.push_back(ChildProcess::Start([&, &writer = writer, w] {
      for (auto& other : readers) other.Close();
      std::minstd_rand random(static_cast<unsigned>(w) + 1);
      for (int i = 0; i < kEach; ++i) {
        if (slow) absl::SleepFor(absl::Milliseconds(random() % 20));
        ASSERT_OK(writer.Send({w, i}));
      }
    }));
    writer.Close();
  }
  std::array<int, kWriters> next = {};
  while (!readers.empty()) {
    const std::vector<Waitable> objects(readers.begin(), readers.end());
    ASSERT_OK_AND_ASSIGN(const std::vector<size_t> ready, Wait(objects));
    ASSERT_FALSE(ready.empty());
    for (auto i = ready.rbegin(); i != ready.rend(); ++i) {
      const auto reader = readers.begin() + static_cast<std::ptrdiff_t>(*i);
      const absl::StatusOr<std::pair<int, int>> message = reader->Recv(kNow);
      if (message.ok()) {
        EXPECT_EQ(message->second, next[static_cast<size_t>(message->first)]++);
      } else {
        EXPECT_THAT(message, StatusIs(absl::StatusCode::kOutOfRange));
        readers.erase(reader);
      }
    }
  }
  EXPECT_THAT(next, ::testing::Each(kEach));
  for (ChildProcess& writer : writers) writer.ExpectExit();
}

TEST_F(PatientWaitTest, Writers) { TestWriters(/*slow=*/false); }
// CPython: test_wait_slow.
TEST_F(PatientWaitTest, SlowWriters) { TestWriters(/*slow=*/true); }

// CPython: test_wait_socket, test_wait_socket_slow.
void TestSockets(bool slow) {
  constexpr size_t kWriters = 4;
  std::vector<UniqueFd> readers;
  std::vector<ChildProcess> writers;
  for (size_t w = 0; w < kWriters; ++w) {
    absl::StatusOr<std::array<UniqueFd, 2>> sockets =
        ConnectedSockets(SOCK_STREAM);
    ASSERT_OK(sockets);
    writers.push_back(ChildProcess::Start([&, slow] {
      for (int i = 0; i < 10; ++i) {
        if (slow) absl::SleepFor(absl::Milliseconds(5));
        WriteByte((*sockets)[1]);
      }
    }));
    readers.push_back(std::move((*sockets)[0]));
  }
  size_t bytes = 0;
  while (!readers.empty()) {
    std::vector<Waitable> objects;
    for (const UniqueFd& reader : readers) objects.push_back(reader.get());
    ASSERT_OK_AND_ASSIGN(const std::vector<size_t> ready, Wait(objects));
    for (auto i = ready.rbegin(); i != ready.rend(); ++i) {
      char buffer[100];
      const ssize_t got = read(readers[*i].get(), buffer, sizeof(buffer));
      ASSERT_GE(got, 0);
      bytes += static_cast<size_t>(got);
      if (got == 0) readers.erase(readers.begin() + static_cast<int>(*i));
    }
  }
  EXPECT_EQ(bytes, kWriters * 10);
  for (ChildProcess& writer : writers) writer.ExpectExit();
}

TEST_F(PatientWaitTest, Sockets) { TestSockets(/*slow=*/false); }
TEST_F(PatientWaitTest, SlowSockets) { TestSockets(/*slow=*/true); }

// CPython: test_wait_integer.
TEST_F(PatientWaitTest, EndOfAProcessAndMore) {
  auto [a, b] = Pipe<int>();
  Queue<int> queue;
  auto child = ChildProcess::Start([&] { ASSERT_OK(queue.Get()); });
  const auto wait = [&, &a = a, &b = b](absl::Duration timeout) {
    return Wait({a, child.pidfd(), b}, timeout);
  };
  EXPECT_THAT(wait(absl::Milliseconds(20)), IsOkAndHolds(IsEmpty()));
  ASSERT_OK(queue.Put(1));
  EXPECT_THAT(wait(absl::InfiniteDuration()), IsOkAndHolds(ElementsAre(1)));
  ASSERT_OK(a.Send(1));
  EXPECT_THAT(wait(absl::Seconds(20)), IsOkAndHolds(ElementsAre(1, 2)));
  ASSERT_OK(b.Send(1));
  EXPECT_THAT(wait(absl::Seconds(20)), IsOkAndHolds(ElementsAre(0, 1, 2)));
  child.ExpectExit();
}

TEST_F(PatientWaitTest, QueueAndTheEndOfAProcess) {
  Queue<int> queue;
  for (int i = 0; i < 20; ++i) {
    auto child = ChildProcess::Start([&] {
      if (i % 2 == 0) {
        EXPECT_OK(queue.Put(i));
      }
      pause();
    });
    if (i % 2 == 0) {
      EXPECT_THAT(Wait({queue, child.pidfd()}), IsOkAndHolds(ElementsAre(0)));
      EXPECT_THAT(queue.GetNowait(), IsOkAndHolds(i));
    }
    std::thread killer;
    if (testing::kThreadSanitizer) {
      child.Kill();
    } else {
      killer = std::thread([&child, i] {
        absl::SleepFor(absl::Milliseconds(i));
        child.Kill();
      });
    }
    EXPECT_THAT(Wait({queue, child.pidfd()}), IsOkAndHolds(ElementsAre(1)));
    if (killer.joinable()) killer.join();
    child.ExpectSignal(SIGKILL);
  }
}

TEST_F(PatientWaitTest, ClosingAQueueWakes) {
  Queue<int> queue;
  Event event;
  auto [a, b] = Pipe<int>();
  std::vector<ChildProcess> waiters;
  waiters.push_back(ChildProcess::Start([&] {
    EXPECT_THAT(Wait({event, queue}), IsOkAndHolds(ElementsAre(1)));
  }));
  waiters.push_back(ChildProcess::Start([&, &a = a] {
    EXPECT_THAT(Wait({a, queue}), IsOkAndHolds(ElementsAre(1)));
  }));
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  queue.Close();
  for (ChildProcess& waiter : waiters) waiter.ExpectExit();
}

// At once, though nobody knows who has the other end: it has never sent.
TEST_F(PatientWaitTest, DeathAtTheOtherEndWakes) {
  for (const bool mixed : {false, true}) {
    Queue<int> queue;
    auto [a, b] = Pipe<int>();
    auto owner = ChildProcess::Start([&, &a = a] {
      a.Close();
      pause();
    });
    b.Close();
    auto waiter = ChildProcess::Start([&, &a = a] {
      const std::vector<Waitable> objects =
          mixed ? std::vector<Waitable>{queue, a} : std::vector<Waitable>{a};
      EXPECT_THAT(Wait(objects), IsOkAndHolds(ElementsAre(mixed ? 1 : 0)));
      EXPECT_THAT(a.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
    });
    ASSERT_TRUE(waiter.WaitUntilAsleep());
    owner.Kill();
    waiter.ExpectExit();
    owner.ExpectSignal(SIGKILL);
  }
}

TEST_F(PatientWaitTest, EventThatIsSetForAMoment) {
  Event event;
  Queue<int> queue;
  for (int i = 0; i < 3; ++i) {
    auto waiter = ChildProcess::Start([&] {
      EXPECT_THAT(Wait({queue, event}), IsOkAndHolds(ElementsAre(1)));
    });
    ASSERT_TRUE(waiter.WaitUntilAsleep());
    event.Set();
    event.Clear();
    waiter.ExpectExit();
    EXPECT_THAT(Wait({queue, event}, kNow), IsOkAndHolds(IsEmpty()));
  }
}

// Who waits but does not take passes the wake-up on.
TEST_F(PatientWaitTest, WakeUpReachesWhoTakes) {
  for (const bool mixed : {false, true}) {
    Queue<int> queue;
    Event event;
    PipeEnds pipe = MakePipe();
    std::vector<ChildProcess> waiters;
    for (int i = 0; i < 3; ++i) {
      waiters.push_back(ChildProcess::Start([&] {
        const std::vector<Waitable> objects = {
            event, queue,
            mixed ? Waitable(pipe.reader.get()) : Waitable(event)};
        EXPECT_THAT(Wait(objects), IsOkAndHolds(ElementsAre(1)));
      }));
      ASSERT_TRUE(waiters.back().WaitUntilAsleep());
    }
    auto getter =
        ChildProcess::Start([&] { EXPECT_THAT(queue.Get(), IsOkAndHolds(1)); });
    ASSERT_TRUE(getter.WaitUntilAsleep());
    ASSERT_OK(queue.Put(1));
    getter.ExpectExit();
    // What it took cannot wake the others any more.
    queue.Close();
    for (ChildProcess& waiter : waiters) waiter.ExpectExit();
  }
}

// ---- Many at once.

constexpr int kItems = testing::kSanitized ? 2'000 : 20'000;

// Consumers that wait in all ways for the same items; each is gotten once.
TEST_F(PatientWaitTest, EachItemIsGotten) {
  Queue<int> queue;
  Queue<int> quiet;
  Event event;
  PipeEnds pipe = MakePipe();
  const SharedPage<std::array<std::atomic<int>, kItems>> gotten;
  std::vector<ChildProcess> consumers;
  for (int i = 0; i < 6; ++i) {
    consumers.push_back(ChildProcess::Start([&, i] {
      std::vector<Waitable> objects = {quiet, queue, event};
      if (i == 5) objects.push_back(pipe.reader.get());
      for (;;) {
        if (i < 2) {
          const absl::StatusOr<int> item = queue.Get();
          if (!item.ok()) return;
          ++(*gotten)[static_cast<size_t>(*item)];
          continue;
        }
        ASSERT_THAT(Wait(objects), IsOkAndHolds(ElementsAre(1)));
        const absl::StatusOr<int> item = queue.GetNowait();
        if (absl::IsOutOfRange(item.status())) return;
        if (item.ok()) ++(*gotten)[static_cast<size_t>(*item)];
      }
    }));
  }
  auto producer = ChildProcess::Start([&] {
    for (int i = 0; i < kItems; ++i) {
      ASSERT_OK(queue.Put(i));
      // So that all fall asleep now and then.
      if (i % 100 == 0) absl::SleepFor(absl::Microseconds(300));
      // Each is gotten without the next one.
      if (i % 10 == 0) {
        while (!queue.Empty()) sched_yield();
      }
    }
    queue.Close();
  });
  producer.ExpectExit();
  for (ChildProcess& consumer : consumers) consumer.ExpectExit();
  for (const auto& times : *gotten) ASSERT_EQ(times, 1);
}

// Over several connections; each has two receivers, one of which waits.
TEST_F(PatientWaitTest, EachMessageIsReceived) {
  constexpr size_t kPipes = 3;
  std::vector<Connection<int>> receivers, senders;
  for (size_t i = 0; i < kPipes; ++i) {
    auto [receiver, sender] = Pipe<int>(/*duplex=*/false);
    receivers.push_back(receiver);
    senders.push_back(sender);
  }
  const SharedPage<std::array<std::atomic<int>, kItems>> received;
  std::vector<ChildProcess> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.push_back(ChildProcess::Start([&, i] {
      for (auto& sender : senders) sender.Close();
      std::vector<Waitable> objects(receivers.begin(), receivers.end());
      if (i == 2) {
        // The usual receiver of the first one.
        for (;;) {
          const absl::StatusOr<int> message = receivers[0].Recv();
          if (!message.ok()) return;
          ++(*received)[static_cast<size_t>(*message)];
        }
      }
      for (size_t ended = 0; ended < kPipes;) {
        ASSERT_OK_AND_ASSIGN(const std::vector<size_t> ready, Wait(objects));
        ended = 0;
        for (const size_t k : ready) {
          const absl::StatusOr<int> message = receivers[k].Recv(kNow);
          if (message.ok()) ++(*received)[static_cast<size_t>(*message)];
          ended += absl::IsOutOfRange(message.status());
        }
      }
    }));
  }
  auto producer = ChildProcess::Start([&] {
    for (int i = 0; i < kItems; ++i) {
      ASSERT_OK(senders[static_cast<size_t>(i) % kPipes].Send(i));
      if (i % 100 == 0) absl::SleepFor(absl::Microseconds(300));
    }
  });
  for (auto& sender : senders) sender.Close();
  producer.ExpectExit();
  for (ChildProcess& consumer : consumers) consumer.ExpectExit();
  for (const auto& times : *received) ASSERT_EQ(times, 1);
}

// ---- Many objects.

void AllowDescriptors(rlim_t wanted) {
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(limit.rlim_max, wanted);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

// Each of `ends` alone, and all together.
void TestMany(const std::vector<Waitable>& objects,
              const std::vector<size_t>& ends,
              const std::function<void(size_t)>& make_ready,
              const std::function<void(size_t)>& take) {
  EXPECT_THAT(Wait(objects, kNow), IsOkAndHolds(IsEmpty()));
  WakeOneByOne(objects, ends, make_ready, take);
  for (const size_t i : ends) make_ready(i);
  EXPECT_THAT(Wait(objects), IsOkAndHolds(ElementsAreArray(ends)));
  for (const size_t i : ends) take(i);
}

TEST_F(PatientWaitTest, ThousandEvents) {
  std::vector<Event> events(1000);
  for (const size_t count : {127, 128, 129, 255, 1000}) {
    const std::vector<Waitable> objects(
        events.begin(), events.begin() + static_cast<int>(count));
    TestMany(
        objects, {0, 1, 100, count - 1}, [&](size_t i) { events[i].Set(); },
        [&](size_t i) { events[i].Clear(); });
  }
}

TEST_F(PatientWaitTest, ThousandConnections) {
  AllowDescriptors(10'000);
  std::vector<Connection<int>> receivers, senders;
  for (int i = 0; i < 1000; ++i) {
    absl::StatusOr<std::pair<Connection<int>, Connection<int>>> pipe =
        CreatePipe<int>(/*duplex=*/false);
    if (absl::IsResourceExhausted(pipe.status())) {
      GTEST_SKIP() << i << " pipes: " << pipe.status();
    }
    ASSERT_OK(pipe);
    receivers.push_back(pipe->first);
    senders.push_back(pipe->second);
  }
  const std::vector<Waitable> objects(receivers.begin(), receivers.end());
  TestMany(
      objects, {0, 1, 500, 999},
      [&](size_t i) { ASSERT_OK(senders[i].Send(1)); },
      [&](size_t i) { ASSERT_OK(receivers[i].Recv(kNow)); });
}

TEST_F(PatientWaitTest, ThousandOfAllKinds) {
  std::vector<World> worlds(250);
  std::vector<Waitable> objects;
  for (const World& world : worlds) {
    for (int kind = 0; kind < World::kKinds; ++kind) {
      objects.push_back(world.Object(kind));
    }
  }
  TestMany(
      objects, {0, 1, 2, 3, 500, 501, 502, 503, 996, 997, 998, 999},
      [&](size_t i) { worlds[i / 4].MakeReady(static_cast<int>(i % 4)); },
      [&](size_t i) { worlds[i / 4].Take(static_cast<int>(i % 4)); });
}

// ---- Machines that lack something.

TEST_F(WaitTest, WithoutWaitv) {
  ChildProcess::Start([] {
    FailSystemCall(SYS_futex_waitv, ENOSYS);
    SetFutexWaitvForTest(true);  // asks the kernel again
    ASSERT_FALSE(HaveFutexWaitv());
    TestEveryMixture(1);
    std::vector<Event> events(300);
    const std::vector<Waitable> objects(events.begin(), events.end());
    TestMany(
        objects, {0, 1, 200, 299}, [&](size_t i) { events[i].Set(); },
        [&](size_t i) { events[i].Clear(); });
  }).ExpectExit();
}

TEST_F(WaitTest, WithoutThreads) {
  World world;
  std::vector<Event> events(300);
  const SharedPage<std::atomic<bool>> second;
  auto waiter = ChildProcess::Start([&] {
    FailSystemCall(SYS_clone3, EAGAIN);
    FailSystemCall(SYS_clone, EAGAIN);
    const std::vector<Waitable> objects(events.begin(), events.end());
    ASSERT_THAT(Wait(objects), IsOkAndHolds(ElementsAre(299)));
    *second = true;
    ASSERT_THAT(Wait({world.queue, world.bytes.reader.get()}),
                IsOkAndHolds(ElementsAre(0)));
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  events[299].Set();
  while (!*second && waiter.IsAlive()) sched_yield();
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  world.MakeReady(0);
  waiter.ExpectExit();
}

TEST_F(WaitTest, WithoutADescriptorToSpare) {
  World world;
  const SharedPage<std::atomic<int>> taken;
  auto waiter = ChildProcess::Start([&] {
    FailSystemCall(SYS_eventfd2, EMFILE);
    for (const size_t i : {0, 1}) {
      ASSERT_THAT(Wait({world.queue, world.pipe.first}),
                  IsOkAndHolds(ElementsAre(i)));
      world.Take(i == 0 ? 0 : 2);
      *taken = 2;
    }
  });
  for (const int kind : {0, 2}) {
    while (*taken < kind && waiter.IsAlive()) sched_yield();
    ASSERT_TRUE(waiter.WaitUntilAsleep());
    world.MakeReady(kind);
  }
  waiter.ExpectExit();
}

TEST_F(WaitTest, WhatPollSays) {
  auto [a, b] = Pipe<int>();
  ChildProcess::Start([&a = a] {
    FailSystemCall(SYS_poll, ENOMEM);
    FailSystemCall(SYS_ppoll, ENOMEM);
    for (const absl::Duration timeout : {kNow, absl::InfiniteDuration()}) {
      EXPECT_THAT(
          Wait({a}, timeout),
          StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("poll: ")));
    }
  }).ExpectExit();
}

// ---- Signals, stopped processes, closing, forks.

// Runs `call` in a child that a signal interrupts every millisecond; once that
// has happened often enough, `release` here lets the call end.
template <class Call, class Release>
void Interrupt(Call call, Release release) {
  static std::atomic<int>* signals = nullptr;
  const SharedPage<std::atomic<int>> count;
  signals = count.get();
  auto child = ChildProcess::Start([&] {
    struct sigaction action = {};  // without SA_RESTART
    action.sa_handler = [](int) { ++*signals; };
    ASSERT_EQ(sigaction(SIGALRM, &action, nullptr), 0);
    const itimerval every = {.it_interval = {0, 1000}, .it_value = {0, 1000}};
    ASSERT_EQ(setitimer(ITIMER_REAL, &every, nullptr), 0);
    call();
  });
  if (testing::kThreadSanitizer) {  // runs handlers only when a call returns
    absl::SleepFor(absl::Milliseconds(100));
  } else {
    while (*count < 30) absl::SleepFor(absl::Milliseconds(1));
  }
  release();
  child.ExpectExit();
}

TEST_F(WaitTest, SignalsDoNotShortenIt) {
  for (int kind = 0; kind < World::kKinds; ++kind) {
    for (int other = 0; other < World::kKinds; ++other) {
      World world;
      Interrupt(
          [&] {
            EXPECT_THAT(Wait({world.Object(other == kind ? 3 : other),
                              world.Object(kind)}),
                        IsOkAndHolds(::testing::Contains(1)));
          },
          [&] { world.MakeReady(kind); });
    }
  }
}

// A process is stopped inside a Send: the others are still noticed.
TEST_F(WaitTest, SenderIsStopped) {
  auto [receiver, sender] = Pipe<StopsOnTheWay>(/*duplex=*/false);
  Event event;
  // Leaves the socket readable.
  ASSERT_OK(sender.SendBytes("x"));
  ASSERT_OK(receiver.RecvBytes());
  auto child =
      ChildProcess::Start([&sender = sender] { ASSERT_OK(sender.Send({})); });
  siginfo_t stopped;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child.pid()), &stopped,
                   WSTOPPED | WNOWAIT),
            0);
  EXPECT_THAT(Wait({receiver, event}, kNow), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(Wait({receiver, event}, absl::Milliseconds(50)),
              IsOkAndHolds(IsEmpty()));
  auto setter = ChildProcess::Start([&] {
    absl::SleepFor(absl::Milliseconds(50));
    event.Set();
  });
  EXPECT_THAT(Wait({receiver, event}), IsOkAndHolds(ElementsAre(1)));
  setter.ExpectExit();
  child.Continue();
  EXPECT_THAT(Wait({receiver}), IsOkAndHolds(ElementsAre(0)));
  EXPECT_OK(receiver.Recv(kNow));
  child.ExpectExit();
}

TEST_F(WaitTest, ClosedByAnotherThread) {
  for (const bool mixed : {false, true}) {
    auto [a, b] = Pipe<int>();
    Queue<int> queue;
    std::thread closer([&a = a] {
      absl::SleepFor(absl::Milliseconds(30));
      a.Close();
    });
    const std::vector<Waitable> objects =
        mixed ? std::vector<Waitable>{a, queue} : std::vector<Waitable>{a};
    EXPECT_THAT(Wait(objects), StatusIs(absl::StatusCode::kFailedPrecondition,
                                        HasSubstr("object 0")));
    closer.join();
    EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
  }
}

TEST_F(PatientWaitTest, ManyThreads) {
  constexpr int kThreads = 8;
  constexpr int kEach = 200;
  Queue<int> queue;
  PipeEnds pipe = MakePipe();
  std::atomic<int> gotten = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::vector<Waitable> objects = {queue};
      if (i % 2 == 0) objects.push_back(pipe.reader.get());
      for (;;) {
        ASSERT_THAT(Wait(objects), IsOkAndHolds(ElementsAre(0)));
        const absl::StatusOr<int> item = queue.GetNowait();
        if (absl::IsOutOfRange(item.status())) return;
        gotten += item.ok();
      }
    });
  }
  for (int i = 0; i < kEach; ++i) {
    ASSERT_OK(queue.Put(i));
    if (i % 4 == 0) absl::SleepFor(absl::Microseconds(200));
  }
  queue.Close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gotten, kEach);
}

#if !defined(__SANITIZE_THREAD__)
// A fork while another thread waits with threads of its own: the child has
// none of them, nor their descriptor, and can wait itself.
TEST_F(WaitTest, ForkWhileAThreadWaits) {
  const auto count_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  World world;
  const auto before = count_descriptors();
  std::thread waiter([&] {
    EXPECT_THAT(Wait({world.queue, world.bytes.reader.get()}),
                IsOkAndHolds(ElementsAre(0)));
  });
  while (count_descriptors() == before) sched_yield();
  for (int i = 0; i < 20; ++i) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      const bool none = count_descriptors() == before;
      const bool waits = Wait({world.event, world.pipe.first, world.queue},
                              absl::Milliseconds(i))
                             .ok();
      _exit(none && waits && count_descriptors() == before ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    if (i % 5 == 0) absl::SleepFor(absl::Milliseconds(7));
  }
  world.MakeReady(0);
  waiter.join();
}
#endif  // !defined(__SANITIZE_THREAD__)

}  // namespace
}  // namespace mp
