#include "mp/ipc/authentication.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"

namespace mp::ipc_internal {
namespace {

constexpr std::string_view kChallenge = "#CHALLENGE#";
constexpr std::string_view kWelcome = "#WELCOME#";
constexpr std::string_view kFailure = "#FAILURE#";

constexpr std::string_view kHungUp =
    "the other side hung up during the handshake";

// That the other side has gone is one error, whichever call notices it.
absl::Status SocketError(int error, std::string_view call) {
  if (error != EPIPE && error != ECONNRESET) return ErrnoStatus(error, call);
  return absl::UnavailableError(absl::StrCat(
      ToAbsl(kHungUp), ": ", ToAbsl(call), ": ", ErrnoName(error)));
}

// Of random bytes in a challenge.
constexpr size_t kRandomBytes = 40;
// What Python up to 3.11 sends, and wants.
constexpr size_t kOldChallengeBytes = 20;
constexpr size_t kMd5Bytes = 16;

// At the end of a challenge: who made it.
constexpr std::string_view Mark(Handshake::Role role) {
  return role == Handshake::Role::kListener ? "/mp-listener" : "/mp-client";
}

struct Digest {
  std::string_view prefix;
  const EVP_MD* (*function)();
};
// The first one is what we ask for.
constexpr Digest kDigests[] = {
    {"{sha256}", EVP_sha256},
    {"{sha384}", EVP_sha384},
};

// The one that `message` names; null if none that is good enough.
const Digest* DigestOf(std::string_view message) {
  for (const Digest& digest : kDigests) {
    if (message.starts_with(digest.prefix)) return &digest;
  }
  return nullptr;
}

absl::Status Refused(absl::string_view why) {
  return absl::UnauthenticatedError(why);
}

absl::StatusOr<std::string> Hmac(const EVP_MD* digest, const std::string& key,
                                 std::string_view message) {
  MP_CHECK(key.size() <= size_t{std::numeric_limits<int>::max()});
  std::string mac(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  // An empty key must not be a null pointer, which means "the same as before".
  if (HMAC(digest, key.c_str(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(message.data()),
           message.size(), reinterpret_cast<unsigned char*>(mac.data()),
           &size) == nullptr) {
    return absl::InternalError("HMAC: the library of cryptography refuses");
  }
  mac.resize(size);
  return mac;
}

// In a time that does not depend on what is in them.
bool Equal(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

absl::StatusOr<std::string> Answer(const HandshakeKey& key,
                                   std::string_view challenge) {
  if (challenge.size() == kOldChallengeBytes) {
    if (!key.allow_md5) {
      return Refused(
          "the other side is Python 3.11 or older, which knows only HMAC-MD5; "
          "see allow_md5");
    }
    return Hmac(EVP_md5(), key.bytes, challenge);
  }
  const Digest* const digest = DigestOf(challenge);
  if (digest == nullptr ||
      challenge.size() < digest->prefix.size() + kOldChallengeBytes) {
    return Refused("a challenge that is too short, or of an unknown digest");
  }
  absl::StatusOr<std::string> mac =
      Hmac(digest->function(), key.bytes, challenge);
  if (!mac.ok()) return mac.status();
  return absl::StrCat(ToAbsl(digest->prefix), *mac);
}

absl::Status Verify(const HandshakeKey& key, std::string_view challenge,
                    std::string_view answer) {
  const EVP_MD* function = nullptr;
  if (const Digest* const digest = DigestOf(answer); digest != nullptr) {
    function = digest->function();
    answer.remove_prefix(digest->prefix.size());
  } else if (key.allow_md5 && answer.size() == kMd5Bytes) {
    function = EVP_md5();
  } else {
    return Refused(
        "an answer of an unknown digest; that of Python 3.11 and older has to "
        "be allowed by allow_md5");
  }
  absl::StatusOr<std::string> mac = Hmac(function, key.bytes, challenge);
  if (!mac.ok()) return mac.status();
  if (!Equal(*mac, answer)) return Refused("the other side has another key");
  return absl::OkStatus();
}

Handshake::Handshake(Role role, HandshakeKey key)
    : role_(role), key_(std::move(key)), state_(State::kAwaitChallenge) {
  if (role_ == Role::kListener) Challenge();
}

void Handshake::Say(std::string_view message) {
  const auto size = static_cast<uint32_t>(message.size());
  for (const int shift : {24, 16, 8, 0}) {
    output_.push_back(static_cast<char>(size >> shift));
  }
  output_.append(message);
}

void Handshake::Challenge() {
  std::string random(kRandomBytes, '\0');
  MP_PCHECK(getrandom(random.data(), random.size(), 0) ==
            static_cast<ssize_t>(random.size()))
      << "getrandom";
  challenge_ =
      absl::StrCat(ToAbsl(kDigests[0].prefix), random, ToAbsl(Mark(role_)));
  Say(std::string(kChallenge) + challenge_);
  state_ = State::kAwaitAnswer;
}

absl::Status Handshake::OnChallenge(std::string_view challenge) {
  // Whoever sends this wants to hear what it should say itself.
  if (challenge == challenge_ || challenge.ends_with(Mark(role_))) {
    return Refused("a challenge that this side, or one like it, has made");
  }
  absl::StatusOr<std::string> answer = Answer(key_, challenge);
  if (!answer.ok()) return answer.status();
  Say(*answer);
  state_ = State::kAwaitVerdict;
  return absl::OkStatus();
}

absl::Status Handshake::Receive(std::string_view message) {
  const State state = std::exchange(state_, State::kRefused);
  switch (state) {
    case State::kAwaitChallenge:
      if (!message.starts_with(kChallenge)) {
        return Refused("no challenge came: the other side has no key?");
      }
      return OnChallenge(message.substr(kChallenge.size()));
    case State::kAwaitAnswer: {
      absl::Status error = Verify(key_, challenge_, message);
      Say(error.ok() ? kWelcome : kFailure);
      if (!error.ok()) return error;
      proved_ = true;
      state_ = role_ == Role::kListener ? State::kAwaitChallenge : State::kDone;
      return absl::OkStatus();
    }
    case State::kAwaitVerdict:
      if (message == kFailure) {
        return Refused("the other side says that it has another key");
      }
      if (message != kWelcome) return Refused("neither welcome nor failure");
      if (role_ == Role::kListener) {
        state_ = State::kDone;
      } else {
        Challenge();
      }
      return absl::OkStatus();
    case State::kDone:
    case State::kRefused:
      break;
  }
  return Refused("a message after the end of the handshake");
}

absl::StatusOr<bool> Handshake::Flush(int socket) {
  while (!output_.empty()) {
    const ssize_t sent = send(socket, output_.data(), output_.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      output_.erase(0, static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      return false;
    } else if (errno != EINTR) {
      return SocketError(errno, "send(handshake)");
    }
  }
  return true;
}

absl::StatusOr<bool> Handshake::Advance(int socket) {
  for (;;) {
    if (absl::StatusOr<bool> flushed = Flush(socket);
        !flushed.ok() || !*flushed) {
      return flushed;
    }
    if (state_ == State::kDone) return true;

    char* to = head_.data() + have_;
    size_t wanted = head_.size() - have_;
    size_t size = 0;
    if (have_ >= head_.size()) {
      for (const char byte : head_) {
        size = size << 8 | static_cast<unsigned char>(byte);
      }
      // Also what would be negative, which announces a longer length.
      if (size > kMaxMessage) {
        state_ = State::kRefused;
        return Refused("a message of the handshake that is too long");
      }
      to = body_.data() + (have_ - head_.size());
      wanted = head_.size() + size - have_;
    }
    if (wanted != 0) {
      const ssize_t got = recv(socket, to, wanted, MSG_DONTWAIT);
      if (got == 0) {
        return absl::UnavailableError(ToAbsl(kHungUp));
      }
      if (got < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN) return false;
        return SocketError(errno, "recv(handshake)");
      }
      have_ += static_cast<size_t>(got);
      continue;
    }
    have_ = 0;
    if (absl::Status error = Receive(std::string_view(body_.data(), size));
        !error.ok()) {
      Flush(socket).IgnoreError();  // a failure, if there is room for it
      return error;
    }
  }
}

short Handshake::awaited() const { return output_.empty() ? POLLIN : POLLOUT; }

std::string_view Handshake::awaits() const {
  switch (state_) {
    case State::kAwaitChallenge:
      return "its challenge";
    case State::kAwaitAnswer:
      return "its answer to ours";
    case State::kAwaitVerdict:
      return "what it says about our answer";
    case State::kDone:
    case State::kRefused:
      break;
  }
  return "nothing";
}

}  // namespace mp::ipc_internal
