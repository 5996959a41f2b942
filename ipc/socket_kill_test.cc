// SIGKILL at every instruction of what one does with a connection through a
// socket. The handshake before it has too many: see listener_storm_test.

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/ipc/socket_end.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AnyOf;

using End = Connection<std::string>;

constexpr size_t kMaxBytes = size_t{1} << 20;
// More than a socket takes at once.
constexpr size_t kLarge = 700'000;

// Built for speed (-c opt), each instruction gets its turn. The way to what
// comes after a sleep is walked each time.
constexpr int64_t kNoSleepStride = kOutOfLineStride;
#ifdef NDEBUG
constexpr int64_t kSleepStride = 1;
#else
constexpr int64_t kSleepStride = 307;
#endif

End MakeEnd(UniqueFd socket) {
  absl::StatusOr<std::shared_ptr<ipc_internal::SocketEnd>> end =
      ipc_internal::SocketEnd::Create(std::move(socket), kMaxBytes);
  MP_CHECK_OK(end.status());
  return ipc_internal::SocketConnection::Make<std::string>(*std::move(end));
}

// Both ends are also this process's, so the victim is one of two at its end.
class SocketKillTest : public MessageKillTest {
 protected:
  // What has become of the operation, and how often.
  struct Outcomes {
    int undone = 0;
    int done = 0;
    int broken = 0;
  };

  // Otherwise the deaths have not been where they should.
  static void ExpectAll(const Outcomes& outcomes) {
    EXPECT_GT(outcomes.undone, 0);
    EXPECT_GT(outcomes.done, 0);
    EXPECT_GT(outcomes.broken, 0);
  }

  void Prepare() {
    int sockets[2];
    MP_PCHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0)
        << "socketpair";
    receiver_.emplace(MakeEnd(UniqueFd(sockets[0])));
    sender_.emplace(MakeEnd(UniqueFd(sockets[1])));
  }
  void RunWithSleeps(const testing::KillSteps& steps) {
    EXPECT_GT(RunSteps(steps), 0);
  }
  // After a death in Recv: the message is still there, or is gone with the dead
  // one, and so is the beginning of it only; then nothing comes any more.
  void CheckReceived(const KillPoint& point, Outcomes& outcomes) {
    ASSERT_OK(sender_->SendBytes("next", kStranded));
    absl::StatusOr<std::string> message = receiver_->RecvBytes(kStranded);
    if (absl::IsDataLoss(message.status())) {
      EXPECT_FALSE(point.completed());
      EXPECT_THAT(receiver_->RecvBytes(kStranded),
                  StatusIs(absl::StatusCode::kDataLoss));
      ++outcomes.broken;
      return;
    }
    const bool still_there = message.ok() && *message != "next";
    if (still_there) {
      EXPECT_FALSE(point.completed());
      EXPECT_THAT(message, IsOkAndHolds("first"));
      message = receiver_->RecvBytes(kStranded);
    }
    EXPECT_THAT(message, IsOkAndHolds("next"));
    ++(still_there ? outcomes.undone : outcomes.done);
  }
  // After a death in Send: whether this end can still send. If not, the other
  // one does not wait for what will not come.
  bool CanSend() {
    const absl::Status status = sender_->Send("next", kStranded);
    if (status.ok()) return true;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
    return false;
  }

  std::optional<End> receiver_;
  std::optional<End> sender_;
};

// A small message goes whole or not at all.
TEST_F(SocketKillTest, Send) {
  Outcomes outcomes;
  Run({.prepare = [&] { Prepare(); },
       .op = [&] { sender_->Send("first").IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool sent = receiver_->Poll().value();
             if (sent) {
               EXPECT_THAT(receiver_->Recv(kStranded), IsOkAndHolds("first"));
             }
             if (CanSend()) {
               EXPECT_THAT(receiver_->Recv(kStranded), IsOkAndHolds("next"));
               ++(sent ? outcomes.done : outcomes.undone);
             } else {
               EXPECT_FALSE(point.completed());
               EXPECT_THAT(receiver_->Recv(kStranded),
                           StatusIs(absl::StatusCode::kOutOfRange));
               ++outcomes.broken;
             }
             EXPECT_TRUE(sent || !point.completed());
           },
       .stride = kNoSleepStride});
  ExpectAll(outcomes);
}

