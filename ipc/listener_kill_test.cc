// Dies at every instruction of connecting, sending and receiving through a
// socket.

#include <cstdio>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/address.h"
#include "mp/ipc/client.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/ipc/listener.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::testing::AnyOf;

constexpr char kKey[] = "a key that both have";
constexpr char kLast[] = "the last one";

class ListenerKillTest : public MessageKillTest {
 protected:
  using Strings = Connection<std::string>;

  // A process that answers whatever comes, until kLast.
  void Serve() {
    server_.emplace(ChildProcess::Start([this] {
      for (bool last = false; !last;) {
        absl::StatusOr<Strings> connection =
            listener_.Accept<std::string>(kStranded);
        ASSERT_OK(connection);
        for (;;) {
          const absl::StatusOr<std::string> message =
              connection->Recv(kStranded);
          if (!message.ok()) {
            // Nothing else becomes of half a message.
            ASSERT_TRUE(absl::IsOutOfRange(message.status()) ||
                        absl::IsDataLoss(message.status()))
                << message.status();
            break;
          }
          last = *message == kLast;
          connection->Send(*message, kStranded).IgnoreError();
        }
      }
    }));
  }
  void EndServer() {
    ExpectAnswer(kLast);
    server_->ExpectExit();
  }
  absl::StatusOr<Strings> Connect() {
    return Client<std::string>(listener_.address(), {.authkey = kKey},
                               kStranded);
  }
  void ExpectAnswer(const std::string& message) {
    absl::StatusOr<Strings> connection = Connect();
    ASSERT_OK(connection);
    ASSERT_OK(connection->Send(message, kStranded));
    EXPECT_THAT(connection->Recv(kStranded), IsOkAndHolds(message));
  }

  // It goes on by itself when the server has answered.
  void RunSteps(testing::KillSteps steps) {
    steps.unblock = [] {};
    steps.stride *= kStride;
    const testing::KillReport report = testing::KillAtEveryInstruction(steps);
    printf("%d instructions, %d deaths, %d sleeps, %d diverged\n",
           static_cast<int>(report.instructions),
           static_cast<int>(report.deaths), static_cast<int>(report.sleeps),
           static_cast<int>(report.diverged));
    EXPECT_TRUE(report.completed);
  }

  Listener listener_{Address(), {.authkey = kKey}};
  std::optional<ChildProcess> server_;
};

// Whoever dies in the handshake, the listener goes on.
TEST_F(ListenerKillTest, Connect) {
  Serve();
  RunSteps({.op = [&] { Connect().status().IgnoreError(); },
            .check = [&](const KillPoint&) { ExpectAnswer("x"); },
            .stride = 211});
  EndServer();
}

// The message is there, or the end of the file, or an error says that half of
// it is missing.
TEST_F(ListenerKillTest, Send) {
  Serve();
  std::optional<Strings> connection;
  const std::string large(100'000, 'l');
  RunSteps({.prepare =
                [&] {
                  absl::StatusOr<Strings> fresh = Connect();
                  ASSERT_OK(fresh);
                  connection.emplace(*std::move(fresh));
                },
            .setup = [&] { std::string(large).clear(); },
            .op = [&] { connection->Send(large).IgnoreError(); },
            .check =
                [&](const KillPoint& point) {
                  // This process has the same end.
                  if (point.completed()) {
                    EXPECT_THAT(connection->Recv(kStranded),
                                IsOkAndHolds(large));
                  }
                  connection.reset();
                  ExpectAnswer("x");
                },
            .stride = 23});
  EndServer();
}

TEST_F(ListenerKillTest, Recv) {
  Serve();
  std::optional<Strings> connection;
  RunSteps({.prepare =
                [&] {
                  absl::StatusOr<Strings> fresh = Connect();
                  ASSERT_OK(fresh);
                  connection.emplace(*std::move(fresh));
                  ASSERT_OK(connection->Send("answer", kStranded));
                  EXPECT_THAT(connection->Poll(kStranded), IsOkAndHolds(true));
                },
            .op = [&] { connection->Recv().IgnoreError(); },
            .check =
                [&](const KillPoint& point) {
                  // It is there still, or went with the dead one, or half of
                  // it did.
                  ASSERT_OK(connection->Send("next", kStranded));
                  absl::StatusOr<std::string> message =
                      connection->Recv(kStranded);
                  if (message.ok() && *message == "answer") {
                    EXPECT_FALSE(point.completed());
                    message = connection->Recv(kStranded);
                  }
                  if (!absl::IsDataLoss(message.status())) {
                    EXPECT_THAT(message, IsOkAndHolds("next"));
                  }
                  connection.reset();
                  ExpectAnswer("x");
                },
            .stride = 7});
  EndServer();
}

}  // namespace
}  // namespace mp
