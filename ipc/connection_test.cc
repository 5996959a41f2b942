#include "mp/ipc/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
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
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments_test_util.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/pipe.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::FailSystemCall;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kMoment = absl::Milliseconds(20);

class ConnectionTest : public testing::ProcessTest {};

// Sleepers do not look around by themselves, so a wake-up that is lost hangs
// the test.
class PatientConnectionTest : public ConnectionTest {
 protected:
  PatientConnectionTest() { ParkSlices::SetFirstForTest(3600'000'000'000); }
  ~PatientConnectionTest() override { ParkSlices::SetFirstForTest(0); }
};

auto IsEndOfFile() {
  return StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("end of file"));
}
auto IsBrokenPipe() {
  return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("EPIPE"));
}
auto IsClosed() {
  return StatusIs(absl::StatusCode::kFailedPrecondition,
                  "the connection is closed");
}
auto TimedOut() { return StatusIs(absl::StatusCode::kDeadlineExceeded); }

template <class T>
bool IsReadable(Connection<T>& connection) {
  return testing::IsReadable(connection.fileno().value());
}

// ---- One process.

TEST_F(ConnectionTest, BothWaysInOrder) {
  auto [a, b] = Pipe<std::string>();
  for (int i = 0; i < 100; ++i) {
    ASSERT_OK(a.Send("to b " + std::to_string(i)));
    ASSERT_OK(b.Send("to a " + std::to_string(i)));
  }
  for (int i = 0; i < 100; ++i) {
    ASSERT_THAT(a.Recv(), IsOkAndHolds("to a " + std::to_string(i)));
    ASSERT_THAT(b.Recv(), IsOkAndHolds("to b " + std::to_string(i)));
  }
}

TEST_F(ConnectionTest, AnyType) {
  using Map = std::map<std::string, std::vector<double>>;
  auto [a, b] = Pipe<Map>();
  const Map map = {{"one", {1, 2.5}}, {"two", {}}};
  ASSERT_OK(a.Send(map));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(map));

  auto [c, d] = Pipe<std::unique_ptr<int>>();
  ASSERT_OK(c.Send(std::make_unique<int>(5)));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<int> five, d.Recv());
  EXPECT_EQ(*five, 5);
}

// CPython: test_duplex_false.

// CPython: test_sendbytes, and the bytes in test_connection.
TEST_F(ConnectionTest, RawBytes) {
  auto [a, b] = Pipe<int>();
  const std::string bytes = "abcdefghijklmnopqrstuvwxyz";
  ASSERT_OK(a.SendBytes(bytes));
  ASSERT_OK(a.SendBytes(std::string_view(bytes).substr(5)));
  ASSERT_OK(a.SendBytes(std::string_view(bytes).substr(7, 8)));
  ASSERT_OK(a.SendBytes(""));
  const std::vector<std::byte> zeros(3);
  ASSERT_OK(a.SendBytes(zeros));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(bytes));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(bytes.substr(5)));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(bytes.substr(7, 8)));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(""));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(std::string(3, '\0')));
}

TEST_F(ConnectionTest, RawBytesIntoABuffer) {
  auto [a, b] = Pipe<int>();
  std::array<std::byte, 8> buffer = {};
  ASSERT_OK(a.SendBytes("12345678"));
  ASSERT_OK(a.SendBytes("abc"));
  ASSERT_OK(a.SendBytes("too long for it"));
  ASSERT_OK(a.SendBytes(""));
  EXPECT_THAT(b.RecvBytesInto(buffer), IsOkAndHolds(8u));
  EXPECT_EQ(buffer[7], std::byte{'8'});
  // With an offset.
  EXPECT_THAT(b.RecvBytesInto(std::span(buffer).subspan(2)), IsOkAndHolds(3u));
  EXPECT_EQ(buffer[1], std::byte{'2'});
  EXPECT_EQ(buffer[2], std::byte{'a'});
  EXPECT_EQ(buffer[5], std::byte{'6'});
  // CPython: BufferTooShort. Here the message stays.
  EXPECT_THAT(b.RecvBytesInto(buffer),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("15")));
  EXPECT_THAT(b.RecvBytes(/*maxlength=*/14),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("15"), HasSubstr("14"))));
  EXPECT_THAT(b.RecvBytes(/*maxlength=*/15), IsOkAndHolds("too long for it"));
  EXPECT_THAT(b.RecvBytesInto({}), IsOkAndHolds(0u));
}

