#include "mp/ipc/listener.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/address.h"
#include "mp/ipc/attachments_test_util.h"
#include "mp/ipc/client.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/wait.h"
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
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Strings = Connection<std::string>;

constexpr absl::Duration kMoment = absl::Milliseconds(20);

auto IsClosed() {
  return StatusIs(absl::StatusCode::kFailedPrecondition,
                  "the listener is closed");
}
auto TimedOut() { return StatusIs(absl::StatusCode::kDeadlineExceeded); }
auto IsUnauthenticated(const char* why = "") {
  return StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr(why));
}
auto IsEndOfFile() { return StatusIs(absl::StatusCode::kOutOfRange); }

class ListenerTest : public testing::ProcessTest {
 protected:
  // The path of the folder may be too long for an address.
  void SetUp() override { ASSERT_EQ(chdir(::testing::TempDir().c_str()), 0); }
  // A path of this test alone.
  static Address UnixAddress() { return Address::Unix("listener_test.sock"); }
  // One of each family.
  std::vector<Address> EachFamily() const {
    return {UnixAddress(), Address(), Address::Tcp("127.0.0.1", 0),
            Address::Tcp("::1", 0)};
  }
  // Whether this machine has IPv6.
  static bool IsMissing(const absl::Status& status) {
    return absl::StrContains(status.message(), "EADDRNOTAVAIL") ||
           absl::StrContains(status.message(), "EAFNOSUPPORT");
  }
};

