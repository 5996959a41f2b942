#include "mp/ipc/client.h"

#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/address.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/listener.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::Duration kMoment = absl::Milliseconds(20);

// What the two do together is in listener_test.
class ClientTest : public testing::ProcessTest {};

TEST_F(ClientTest, NobodyListens) {
  EXPECT_THAT(
      Client<int>(Address::Abstract("nobody listens here")),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("ECONNREFUSED")));
  EXPECT_THAT(
      Client<int>(Address::Unix("/nowhere/at/all")),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("connect(unix:")));
  Listener listener(Address::Tcp("127.0.0.1", 0));
  listener.Close();
  // Often enough for the kernel to choose that port for the client as well.
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(
        Client<int>(listener.address()),
        StatusIs(absl::StatusCode::kUnavailable, HasSubstr("ECONNREFUSED")));
  }
}

TEST_F(ClientTest, NoAddress) {
  EXPECT_THAT(Client<int>(Address()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Client<int>(Address::Tcp("example.org", 80)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// A port that the kernel may give to a client, and does: it meets itself.
TEST_F(ClientTest, DoesNotTalkToItself) {
  Listener listener(Address::Tcp("127.0.0.1", 0));
  const Address address = listener.address();
  listener.Close();
  const auto to = ipc_internal::ToSocketAddress(address).value();
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(socket.get(), to.get(), to.size), 0);
  ASSERT_EQ(connect(socket.get(), to.get(), to.size), 0)
      << "this kernel knows better: nothing to test";
  EXPECT_THAT(Client<int>(address), StatusIs(absl::StatusCode::kUnavailable,
                                             HasSubstr("ECONNREFUSED")));
}

TEST_F(ClientTest, ListenerThatDoesNotAccept) {
  Listener listener(Address(), {.backlog = 1});
  std::vector<Connection<int>> waiting;
  absl::StatusOr<Connection<int>> client;
  for (;;) {
    client = Client<int>(listener.address(), {}, kMoment);
    if (!client.ok()) break;
    waiting.push_back(*client);
  }
  EXPECT_THAT(client, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               HasSubstr("wait there to be accepted")));
  EXPECT_GE(waiting.size(), 1u);
  EXPECT_THAT(Client<int>(listener.address(), {}, absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  auto patient = ChildProcess::Start([&] {
    ASSERT_OK_AND_ASSIGN(auto connection, Client<int>(listener.address()));
    ASSERT_OK(connection.Send(42));
  });
  ASSERT_TRUE(patient.WaitUntilAsleep());
  absl::StatusOr<Connection<int>> last;
  for (size_t i = 0; i <= waiting.size(); ++i) {
    last = listener.Accept<int>();
    ASSERT_OK(last);
  }
  EXPECT_THAT(last->Recv(), IsOkAndHolds(42));
  patient.ExpectExit();
}

TEST_F(ClientTest, SilentListener) {
  Listener listener;  // has no key, so says nothing
  const absl::Time begin = absl::Now();
  EXPECT_THAT(Client<int>(listener.address(), {.authkey = "key"}, kMoment),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("its challenge")));
  EXPECT_GE(absl::Now() - begin, kMoment);
}

TEST_F(ClientTest, ListenerDies) {
  Listener listener;
  auto client = ChildProcess::Start([&] {
    EXPECT_THAT(Client<int>(listener.address(), {.authkey = "key"}),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("hung up")));
  });
  ASSERT_OK(listener.Accept<int>());
  client.ExpectExit();
}

// A listener that asks for what must not be answered.
TEST_F(ClientTest, HostileListener) {
  const std::string forty(40, 'x');
  for (const std::string& message :
       {std::string(), "#CHALLENGE#" + std::string(20, 'x'),
        "#CHALLENGE#{md5}" + forty, "#CHALLENGE#" + forty,
        "#CHALLENGE#{sha256}" + forty + "/mp-client", std::string(257, 'x'),
        std::string("#WELCOME#")}) {
    Listener listener;
    auto client = ChildProcess::Start([&] {
      EXPECT_THAT(Client<int>(listener.address(), {.authkey = "key"}),
                  StatusIs(absl::StatusCode::kUnauthenticated));
    });
    ASSERT_OK_AND_ASSIGN(auto connection, listener.Accept<int>());
    ASSERT_OK(connection.SendBytes(message));
    EXPECT_THAT(connection.RecvBytes(), StatusIs(absl::StatusCode::kOutOfRange))
        << message;
    client.ExpectExit();
  }
}

}  // namespace
}  // namespace mp
