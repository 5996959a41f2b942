#include "mp/ipc/socket_end.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
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
#include "mp/base/unix_socket.h"
#include "mp/ipc/pipe_end.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr absl::Duration kMoment = absl::Milliseconds(20);

auto IsEndOfFile() { return StatusIs(absl::StatusCode::kOutOfRange); }
auto IsDataLoss(const char* what = "") {
  return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what));
}
auto IsBrokenPipe() {
  return StatusIs(absl::StatusCode::kFailedPrecondition,
                  AllOf(::testing::Not(HasSubstr("closed"))));
}
auto IsClosed() {
  return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("closed"));
}
auto TimedOut() { return StatusIs(absl::StatusCode::kDeadlineExceeded); }

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}
absl::Status Send(SocketEnd& end, std::string_view message,
                  Deadline deadline = Deadline::Infinite()) {
  return end.SendBytes(Bytes(message), deadline);
}
absl::StatusOr<std::string> Recv(SocketEnd& end,
                                 Deadline deadline = Deadline::Infinite()) {
  std::string message;
  absl::Status error = end.RecvBytes(
      [&](std::span<const std::byte> bytes) {
        message.assign(reinterpret_cast<const char*>(bytes.data()),
                       bytes.size());
        return absl::OkStatus();
      },
      deadline);
  if (!error.ok()) return error;
  return message;
}
absl::StatusOr<std::string> RecvNow(SocketEnd& end) {
  return Recv(end, Deadline::Now());
}
absl::StatusOr<std::string> RecvSoon(SocketEnd& end) {
  return Recv(end, Deadline::After(kMoment));
}

// One end, and beside it a bare socket or another end.
class SocketEndTest : public testing::ProcessTest {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(sockets_, ConnectedSockets(SOCK_STREAM));
    ASSERT_OK_AND_ASSIGN(end_,
                         SocketEnd::Create(std::move(sockets_[0]), kMaxBytes));
  }
  SocketEnd& end() const { return *end_; }
  // The other one, from now on.
  SocketEnd& other() {
    if (other_ == nullptr) {
      other_ = SocketEnd::Create(std::move(sockets_[1]), kMaxBytes).value();
    }
    return *other_;
  }
  int raw() const { return sockets_[1].get(); }
  void Put(std::string_view bytes) const {
    ASSERT_EQ(send(raw(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  std::string Take(size_t size) const {
    std::string bytes(size, '\0');
    EXPECT_EQ(recv(raw(), bytes.data(), size, MSG_WAITALL),
              static_cast<ssize_t>(size));
    return bytes;
  }
  // Sends until there is no room; returns how many whole messages of a kilobyte
  // that were.
  int FillUp() {
    const std::string message(1024, 'x');
    int sent = 0;
    while (Send(end(), message, Deadline::Now()).ok()) ++sent;
    return sent;
  }

  std::array<UniqueFd, 2> sockets_;
  std::shared_ptr<SocketEnd> end_, other_;
};

// ---- What goes through the socket: I13 of the reference.

TEST_F(SocketEndTest, LengthAndBytes) {
  ASSERT_OK(Send(end(), "abc"));
  EXPECT_EQ(Take(7), std::string("\0\0\0\3abc", 7));
  ASSERT_OK(Send(end(), ""));
  EXPECT_EQ(Take(4), std::string(4, '\0'));
  ASSERT_OK(Send(end(), std::string(0x10203, 'x')));
  EXPECT_EQ(Take(4), std::string("\0\1\2\3", 4));
  EXPECT_EQ(Take(0x10203), std::string(0x10203, 'x'));
}

TEST_F(SocketEndTest, TypedBytesHaveAFrame) {
  ASSERT_OK(end().Send(
      77, 2,
      [](std::span<std::byte> to) {
        memcpy(to.data(), "ab", 2);
        return absl::OkStatus();
      },
      Deadline::Infinite()));
  const Frame frame = {.version = Frame::kVersion, .type = 77};
  std::string expected("\0\0\0\12", 4);
  expected.append(reinterpret_cast<const char*>(&frame), sizeof(frame));
  EXPECT_EQ(Take(14), expected + "ab");
}

TEST_F(SocketEndTest, ErrorOfTheWriterSendsNothing) {
  EXPECT_THAT(
      end().Send(
          77, 2, [](std::span<std::byte>) { return absl::AbortedError("no"); },
          Deadline::Infinite()),
      StatusIs(absl::StatusCode::kAborted));
  ASSERT_OK(Send(end(), "abc"));
  EXPECT_EQ(Take(7), std::string("\0\0\0\3abc", 7));
}

// More than a signed length of four bytes can tell.
TEST_F(SocketEndTest, LongMessage) {
  if (testing::kThreadSanitizer) {
    GTEST_SKIP() << "notes each of the bytes, which takes minutes";
  }
  constexpr size_t kSize = size_t{1} << 31;
  end().state()->max_bytes = kSize;
  void* const zeros = mmap(nullptr, kSize, PROT_READ,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(zeros, MAP_FAILED);
  std::thread receiver([this] {
    EXPECT_EQ(Take(12), std::string("\xff\xff\xff\xff\0\0\0\0\x80\0\0\0", 12));
    std::vector<char> bytes(1 << 20);
    size_t left = kSize;
    while (left > 0) {
      const ssize_t got = recv(raw(), bytes.data(), bytes.size(), 0);
      if (got <= 0) break;
      left -= static_cast<size_t>(got);
    }
    EXPECT_EQ(left, 0u);
  });
  EXPECT_OK(
      end().SendBytes(std::span(static_cast<const std::byte*>(zeros), kSize),
                      Deadline::Infinite()));
  receiver.join();
  munmap(zeros, kSize);
  char more;
  EXPECT_EQ(recv(raw(), &more, 1, MSG_DONTWAIT), -1);
}

TEST_F(SocketEndTest, LongLengthOfAShortMessage) {
  Put(std::string("\xff\xff\xff\xff\0\0\0\0\0\0\0\3abc", 15));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("abc"));
}

TEST_F(SocketEndTest, MessagesDoNotMerge) {
  Put(std::string("\0\0\0\1a\0\0\0\0\0\0\0\2bc", 15));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("a"));
  EXPECT_THAT(Recv(end()), IsOkAndHolds(""));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("bc"));
  EXPECT_THAT(RecvNow(end()), TimedOut());
}

TEST_F(SocketEndTest, NeverReadsBeyondAMessage) {
  Put(std::string("\0\0\0\1ab", 6));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("a"));
  char rest[10];
  EXPECT_EQ(recv(end().socket()->get(), rest, sizeof(rest), MSG_DONTWAIT), 1);
}

