#include "mp/ipc/carrier.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/base/unix_socket.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/segment.h"
#include "mp/shm/shared_memory.h"
#include "mp/sync/array.h"
#include "mp/sync/barrier.h"
#include "mp/sync/condition.h"
#include "mp/sync/event.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/sync/rwlock.h"
#include "mp/sync/semaphore.h"
#include "mp/sync/value.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// ---- What needs descriptors.

struct Tree {
  int leaf = 0;
  std::vector<Tree> branches;
  friend auto MpFields(Tree& tree) {
    return std::tie(tree.leaf, tree.branches);
  }
};

struct TreeOfLocks {
  std::optional<Lock> lock;
  std::vector<TreeOfLocks> branches;
  friend auto MpFields(TreeOfLocks& tree) {
    return std::tie(tree.lock, tree.branches);
  }
};

struct Named {
  std::string name;
  Event event;
};

struct Words {
  std::string text;
  std::map<std::string, std::vector<int>> places;
};

struct Secretive {
  int value = 0;
  Secretive() = default;
  virtual ~Secretive() = default;
};

}  // namespace

template <>
struct Codec<Secretive> {
  static size_t Size(const Secretive&) { return sizeof(int); }
  static void Write(const Secretive& s, Writer& writer) {
    writer.Write(s.value);
  }
  static void ReadInto(Reader& reader, Secretive& s) {
    reader.ReadInto(s.value);
  }
};