TEST_F(ConnectionTest, OtherKindOfMessageStays) {
  auto [a, b] = Pipe<int>();
  ASSERT_OK(a.SendBytes("1234"));
  ASSERT_OK(a.Send(7));
  EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("RecvBytes")));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds("1234"));
  EXPECT_THAT(b.RecvBytes(), StatusIs(absl::StatusCode::kInvalidArgument,
                                      HasSubstr("Recv()")));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(7));
}

struct Refusing {
  bool refuse = false;
};

}  // namespace

template <>
struct Codec<Refusing> {
  static size_t Size(const Refusing&) { return 1; }
  static void Write(const Refusing& value, Writer& writer) {
    if (value.refuse) writer.Fail(absl::InvalidArgumentError("refused"));
    writer.Write('x');
  }
  static Refusing Read(Reader& reader) {
    reader.Read<char>();
    return {};
  }
};

namespace {

TEST_F(ConnectionTest, MessageThatCannotBeEncoded) {
  auto [a, b] = Pipe<Refusing>();
  EXPECT_THAT(a.Send({.refuse = true}),
              StatusIs(absl::StatusCode::kInvalidArgument, "refused"));
  EXPECT_THAT(b.Poll(), IsOkAndHolds(false));
  ASSERT_OK(a.Send({}));
  EXPECT_OK(b.Recv());
}

// CPython: test_connection sends 16 MiB.
TEST_F(ConnectionTest, LargeMessages) {
  auto [a, b] = Pipe<std::string>();
  for (const size_t size : {4'000u, 5'000u, 65'000u, 70'000u, 20'000'000u}) {
    const std::string message(size, static_cast<char>(size));
    ASSERT_OK(a.Send(message));
    ASSERT_OK_AND_ASSIGN(const std::string received, b.Recv());
    EXPECT_TRUE(received == message) << size;
  }
}

TEST_F(ConnectionTest, Full) {
  auto [a, b] = Pipe<std::string>();
  const std::string message(1000, 'x');
  int count = 0;
  while (a.Send(message, absl::ZeroDuration()).ok()) ++count;
  EXPECT_GE(count, 64);
  EXPECT_LE(count, 100);
  EXPECT_THAT(a.Send(message, kMoment),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("full")));
  // A large one waits for all before it.
  EXPECT_THAT(a.Send(std::string(100'000, 'y'), kMoment), TimedOut());
  for (int i = 0; i < count; ++i) {
    ASSERT_THAT(b.Recv(), IsOkAndHolds(message));
  }
  ASSERT_OK(a.Send(std::string(100'000, 'y'), absl::ZeroDuration()));
  // Others wait behind it.
  EXPECT_THAT(a.Send(message, absl::ZeroDuration()), TimedOut());
  ASSERT_OK(b.Recv());
  ASSERT_OK(a.Send(message, absl::ZeroDuration()));
}

TEST_F(ConnectionTest, Timeouts) {
  auto [a, b] = Pipe<int>();
  const int64_t start = MonotonicNanos();
  EXPECT_THAT(b.Recv(kMoment), TimedOut());
  EXPECT_THAT(b.RecvBytes(kMoment), TimedOut());
  EXPECT_THAT(b.RecvBytesInto({}, kMoment), TimedOut());
  EXPECT_THAT(b.Poll(kMoment), IsOkAndHolds(false));
  EXPECT_GE(MonotonicNanos() - start, 4 * 20'000'000);
  for (const absl::Duration none :
       {absl::ZeroDuration(), -absl::Seconds(1), -absl::InfiniteDuration()}) {
    EXPECT_THAT(b.Recv(none), TimedOut());
    EXPECT_THAT(b.Poll(none), IsOkAndHolds(false));
  }
  ASSERT_OK(a.Send(1));
  EXPECT_THAT(b.Recv(absl::ZeroDuration()), IsOkAndHolds(1));
}

// CPython: _TestPoll.
TEST_F(ConnectionTest, PollTakesNothing) {
  auto [a, b] = Pipe<int>();
  EXPECT_THAT(b.Poll(), IsOkAndHolds(false));
  ASSERT_OK(a.SendBytes(""));
  ASSERT_OK(a.SendBytes("a"));
  ASSERT_OK(a.SendBytes("bb"));
  for (const std::string expected : {"", "a", "bb"}) {
    for (int i = 0; i < 3; ++i) {
      EXPECT_THAT(b.Poll(), IsOkAndHolds(true));
      EXPECT_THAT(b.Poll(absl::InfiniteDuration()), IsOkAndHolds(true));
    }
    EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(expected));
  }
  EXPECT_THAT(b.Poll(), IsOkAndHolds(false));
}

// ---- The end of the file.

TEST_F(ConnectionTest, EndOfFileAfterTheMessages) {
  auto [a, b] = Pipe<int>();
  ASSERT_OK(a.Send(1));
  ASSERT_OK(a.Send(2));
  a.Close();
  EXPECT_THAT(b.Poll(), IsOkAndHolds(true));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(1));
  EXPECT_THAT(b.Recv(absl::ZeroDuration()), IsOkAndHolds(2));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(b.Poll(), IsOkAndHolds(true)) << "Recv would not wait";
    EXPECT_THAT(b.Recv(), IsEndOfFile());
    EXPECT_THAT(b.Recv(absl::ZeroDuration()), IsEndOfFile());
    EXPECT_THAT(b.RecvBytes(), IsEndOfFile());
  }
}

TEST_F(ConnectionTest, BrokenPipe) {
  auto [a, b] = Pipe<int>();
  ASSERT_OK(a.Send(1));
  b.Close();
  EXPECT_THAT(a.Send(2), IsBrokenPipe());
  EXPECT_THAT(a.Send(2), IsBrokenPipe());
  auto [receiver, sender] = Pipe<int>(false);
  ASSERT_OK(sender.Send(1));
  EXPECT_THAT(receiver.Recv(), IsOkAndHolds(1));
  ASSERT_OK(sender.Send(1));
  receiver.Close();
  EXPECT_THAT(sender.Send(2), IsBrokenPipe());
}

TEST_F(ConnectionTest, LastHandleCloses) {
  auto [a, b] = Pipe<int>();
  {
    std::optional<Connection<int>> one = std::move(a);
    std::optional<Connection<int>> two = one;
    one.reset();
    ASSERT_OK(two->Send(1));
  }
  EXPECT_THAT(b.Recv(), IsOkAndHolds(1));
  EXPECT_THAT(b.Recv(), IsEndOfFile());
}

// CPython: test_context and "closed handle".
TEST_F(ConnectionTest, ClosedHere) {
  auto [a, b] = Pipe<int>();
  Connection<int> copy = a;
  EXPECT_FALSE(a.closed());
  ASSERT_OK(b.Send(1));
  a.Close();
  a.Close();
  EXPECT_TRUE(a.closed());
  EXPECT_TRUE(copy.closed());
  EXPECT_THAT(a.Send(1), IsClosed());
  EXPECT_THAT(copy.Recv(), IsClosed());
  EXPECT_THAT(a.Poll(), IsClosed());
  EXPECT_THAT(a.SendBytes(""), IsClosed());
  EXPECT_THAT(a.RecvBytes(), IsClosed());
  EXPECT_THAT(a.fileno(), IsClosed());
}

TEST_F(PatientConnectionTest, CloseWakesTheOtherEnd) {
  for (const bool receiver : {true, false}) {
    auto [a, b] = Pipe<std::string>();
    auto sleeper = ChildProcess::Start([&, &a = a, &b = b] {
      b.Close();
      if (receiver) {
        EXPECT_THAT(a.Recv(), IsEndOfFile());
      } else {
        absl::Status sent;
        while (sent.ok()) sent = a.Send(std::string(1000, 'x'));
        EXPECT_THAT(sent, IsBrokenPipe());
      }
    });
    a.Close();
    ASSERT_TRUE(sleeper.WaitUntilAsleep());
    b.Close();
    sleeper.ExpectExit();
  }
}

TEST_F(PatientConnectionTest, CloseWakesThreadsOfThisProcess) {
  auto [a, b] = Pipe<int>();
  std::vector<std::thread> threads;
  std::atomic<int> waiting{0};
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, &a = a] {
      ++waiting;
      EXPECT_THAT(a.Recv(), IsClosed());
    });
    threads.emplace_back([&, &a = a] {
      ++waiting;
      EXPECT_THAT(a.Poll(absl::InfiniteDuration()), IsClosed());
    });
  }
  while (waiting < 4) {
  }
  absl::SleepFor(kMoment);
  a.Close();
  for (std::thread& thread : threads) thread.join();
}