// A client that knows no protocol, connected to `address`.
UniqueFd RawClient(const Address& address) {
  const auto to = ipc_internal::ToSocketAddress(address).value();
  UniqueFd socket(::socket(to.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  MP_PCHECK(connect(socket.get(), to.get(), to.size) == 0) << "connect";
  return socket;
}
void Put(const UniqueFd& socket, std::string_view bytes) {
  MP_PCHECK(send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()))
      << "send";
}
// What came until the end.
std::string Rest(const UniqueFd& socket) {
  std::string all;
  char bytes[1000];
  for (;;) {
    const ssize_t got = recv(socket.get(), bytes, sizeof(bytes), 0);
    if (got <= 0) return all;
    all.append(bytes, static_cast<size_t>(got));
  }
}
std::string FrameOf(std::string_view message) {
  return std::string({0, 0, 0, static_cast<char>(message.size())}) +
         std::string(message);
}

// A client in a child, which says a word.
ChildProcess SayHello(const Address& address, ClientOptions options = {}) {
  return ChildProcess::Start([address, options] {
    ASSERT_OK_AND_ASSIGN(Strings connection,
                         Client<std::string>(address, options));
    ASSERT_OK(connection.Send("hello"));
    // The listener closes.
    EXPECT_THAT(connection.Recv(), IsEndOfFile());
  });
}

// ---- Addresses.

// CPython: _TestListenerClient.test_listener_client.
TEST_F(ListenerTest, EachFamilyWithAndWithoutKey) {
  const std::optional<std::string> keys[] = {std::nullopt, "", "key"};
  for (const Address& address : EachFamily()) {
    for (const auto& key : keys) {
      absl::StatusOr<Listener> listener =
          Listener::Create(address, {.authkey = key});
      if (IsMissing(listener.status())) continue;
      ASSERT_OK(listener);
      EXPECT_EQ(listener->last_accepted(), std::nullopt);
      auto client = SayHello(listener->address(), {.authkey = key});
      ASSERT_OK_AND_ASSIGN(Strings connection, listener->Accept<std::string>());
      EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
      EXPECT_TRUE(connection.readable() && connection.writable());
      ASSERT_TRUE(listener->last_accepted().has_value());
      if (address.kind() == Address::Kind::kTcp) {
        EXPECT_EQ(listener->last_accepted()->name(), address.name());
        EXPECT_NE(listener->last_accepted()->port(), 0);
      } else {
        EXPECT_EQ(listener->last_accepted(), Address::Unix(""));
      }
      connection.Close();
      client.ExpectExit();
      EXPECT_EQ(listener->refused(), 0u);
    }
  }
}

TEST_F(ListenerTest, AddressThatWasChosen) {
  const Listener fresh;
  EXPECT_EQ(fresh.address().kind(), Address::Kind::kAbstract);
  EXPECT_NE(fresh.address(), Listener().address());
  const Listener tcp(Address::Tcp("localhost", 0));
  EXPECT_EQ(tcp.address().name(), "127.0.0.1");
  EXPECT_NE(tcp.address().port(), 0);
  EXPECT_EQ(Listener(UnixAddress()).address(), UnixAddress());
}

// CPython: _TestListener.test_multiple_bind.
TEST_F(ListenerTest, SameAddressTwice) {
  for (const Address& address : EachFamily()) {
    absl::StatusOr<Listener> listener = Listener::Create(address);
    if (IsMissing(listener.status())) continue;
    ASSERT_OK(listener);
    const absl::StatusOr<Listener> second =
        Listener::Create(listener->address());
    ASSERT_FALSE(second.ok());
    EXPECT_THAT(std::string(second.status().message()),
                ::testing::AllOf(HasSubstr("bind("), HasSubstr("EADDRINUSE")));
    // The attempt has done the first one no harm.
    EXPECT_OK(Client<std::string>(listener->address()));
    listener->Close();
    EXPECT_OK(Listener::Create(listener->address()));
  }
}

TEST_F(ListenerTest, NoAddress) {
  EXPECT_THAT(Listener::Create(Address::Tcp("example.org", 1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Listener::Create(Address::Unix("/nowhere/at/all")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("ENOENT")));
}

TEST_F(ListenerTest, FileGoesWithTheListener) {
  const std::string path = UnixAddress().name();
  struct stat file;
  {
    Listener listener(UnixAddress());
    const Listener copy = listener;
    EXPECT_EQ(stat(path.c_str(), &file), 0);
    // Another process has another listener, but not another file.
    ChildProcess::Start([&] { listener.Close(); }).ExpectExit();
    EXPECT_EQ(stat(path.c_str(), &file), 0);
    EXPECT_OK(Client<std::string>(copy.address()));
  }
  EXPECT_NE(stat(path.c_str(), &file), 0);
}

TEST_F(ListenerTest, FileOfSomebodyElseStays) {
  Listener listener(UnixAddress());
  ASSERT_EQ(unlink(UnixAddress().name().c_str()), 0);
  Listener other(UnixAddress());
  listener.Close();
  EXPECT_OK(Client<std::string>(other.address()));
}

// ---- Accepting.

TEST_F(ListenerTest, Timeouts) {
  for (const auto& key :
       {std::optional<std::string>(), std::optional<std::string>("key")}) {
    Listener listener(Address(), {.authkey = key});
    EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
    EXPECT_THAT(listener.Accept<int>(-absl::InfiniteDuration()), TimedOut());
    const absl::Time begin = absl::Now();
    EXPECT_THAT(listener.Accept<int>(kMoment), TimedOut());
    EXPECT_GE(absl::Now() - begin, kMoment);
  }
}

// CPython: _TestListener.test_context.
TEST_F(ListenerTest, Close) {
  Listener listener(Address(), {.authkey = "key"});
  const Listener copy = listener;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([listener = listener]() mutable {
      EXPECT_THAT(listener.Accept<int>(), IsClosed());
    });
  }
  absl::SleepFor(kMoment);
  // One who is in the middle of the handshake.
  const UniqueFd client = RawClient(listener.address());
  EXPECT_FALSE(copy.closed());
  listener.Close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(copy.closed());
  EXPECT_THAT(listener.Accept<int>(), IsClosed());
  EXPECT_THAT(listener.fileno(), IsClosed());
  listener.Close();
  Rest(client);
  EXPECT_THAT(
      Client<int>(listener.address()),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("ECONNREFUSED")));
}

// CPython: _TestListenerClient.test_issue14725.
TEST_F(ListenerTest, ClientHasGoneBeforeAccept) {
  for (const Address& address : EachFamily()) {
    absl::StatusOr<Listener> listener = Listener::Create(address);
    if (IsMissing(listener.status())) continue;
    ASSERT_OK(listener);
    {
      ASSERT_OK_AND_ASSIGN(Strings client,
                           Client<std::string>(listener->address()));
      ASSERT_OK(client.Send("hello"));
    }
    ASSERT_OK_AND_ASSIGN(Strings connection, listener->Accept<std::string>());
    EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
    EXPECT_THAT(connection.Recv(), IsEndOfFile());
  }
}

// CPython: _TestListenerClient.test_issue16955.
TEST_F(ListenerTest, PollOfTheClient) {
  for (const Address& address : EachFamily()) {
    absl::StatusOr<Listener> listener = Listener::Create(address);
    if (IsMissing(listener.status())) continue;
    ASSERT_OK(listener);
    ASSERT_OK_AND_ASSIGN(Strings client,
                         Client<std::string>(listener->address()));
    ASSERT_OK_AND_ASSIGN(Strings connection, listener->Accept<std::string>());
    EXPECT_THAT(client.Poll(), IsOkAndHolds(false));
    ASSERT_OK(connection.Send("hello"));
    EXPECT_THAT(client.Poll(absl::InfiniteDuration()), IsOkAndHolds(true));
  }
}

TEST_F(ListenerTest, ManyClients) {
  constexpr int kClients = 20;
  Listener listener(Address(), {.authkey = "key", .backlog = 2});
  std::vector<ChildProcess> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(SayHello(listener.address(), {.authkey = "key"}));
  }
  // Several processes and threads accept.
  const SharedPage<std::atomic<int>> accepted;
  const auto accept = [&] {
    while (*accepted < kClients) {
      absl::StatusOr<Strings> connection =
          listener.Accept<std::string>(kMoment);
      if (!connection.ok()) {
        EXPECT_THAT(connection, TimedOut());
        continue;
      }
      EXPECT_THAT(connection->Recv(), IsOkAndHolds("hello"));
      ++*accepted;
    }
  };
  auto helper = ChildProcess::Start(accept);
  std::thread thread(accept);
  accept();
  thread.join();
  helper.ExpectExit();
  for (ChildProcess& client : clients) client.ExpectExit();
  EXPECT_EQ(*accepted, kClients);
  EXPECT_EQ(listener.refused(), 0u);
}

