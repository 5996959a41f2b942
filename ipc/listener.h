// Listener and Client: connections between programs that do not know each
// other, through Unix sockets and TCP.
//
//   // one program                            // another one
//   mp::Listener listener(                    auto connection =
//       mp::Address::Unix("/run/app.sock"),       mp::Client<std::string>(
//       {.authkey = key});                            mp::Address::Unix(
//   auto connection =                                     "/run/app.sock"),
//       listener.Accept<std::string>();               {.authkey = key});
//
// Both have an mp::Connection<std::string> then (mp/ipc/connection.h). Programs
// of one family have a common key: {.authkey = mp::Authkey()}, from
// mp/process/process.h.
//
// The key: without one, whoever can connect may (mp/ipc/address.h says who
// that is). With one, both sides prove that they know it, and do not tell it;
// mp/ipc/authentication.h says what that is worth, and what it is not: nothing
// is encrypted. Both sides must have one, or none. An empty key is a key,
// except to listeners of Python up to 3.12.
//
// Who is refused: the listener goes on as if nobody had been there, but counts
// it and tells `on_refused`. Nobody can hold up the others: handshakes go on
// side by side within Accept(); each has a time (`handshake_timeout`, which
// passes only while somebody is in Accept); and there are at most
// `max_handshakes` in each call: if one more comes, the oldest goes that has
// not proved itself. Between calls nothing goes on, so call Accept often.
//
// The protocol is that of CPython's multiprocessing.connection 3.12 and newer:
// what SendBytes() sends here, recv_bytes() receives there, and the other way
// round. For Python up to 3.11 see `allow_md5`. RecvBytes() also gives the
// bytes of what Send() sent, there and here.
//
// A connection through a socket is like the end of a pipe, except for these:
//
// T must mean the same in both programs: the same declarations, the same
// compiler. Another one is an error at Recv if its name differs, and no worse
// than a wrong value otherwise. For programs that are built apart, encode the
// messages yourself and use SendBytes().
//
// Handles and descriptors cannot go through it: InvalidArgument at Send. The
// connection itself can go to a process of the same family, in any way that a
// pipe's end can. Processes that share it, by that or by fork, send and receive
// whole messages; each goes to one of them.
//
// Send returns when the kernel has the message. What no Recv has taken is lost
// when the other side closes. Over TCP, a Send to who has gone may succeed
// once.
//
// A timeout that passes in the middle of a message: at Recv, what has come is
// kept, and the next Recv of this process goes on with it; until then other
// processes with this end wait. At Send, half a message cannot be taken back:
// the error tells that this end can send no more, and the other side gets
// DataLoss where the message would be. That can happen to messages that the
// socket has no room for; give Send the time that those take.
//
// A process that dies in the middle of Send or Recv: if it was the only one at
// its end, the other side gets the messages before, and then DataLoss or the
// end of the file. If others share the end and a part of a message was gone,
// they get FailedPrecondition at Send, or DataLoss at Recv, from then on. The
// other side learns of it when one of them tries to send, or the last one is
// gone.
//
// A message longer than `max_message_bytes`, or bytes that are no message, are
// DataLoss now and at each later Recv. Memory is taken as bytes arrive, not for
// what a length promises.
//
// Poll() is true once a message has begun to come; Recv may then have to wait
// for the rest. A message that stays after an error at Recv is in the memory of
// this process, where Poll() sees it, but not poll() with fileno(). A Close by
// another thread ends a call within a quarter of a second.
//
// Errors, by code:
//   DeadlineExceeded    the timeout passed
//   Unauthenticated     Client: one side does not have the other's key
//   Unavailable         Client: nobody listens there (ECONNREFUSED), or the
//                       listener hung up during the handshake
//   InvalidArgument     the address is none
//   FailedPrecondition  the listener was closed by this process
//   others              what a system call says; the message names it and its
//                       errno
//
// Signals do not shorten the calls, and there is no SIGPIPE. Threads: all calls
// are safe from any thread. Fork: a child inherits the listener and may accept
// too, each connection goes to one of them; close the copies that are not used.
// Not for signal handlers.
//
// Differs from Python's: Accept() does not fail because somebody has a wrong
// key; the backlog is 128, not 1; a handshake ends after ten seconds; a fresh
// address is an abstract name, not a file in a temporary folder.

#ifndef MP_IPC_LISTENER_H_
#define MP_IPC_LISTENER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/address.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/socket_end.h"

namespace mp {

struct ListenerOptions {
  // None: whoever can connect may.
  std::optional<std::string> authkey = std::nullopt;
  // For Python up to 3.11: also takes and gives HMAC-MD5. Weak.
  bool allow_md5 = false;
  // Of connections that wait for Accept; the kernel has its own limit as well.
  int backlog = 128;
  // What the other side may send at once, and this one.
  size_t max_message_bytes = size_t{1} << 30;
  // See above.
  absl::Duration handshake_timeout = absl::Seconds(10);
  int max_handshakes = 64;
  // Called in Accept() for each that was refused, with its address and the
  // reason. Must not use the listener.
  std::function<void(const Address& peer, const absl::Status& why)> on_refused =
      nullptr;
};

// A handle: copies mean the same listener. It cannot be sent; children inherit
// it.
class Listener {
 public:
  // Listens at `address`, or at a fresh one. Errors: also EADDRINUSE, if
  // somebody does already, or if a socket's file is left from who was killed:
  // remove it if you know that nobody has it any more.
  static absl::StatusOr<Listener> Create(const Address& address = Address(),
                                         ListenerOptions options = {});
  // The same, but aborts with the message.
  explicit Listener(const Address& address = Address(),
                    ListenerOptions options = {})
      : Listener(ValueOrDie(Create(address, std::move(options)))) {}

  // The next connection of somebody who has the key. Zero or less: looks once,
  // and goes on with the handshakes as far as they can.
  template <class T>
  absl::StatusOr<Connection<T>> Accept(
      absl::Duration timeout = absl::InfiniteDuration()) {
    absl::StatusOr<std::shared_ptr<ipc_internal::SocketEnd>> end =
        AcceptSocket(Deadline::After(timeout));
    if (!end.ok()) return end.status();
    return ipc_internal::SocketConnection::Make<T>(*std::move(end));
  }

  // For clients: with the port or the name that was chosen.
  const Address& address() const;
  // Where the last one came from that Accept returned in this process; of a
  // Unix socket, usually nothing. Nothing before the first.
  std::optional<Address> last_accepted() const;
  // How many were refused, in all processes that accept.
  uint64_t refused() const;

  // A descriptor for poll(), epoll and the like: readable while somebody waits
  // to be accepted. With a key, follow it by an Accept with a timeout: the
  // handshake takes two answers, of which the descriptor does not tell.
  absl::StatusOr<int> fileno() const;

  // Gives up this process's listener, with all its copies here, as does the
  // destruction of the last copy; who was waiting is turned away if no other
  // process has it. The process that created it removes the socket's file.
  // Closing twice is fine.
  void Close();
  bool closed() const;

 private:
  struct State;

  explicit Listener(std::shared_ptr<State> state);

  absl::StatusOr<std::shared_ptr<ipc_internal::SocketEnd>> AcceptSocket(
      Deadline deadline);

  std::shared_ptr<State> state_;
};

}  // namespace mp

#endif  // MP_IPC_LISTENER_H_