namespace {

static_assert(!CarriesDescriptors<int>());
static_assert(!CarriesDescriptors<bool>());
static_assert(!CarriesDescriptors<Words>());
static_assert(!CarriesDescriptors<Tree>());
static_assert(!CarriesDescriptors<absl::StatusOr<absl::Time>>());
static_assert(
    !CarriesDescriptors<std::variant<std::string, std::array<bool, 2>>>());
static_assert(CarriesDescriptors<UniqueFd>());
static_assert(CarriesDescriptors<Queue<int>>());
static_assert(CarriesDescriptors<Named>());
static_assert(CarriesDescriptors<TreeOfLocks>());
static_assert(CarriesDescriptors<std::unique_ptr<std::pair<int, Lock>>>());
static_assert(CarriesDescriptors<std::map<int, std::tuple<int, Event>>>());
static_assert(CarriesDescriptors<Secretive>());  // may write anything
// Handles without them are no larger for it.
static_assert(std::tuple_size_v<decltype(HandleAccess::Parts(
                  std::declval<Queue<int>>()))> == 1);

class CarrierTest : public testing::ProcessTest {
 public:
  // A descriptor of a pipe, to tell it by what is in it.
  static UniqueFd Holding(char byte) {
    int ends[2];
    MP_PCHECK(pipe2(ends, O_CLOEXEC) == 0) << "pipe2";
    const UniqueFd writer(ends[1]);
    MP_PCHECK(write(writer.get(), &byte, 1) == 1) << "write";
    return UniqueFd(ends[0]);
  }
  static char HeldBy(const UniqueFd& fd) {
    char byte = 0;
    return read(fd.get(), &byte, 1) == 1 ? byte : '?';
  }
};

// ---- Every handle, to a process that is older than what it gets.

using Everything =
    std::tuple<Lock, RLock, Semaphore, BoundedSemaphore, Event, Condition,
               Barrier, RWLock, Value<int>, Array<int>, SharedMemory, UniqueFd,
               Queue<std::string>, Connection<std::string>>;

// What `receive` gives to a child; `send` takes the same to it.
template <class Send, class Receive>
void SendEverything(Send send, Receive receive) {
  auto child = ChildProcess::Start([&] {
    absl::StatusOr<Everything> received = receive();
    ASSERT_OK(received);
    auto& [lock, rlock, semaphore, bounded, event, condition, barrier, rwlock,
           value, array, memory, fd, queue, connection] = *received;
    ASSERT_THAT(queue.Get(), IsOkAndHolds("ready"));
    EXPECT_FALSE(lock.Acquire(absl::ZeroDuration()));
    EXPECT_FALSE(rlock.Acquire(absl::ZeroDuration()));
    EXPECT_FALSE(rwlock.try_lock_shared());
    EXPECT_TRUE(bounded.Acquire(absl::ZeroDuration()));
    EXPECT_FALSE(bounded.Acquire(absl::ZeroDuration()));
    EXPECT_EQ(value.Get(), 4);
    EXPECT_EQ(array.Get(2), 5);
    EXPECT_EQ(memory.bytes()[99], std::byte{6});
    EXPECT_EQ(CarrierTest::HeldBy(fd), '7');
    EXPECT_OK(semaphore.Release());
    EXPECT_OK(connection.Send("eight"));
    {
      const std::lock_guard hold(condition);
      condition.NotifyAll();
    }
    event.Set();
    EXPECT_OK(barrier.Wait());
  });
  Lock lock;
  RLock rlock;
  Semaphore semaphore(0);
  BoundedSemaphore bounded(2);
  Event event;
  Condition condition;
  Barrier barrier(2);
  RWLock rwlock;
  Value<int> value(4);
  Array<int> array(3);
  SharedMemory memory(100);
  Queue<std::string> queue;
  auto [here, there] = Pipe<std::string>();
  const std::unique_lock hold_lock(lock);
  const std::unique_lock hold_rwlock(rwlock);
  rlock.Acquire();
  bounded.Acquire();
  array.Set(2, 5);
  memory.bytes()[99] = std::byte{6};
  condition.Acquire();
  ASSERT_OK(send(Everything(lock, rlock, semaphore, bounded, event, condition,
                            barrier, rwlock, value, array, memory,
                            CarrierTest::Holding('7'), queue, there)));
  ASSERT_OK(queue.Put("ready"));
  there.Close();
  EXPECT_THAT(here.Recv(), IsOkAndHolds("eight"));
  EXPECT_TRUE(condition.Wait());
  EXPECT_OK(condition.Release());
  event.Wait();
  semaphore.Acquire();
  EXPECT_OK(barrier.Wait());
  child.ExpectExit();
  EXPECT_OK(rlock.Release());
}

TEST_F(CarrierTest, EveryHandleThroughAQueue) {
  Queue<Everything> queue;
  SendEverything([&queue](const Everything& all) { return queue.Put(all); },
                 [&queue] { return queue.Get(); });
}

// CPython: test_pickling, test_access of _TestPicklingConnections;
// test_fd_transfer of _TestConnection.
TEST_F(CarrierTest, EveryHandleThroughAConnection) {
  auto [a, b] = Pipe<Everything>();
  SendEverything([&a = a](const Everything& all) { return a.Send(all); },
                 [&b = b] { return b.Recv(); });
}

// ---- Ways of going wrong, and right.

TEST_F(CarrierTest, SenderMayBeGone) {
  Queue<std::pair<int, UniqueFd>> queue;
  auto sender = ChildProcess::Start([&queue] {
    for (int i = 0; i < 10; ++i) {
      const char byte = static_cast<char>('0' + i);
      ASSERT_OK(queue.Put({i, CarrierTest::Holding(byte)}));
    }
  });
  sender.ExpectExit();
  for (int i = 0; i < 10; ++i) {
    const absl::StatusOr<std::pair<int, UniqueFd>> item = queue.Get();
    ASSERT_OK(item);
    EXPECT_EQ(item->first, i);
    EXPECT_EQ(HeldBy(item->second), '0' + i);
  }
}

TEST_F(CarrierTest, BothDirectionsOfAPipe) {
  auto [a, b] = Pipe<UniqueFd>();
  for (const char byte : {'a', 'b', 'c'}) {
    ASSERT_OK(a.Send(Holding(byte)));
    ASSERT_OK(b.Send(Holding(static_cast<char>(byte + 1))));
  }
  for (const char byte : {'a', 'b', 'c'}) {
    EXPECT_EQ(HeldBy(b.Recv().value()), byte);
    EXPECT_EQ(HeldBy(a.Recv().value()), byte + 1);
  }
}

TEST_F(CarrierTest, SomeMessagesHaveNone) {
  auto [receiver, sender] = Pipe<std::vector<UniqueFd>>(false);
  for (int i = 0; i < 20; ++i) {
    std::vector<UniqueFd> fds;
    for (int j = 0; j < i % 3; ++j) fds.push_back(Holding('x'));
    ASSERT_OK(sender.Send(fds));
    if (i % 2 == 0) {
      ASSERT_OK(sender.SendBytes("between"));
    }
  }
  for (int i = 0; i < 20; ++i) {
    const auto fds = receiver.Recv();
    ASSERT_THAT(fds, IsOkAndHolds(SizeIs(static_cast<size_t>(i % 3))));
    for (const UniqueFd& fd : *fds) EXPECT_EQ(HeldBy(fd), 'x');
    if (i % 2 == 0) {
      EXPECT_THAT(receiver.RecvBytes(), IsOkAndHolds("between"));
    }
  }
}

TEST_F(CarrierTest, RecursiveTypes) {
  Queue<Tree> trees;
  ASSERT_OK(trees.Put({.leaf = 1, .branches = {{.leaf = 2, .branches = {}}}}));
  const absl::StatusOr<Tree> tree = trees.Get();
  ASSERT_OK(tree);
  EXPECT_EQ(tree->branches.at(0).leaf, 2);

  Queue<TreeOfLocks> locks;
  Lock lock;
  ASSERT_OK(locks.Put(
      {.lock = std::nullopt, .branches = {{.lock = lock, .branches = {}}}}));
  const absl::StatusOr<TreeOfLocks> received = locks.Get();
  ASSERT_OK(received);
  EXPECT_EQ(received->branches.at(0).lock, lock);
}

// The kernel's limit, for a message and for what is on the way.
TEST_F(CarrierTest, TooManyInOneMessage) {
  Queue<std::vector<UniqueFd>> queue;
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < kMaxDescriptorsPerMessage; ++i) {
    fds.push_back(Holding('x'));
  }
  EXPECT_OK(queue.Put(fds));
  fds.push_back(Holding('x'));
  EXPECT_THAT(queue.Put(fds),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("253")));
  EXPECT_EQ(queue.qsize(), 1u);
  EXPECT_THAT(queue.Get(), IsOkAndHolds(SizeIs(kMaxDescriptorsPerMessage)));
}