TEST_F(ListenerTest, DescriptorTellsOfClients) {
  Listener listener;
  ASSERT_OK_AND_ASSIGN(const int fd, listener.fileno());
  pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0);
  ASSERT_OK_AND_ASSIGN(Strings client, Client<std::string>(listener.address()));
  EXPECT_EQ(poll(&entry, 1, -1), 1);
  EXPECT_OK(listener.Accept<int>(absl::ZeroDuration()));
  EXPECT_EQ(poll(&entry, 1, 0), 0);
}

TEST_F(ListenerTest, HandshakeInSeveralCalls) {
  Listener listener(Address(), {.authkey = "key"});
  auto client = SayHello(listener.address(), {.authkey = "key"});
  absl::StatusOr<Strings> connection =
      listener.Accept<std::string>(absl::ZeroDuration());
  while (absl::IsDeadlineExceeded(connection.status())) {
    absl::SleepFor(absl::Milliseconds(1));
    connection = listener.Accept<std::string>(absl::ZeroDuration());
  }
  ASSERT_OK(connection);
  EXPECT_THAT(connection->Recv(), IsOkAndHolds("hello"));
  connection->Close();
  client.ExpectExit();
}

// CPython: TestIgnoreEINTR.test_ignore_listener.
TEST_F(ListenerTest, SignalsDoNotShortenAccept) {
  for (const auto& key :
       {std::optional<std::string>(), std::optional<std::string>("key")}) {
    Listener listener(Address(), {.authkey = key});
    auto child = ChildProcess::Start([&] {
      struct sigaction action = {};  // without SA_RESTART
      action.sa_handler = [](int) {};
      ASSERT_EQ(sigaction(SIGALRM, &action, nullptr), 0);
      const itimerval every = {.it_interval = {0, 1000}, .it_value = {0, 1000}};
      ASSERT_EQ(setitimer(ITIMER_REAL, &every, nullptr), 0);
      ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
      EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
      EXPECT_TRUE(connection.RecvBytes().value() == std::string(16 << 20, 'x'));
    });
    absl::SleepFor(absl::Milliseconds(50));
    ASSERT_OK_AND_ASSIGN(Strings client, Client<std::string>(listener.address(),
                                                             {.authkey = key}));
    absl::SleepFor(absl::Milliseconds(10));
    ASSERT_OK(client.Send("hello"));
    ASSERT_OK(client.SendBytes(std::string(16 << 20, 'x')));
    child.ExpectExit();
  }
}