TEST_F(SocketEndTest, SixteenMebibytes) {
  std::string message(size_t{16} << 20, '\0');
  for (size_t i = 0; i < message.size(); ++i) {
    message[i] = static_cast<char>(i * 7 >> 8);
  }
  std::thread sender([&] { EXPECT_OK(Send(other(), message)); });
  const absl::StatusOr<std::string> got = Recv(end());
  sender.join();
  ASSERT_OK(got);
  EXPECT_TRUE(*got == message);
  // The next one does not see the last one's memory.
  ASSERT_OK(Send(other(), "short"));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("short"));
}

// ---- Parts of messages.

TEST_F(SocketEndTest, PartThenTimeoutThenTheRest) {
  const std::string message("\0\0\0\5hello\0\0\0\0", 13);
  for (size_t cut = 1; cut < 9; ++cut) {
    Put(message.substr(0, cut));
    EXPECT_THAT(RecvNow(end()), TimedOut());
    EXPECT_THAT(RecvSoon(end()), TimedOut());
    EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(false));
    Put(message.substr(cut));
    EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(true));
    EXPECT_THAT(Recv(end()), IsOkAndHolds("hello"));
    EXPECT_THAT(Recv(end()), IsOkAndHolds(""));
  }
}

TEST_F(SocketEndTest, ByteByByte) {
  std::thread sender([this] {
    for (const char byte : std::string("\0\0\0\3abc", 7)) {
      absl::SleepFor(absl::Milliseconds(1));
      Put(std::string_view(&byte, 1));
    }
  });
  EXPECT_THAT(Recv(end()), IsOkAndHolds("abc"));
  sender.join();
}

// A long message that comes as fast as it is read.
TEST_F(SocketEndTest, TimeoutWhileBytesCome) {
  const std::string message(16 << 20, 'x');
  std::thread sender([&] { EXPECT_OK(Send(other(), message)); });
  int timeouts = 0;
  absl::StatusOr<std::string> got = RecvNow(end());
  for (; !got.ok(); got = RecvNow(end())) {
    ASSERT_THAT(got, TimedOut());
    ++timeouts;
  }
  sender.join();
  EXPECT_TRUE(*got == message);
  EXPECT_GE(timeouts, 10);
}