TEST_F(CarrierTest, FullOfDescriptorsIsFull) {
  Queue<std::pair<int, Event>> queue;
  Event event;
  event.Set();
  int put = 0;
  absl::Status status;
  while ((status = queue.PutNowait({put, event})).ok()) ++put;
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                               "the queue is full"));
  EXPECT_THAT(queue.Put({put, event}, absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(queue.qsize(), static_cast<size_t>(put));
  auto putter = ChildProcess::Start([&] {
    for (int i = 0; i < put; ++i) ASSERT_OK(queue.Put({put + i, event}));
  });
  ASSERT_TRUE(putter.WaitUntilAsleep());
  for (int i = 0; i < 2 * put; ++i) {
    const auto item = queue.Get();
    ASSERT_OK(item);
    ASSERT_EQ(item->first, i);
    ASSERT_TRUE(item->second.IsSet());
  }
  putter.ExpectExit();
}

TEST_F(CarrierTest, GetterWithoutRoomForDescriptors) {
  Queue<UniqueFd> queue;
  auto [a, b] = Pipe<UniqueFd>();
  ASSERT_OK(queue.Put(Holding('q')));
  ASSERT_OK(a.Send(Holding('c')));
  auto getter = ChildProcess::Start([&queue, &b = b] {
    rlimit all;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
    const rlimit none = {.rlim_cur = 0, .rlim_max = all.rlim_max};
    // No checks meanwhile: UndefinedBehaviorSanitizer needs descriptors, too.
    MP_PCHECK(setrlimit(RLIMIT_NOFILE, &none) == 0) << "setrlimit";
    std::vector<absl::Status> errors;
    for (int i = 0; i < 2; ++i) {
      errors.push_back(queue.Get().status());
      errors.push_back(b.Recv().status());
    }
    MP_PCHECK(setrlimit(RLIMIT_NOFILE, &all) == 0) << "setrlimit";
    EXPECT_THAT(errors, Each(StatusIs(absl::StatusCode::kResourceExhausted,
                                      HasSubstr("EMFILE"))));
    EXPECT_EQ(queue.qsize(), 1u);
    const absl::StatusOr<UniqueFd> item = queue.Get();
    ASSERT_OK(item);
    EXPECT_EQ(HeldBy(*item), 'q');
    const absl::StatusOr<UniqueFd> message = b.Recv();
    ASSERT_OK(message);
    EXPECT_EQ(HeldBy(*message), 'c');
  });
  getter.ExpectExit();
}

// They share memory, so they need neither descriptors nor mappings of their
// own.
TEST_F(CarrierTest, ThousandsOfSmallObjects) {
  Queue<Event> queue;
  auto getter = ChildProcess::Start([&queue] {
    std::vector<Event> events;
    for (int i = 0; i < 5000; ++i) {
      absl::StatusOr<Event> event = queue.Get();
      ASSERT_OK(event);
      EXPECT_EQ(event->IsSet(), i % 2 == 0);
      events.push_back(*std::move(event));
    }
    EXPECT_LT(Holding('x').get(), 100);  // the lowest number that is free
  });
  for (int i = 0; i < 5000; ++i) {
    Event event;
    if (i % 2 == 0) event.Set();
    ASSERT_OK(queue.Put(event));
  }
  getter.ExpectExit();
}

// What comes back is what was sent.
TEST_F(CarrierTest, SameObjectIsEqual) {
  const Event event;
  Queue<Event> queue;
  ASSERT_OK(queue.Put(event));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(event));
  Queue<Queue<Event>> queues;
  ASSERT_OK(queues.Put(queue));
  EXPECT_THAT(queues.Get(), IsOkAndHolds(queue));
}