TEST_F(ListenerTest, ForkAndUse) {
  Listener listener(Address(), {.authkey = "key"});
  auto child = ChildProcess::Start([&] {
    ASSERT_OK_AND_ASSIGN(
        Strings client,
        Client<std::string>(listener.address(), {.authkey = "key"}));
    auto grandchild =
        ChildProcess::Start([&] { ASSERT_OK(client.Send("from below")); });
    grandchild.ExpectExit();
    ASSERT_OK(client.Send("from here"));
  });
  ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
  auto receiver = ChildProcess::Start(
      [&] { EXPECT_THAT(connection.Recv(), IsOkAndHolds("from below")); });
  receiver.ExpectExit();
  EXPECT_THAT(connection.Recv(), IsOkAndHolds("from here"));
  EXPECT_THAT(connection.Recv(), IsEndOfFile());
  child.ExpectExit();
}

// ---- Those who are refused.

// What was refused, and why.
struct Refusals {
  std::function<void(const Address&, const absl::Status&)> Callback() {
    return [this](const Address&, const absl::Status& why) {
      reasons.push_back(why);
    };
  }
  std::vector<absl::Status> reasons;
};

TEST_F(ListenerTest, WrongKey) {
  Refusals refusals;
  Listener listener(UnixAddress(),
                    {.authkey = "key", .on_refused = refusals.Callback()});
  auto wrong = ChildProcess::Start([&] {
    for (const char* key : {"kez", ""}) {
      EXPECT_THAT(Client<int>(listener.address(), {.authkey = key}),
                  IsUnauthenticated("says that it has another key"));
    }
  });
  EXPECT_THAT(listener.Accept<int>(absl::Milliseconds(500)), TimedOut());
  wrong.ExpectExit();
  EXPECT_EQ(listener.refused(), 2u);
  EXPECT_THAT(refusals.reasons, SizeIs(2));
  EXPECT_THAT(refusals.reasons, Each(IsUnauthenticated("another key")));
  auto right = SayHello(listener.address(), {.authkey = "key"});
  ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
  EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
  connection.Close();
  right.ExpectExit();
}

TEST_F(ListenerTest, ListenerHasAnotherKey) {
  // It welcomes everybody, but cannot answer what the client asks.
  Listener impostor;
  auto client = ChildProcess::Start([&] {
    EXPECT_THAT(Client<int>(impostor.address(), {.authkey = "key"}),
                IsUnauthenticated("another key"));
  });
  ASSERT_OK_AND_ASSIGN(Strings connection, impostor.Accept<std::string>());
  ASSERT_OK(connection.SendBytes("#CHALLENGE#{sha256}" + std::string(40, 'x')));
  ASSERT_OK(connection.RecvBytes());
  ASSERT_OK(connection.SendBytes("#WELCOME#"));
  ASSERT_OK(connection.RecvBytes());
  ASSERT_OK(connection.SendBytes("{sha256}" + std::string(32, 'x')));
  EXPECT_THAT(connection.RecvBytes(), IsOkAndHolds("#FAILURE#"));
  client.ExpectExit();
}

TEST_F(ListenerTest, OnlyTheListenerHasAKey) {
  Listener listener(Address(), {.authkey = "key"});
  auto client = ChildProcess::Start([&] {
    ASSERT_OK_AND_ASSIGN(Strings connection,
                         Client<std::string>(listener.address()));
    ASSERT_OK(connection.Send("hello"));
    EXPECT_THAT(connection.Recv(),
                StatusIs(absl::StatusCode::kInvalidArgument));
    ASSERT_OK_AND_ASSIGN(const std::string challenge, connection.RecvBytes());
    EXPECT_THAT(challenge, ::testing::StartsWith("#CHALLENGE#"));
    EXPECT_THAT(connection.RecvBytes(), IsOkAndHolds("#FAILURE#"));
    EXPECT_THAT(connection.RecvBytes(), IsEndOfFile());
  });
  EXPECT_THAT(listener.Accept<std::string>(absl::Milliseconds(500)),
              TimedOut());
  client.ExpectExit();
  EXPECT_EQ(listener.refused(), 1u);
}