// The socket is full. Whoever receives gets the message, or is
// told that half of it is missing.
TEST_F(SocketKillTest, SendThatSleeps) {
  struct Got {
    std::atomic<bool> begin{false};
    std::atomic<int> large{0};
    std::atomic<int> next{0};
    std::atomic<bool> lost{false};
  };
  const SharedPage<Got> got;
  std::optional<ChildProcess> other;
  const std::string large(kLarge, 'l');
  Outcomes outcomes;
  RunWithSleeps(
      {.prepare =
           [&] {
             Prepare();
             got->begin = false;
             got->large = 0;
             got->next = 0;
             got->lost = false;
             other.emplace(ChildProcess::Start([&] {
               sender_->Close();
               while (!got->begin) absl::SleepFor(absl::Microseconds(50));
               for (;;) {
                 const absl::StatusOr<std::string> message =
                     receiver_->RecvBytes();
                 if (!message.ok()) {
                   EXPECT_THAT(message.status(),
                               AnyOf(StatusIs(absl::StatusCode::kOutOfRange),
                                     StatusIs(absl::StatusCode::kDataLoss)));
                   got->lost = absl::IsDataLoss(message.status());
                   return;
                 }
                 // The other one has a frame, too.
                 EXPECT_TRUE(*message == large || message->ends_with("next"));
                 ++(*message == large ? got->large : got->next);
               }
             }));
           },
       .op = [&] { sender_->SendBytes(large).IgnoreError(); },
       .unblock = [&] { got->begin = true; },
       .check =
           [&](const KillPoint& point) {
             got->begin = true;
             const bool can_send = CanSend();
             sender_->Close();
             other->ExpectExit();
             EXPECT_EQ(got->next, can_send ? 1 : 0);
             if (point.completed()) {
               EXPECT_TRUE(can_send && got->large == 1);
             }
             // Half a message is never taken for one, nor is it silent.
             EXPECT_FALSE(got->lost && (can_send || got->large != 0));
             ++(!can_send         ? outcomes.broken
                : got->large != 0 ? outcomes.done
                                  : outcomes.undone);
           },
       .stride = kSleepStride});
  ExpectAll(outcomes);
}

TEST_F(SocketKillTest, Recv) {
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(sender_->SendBytes("first"));
           },
       .op = [&] { receiver_->RecvBytes().IgnoreError(); },
       .check = [&](const KillPoint& point) { CheckReceived(point, outcomes); },
       .stride = kNoSleepStride});
  ExpectAll(outcomes);
}

// Nothing has come yet, and then a part.
TEST_F(SocketKillTest, RecvThatSleeps) {
  constexpr std::string_view kWire("\0\0\0\5first", 9);
  // What it gets before its second sleep. The length is whole, or is not.
  for (const size_t part : {size_t{2}, size_t{6}}) {
    std::string_view rest;
    const auto write_some = [&](size_t size) {
      const int fd = sender_->fileno().value();
      MP_PCHECK(send(fd, rest.data(), size, 0) == static_cast<ssize_t>(size))
          << "send";
      rest.remove_prefix(size);
    };
    Outcomes outcomes;
    RunWithSleeps(
        {.prepare =
             [&] {
               Prepare();
               rest = kWire;
             },
         .op = [&] { receiver_->RecvBytes().IgnoreError(); },
         .unblock = [&] { write_some(rest == kWire ? part : rest.size()); },
         .check =
             [&](const KillPoint& point) {
               write_some(rest.size());
               CheckReceived(point, outcomes);
             },
         .stride = kSleepStride});
    ExpectAll(outcomes);
  }
}

}  // namespace
}  // namespace mp