TEST_F(SocketEndTest, LeftMessageStays) {
  ASSERT_OK(Send(other(), "abc"));
  const auto leave = [](std::span<const std::byte>) {
    return absl::AbortedError("not this one");
  };
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(end().RecvBytes(leave, Deadline::Infinite()),
                StatusIs(absl::StatusCode::kAborted));
    EXPECT_TRUE(end().has_message());
    EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(true));
    EXPECT_THAT(
        end().Recv(
            77, [](auto) { return absl::OkStatus(); }, Deadline::Infinite()),
        StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(Recv(end()), IsOkAndHolds("abc"));
  EXPECT_FALSE(end().has_message());
  EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(false));
}

TEST_F(SocketEndTest, ExceptionOfTheUserLeavesTheMessage) {
  ASSERT_OK(Send(other(), "abc"));
  EXPECT_THROW(
      end()
          .RecvBytes(
              [](std::span<const std::byte>) -> absl::Status { throw 42; },
              Deadline::Infinite())
          .IgnoreError(),
      int);
  EXPECT_THAT(Recv(end()), IsOkAndHolds("abc"));
}

// ---- A hostile other side.

TEST_F(SocketEndTest, NegativeLength) {
  for (const char* head : {"\xff\xff\xff\xfe", "\x80\0\0\0"}) {
    SetUp();
    Put(std::string(head, 4) + "abc");
    for (int i = 0; i < 2; ++i) {
      EXPECT_THAT(RecvSoon(end()), IsDataLoss());
      EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(true));
    }
    EXPECT_OK(Send(end(), "the other direction"));
  }
}