TEST_F(ListenerTest, OnlyTheClientHasAKey) {
  Listener listener;
  auto client = ChildProcess::Start([&] {
    EXPECT_THAT(
        Client<int>(listener.address(), {.authkey = "key"}, kMoment),
        StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("has no key")));
    EXPECT_THAT(Client<int>(listener.address(), {.authkey = "key"}),
                IsUnauthenticated("no challenge"));
  });
  ASSERT_OK_AND_ASSIGN(Strings first, listener.Accept<std::string>());
  ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
  ASSERT_OK(connection.Send("hello"));
  client.ExpectExit();
}

// The silent, the slow and the loud, while somebody true comes in.
TEST_F(ListenerTest, BadOnesDoNotHoldUpGoodOnes) {
  for (const Address& address : {UnixAddress(), Address::Tcp("127.0.0.1", 0)}) {
    Refusals refusals;
    Listener listener(address, {.authkey = "key",
                                .handshake_timeout = absl::InfiniteDuration(),
                                .on_refused = refusals.Callback()});
    const UniqueFd silent = RawClient(listener.address());
    const UniqueFd slow = RawClient(listener.address());
    Put(slow, std::string("\0\0\0\50{sha256}", 12));
    const UniqueFd truncated = RawClient(listener.address());
    Put(truncated, std::string("\0\0\0\50{sha", 8));
    shutdown(truncated.get(), SHUT_WR);
    const UniqueFd oversized = RawClient(listener.address());
    Put(oversized, std::string("\0\0\1\1", 4) + std::string(257, 'x'));
    const UniqueFd huge = RawClient(listener.address());
    Put(huge, std::string("\x7f\xff\xff\xff", 4));
    const UniqueFd http = RawClient(listener.address());
    Put(http, "GET / HTTP/1.1\r\n\r\n");
    const UniqueFd garbage = RawClient(listener.address());
    Put(garbage, FrameOf("{sha256}" + std::string(32, 'x')));
    UniqueFd gone = RawClient(listener.address());
    gone.reset();

    auto client = SayHello(listener.address(), {.authkey = "key"});
    ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
    EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
    connection.Close();
    client.ExpectExit();
    while (listener.refused() < 6) {
      EXPECT_THAT(listener.Accept<std::string>(absl::Milliseconds(1)),
                  TimedOut());
    }
    EXPECT_EQ(refusals.reasons.size(), 6u);
    EXPECT_THAT(refusals.reasons,
                Each(AnyOf(IsUnauthenticated(),
                           StatusIs(absl::StatusCode::kUnavailable),
                           StatusIs(absl::StatusCode::kFailedPrecondition,
                                    HasSubstr("EPIPE")))));
    // They are told, or at least gone.
    EXPECT_THAT(Rest(garbage), HasSubstr("#FAILURE#"));
    for (const UniqueFd* socket : {&truncated, &oversized, &huge, &http}) {
      Rest(*socket);
    }
    // The slow one may still make it, or not.
    Put(slow, std::string(32, 'x'));
    EXPECT_THAT(listener.Accept<std::string>(kMoment), TimedOut());
    EXPECT_THAT(Rest(slow), HasSubstr("#FAILURE#"));
    EXPECT_EQ(listener.refused(), 7u);
  }
}

TEST_F(ListenerTest, SilentOnesAreRefusedInTime) {
  Refusals refusals;
  Listener listener(Address(), {.authkey = "key",
                                .handshake_timeout = kMoment,
                                .on_refused = refusals.Callback()});
  const UniqueFd silent = RawClient(listener.address());
  EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
  // The time passes only while somebody accepts.
  absl::SleepFor(3 * kMoment);
  EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
  EXPECT_EQ(listener.refused(), 0u);
  EXPECT_THAT(listener.Accept<int>(10 * kMoment), TimedOut());
  EXPECT_EQ(listener.refused(), 1u);
  ASSERT_THAT(refusals.reasons, SizeIs(1));
  EXPECT_THAT(refusals.reasons[0], StatusIs(absl::StatusCode::kDeadlineExceeded,
                                            HasSubstr("its answer to ours")));
  EXPECT_THAT(Rest(silent), HasSubstr("#CHALLENGE#"));
}