// An end that was on the way to a process that died: nobody has it any more.
TEST_F(CarrierTest, EndOfFileOfAnEndOnTheWay) {
  for (const bool taken : {false, true}) {
    auto [to_worker, worker] = Pipe<Connection<int>>();
    auto [ours, theirs] = Pipe<int>();
    Event ready;
    auto child =
        ChildProcess::Start([&, &to_worker = to_worker, &worker = worker,
                             &ours = ours, &theirs = theirs] {
          to_worker.Close();
          ours.Close();
          theirs.Close();
          ASSERT_OK(worker.Poll(absl::InfiniteDuration()));
          absl::StatusOr<Connection<int>> connection;
          if (taken) connection = worker.Recv();
          ready.Set();
          for (;;) pause();
        });
    worker.Close();
    ASSERT_OK(to_worker.Send(theirs));
    theirs.Close();
    ready.Wait();
    EXPECT_THAT(ours.Poll(), IsOkAndHolds(false));
    child.Kill();
    child.ExpectSignal(SIGKILL);
    EXPECT_THAT(ours.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
    EXPECT_THAT(to_worker.Send(ours),
                StatusIs(absl::StatusCode::kFailedPrecondition));
  }
}

// Close() gives up what is on the way to this process, too.
TEST_F(CarrierTest, CloseDropsWhatIsOnTheWay) {
  auto [a, b] = Pipe<Connection<int>>();
  auto [ours, theirs] = Pipe<int>();
  ASSERT_OK(a.Send(theirs));
  theirs.Close();
  const Connection<Connection<int>> copy = b;
  b.Close();
  EXPECT_THAT(ours.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(a.Send(ours), StatusIs(absl::StatusCode::kFailedPrecondition));
}

// A pipe whose ends travel through pipes: each in the one before.
TEST_F(CarrierTest, ConnectionsOnTheWay) {
  using Inner = Connection<int>;
  using Outer = Connection<Inner>;
  auto [a, b] = Pipe<Outer>();
  auto [c, d] = Pipe<Inner>();
  auto [e, f] = Pipe<int>();
  ASSERT_OK(c.Send(f));
  f.Close();
  ASSERT_OK(a.Send(d));
  d.Close();
  ASSERT_OK(e.Send(1));
  absl::StatusOr<Outer> outer = b.Recv();
  ASSERT_OK(outer);
  absl::StatusOr<Inner> inner = outer->Recv();
  ASSERT_OK(inner);
  EXPECT_THAT(inner->Recv(), IsOkAndHolds(1));
}

// ---- What the dead leave.

using ipc_internal::DescriptorSockets;
using ipc_internal::FillResult;
using ipc_internal::Ring;
using ipc_internal::RingResult;

class DescriptorSocketsTest : public CarrierTest {
 protected:
  void Send(uint64_t serial, char byte) {
    const UniqueFd fd = Holding(byte);
    const std::array<int, 1> fds = {fd.get()};
    ASSERT_THAT(sockets_.Send(serial, fds), IsOkAndHolds(true));
  }
  void ExpectThere(uint64_t serial, char byte) {
    absl::StatusOr<IncomingDescriptors> came = sockets_.Peek(serial);
    ASSERT_OK(came);
    const absl::StatusOr<UniqueFd> fd = came->Take(0);
    ASSERT_OK(fd);
    EXPECT_EQ(HeldBy(*fd), byte);
  }

  DescriptorSockets sockets_ = DescriptorSockets::Create().value();
};

TEST_F(DescriptorSocketsTest, NumbersThatNobodyNamesAreSkipped) {
  Send(1, 'a');
  Send(2, 'b');
  Send(5, 'c');
  ExpectThere(5, 'c');
  EXPECT_THAT(sockets_.Peek(2), StatusIs(absl::StatusCode::kDataLoss));
  sockets_.RemoveUpTo(4);
  ASSERT_OK(sockets_.Peek(5));
  sockets_.RemoveUpTo(5);
  EXPECT_THAT(sockets_.Peek(5), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(DescriptorSocketsTest, MissingOnesLeaveTheOthers) {
  Send(7, 'a');
  EXPECT_THAT(sockets_.Peek(0), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(sockets_.Peek(6), StatusIs(absl::StatusCode::kDataLoss));
  ExpectThere(7, 'a');
}

// So many dead senders that there is no room for the living.
TEST_F(DescriptorSocketsTest, FullOfWhatNobodyNames) {
  absl::StatusOr<Ring> ring = Ring::Create({.name = "test"});
  ASSERT_OK(ring);
  ipc_internal::Carrier<UniqueFd> carrier(sockets_);
  const std::array<int, 1> nothing = {STDIN_FILENO};
  bool sent = true;
  while (sent) {
    absl::StatusOr<bool> result = false;
    ASSERT_EQ(ring->Put(
                  8,
                  [&](std::byte*, uint32_t) {
                    result = sockets_.Send(ring->NextSerial(), nothing);
                    return false;
                  },
                  Deadline::Now()),
              RingResult::kAborted);
    ASSERT_OK(result);
    sent = *result;
  }
  const UniqueFd fd = Holding('x');
  absl::Status error;
  const auto fill = [&](std::byte* to, uint32_t) {
    return carrier.Write(*ring, fd, std::span(to, carrier.Size(fd)), error);
  };
  ASSERT_EQ(ring->Put(carrier.Size(fd), fill, Deadline::Now()),
            RingResult::kDone)
      << error;
  absl::StatusOr<UniqueFd> came;
  uint64_t serial = 0;
  ASSERT_EQ(
      ring->Get([&](std::span<const std::byte> record,
                    uint32_t) { return carrier.Read(record, came, serial); },
                Deadline::Now(), Ring::WatchOne{kNoToken},
                [&] { carrier.Removed(serial); }),
      RingResult::kDone);
  ASSERT_OK(came);
  EXPECT_EQ(HeldBy(*came), 'x');
  EXPECT_THAT(sockets_.Peek(serial), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(DescriptorSocketsTest, HostileRecords) {
  const ipc_internal::Carrier<UniqueFd> carrier(sockets_);
  absl::StatusOr<UniqueFd> value;
  uint64_t serial = 0;
  // Too short; of a message that is not there; without its descriptors.
  std::vector<std::vector<std::byte>> records(3);
  records[0].resize(7);
  records[1].resize(12, std::byte{1});
  records[2].resize(12);
  for (const std::vector<std::byte>& record : records) {
    EXPECT_TRUE(carrier.Read(record, value, serial));
    EXPECT_THAT(value, StatusIs(absl::StatusCode::kDataLoss));
  }
}

// Of the right layout, but with other contents. Found by codec_fuzzer.
template <class Handle, uint64_t kLayout>
absl::Status ArriveIn(const SegmentPart<kLayout>&, SegmentOptions options,
                      std::byte contents) {
  options.layout = kLayout;
  absl::StatusOr<std::shared_ptr<Segment>> segment = Segment::Create(options);
  if (!segment.ok()) return segment.status();
  std::fill_n((*segment)->data(), (*segment)->size(), contents);
  std::vector<UniqueFd> fds;
  fds.emplace_back(fcntl((*segment)->fd(), F_DUPFD_CLOEXEC, 0));
  IncomingDescriptors descriptors(std::move(fds));
  // The rest are zeros: the first descriptor, an empty name.
  std::array<std::byte, 12> bytes{};
  return Decode<Handle>(std::span<const std::byte>(bytes).first(
                            std::is_same_v<Handle, SharedMemory> ? 12 : 4),
                        &descriptors)
      .status();
}

TEST(HostileSegments, AreNotWhatAHandleNeeds) {
  const Queue<int> queue;
  const auto ring =
      std::get<0>(HandleAccess::Parts(std::get<0>(HandleAccess::Parts(queue))));
  for (const size_t ring_size : {0, 3 * 4096}) {
    EXPECT_THAT(
        ArriveIn<Queue<int>>(
            ring, {.name = "test", .size = 8192, .ring_size = ring_size}, {}),
        StatusIs(absl::StatusCode::kDataLoss,
                 HasSubstr("the shared memory of a handle")));
  }
  const SharedMemory memory(100);
  const auto block = std::get<0>(HandleAccess::Parts(memory));
  EXPECT_OK(ArriveIn<SharedMemory>(block, {.name = "test", .size = 100}, {}));
  EXPECT_THAT(ArriveIn<SharedMemory>(block, {.name = "test", .size = 100},
                                     std::byte{0xff}),
              StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace mp