TEST_F(SocketEndTest, TooLong) {
  Put(std::string("\x7f\xff\xff\xff", 4));
  EXPECT_THAT(Recv(end()), IsDataLoss("max_message_bytes"));
  EXPECT_THAT(Recv(end()), IsDataLoss());
  SetUp();
  Put(std::string(12, '\xff'));
  EXPECT_THAT(Recv(end()), IsDataLoss("18446744073709551615 bytes"));
  const std::string message(kMaxBytes + 1, 'x');
  EXPECT_THAT(Send(end(), message),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(end().Send(
                  1, kMaxBytes - 7, [](auto) { return absl::OkStatus(); },
                  Deadline::Infinite()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(end().Send(
                  1, std::numeric_limits<size_t>::max(),
                  [](auto) { return absl::OkStatus(); }, Deadline::Infinite()),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// A length is no reason to have memory for it.
TEST_F(SocketEndTest, PromisesTakeNoMemory) {
  end().state()->max_bytes = std::numeric_limits<uint64_t>::max();
  Put(std::string("\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 12));
  Put("a few bytes");
  EXPECT_THAT(RecvNow(end()), TimedOut());
  sockets_[1].reset();
  EXPECT_THAT(Recv(end()), IsDataLoss("middle of a message"));
}

TEST_F(SocketEndTest, EndOfFileBetweenMessages) {
  Put(std::string("\0\0\0\1a", 5));
  sockets_[1].reset();
  EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(true));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("a"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(end().Poll(Deadline::Now()), IsOkAndHolds(true));
    EXPECT_THAT(Recv(end()), IsEndOfFile());
  }
  EXPECT_THAT(Send(end(), "x"), IsBrokenPipe());
}

TEST_F(SocketEndTest, EndOfFileInAMessage) {
  for (size_t cut = 1; cut < 9; ++cut) {
    SetUp();
    Put(std::string("\0\0\0\5hello", 9).substr(0, cut));
    sockets_[1].reset();
    EXPECT_THAT(Recv(end()), IsDataLoss("middle of a message"));
    EXPECT_THAT(Recv(end()), IsDataLoss());
  }
}

// The kernel then calls it a reset.
TEST_F(SocketEndTest, EndOfFileWithUnreadMessages) {
  ASSERT_OK(Send(end(), "never read"));
  Put(std::string("\0\0\0\1a", 5));
  sockets_[1].reset();
  EXPECT_THAT(Recv(end()), IsOkAndHolds("a"));
  EXPECT_THAT(Recv(end()), IsEndOfFile());
  EXPECT_THAT(Recv(end()), IsEndOfFile());
}

// ---- Timeouts at Send.

TEST_F(SocketEndTest, SocketWithoutRoom) {
  const int sent = FillUp();
  EXPECT_GT(sent, 10);
  EXPECT_THAT(Send(end(), "x", Deadline::Now()), TimedOut());
  EXPECT_THAT(Send(end(), "x", Deadline::After(kMoment)), TimedOut());
  std::thread receiver([this, sent] {
    absl::SleepFor(kMoment);
    for (int i = 0; i < sent; ++i) EXPECT_OK(Recv(other()));
  });
  EXPECT_OK(Send(end(), "last"));
  receiver.join();
  EXPECT_THAT(Recv(other()), IsOkAndHolds("last"));
}

TEST_F(SocketEndTest, TimeoutInAMessageBreaksTheDirection) {
  const std::string large(8 << 20, 'x');
  EXPECT_THAT(Send(end(), large, Deadline::After(kMoment)),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("nothing more can be sent")));
  EXPECT_THAT(Send(end(), "x"), IsBrokenPipe());
  EXPECT_THAT(Recv(other()), IsDataLoss());
  ASSERT_OK(Send(other(), "back"));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("back"));
}

// ---- Threads.

TEST_F(SocketEndTest, SendersAndReceivers) {
  constexpr int kThreads = 4;
  constexpr int kMessages = 200;
  std::vector<std::thread> threads;
  std::atomic<int> sum{0};
  other();
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kMessages; ++i) {
        // Of a thread's own letter and length, some larger than the socket.
        const size_t size = i % 50 == 0 ? 400'000 : 10 * t + 1;
        EXPECT_OK(Send(end(), std::string(size, static_cast<char>('a' + t))));
      }
    });
    threads.emplace_back([this, &sum] {
      for (int i = 0; i < kMessages; ++i) {
        const absl::StatusOr<std::string> message = Recv(*other_);
        ASSERT_OK(message);
        EXPECT_EQ(message->find_first_not_of((*message)[0]), message->npos);
        sum += (*message)[0] - 'a' + 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, kMessages * (1 + 2 + 3 + 4));
}

TEST_F(SocketEndTest, CloseEndsCallsOfThisProcess) {
  FillUp();
  std::vector<std::thread> threads;
  threads.emplace_back([this] { EXPECT_THAT(Recv(end()), IsClosed()); });
  threads.emplace_back([this] { EXPECT_THAT(Recv(end()), IsClosed()); });
  threads.emplace_back([this] { EXPECT_THAT(Send(end(), "x"), IsClosed()); });
  threads.emplace_back(
      [this] { EXPECT_THAT(end().Poll(Deadline::Infinite()), IsClosed()); });
  absl::SleepFor(kMoment);
  end().Close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(end().closed());
  EXPECT_EQ(end().socket(), nullptr);
  EXPECT_THAT(end().fileno(), IsClosed());
  EXPECT_THAT(end().Poll(Deadline::Now()), IsClosed());
  end().Close();
}

TEST_F(SocketEndTest, CloseIsTheEndOfTheFile) {
  ASSERT_OK(Send(end(), "last"));
  end().Close();
  EXPECT_THAT(Recv(other()), IsOkAndHolds("last"));
  EXPECT_THAT(Recv(other()), IsEndOfFile());
  EXPECT_THAT(Send(other(), "x"), IsBrokenPipe());
}

// ---- Processes that share an end.

TEST_F(SocketEndTest, ProcessesShareAnEnd) {
  constexpr int kProcesses = 3;
  constexpr int kMessages = 100;
  other();
  std::vector<ChildProcess> senders;
  for (int p = 0; p < kProcesses; ++p) {
    senders.push_back(ChildProcess::Start([this, p] {
      for (int i = 0; i < kMessages; ++i) {
        const size_t size = i % 25 == 0 ? 300'000 : 100;
        ASSERT_OK(Send(end(), std::string(size, static_cast<char>('a' + p))));
      }
    }));
  }
  std::map<char, int> came;
  const SharedPage<std::atomic<int>> taken;
  auto helper = ChildProcess::Start([&] {
    while (taken->fetch_add(1) < kProcesses * kMessages) {
      const absl::StatusOr<std::string> message = Recv(*other_);
      ASSERT_OK(message);
      EXPECT_EQ(message->find_first_not_of((*message)[0]), message->npos);
    }
  });
  while (taken->fetch_add(1) < kProcesses * kMessages) {
    const absl::StatusOr<std::string> message = Recv(*other_);
    ASSERT_OK(message);
    EXPECT_EQ(message->find_first_not_of((*message)[0]), message->npos);
  }
  for (ChildProcess& sender : senders) sender.ExpectExit();
  helper.ExpectExit();
  EXPECT_THAT(RecvNow(*other_), TimedOut());
}

// What a parent had begun to receive is the parent's.
TEST_F(SocketEndTest, ForkInTheMiddleOfAMessage) {
  const SharedPage<std::atomic<bool>> tried;
  Put(std::string("\0\0\0\5he", 6));
  EXPECT_THAT(RecvNow(end()), TimedOut());
  auto child = ChildProcess::Start([&] {
    EXPECT_FALSE(end().has_message());
    EXPECT_THAT(RecvSoon(end()), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                          HasSubstr("another process")));
    *tried = true;
    EXPECT_THAT(Recv(end()), IsOkAndHolds("next"));
  });
  while (!*tried) absl::SleepFor(absl::Milliseconds(1));
  Put("llo");
  EXPECT_THAT(Recv(end()), IsOkAndHolds("hello"));
  Put(std::string("\0\0\0\4next", 8));
  child.ExpectExit();
}

TEST_F(SocketEndTest, ForkWithALeftMessage) {
  Put(std::string("\0\0\0\5hello", 9));
  EXPECT_THAT(
      end().RecvBytes([](auto) { return absl::AbortedError("not this one"); },
                      Deadline::Infinite()),
      StatusIs(absl::StatusCode::kAborted));
  auto child = ChildProcess::Start([&] {
    EXPECT_FALSE(end().has_message());
    EXPECT_THAT(RecvNow(end()), TimedOut());
  });
  child.ExpectExit();
  EXPECT_THAT(Recv(end()), IsOkAndHolds("hello"));
}

TEST_F(SocketEndTest, ReceiverDiesInTheMiddleOfAMessage) {
  Put(std::string("\0\0\0\5he", 6));
  auto child = ChildProcess::Start([&] {
    EXPECT_THAT(RecvNow(end()), TimedOut());
    Recv(end()).IgnoreError();
  });
  while (end().state()->reader.load() == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  ASSERT_TRUE(child.WaitUntilAsleep());
  child.Kill();
  child.ExpectSignal(SIGKILL);
  Put(std::string("llo\0\0\0\0", 7));
  EXPECT_THAT(Recv(end()), IsDataLoss());
  EXPECT_THAT(Recv(end()), IsDataLoss());
  EXPECT_OK(Send(end(), "the other direction"));
}

TEST_F(SocketEndTest, ReceiverDiesBetweenMessages) {
  auto child = ChildProcess::Start([&] { Recv(end()).IgnoreError(); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  child.Kill();
  child.ExpectSignal(SIGKILL);
  Put(std::string("\0\0\0\1a", 5));
  EXPECT_THAT(Recv(end()), IsOkAndHolds("a"));
}

TEST_F(SocketEndTest, SenderDiesInTheMiddleOfAMessage) {
  auto child = ChildProcess::Start(
      [&] { Send(end(), std::string(8 << 20, 'x')).IgnoreError(); });
  while (!end().state()->sending.load()) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_TRUE(child.WaitUntilAsleep());
  child.Kill();
  child.ExpectSignal(SIGKILL);
  EXPECT_THAT(Send(end(), "x"), IsBrokenPipe());
  EXPECT_THAT(Recv(other()), IsDataLoss("middle of a message"));
  EXPECT_THAT(Send(end(), "x"), IsBrokenPipe());
  ASSERT_OK(Send(other(), "the other direction"));
  EXPECT_OK(Recv(end()));
}

TEST_F(SocketEndTest, SenderDiesWithoutRoom) {
  const int sent = FillUp();
  auto child = ChildProcess::Start([&] { Send(end(), "x").IgnoreError(); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  child.Kill();
  child.ExpectSignal(SIGKILL);
  for (int i = 0; i < sent; ++i) ASSERT_OK(Recv(other()));
  EXPECT_OK(Send(end(), "next"));
  EXPECT_THAT(Recv(other()), IsOkAndHolds("next"));
}

// Closing, or dropping, an end that has a part of a message.
TEST_F(SocketEndTest, ReceiverLeavesInTheMiddleOfAMessage) {
  for (const bool close : {false, true}) {
    SetUp();
    Put(std::string("\0\0\0\5he", 6));
    // As another process would have it, by a message.
    auto twin = std::make_shared<SocketEnd>(
        std::make_shared<const UniqueFd>(
            fcntl(end().socket()->get(), F_DUPFD_CLOEXEC, 3)),
        end().state());
    EXPECT_THAT(RecvNow(*twin), TimedOut());
    EXPECT_THAT(RecvNow(end()), TimedOut());
    if (close) twin->Close();
    twin.reset();
    EXPECT_THAT(Recv(end()), IsDataLoss());
  }
}

}  // namespace
}  // namespace mp::ipc_internal