TEST_F(ListenerTest, TooManySilentOnes) {
  Refusals refusals;
  Listener listener(Address(), {.authkey = "key",
                                .handshake_timeout = absl::InfiniteDuration(),
                                .max_handshakes = 5,
                                .on_refused = refusals.Callback()});
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 50; ++i) {
    silent.push_back(RawClient(listener.address()));
  }
  EXPECT_THAT(listener.Accept<int>(kMoment), TimedOut());
  EXPECT_EQ(listener.refused(), 45u);
  auto client = SayHello(listener.address(), {.authkey = "key"});
  ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
  EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
  EXPECT_EQ(listener.refused(), 46u);
  EXPECT_THAT(refusals.reasons,
              Each(StatusIs(absl::StatusCode::kResourceExhausted)));
  connection.Close();
  client.ExpectExit();
}

// Those who have shown that they know the key stay.
TEST_F(ListenerTest, ProvedOnesAreNotTheFirstToGo) {
  Listener listener(Address(), {.authkey = "key",
                                .handshake_timeout = absl::InfiniteDuration(),
                                .max_handshakes = 3});
  const SharedPage<std::atomic<bool>> go_on;
  auto client = ChildProcess::Start([&] {
    ASSERT_OK_AND_ASSIGN(
        Strings connection,
        Client<std::string>(listener.address(), {.authkey = "key"}));
    ASSERT_OK(connection.Send("hello"));
  });
  ASSERT_TRUE(client.WaitUntilAsleep());
  EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
  ASSERT_TRUE(client.WaitUntilAsleep());  // it has answered
  client.Stop();
  EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(RawClient(listener.address()));
  }
  EXPECT_THAT(listener.Accept<int>(kMoment), TimedOut());
  EXPECT_EQ(listener.refused(), 18u);
  client.Continue();
  ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
  EXPECT_THAT(connection.Recv(), IsOkAndHolds("hello"));
  client.ExpectExit();
}

// The recorded words of a true client.
TEST_F(ListenerTest, ReplayedClient) {
  Listener listener(Address(), {.authkey = "key"});
  std::string answer;
  {
    // Somebody in the middle, who writes down.
    Listener middle;
    auto client = ChildProcess::Start([&] {
      Client<int>(middle.address(), {.authkey = "key"}).status().IgnoreError();
    });
    ASSERT_OK_AND_ASSIGN(Strings from, middle.Accept<std::string>());
    ASSERT_OK_AND_ASSIGN(Strings to, Client<std::string>(listener.address()));
    EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
    ASSERT_OK(from.SendBytes(to.RecvBytes().value()));
    ASSERT_OK_AND_ASSIGN(answer, from.RecvBytes());
    ASSERT_OK(to.SendBytes(answer));
    EXPECT_THAT(listener.Accept<int>(absl::ZeroDuration()), TimedOut());
    EXPECT_THAT(to.RecvBytes(), IsOkAndHolds("#WELCOME#"));
    from.Close();
    client.ExpectExit();
  }
  ASSERT_OK_AND_ASSIGN(Strings replay, Client<std::string>(listener.address()));
  ASSERT_OK(replay.SendBytes(answer));
  EXPECT_THAT(listener.Accept<int>(kMoment), TimedOut());
  ASSERT_OK(replay.RecvBytes());
  EXPECT_THAT(replay.RecvBytes(), IsOkAndHolds("#FAILURE#"));
}

// ---- Connections through sockets, as Connection shows them. What the socket
// does is in socket_end_test.

class SocketConnectionTest : public ListenerTest {
 protected:
  template <class T>
  std::pair<Connection<T>, Connection<T>> Connected() {
    Listener listener;
    Connection<T> client = ValueOrDie(Client<T>(listener.address()));
    return {client, ValueOrDie(listener.Accept<T>())};
  }
};

TEST_F(SocketConnectionTest, AnyType) {
  auto [a, b] = Connected<std::vector<std::pair<int, std::string>>>();
  ASSERT_OK(a.Send({{1, "one"}, {2, "two"}}));
  ASSERT_OK(a.Send({}));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(ElementsAre(std::pair(1, "one"),
                                                 std::pair(2, "two"))));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(::testing::IsEmpty()));
  EXPECT_THAT(b.Recv(absl::ZeroDuration()), TimedOut());
}

TEST_F(SocketConnectionTest, LargeMessages) {
  auto [a, b] = Connected<std::string>();
  const std::string large(16 << 20, 'x');
  std::thread echo([&b = b] { EXPECT_OK(b.Send(b.Recv().value())); });
  EXPECT_OK(a.Send(large));
  EXPECT_TRUE(a.Recv().value() == large);
  echo.join();
}

