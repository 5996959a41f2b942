// How two programs prove to each other that both know a key, without telling
// it: the handshake of Listener and Client (mp/ipc/listener.h).
//
// It is that of CPython's multiprocessing.connection, version 3.12 and newer.
// Each side sends a challenge and wants its HMAC back; the one who accepted the
// connection asks first:
//
//   listener  #CHALLENGE#{sha256}<random bytes>
//   client    {sha256}<HMAC of what follows #CHALLENGE#>
//   listener  #WELCOME#, or #FAILURE# and the end
//             ... and the same the other way round
//
// Each of these is a frame: its length in four bytes, most significant first,
// and at most 256 bytes.
//
// What this gives: both sides have the key, and are alive now: answers are for
// random bytes of this connection, so one that was recorded is worth nothing.
// What it does not give: what is sent afterwards is neither secret nor
// protected against a man in the middle, who can pass the handshake on from a
// true client to a true listener. That takes someone who can put himself
// between the two, such as by taking the address before the listener does.
//
// One weakness of the protocol is closed here. Nothing in an answer tells which
// side gave it, so a false listener without the key could let a second client
// answer what the first one asks. Our challenges therefore end with the role of
// who made them, which others take for random bytes, and nobody here answers a
// challenge of its own role. A CPython process with the same key still does.
//
// SHA-256 is asked for; an answer or a challenge with SHA-384 is fine too. What
// Python up to 3.11 does instead (HMAC-MD5, and no name of the digest) has to
// be allowed: MD5 is broken for other uses, and nobody who cares lets the other
// side choose it.

#ifndef MP_IPC_AUTHENTICATION_H_
#define MP_IPC_AUTHENTICATION_H_

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mp::ipc_internal {

struct HandshakeKey {
  std::string bytes;  // an empty one is a key like any other
  bool allow_md5 = false;
};

// What follows #CHALLENGE#, and what is sent back. Errors are Unauthenticated.
absl::StatusOr<std::string> Answer(const HandshakeKey& key,
                                   std::string_view challenge);
absl::Status Verify(const HandshakeKey& key, std::string_view challenge,
                    std::string_view answer);

// One side of the handshake on one connection. Nothing blocks, and no byte is
// read that does not belong to the handshake.
class Handshake {
 public:
  enum class Role { kListener, kClient };

  static constexpr size_t kMaxMessage = 256;

  Handshake(Role role, HandshakeKey key);

  // Does what can be done at the moment. True once each side has proved itself.
  // Errors: Unauthenticated, the other side does not know the key or says that
  // this one does not, or does not speak the protocol; or a system call's. The
  // connection is to be closed then.
  absl::StatusOr<bool> Advance(int socket);
  // What to poll() for before the next Advance().
  short awaited() const;
  // Whether the other side has proved itself.
  bool proved() const { return proved_; }
  // For messages: what the other side was to do next.
  std::string_view awaits() const;

  // The same without a socket: takes one message, and gives what to send.
  absl::Status Receive(std::string_view message);
  std::string TakeOutput() { return std::exchange(output_, {}); }
  bool done() const { return state_ == State::kDone && output_.empty(); }

 private:
  enum class State {
    kAwaitChallenge,
    kAwaitAnswer,
    kAwaitVerdict,
    kDone,
    kRefused,
  };

  void Challenge();
  void Say(std::string_view message);
  absl::Status OnChallenge(std::string_view challenge);
  // Sends what there is to send; false if that would block.
  absl::StatusOr<bool> Flush(int socket);

  const Role role_;
  const HandshakeKey key_;
  State state_;
  bool proved_ = false;
  std::string challenge_;  // this side's
  std::string output_;     // not sent yet
  // The message that is being received.
  std::array<char, 4> head_;
  std::array<char, kMaxMessage> body_;
  size_t have_ = 0;  // of both
};

}  // namespace mp::ipc_internal

#endif  // MP_IPC_AUTHENTICATION_H_
