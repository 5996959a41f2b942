// Listener and Client with CPython's multiprocessing.connection at the other
// end. Runs python3, or what MP_TEST_PYTHON names:
//
//   bazel test --test_env=MP_TEST_PYTHON=python3.12 //ipc:listener_python_test
//
// Python up to 3.11 knows only HMAC-MD5.

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/ipc/address.h"
#include "mp/ipc/client.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/listener.h"
#include "mp/testing/child.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

using Bytes = Connection<std::string>;

// Of the child that could not start Python.
constexpr int kNoPython = 77;

constexpr char kPrelude[] = R"(
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
kind, name, port, key = sys.argv[1:5]
address = {'unix': name,
           'abstract': '\0' + name,
           'tcp': (name, int(port))}[kind]
key = None if key == 'none' else key[1:].encode()
large = bytes(range(256)) * (1 << 16)
def talk(c):
    c.send_bytes(b'hello from Python')
    assert c.recv_bytes() == b'hello from mp'
    c.send_bytes(b'')
    assert c.recv_bytes() == b''
    c.send_bytes(large)
    assert c.recv_bytes() == large
    assert c.poll(None)
    try:
        c.recv_bytes()
        assert False
    except EOFError:
        pass
)";

constexpr char kClient[] = R"(
with Client(address, authkey=key) as c:
    talk(c)
)";

constexpr char kRefusedClient[] = R"(
try:
    Client(address, authkey=key)
    assert False
except (AuthenticationError, EOFError, ConnectionResetError):
    pass
)";

constexpr char kListener[] = R"(
with Listener(address, authkey=key) as l:
    print(l.address[1] if kind == 'tcp' else 0, flush=True)
    with l.accept() as c:
        talk(c)
)";

constexpr char kRefusingListener[] = R"(
with Listener(address, authkey=key) as l:
    print(l.address[1] if kind == 'tcp' else 0, flush=True)
    try:
        l.accept()
        assert False
    except (AuthenticationError, AssertionError, EOFError,
            ConnectionResetError, BrokenPipeError) as e:
        pass
)";

std::string PythonName() {
  const char* const name = getenv("MP_TEST_PYTHON");
  return name != nullptr && *name != '\0' ? name : "python3";
}

// A child that runs a script; `out`, if given, is its standard output.
ChildProcess Python(std::string script, std::vector<std::string> arguments,
                    int out = STDERR_FILENO) {
  return ChildProcess::Start([&] {
    std::vector<std::string> command = {PythonName(), "-B", "-c",
                                        std::move(script)};
    for (std::string& argument : arguments) {
      command.push_back(std::move(argument));
    }
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    dup2(out, STDOUT_FILENO);
    execvp(argv[0], argv.data());
    return kNoPython;
  });
}

// Without its end.
std::string ReadLine(int fd) {
  std::string line;
  char byte;
  while (read(fd, &byte, 1) == 1 && byte != '\n') line.push_back(byte);
  return line;
}

std::vector<std::string> Arguments(const Address& address,
                                   const std::optional<std::string>& key) {
  const char* kind = "unix";
  if (address.kind() == Address::Kind::kAbstract) kind = "abstract";
  if (address.kind() == Address::Kind::kTcp) kind = "tcp";
  return {kind, address.name(), absl::StrCat(address.port()),
          key.has_value() ? "=" + *key : "none"};
}

std::string Large() {
  std::string large;
  for (int i = 0; i < 256; ++i) large.push_back(static_cast<char>(i));
  for (int i = 0; i < 16; ++i) large += large;
  return large;
}

// The other side of talk().
void Talk(Bytes connection) {
  EXPECT_THAT(connection.RecvBytes(), IsOkAndHolds("hello from Python"));
  ASSERT_OK(connection.SendBytes("hello from mp"));
  EXPECT_THAT(connection.RecvBytes(), IsOkAndHolds(""));
  ASSERT_OK(connection.SendBytes(""));
  ASSERT_OK_AND_ASSIGN(const std::string large, connection.RecvBytes());
  EXPECT_TRUE(large == Large());
  ASSERT_OK(connection.SendBytes(large));
  connection.Close();
}

class ListenerPythonTest : public testing::ProcessTest {
 protected:
  void SetUp() override {
    testing::PipeEnds pipe = testing::MakePipe();
    auto python = Python(
        "import sys, multiprocessing.connection\n"
        "print('%d %d' % sys.version_info[:2])",
        {}, pipe.writer.get());
    pipe.writer.reset();
    const std::optional<testing::ExitStatus> status = python.Wait();
    if (*status != testing::ExitStatus::Code(0)) {
      fprintf(stderr, "SKIPPED: there is no %s with multiprocessing here\n",
              PythonName().c_str());
      GTEST_SKIP() << "no " << PythonName();
    }
    const std::string version = ReadLine(pipe.reader.get());
    int major = 0, minor = 0;
    ASSERT_EQ(sscanf(version.c_str(), "%d %d", &major, &minor), 2) << version;
    knows_sha256_ = std::pair(major, minor) >= std::pair(3, 12);
    empty_is_a_key_ = std::pair(major, minor) >= std::pair(3, 13);
    fprintf(stderr, "Python %d.%d, %s\n", major, minor,
            knows_sha256_ ? "SHA-256" : "MD5");
    // The path of the folder may be too long for an address.
    ASSERT_EQ(chdir(::testing::TempDir().c_str()), 0);
  }