TEST_F(SocketConnectionTest, RawBytes) {
  auto [a, b] = Connected<int>();
  ASSERT_OK(a.SendBytes("hello"));
  EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("RecvBytes()")));
  EXPECT_THAT(b.RecvBytes(4), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("5 bytes")));
  char buffer[8];
  EXPECT_THAT(b.RecvBytesInto(std::as_writable_bytes(std::span(buffer, 4))),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(b.Poll(), IsOkAndHolds(true));
  EXPECT_THAT(b.RecvBytesInto(std::as_writable_bytes(std::span(buffer))),
              IsOkAndHolds(5u));
  EXPECT_EQ(std::string_view(buffer, 5), "hello");
  // The bytes of a value, too.
  ASSERT_OK(a.Send(7));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(SizeIs(8 + sizeof(int))));
  ASSERT_OK(a.SendBytes(""));
  EXPECT_THAT(b.Poll(), IsOkAndHolds(true));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds(""));
  EXPECT_THAT(b.Poll(), IsOkAndHolds(false));
}

TEST_F(SocketConnectionTest, OtherType) {
  Listener listener;
  ASSERT_OK_AND_ASSIGN(auto a, Client<double>(listener.address()));
  ASSERT_OK_AND_ASSIGN(auto b, listener.Accept<std::string>());
  ASSERT_OK(a.Send(1.5));
  EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("another type")));
  EXPECT_OK(b.RecvBytes());
}

// Bytes that claim to be of the type.
TEST_F(SocketConnectionTest, HostileBytes) {
  auto [a, b] = Connected<std::vector<std::string>>();
  ASSERT_OK(a.Send({"hello", "world"}));
  ASSERT_OK_AND_ASSIGN(const std::string whole, b.RecvBytes());
  for (size_t size = 8; size < whole.size(); ++size) {
    ASSERT_OK(a.SendBytes(whole.substr(0, size)));
    EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kDataLoss));
  }
  for (size_t i = 8; i < 16; ++i) {
    std::string flipped = whole;
    flipped[i] = '\x7f';
    ASSERT_OK(a.SendBytes(flipped));
    EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kDataLoss));
  }
  ASSERT_OK(a.SendBytes(whole));
  EXPECT_THAT(b.Recv(), IsOkAndHolds(ElementsAre("hello", "world")));
}

TEST_F(SocketConnectionTest, HandlesCannotGo) {
  using Maybe = std::variant<std::string, UniqueFd, Connection<int>>;
  auto [a, b] = Connected<Maybe>();
  const auto cannot_go = StatusIs(absl::StatusCode::kInvalidArgument,
                                  HasSubstr("to another program"));
  EXPECT_THAT(a.Send(Maybe(UniqueFd(dup(2)))), cannot_go);
  auto [c, d] = Connected<int>();
  EXPECT_THAT(a.Send(Maybe(c)), cannot_go);
  ASSERT_OK(a.Send("only words"));
  ASSERT_OK_AND_ASSIGN(const Maybe message, b.Recv());
  EXPECT_EQ(std::get<std::string>(message), "only words");
  // A hostile one may claim that there is one.
  ASSERT_OK(a.Send("12"));
  ASSERT_OK_AND_ASSIGN(std::string bytes, b.RecvBytes());
  bytes.resize(8);
  bytes += '\1';
  bytes.append(4, '\0');
  ASSERT_OK(a.SendBytes(bytes));
  EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kDataLoss));
}