// A call in another thread must not touch a stranger's descriptor.
TEST_F(ConnectionTest, NumberIsNotUsedAgainBeforeTheHandleGoes) {
  auto [a, b] = Pipe<int>();
  ASSERT_OK_AND_ASSIGN(const int number, a.fileno());
  a.Close();
  const UniqueFd other(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_NE(other.get(), number);
  EXPECT_THAT(b.Recv(), IsEndOfFile());
}

// ---- Several processes.

TEST_F(ConnectionTest, Echo) {
  auto [ours, theirs] = Pipe<std::string>();
  auto echo = ChildProcess::Start([&ours = ours, &theirs = theirs] {
    ours.Close();
    for (;;) {
      const absl::StatusOr<std::string> message = theirs.Recv();
      if (!message.ok()) {
        EXPECT_THAT(message, IsEndOfFile());
        return;
      }
      EXPECT_OK(theirs.Send(*message));
    }
  });
  theirs.Close();
  for (int i = 0; i < 3000; ++i) {
    const std::string message(static_cast<size_t>(i * i % 9000), 'x');
    ASSERT_OK(ours.Send(message));
    ASSERT_THAT(ours.Recv(), IsOkAndHolds(message));
  }
  ours.Close();
  echo.ExpectExit();
}

// Both directions, each with a message on the way all the time, both full.
TEST_F(PatientConnectionTest, NoWakeUpIsLost) {
  auto [a, b] = Pipe<std::vector<int>>();
  constexpr int kMessages = 20'000;
  const auto message = [](int i) {
    return std::vector<int>(static_cast<size_t>(i % 700), i);
  };
  std::vector<ChildProcess> children;
  for (const Connection<std::vector<int>>& end : {a, b}) {
    children.push_back(ChildProcess::Start([&, own = end]() mutable {
      for (int i = 0; i < kMessages; ++i) ASSERT_OK(own.Send(message(i)));
    }));
    children.push_back(ChildProcess::Start([&, own = end]() mutable {
      for (int i = 0; i < kMessages; ++i) {
        ASSERT_THAT(own.Recv(), IsOkAndHolds(message(i)));
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit();
}

TEST_F(PatientConnectionTest, ManySendersAndReceivers) {
  constexpr int kEach = 2000;
  auto [receiver, sender] = Pipe<int>(false);
  const SharedPage<std::array<std::atomic<int>, 4 * kEach>> seen;
  std::vector<ChildProcess> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(ChildProcess::Start([&, i, &sender = sender] {
      for (int n = 0; n < kEach; ++n) ASSERT_OK(sender.Send(i * kEach + n));
    }));
    children.push_back(ChildProcess::Start([&, &receiver = receiver] {
      for (int n = 0; n < kEach; ++n) {
        ASSERT_OK_AND_ASSIGN(const int got, receiver.Recv());
        ++(*seen)[static_cast<size_t>(got)];
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit();
  for (const std::atomic<int>& times : *seen) ASSERT_EQ(times, 1);
}

// One who polls and one who receives: the one wake-up is for both.
TEST_F(PatientConnectionTest, PollPassesTheWakeUpOn) {
  auto [receiver, sender] = Pipe<int>(false);
  auto poller = ChildProcess::Start([&receiver = receiver] {
    EXPECT_THAT(receiver.Poll(absl::InfiniteDuration()), IsOkAndHolds(true));
    pause();
  });
  ASSERT_TRUE(poller.WaitUntilAsleep());
  auto getter = ChildProcess::Start([&receiver = receiver] {
    for (int i = 0; i < 2; ++i) EXPECT_OK(receiver.Recv());
  });
  ASSERT_TRUE(getter.WaitUntilAsleep());
  ASSERT_OK(sender.Send(1));
  ASSERT_OK(sender.Send(2));
  getter.ExpectExit();
}

// ---- Deaths.

TEST_F(ConnectionTest, SenderIsKilled) {
  for (const bool has_sent : {true, false}) {
    auto [receiver, sender] = Pipe<int>(false);
    auto victim = ChildProcess::Start([&, &sender = sender] {
      if (has_sent) {
        EXPECT_OK(sender.Send(1));
      }
      pause();
    });
    sender.Close();
    if (has_sent) {
      EXPECT_THAT(receiver.Recv(), IsOkAndHolds(1));
    }
    ASSERT_TRUE(victim.WaitUntilAsleep());
    auto sleeper = ChildProcess::Start([&receiver = receiver] {
      EXPECT_THAT(receiver.Recv(), IsEndOfFile());
    });
    ASSERT_TRUE(sleeper.WaitUntilAsleep());
    victim.Kill();
    sleeper.ExpectExit();
    EXPECT_THAT(receiver.Poll(), IsOkAndHolds(true));
    EXPECT_THAT(receiver.Recv(), IsEndOfFile());
    victim.ExpectSignal(SIGKILL);
  }
}

TEST_F(ConnectionTest, LastMessageOfAKilledSender) {
  for (int round = 0; round < 100; ++round) {
    auto [receiver, sender] = Pipe<int>(false);
    auto victim = ChildProcess::Start([&, &sender = sender] {
      absl::SleepFor(absl::Microseconds(round));
      EXPECT_OK(sender.Send(round));
      kill(getpid(), SIGKILL);
    });
    sender.Close();
    EXPECT_THAT(receiver.Recv(), IsOkAndHolds(round));
    EXPECT_THAT(receiver.Recv(), IsEndOfFile());
    victim.ExpectSignal(SIGKILL);
  }
}

TEST_F(ConnectionTest, ReceiverIsKilled) {
  for (const bool has_received : {true, false}) {
    for (const bool asleep : {true, false}) {
      auto [receiver, sender] = Pipe<std::string>(false);
      auto victim = ChildProcess::Start([&, &receiver = receiver] {
        if (has_received) {
          EXPECT_OK(receiver.Recv());
        }
        pause();
      });
      receiver.Close();
      ASSERT_OK(sender.Send("first"));
      ASSERT_TRUE(victim.WaitUntilAsleep());
      if (asleep) {
        auto sleeper = ChildProcess::Start([&sender = sender] {
          absl::Status sent;
          while (sent.ok()) sent = sender.Send(std::string(1000, 'x'));
          EXPECT_THAT(sent, IsBrokenPipe());
        });
        ASSERT_TRUE(sleeper.WaitUntilAsleep());
        victim.Kill();
        sleeper.ExpectExit();
      } else {
        victim.Kill();
      }
      victim.ExpectSignal(SIGKILL);
      EXPECT_THAT(sender.Send("x"), IsBrokenPipe());
    }
  }
}

// While one of several lives there is no end of file.
TEST_F(ConnectionTest, OneOfTwoSendersIsKilled) {
  auto [receiver, sender] = Pipe<int>(false);
  const SharedPage<std::atomic<bool>> go;
  auto survivor = ChildProcess::Start([&, &sender = sender] {
    while (!*go) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_OK(sender.Send(2));
  });
  auto victim = ChildProcess::Start([&sender = sender] {
    EXPECT_OK(sender.Send(1));
    pause();
  });
  sender.Close();
  EXPECT_THAT(receiver.Recv(), IsOkAndHolds(1));
  victim.Kill();
  victim.ExpectSignal(SIGKILL);
  EXPECT_THAT(receiver.Recv(kMoment), TimedOut());
  *go = true;
  EXPECT_THAT(receiver.Recv(), IsOkAndHolds(2));
  EXPECT_THAT(receiver.Recv(), IsEndOfFile());
  survivor.ExpectExit();
}

TEST_F(ConnectionTest, OneOfTwoReceiversIsKilled) {
  auto [receiver, sender] = Pipe<int>(false);
  auto victim = ChildProcess::Start([&receiver = receiver] {
    EXPECT_OK(receiver.Recv());
    pause();
  });
  ASSERT_OK(sender.Send(1));
  ASSERT_TRUE(victim.WaitUntilAsleep());
  victim.Kill();
  victim.ExpectSignal(SIGKILL);
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(sender.Send(i)) << "this process can still receive";
  }
  EXPECT_THAT(receiver.Recv(), IsOkAndHolds(0));
}

// ---- The descriptor.

TEST_F(ConnectionTest, ReadableWhileThereIsAMessage) {
  auto [a, b] = Pipe<int>();
  ASSERT_OK(a.Send(1));  // before anybody has asked for the descriptor
  EXPECT_TRUE(IsReadable(b));
  ASSERT_OK(a.Send(2));
  EXPECT_TRUE(IsReadable(b));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(1));
  EXPECT_TRUE(IsReadable(b));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(2));
  EXPECT_FALSE(IsReadable(b));
  for (int i = 0; i < 10; ++i) {
    ASSERT_OK(a.SendBytes(""));
    EXPECT_TRUE(IsReadable(b));
    EXPECT_OK(b.RecvBytes());
    EXPECT_FALSE(IsReadable(b));
  }
  a.Close();
  EXPECT_TRUE(IsReadable(b));
  EXPECT_THAT(b.Recv(), IsEndOfFile());
}

// Whoever is killed between the byte and the message.
TEST_F(ConnectionTest, ReadableWithoutAMessageIsPutRight) {
  auto [a, b] = Pipe<int>();
  EXPECT_FALSE(IsReadable(b));
  ASSERT_OK_AND_ASSIGN(const int peer, a.fileno());
  ASSERT_EQ(write(peer, "x", 1), 1);
  EXPECT_TRUE(IsReadable(b));
  EXPECT_THAT(b.Recv(absl::ZeroDuration()), TimedOut());
  EXPECT_FALSE(IsReadable(b));
  ASSERT_OK(a.Send(1));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(1));
  EXPECT_FALSE(IsReadable(b));
}

// So many messages that their bytes fill the socket.
TEST_F(ConnectionTest, DescriptorOfManyMessages) {
  auto [a, b] = Pipe<char>();
  EXPECT_FALSE(IsReadable(b));
  int count = 0;
  while (a.Send('x', absl::ZeroDuration()).ok()) ++count;
  EXPECT_GT(count, 1000);
  for (int i = 0; i < count; ++i) {
    ASSERT_TRUE(IsReadable(b));
    ASSERT_OK(b.Recv());
  }
  EXPECT_FALSE(IsReadable(b));
}

TEST_F(ConnectionTest, Epoll) {
  for (const bool edges : {false, true}) {
    auto [a, b] = Pipe<int>();
    const UniqueFd set(epoll_create1(EPOLL_CLOEXEC));
    epoll_event event = {};
    event.events = EPOLLIN | (edges ? EPOLLET : 0u);
    ASSERT_EQ(epoll_ctl(set.get(), EPOLL_CTL_ADD, b.fileno().value(), &event),
              0);
    const auto ready = [&] { return epoll_wait(set.get(), &event, 1, 0) == 1; };
    EXPECT_FALSE(ready());
    for (int i = 0; i < 5; ++i) {
      ASSERT_OK(a.Send(i));
      EXPECT_TRUE(ready());
      EXPECT_EQ(ready(), !edges);
      ASSERT_OK(a.Send(i));
      EXPECT_TRUE(ready()) << "a new edge";
      EXPECT_EQ(ready(), !edges);
      ASSERT_OK(b.Recv());
      EXPECT_EQ(ready(), !edges);
      ASSERT_OK(b.Recv());
      EXPECT_FALSE(ready());
    }
    a.Close();
    EXPECT_TRUE(ready());
  }
}

TEST_F(ConnectionTest, PollingProcessSleepsUntilAMessageComes) {
  auto [a, b] = Pipe<int>();
  auto poller = ChildProcess::Start([&b = b] {
    pollfd entry = {.fd = b.fileno().value(), .events = POLLIN, .revents = 0};
    for (int i = 0; i < 3000; ++i) {
      EXPECT_EQ(poll(&entry, 1, -1), 1);
      const absl::StatusOr<int> message = b.Recv(absl::ZeroDuration());
      if (message.ok()) {
        ASSERT_EQ(*message, i);
      } else {
        ASSERT_THAT(message, TimedOut());
        --i;
      }
    }
  });
  for (int i = 0; i < 3000; ++i) ASSERT_OK(a.Send(i));
  poller.ExpectExit();
}

// ---- Signals.

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

// CPython: TestIgnoreEINTR.test_ignore.
TEST_F(ConnectionTest, SignalsDoNotShortenCalls) {
  auto [a, b] = Pipe<std::string>();
  Interrupt([&b = b] { EXPECT_THAT(b.Recv(), IsOkAndHolds("message")); },
            [&a = a] { ASSERT_OK(a.Send("message")); });
  Interrupt(
      [&b = b] {
        EXPECT_THAT(b.Poll(absl::InfiniteDuration()), IsOkAndHolds(true));
      },
      [&a = a] { ASSERT_OK(a.Send("polled")); });
  EXPECT_THAT(b.Recv(), IsOkAndHolds("polled"));

  int sent = 0;
  while (a.Send("fills the pipe", absl::ZeroDuration()).ok()) ++sent;
  Interrupt([&a = a] { EXPECT_OK(a.Send("last")); },
            [&b = b, sent] {
              for (int i = 0; i < sent; ++i) ASSERT_OK(b.Recv());
            });
  EXPECT_THAT(b.Recv(), IsOkAndHolds("last"));

  const std::string large(1 << 20, 'x');
  ASSERT_OK(a.Send("first"));  // a large one waits for it
  Interrupt([&a = a, &large] { EXPECT_OK(a.SendBytes(large)); },
            [&b = b] { ASSERT_OK(b.Recv()); });
  EXPECT_TRUE(b.RecvBytes().value() == large);
}

TEST_F(ConnectionTest, EveryMessageHasAnEdge) {
  auto [a, b] = Pipe<int>();
  constexpr int kMessages = 3000;
  auto poller = ChildProcess::Start([&b = b] {
    const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {}};
    ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, b.fileno().value(), &event),
              0);
    for (int next = 0; next < kMessages;) {
      ASSERT_EQ(epoll_wait(epoll.get(), &event, 1, -1), 1);
      for (;;) {  // until there is none, as edges want it
        const absl::StatusOr<int> message = b.Recv(absl::ZeroDuration());
        if (!message.ok()) {
          ASSERT_THAT(message, TimedOut());
          break;
        }
        ASSERT_EQ(*message, next++);
      }
    }
  });
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_OK(a.Send(i));
    if (i % 3 == 0) std::this_thread::yield();
  }
  poller.ExpectExit();
}

// It has only received when it dies, and nobody looks around by himself.
TEST_F(PatientConnectionTest, DeathBeforeTheFirstAnswerWakes) {
  auto [a, b] = Pipe<int>();
  const SharedPage<std::atomic<bool>> closed;
  auto worker = ChildProcess::Start([&, &a = a, &b = b] {
    a.Close();
    while (!*closed) std::this_thread::yield();
    EXPECT_THAT(b.Recv(), IsOkAndHolds(1));
    b.Recv().IgnoreError();
  });
  b.Close();
  *closed = true;
  ASSERT_TRUE(worker.WaitUntilAsleep());
  auto waiter = ChildProcess::Start([&a = a] {
    ASSERT_OK(a.Send(1));
    EXPECT_THAT(a.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  worker.Kill();
  worker.ExpectSignal(SIGKILL);
  waiter.ExpectExit();
}

// The last one that has the other end was never seen there, and dies a moment
// after the one that was. Of the one death the kernel tells; of the other one
// nobody does.
TEST_F(PatientConnectionTest, DeathOfTheLastHolderAfterThePeers) {
  auto [receiver, sender] = Pipe<int>(false);
  auto holder = ChildProcess::Start([] { pause(); });
  auto victim = ChildProcess::Start([&sender = sender] {
    EXPECT_OK(sender.Send(1));
    pause();
  });
  auto waiter =
      ChildProcess::Start([&, &receiver = receiver, &sender = sender] {
        sender.Close();
        EXPECT_THAT(receiver.Recv(), IsOkAndHolds(1));
        EXPECT_THAT(receiver.Recv(), IsEndOfFile());
      });
  sender.Close();
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  victim.Kill();
  victim.ExpectSignal(SIGKILL);
  absl::SleepFor(absl::Milliseconds(100));
  holder.Kill();
  holder.ExpectSignal(SIGKILL);
  waiter.ExpectExit();
}

// One that leaves takes nothing away from what is known of the others.
TEST_F(PatientConnectionTest, DeathAfterAnotherHasLeft) {
  auto [receiver, sender] = Pipe<int>(false);
  auto victim = ChildProcess::Start([&sender = sender] {
    EXPECT_OK(sender.Send(1));
    pause();
  });
  auto waiter =
      ChildProcess::Start([&, &receiver = receiver, &sender = sender] {
        sender.Close();
        EXPECT_THAT(receiver.Recv(), IsOkAndHolds(1));
        EXPECT_THAT(receiver.Recv(), IsEndOfFile());
      });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  sender.Close();
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  victim.Kill();
  victim.ExpectSignal(SIGKILL);
  waiter.ExpectExit();
}

// ---- To another process as an argument.

TEST_F(ConnectionTest, EndTravels) {
  auto [a, b] = Pipe<int>();
  auto [receiver, sender] = Pipe<int>(false);
  using Ends = std::vector<Connection<int>>;
  absl::StatusOr<Ends> ends;
  {
    const absl::StatusOr<PackedMessage> message =
        Pack(Ends{b, receiver, sender});
    ASSERT_OK(message);
    ends = Unpack<Ends>(*message);
  }
  b.Close();
  receiver.Close();
  sender.Close();
  ASSERT_OK(ends);
  ASSERT_EQ(ends->size(), 3u);
  ASSERT_OK(a.Send(1));
  EXPECT_THAT((*ends)[0].Recv(), IsOkAndHolds(1));
  ASSERT_OK((*ends)[2].Send(2));
  EXPECT_THAT((*ends)[1].Recv(), IsOkAndHolds(2));
  EXPECT_FALSE((*ends)[1].writable());
  EXPECT_FALSE((*ends)[2].readable());
  ends->clear();
  EXPECT_THAT(a.Recv(), IsEndOfFile());
}

TEST_F(ConnectionTest, ClosedEndDoesNotTravel) {
  auto [a, b] = Pipe<int>();
  b.Close();
  EXPECT_THAT(Pack(b), StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("closed")));
}

TEST_F(ConnectionTest, HostileBytesAreNoConnection) {
  auto [a, b] = Pipe<int>();
  absl::StatusOr<PackedMessage> message = Pack(a);
  ASSERT_OK(message);
  EXPECT_OK(Unpack<Connection<int>>(*message));
  for (std::byte& byte : message->bytes) {
    byte ^= std::byte{0x55};
    EXPECT_THAT(Unpack<Connection<int>>(*message),
                StatusIs(absl::StatusCode::kDataLoss));
    byte ^= std::byte{0x55};
  }
}

// Out of descriptors, one can still close.
TEST_F(ConnectionTest, CloseNeedsNoDescriptor) {
  for (const long call : {SYS_socketpair, SYS_socket, SYS_memfd_create}) {
    auto [c, d] = Pipe<int>();
    auto child = ChildProcess::Start([call, &c = c] {
      FailSystemCall(call, EMFILE);
      c.Close();
      EXPECT_TRUE(c.closed());
    });
    child.ExpectExit();
  }
}

}  // namespace
}  // namespace mp
