#include "mp/ipc/authentication.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"
#include "mp/base/unix_socket.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {
namespace {

using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using Role = Handshake::Role;

// A challenge as Python's without its random: bytes 0, 1, 2...
std::string Count(size_t size) {
  std::string bytes;
  for (size_t i = 0; i < size; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

auto IsRefused(const char* why = "") {
  return StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr(why));
}

// The one message in what a handshake has to send.
std::string Message(Handshake& side) {
  const std::string output = side.TakeOutput();
  EXPECT_GE(output.size(), 4u);
  EXPECT_EQ(output.substr(0, 3), std::string(3, '\0'));
  EXPECT_EQ(static_cast<unsigned char>(output[3]), output.size() - 4);
  return output.substr(4);
}

std::string Frame(std::string_view message) {
  return absl::StrCat(std::string({0, 0, static_cast<char>(message.size() >> 8),
                                   static_cast<char>(message.size())}),
                      std::string(message));
}

// CPython: ChallengeResponseTest.test_challengeresponse. The digests are what
// Python's hmac module says.
TEST(AuthenticationTest, KnownAnswers) {
  const std::string challenge = "{sha256}" + Count(40);
  const auto answer = [](const char* prefix, const char* hex) {
    return IsOkAndHolds(absl::StrCat(prefix, absl::HexStringToBytes(hex)));
  };
  EXPECT_THAT(Answer({"key"}, challenge),
              answer("{sha256}",
                     "05b37335205f51ff483146e965fdf576"
                     "943e0e64675a64ceccba80b6704d76b8"));
  EXPECT_THAT(Answer({""}, challenge),
              answer("{sha256}",
                     "d18b190a737f779d3125c4a2dfddcebf"
                     "933e2f2713bc92fbe386ca25df9fd7af"));
  EXPECT_OK(Verify(
      {"key"}, challenge,
      "{sha384}" + absl::HexStringToBytes("56786f888f3fdebcbde52c420c71a3de"
                                          "4491dbd3b14e07780c82b50db7b26a7f"
                                          "d7ac1615b122c6453d4a07670ea29b88")));
  EXPECT_THAT(Answer({"key", /*allow_md5=*/true}, Count(20)),
              answer("", "5b2709aec5bcecbd08bd1f92d77ecea1"));
  EXPECT_THAT(Answer({"", /*allow_md5=*/true}, Count(20)),
              answer("", "eee7e8c8fa6d98a59d76c44ce7018548"));
}

TEST(AuthenticationTest, AnswersAreVerified) {
  for (const char* prefix : {"{sha256}", "{sha384}"}) {
    const std::string challenge = prefix + Count(40);
    ASSERT_OK_AND_ASSIGN(const std::string answer, Answer({"key"}, challenge));
    EXPECT_THAT(answer, StartsWith(prefix));
    EXPECT_OK(Verify({"key"}, challenge, answer));
    EXPECT_THAT(Verify({"kez"}, challenge, answer), IsRefused("another key"));
    EXPECT_THAT(Verify({""}, challenge, answer), IsRefused());
    EXPECT_THAT(Verify({"key"}, challenge + "x", answer), IsRefused());
    for (size_t size = 0; size < answer.size(); ++size) {
      EXPECT_THAT(Verify({"key", true}, challenge, answer.substr(0, size)),
                  IsRefused());
    }
    EXPECT_THAT(Verify({"key"}, challenge, answer + "x"), IsRefused());
    std::string flipped = answer;
    flipped.back() ^= 1;
    EXPECT_THAT(Verify({"key"}, challenge, flipped), IsRefused());
  }
}

TEST(AuthenticationTest, WhatIsNotAnswered) {
  for (const std::string& challenge :
       {std::string(), Count(16), Count(19), Count(20), Count(21), Count(60),
        "{md5}" + Count(40), "{sha1}" + Count(40), "{sha256" + Count(40),
        "{sha256}" + Count(19), std::string("{sha256}"), "{}" + Count(40)}) {
    EXPECT_THAT(Answer({"key"}, challenge), IsRefused()) << challenge.size();
  }
}

TEST(AuthenticationTest, Md5HasToBeAllowed) {
  const HandshakeKey strict = {"key"};
  const HandshakeKey lax = {"key", /*allow_md5=*/true};
  EXPECT_THAT(Answer(strict, Count(20)), IsRefused("allow_md5"));
  ASSERT_OK_AND_ASSIGN(const std::string answer, Answer(lax, Count(20)));
  EXPECT_EQ(answer.size(), 16u);
  EXPECT_OK(Verify(lax, Count(20), answer));
  EXPECT_THAT(Verify(strict, Count(20), answer), IsRefused("allow_md5"));
  EXPECT_THAT(Verify({"kez", true}, Count(20), answer), IsRefused());
  // Allowing it does not choose it.
  EXPECT_THAT(Answer(lax, "{sha256}" + Count(40)),
              IsOkAndHolds(StartsWith("{sha256}")));
}

// Lets two sides talk until both have nothing more to say, which at least one
// must be content with.
struct Outcome {
  absl::Status listener, client;
};
Outcome Talk(Handshake& listener, Handshake& client) {
  Outcome outcome;
  while (outcome.listener.ok() && outcome.client.ok() &&
         !(listener.done() && client.done())) {
    std::string message = listener.TakeOutput();
    if (!message.empty()) outcome.client = client.Receive(message.substr(4));
    message = client.TakeOutput();
    if (!message.empty()) {
      outcome.listener = listener.Receive(message.substr(4));
    }
  }
  // A last word.
  const std::string verdict = listener.TakeOutput();
  if (!verdict.empty() && outcome.client.ok()) {
    outcome.client = client.Receive(verdict.substr(4));
  }
  return outcome;
}

// CPython: _TestListener.test_empty_authkey.
TEST(AuthenticationTest, BothKnowTheKey) {
  for (const char* key : {"key", ""}) {
    Handshake listener(Role::kListener, {key});
    Handshake client(Role::kClient, {key});
    const Outcome outcome = Talk(listener, client);
    EXPECT_OK(outcome.listener);
    EXPECT_OK(outcome.client);
    EXPECT_TRUE(listener.done() && listener.proved());
    EXPECT_TRUE(client.done() && client.proved());
  }
}

TEST(AuthenticationTest, OtherKey) {
  for (const auto& [ours, theirs] :
       {std::pair("key", "kez"), {"key", ""}, {"", "key"}, {"key", "key "}}) {
    Handshake listener(Role::kListener, {ours});
    Handshake client(Role::kClient, {theirs});
    const Outcome outcome = Talk(listener, client);
    EXPECT_THAT(outcome.listener, IsRefused("the other side has another key"));
    EXPECT_THAT(outcome.client, IsRefused("says that it has another key"));
    EXPECT_FALSE(listener.done() || listener.proved());
    EXPECT_FALSE(client.done() || client.proved());
  }
}

TEST(AuthenticationTest, ChallengesAreFreshAndMarked) {
  Handshake one(Role::kListener, {"key"});
  Handshake two(Role::kListener, {"key"});
  const std::string challenge = Message(one);
  EXPECT_THAT(challenge, StartsWith("#CHALLENGE#{sha256}"));
  EXPECT_THAT(challenge, EndsWith("/mp-listener"));
  EXPECT_NE(challenge, Message(two));
}

// CPython: OtherTest.test_deliver_challenge_auth_failure.
TEST(AuthenticationTest, Garbage) {
  for (const char* garbage : {"something bogus", "", "#WELCOME#", "{sha256}",
                              "#CHALLENGE#", "#FAILURE#"}) {
    Handshake listener(Role::kListener, {"key"});
    EXPECT_THAT(Message(listener), StartsWith("#CHALLENGE#"));
    EXPECT_THAT(listener.Receive(garbage), IsRefused());
    EXPECT_EQ(Message(listener), "#FAILURE#");
    // There is no second try.
    EXPECT_THAT(listener.Receive("{sha256}"), IsRefused("after the end"));
    EXPECT_FALSE(listener.done());

    Handshake client(Role::kClient, {"key"});
    EXPECT_THAT(client.Receive(garbage), IsRefused());
    EXPECT_FALSE(client.done());
  }
}

// CPython: OtherTest.test_answer_challenge_auth_failure.
TEST(AuthenticationTest, GarbageVerdict) {
  for (const char* verdict :
       {"something bogus", "", "#WELCOME", "#WELCOME##", "#FAILURE#"}) {
    Handshake client(Role::kClient, {"key"});
    ASSERT_OK(client.Receive("#CHALLENGE#{sha256}" + Count(40)));
    Message(client);
    EXPECT_THAT(client.Receive(verdict), IsRefused());
    EXPECT_FALSE(client.done());
  }
}

// ---- What somebody without the key may try.

TEST(AuthenticationTest, ReplayedAnswer) {
  Handshake first(Role::kListener, {"key"});
  Handshake honest(Role::kClient, {"key"});
  ASSERT_OK(honest.Receive(Message(first)));
  const std::string recorded = Message(honest);
  ASSERT_OK(first.Receive(recorded));

  Handshake second(Role::kListener, {"key"});
  EXPECT_THAT(second.Receive(recorded), IsRefused("another key"));
}

// The listener's own challenge, back to it, after somebody was proved.
TEST(AuthenticationTest, ListenersOwnChallenge) {
  Handshake listener(Role::kListener, {"key"});
  const std::string challenge = Message(listener);
  ASSERT_OK_AND_ASSIGN(const std::string answer,
                       Answer({"key"}, challenge.substr(11)));
  ASSERT_OK(listener.Receive(answer));
  EXPECT_EQ(Message(listener), "#WELCOME#");
  EXPECT_THAT(listener.Receive(challenge), IsRefused("has made"));
}

// A false listener lets another client answer what the first one asks.
TEST(AuthenticationTest, ClientAnswersNoClient) {
  Handshake victim(Role::kClient, {"key"});
  ASSERT_OK(victim.Receive("#CHALLENGE#{sha256}" + Count(40)));
  Message(victim);
  ASSERT_OK(victim.Receive("#WELCOME#"));  // whatever it said
  const std::string challenge = Message(victim);

  Handshake oracle(Role::kClient, {"key"});
  EXPECT_THAT(oracle.Receive(challenge), IsRefused("one like it"));
  EXPECT_EQ(oracle.TakeOutput(), "");
  // Nor does what the victim itself has said help.
  EXPECT_THAT(victim.Receive(challenge), IsRefused());
}

// Nor a listener what another listener asks.
TEST(AuthenticationTest, ListenerAnswersNoListener) {
  Handshake victim(Role::kListener, {"key"});
  const std::string challenge = Message(victim);

  Handshake oracle(Role::kListener, {"key"});
  // It asks first, and says nothing about any other key before.
  EXPECT_THAT(oracle.Receive(challenge), IsRefused());
}

// ---- Through a socket.

class HandshakeOnSocketTest : public testing::ProcessTest {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(sockets_, ConnectedSockets(SOCK_STREAM));
  }
  int here() const { return sockets_[0].get(); }
  int there() const { return sockets_[1].get(); }
  void Put(std::string_view bytes) const {
    ASSERT_EQ(send(there(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
  }

  std::array<UniqueFd, 2> sockets_;
};

TEST_F(HandshakeOnSocketTest, BothSides) {
  Handshake listener(Role::kListener, {"key"});
  Handshake client(Role::kClient, {"key"});
  bool listener_done = false, client_done = false;
  for (int i = 0; i < 10 && !(listener_done && client_done); ++i) {
    ASSERT_OK_AND_ASSIGN(listener_done, listener.Advance(here()));
    ASSERT_OK_AND_ASSIGN(client_done, client.Advance(there()));
  }
  EXPECT_TRUE(listener_done && client_done);
}

TEST_F(HandshakeOnSocketTest, ByteByByte) {
  Handshake client(Role::kClient, {"key"});
  const std::string challenge = "{sha256}" + Count(40);
  for (const char byte : Frame("#CHALLENGE#" + challenge)) {
    EXPECT_THAT(client.Advance(here()), IsOkAndHolds(false));
    EXPECT_EQ(client.awaited(), POLLIN);
    EXPECT_EQ(client.awaits(), "its challenge");
    Put(std::string_view(&byte, 1));
  }
  EXPECT_THAT(client.Advance(here()), IsOkAndHolds(false));
  char answer[100];
  const ssize_t size = recv(there(), answer, sizeof(answer), MSG_DONTWAIT);
  ASSERT_EQ(size, 4 + 8 + 32);
  EXPECT_OK(Verify({"key"}, challenge, std::string_view(answer + 4, 8 + 32)));
}

// What belongs to the connection is left to it.
TEST_F(HandshakeOnSocketTest, ReadsNothingBeyond) {
  Handshake listener(Role::kListener, {"key"});
  EXPECT_THAT(listener.Advance(here()), IsOkAndHolds(false));
  char challenge[100];
  const ssize_t size = recv(there(), challenge, sizeof(challenge), 0);
  ASSERT_GT(size, 15);
  ASSERT_OK_AND_ASSIGN(
      const std::string answer,
      Answer({"key"},
             std::string_view(challenge + 15, static_cast<size_t>(size) - 15)));
  Put(Frame(answer) + Frame("#CHALLENGE#{sha256}" + Count(40)) +
      Frame("#WELCOME#") + "first message");
  EXPECT_THAT(listener.Advance(here()), IsOkAndHolds(true));
  EXPECT_THAT(listener.Advance(here()), IsOkAndHolds(true));
  char rest[100];
  EXPECT_EQ(recv(here(), rest, sizeof(rest), 0), 13);
}

TEST_F(HandshakeOnSocketTest, TooLong) {
  for (const std::string& head :
       {std::string("\0\0\1\1", 4), std::string("\x7f\xff\xff\xff", 4),
        std::string("\xff\xff\xff\xff", 4), std::string("GET ")}) {
    Handshake listener(Role::kListener, {"key"});
    Put(head);
    EXPECT_THAT(listener.Advance(here()), IsRefused("too long"));
    EXPECT_THAT(listener.Receive("{sha256}"), IsRefused("after the end"));
  }
}

TEST_F(HandshakeOnSocketTest, LongestAndEmpty) {
  for (const size_t size : {size_t{0}, Handshake::kMaxMessage}) {
    Handshake client(Role::kClient, {"key"});
    Put(Frame(std::string(size, 'x')));
    EXPECT_THAT(client.Advance(here()), IsRefused("no challenge"));
  }
}

TEST_F(HandshakeOnSocketTest, HangsUp) {
  for (const char* before : {"", "x"}) {
    ASSERT_OK_AND_ASSIGN(sockets_, ConnectedSockets(SOCK_STREAM));
    Handshake client(Role::kClient, {"key"});
    Put(before);
    sockets_[1].reset();
    EXPECT_THAT(client.Advance(here()),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("hung up")));
    Handshake listener(Role::kListener, {"key"});  // and there is no SIGPIPE
    EXPECT_THAT(listener.Advance(here()),
                StatusIs(absl::StatusCode::kUnavailable,
                         AllOf(HasSubstr("hung up"), HasSubstr("EPIPE"))));
  }
}

// Whoever does not read cannot make it wait.
TEST_F(HandshakeOnSocketTest, NoRoom) {
  const std::string block(4096, 'x');
  while (send(here(), block.data(), block.size(), MSG_DONTWAIT) > 0) {
  }
  Handshake listener(Role::kListener, {"key"});
  EXPECT_THAT(listener.Advance(here()), IsOkAndHolds(false));
  EXPECT_EQ(listener.awaited(), POLLOUT);
}

}  // namespace
}  // namespace mp::ipc_internal