  static std::vector<Address> EachFamily() {
    return {Address::Unix("listener_python_test.sock"),
            ipc_internal::FreshAddress(), Address::Tcp("127.0.0.1", 0)};
  }

  // What is needed for this Python.
  bool md5() const { return !knows_sha256_; }

  // Starts a script that listens, and gives the address.
  std::pair<ChildProcess, Address> StartListener(
      const char* script, const Address& address,
      const std::optional<std::string>& key) {
    testing::PipeEnds pipe = testing::MakePipe();
    auto python = Python(std::string(kPrelude) + script,
                         Arguments(address, key), pipe.writer.get());
    pipe.writer.reset();
    const std::string line = ReadLine(pipe.reader.get());
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(line, &port)) << line;
    return {std::move(python),
            port == 0
                ? address
                : Address::Tcp(address.name(), static_cast<uint16_t>(port))};
  }

  bool knows_sha256_ = false;
  bool empty_is_a_key_ = false;
};

const std::optional<std::string> kKeys[] = {std::nullopt, "", "secret"};

TEST_F(ListenerPythonTest, PythonsClient) {
  for (const Address& address : EachFamily()) {
    for (const auto& key : kKeys) {
      Listener listener(address, {.authkey = key, .allow_md5 = md5()});
      auto client = Python(absl::StrCat(kPrelude, kClient),
                           Arguments(listener.address(), key));
      ASSERT_OK_AND_ASSIGN(Bytes connection, listener.Accept<std::string>());
      Talk(std::move(connection));
      client.ExpectExit();
      EXPECT_EQ(listener.refused(), 0u);
    }
  }
}

TEST_F(ListenerPythonTest, PythonsListener) {
  for (const Address& address : EachFamily()) {
    for (const auto& key : kKeys) {
      // To older listeners, though not to clients, it is none.
      if (key == "" && !empty_is_a_key_) continue;
      auto [listener, at] = StartListener(kListener, address, key);
      ASSERT_OK_AND_ASSIGN(
          Bytes connection,
          Client<std::string>(at, {.authkey = key, .allow_md5 = md5()}));
      Talk(std::move(connection));
      listener.ExpectExit();
    }
  }
}

TEST_F(ListenerPythonTest, PythonsClientWithAnotherKey) {
  Listener listener(Address(), {.authkey = "secret", .allow_md5 = md5()});
  for (const char* key : {"Secret", ""}) {
    auto client = Python(absl::StrCat(kPrelude, kRefusedClient),
                         Arguments(listener.address(), key));
    const uint64_t before = listener.refused();
    while (listener.refused() == before) {
      EXPECT_THAT(listener.Accept<std::string>(absl::Milliseconds(20)),
                  StatusIs(absl::StatusCode::kDeadlineExceeded));
    }
    client.ExpectExit();
  }
}

TEST_F(ListenerPythonTest, PythonsListenerWithAnotherKey) {
  for (const char* key : {"Secret", ""}) {
    auto [listener, at] = StartListener(kRefusingListener,
                                        ipc_internal::FreshAddress(), "secret");
    EXPECT_THAT(
        Client<std::string>(at, {.authkey = key, .allow_md5 = md5()}),
        StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("another key")));
    listener.ExpectExit();
  }
}

// Without allow_md5, an old one is refused whatever it knows.
TEST_F(ListenerPythonTest, Md5HasToBeAllowed) {
  if (knows_sha256_) GTEST_SKIP() << "needs Python 3.11 or older";
  Listener listener(Address(), {.authkey = "secret"});
  auto client = Python(absl::StrCat(kPrelude, kRefusedClient),
                       Arguments(listener.address(), "secret"));
  while (listener.refused() == 0) {
    EXPECT_THAT(listener.Accept<std::string>(absl::Milliseconds(20)),
                StatusIs(absl::StatusCode::kDeadlineExceeded));
  }
  client.ExpectExit();
  auto [theirs, at] =
      StartListener(kRefusingListener, ipc_internal::FreshAddress(), "secret");
  EXPECT_THAT(
      Client<std::string>(at, {.authkey = "secret"}),
      StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("allow_md5")));
  theirs.ExpectExit();
}

}  // namespace
}  // namespace mp