// CPython: _TestPicklingConnections.test_pickling.
TEST_F(SocketConnectionTest, TravelsWithinTheFamily) {
  using Maybe = std::variant<std::string, UniqueFd>;
  auto [a, b] = Connected<Maybe>();
  absl::StatusOr<Connection<Maybe>> twin;
  {
    const absl::StatusOr<PackedMessage> message = Pack(b);
    ASSERT_OK(message);
    twin = Unpack<Connection<Maybe>>(*message);
  }
  ASSERT_OK(twin);
  EXPECT_TRUE(*twin == b);
  EXPECT_FALSE(*twin == a);
  b.Close();
  EXPECT_THAT(Pack(b), StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK(a.Send("hello"));
  ASSERT_OK_AND_ASSIGN(const Maybe message, twin->Recv());
  EXPECT_EQ(std::get<std::string>(message), "hello");
  EXPECT_THAT(twin->Send(Maybe(UniqueFd(dup(2)))),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK(twin->Send("back"));
  ASSERT_OK(a.Recv());
  twin->Close();
  EXPECT_THAT(a.Recv(), IsEndOfFile());
}

// Wait() says what Poll() says, also of a message that an error has left.
TEST_F(SocketConnectionTest, WaitForASocket) {
  auto [a, b] = Connected<int>();
  EXPECT_THAT(Wait({a, b}, absl::ZeroDuration()), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(Wait({a, b}, absl::Milliseconds(1)), IsOkAndHolds(IsEmpty()));
  ChildProcess child = ChildProcess::Start([a = a]() mutable {
    absl::SleepFor(absl::Milliseconds(10));
    EXPECT_OK(a.SendBytes("no int"));
  });
  EXPECT_THAT(Wait({a, b}), IsOkAndHolds(ElementsAre(1u)));
  EXPECT_THAT(b.Recv(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Wait({a, b}), IsOkAndHolds(ElementsAre(1u)));
  EXPECT_THAT(b.RecvBytes(), IsOkAndHolds("no int"));
  child.ExpectExit();
  EXPECT_THAT(Wait({a, b}, absl::ZeroDuration()), IsOkAndHolds(IsEmpty()));
  a.Close();
  EXPECT_THAT(Wait({b}), IsOkAndHolds(ElementsAre(0u)));
  EXPECT_THAT(Wait({a, b}), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SocketConnectionTest, CloseAndLastHandle) {
  auto [a, b] = Connected<int>();
  {
    std::optional<Connection<int>> copy = b;
    b = a;
    EXPECT_THAT(a.Poll(), IsOkAndHolds(false));
    copy.reset();
  }
  EXPECT_THAT(a.Recv(), IsEndOfFile());
  EXPECT_THAT(a.Send(1), StatusIs(absl::StatusCode::kFailedPrecondition,
                                  HasSubstr("EPIPE")));
  a.Close();
  EXPECT_TRUE(b.closed());
  EXPECT_THAT(b.Send(1), StatusIs(absl::StatusCode::kFailedPrecondition,
                                  "the connection is closed"));
}

TEST_F(SocketConnectionTest, Descriptor) {
  auto [a, b] = Connected<int>();
  pollfd entry = {.fd = b.fileno().value(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0);
  ASSERT_OK(a.Send(1));
  EXPECT_EQ(poll(&entry, 1, -1), 1);
  ASSERT_OK(b.Recv());
  EXPECT_EQ(poll(&entry, 1, 0), 0);
  a.Close();
  EXPECT_EQ(poll(&entry, 1, -1), 1);
}

TEST_F(SocketConnectionTest, SizeLimits) {
  Listener listener(Address(), {.max_message_bytes = 100});
  ASSERT_OK_AND_ASSIGN(Strings a, Client<std::string>(listener.address()));
  ASSERT_OK_AND_ASSIGN(Strings b, listener.Accept<std::string>());
  EXPECT_THAT(b.SendBytes(std::string(101, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK(a.SendBytes(std::string(100, 'x')));
  EXPECT_OK(b.RecvBytes());
  ASSERT_OK(a.SendBytes(std::string(101, 'x')));
  EXPECT_THAT(b.RecvBytes(), StatusIs(absl::StatusCode::kDataLoss,
                                      HasSubstr("max_message_bytes")));
}

// A peer that is killed.
TEST_F(SocketConnectionTest, PeerIsKilled) {
  Listener listener;
  auto client = ChildProcess::Start([&] {
    ASSERT_OK_AND_ASSIGN(Strings connection,
                         Client<std::string>(listener.address()));
    ASSERT_OK(connection.Send("last words"));
    connection.Recv().status().IgnoreError();
  });
  ASSERT_OK_AND_ASSIGN(Strings connection, listener.Accept<std::string>());
  EXPECT_THAT(connection.Recv(), IsOkAndHolds("last words"));
  std::thread killer([&] {
    absl::SleepFor(kMoment);
    client.Kill();
  });
  EXPECT_THAT(connection.Recv(), IsEndOfFile());
  killer.join();
  client.ExpectSignal(SIGKILL);
}

}  // namespace
}  // namespace mp
