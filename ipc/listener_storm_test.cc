// Random SIGKILLs of who listens and who connects, in the handshake and behind
// it. Whoever dies, the listener is unharmed, and nobody gets half a message or
// somebody else's.

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/address.h"
#include "mp/ipc/client.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/listener.h"
#include "mp/ipc/message_storm_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::mp::testing::Storm;
using ::mp::testing::StormOptions;
using ::mp::testing::StormWorker;
using ::testing::AnyOf;

constexpr char kKey[] = "a key that all have";
// Longer than a storm stalls; nobody may need it.
constexpr absl::Duration kStranded = absl::Seconds(60);

class ListenerStormTest : public MessageStormTest {
 protected:
  using Strings = Connection<std::string>;

  // The other side has gone.
  static ::testing::Matcher<absl::Status> IsGone() {
    return AnyOf(StatusIs(absl::StatusCode::kOutOfRange),
                 StatusIs(absl::StatusCode::kDataLoss),
                 StatusIs(absl::StatusCode::kFailedPrecondition));
  }
  static absl::StatusOr<Strings> Connect(const Listener& listener) {
    return Client<std::string>(listener.address(), {.authkey = kKey},
                               kStranded);
  }
  static void Answer(Listener& listener) {
    absl::StatusOr<Strings> connection =
        listener.Accept<std::string>(kStranded);
    ASSERT_OK(connection);
    for (;;) {
      const absl::StatusOr<std::string> message = connection->Recv(kStranded);
      if (!message.ok()) {
        EXPECT_THAT(message.status(), IsGone());
        return;
      }
      const absl::Status sent = connection->Send(*message, kStranded);
      if (!sent.ok()) {
        EXPECT_THAT(sent, IsGone());
        return;
      }
    }
  }
  // Three questions, the last one larger than a socket's room.
  static void Ask(const Listener& listener, const StormWorker& self, int turn) {
    absl::StatusOr<Strings> connection = Connect(listener);
    if (!connection.ok()) {
      // Whoever had accepted has died.
      EXPECT_THAT(connection.status(),
                  StatusIs(absl::StatusCode::kUnavailable));
      return;
    }
    for (const size_t size : {0, 1'000, 400'000}) {
      const std::string question =
          absl::StrCat(self.number(), " ", self.generation(), " ", turn) +
          std::string(size, '.');
      absl::Status status = connection->Send(question, kStranded);
      if (status.ok()) {
        const absl::StatusOr<std::string> answer = connection->Recv(kStranded);
        EXPECT_TRUE(!answer.ok() || *answer == question);
        status = answer.status();
      }
      if (!status.ok()) {
        EXPECT_THAT(status, IsGone());
        return;
      }
    }
  }

  void Rage(Listener listener) {
    Storm storm(StormOptions{.kills = Kills(1000)});
    storm.AddRole("server", 3, [&](StormWorker&) { Answer(listener); });
    storm.AddRole("client", 4, [&, turn = 0](StormWorker& self) mutable {
      Ask(listener, self, ++turn);
    });
    EXPECT_EQ(storm.Run().kills, storm.kills());
    // Nobody is left but this process, which has the listener, too, and with it
    // those who wait to be accepted, dead as they are.
    auto client = ChildProcess::Start([&] {
      absl::StatusOr<Strings> connection = Connect(listener);
      ASSERT_OK(connection);
      ASSERT_OK(connection->Send("works", kStranded));
      EXPECT_THAT(connection->Recv(kStranded), IsOkAndHolds("works"));
    });
    Answer(listener);
    client.ExpectExit();
  }
};

TEST_F(ListenerStormTest, UnixSocket) {
  Rage(Listener(Address(), {.authkey = kKey}));
}

TEST_F(ListenerStormTest, Tcp) {
  Rage(Listener(Address::Tcp("127.0.0.1", 0), {.authkey = kKey}));
}

}  // namespace
}  // namespace mp
