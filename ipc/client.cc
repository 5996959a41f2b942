#include "mp/ipc/client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/authentication.h"

namespace mp::ipc_internal {
namespace {

// Between looks at the deadline.
constexpr absl::Duration kSlice = absl::Milliseconds(250);

std::string Call(const Address& address) {
  return absl::StrCat("connect(", address.ToString(), ")");
}

// Waits until `socket` is ready; false at the deadline.
absl::StatusOr<bool> Await(int socket, short events, Deadline deadline) {
  for (;;) {
    pollfd entry = {.fd = socket, .events = events, .revents = 0};
    const int ready = poll(&entry, 1, deadline.ToPollMillis());
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (deadline.Expired()) return false;
  }
}

absl::Status SetTimeout(int socket, absl::Duration timeout) {
  const timeval value = absl::ToTimeval(timeout);
  if (setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof(value)) != 0) {
    return ErrnoStatus(errno, "setsockopt(SO_SNDTIMEO)");
  }
  return absl::OkStatus();
}

// A connection in progress to a Unix socket cannot be polled for: while the
// backlog is full, the call itself has to wait.
absl::Status ConnectUnix(int socket, const Address& address,
                         const SocketAddress& to, Deadline deadline) {
  for (;;) {
    // Zero would be without end.
    absl::Status error = SetTimeout(
        socket,
        std::clamp(deadline.Remaining(), absl::Milliseconds(1), kSlice));
    if (!error.ok()) return error;
    if (connect(socket, to.get(), to.size) == 0) break;
    if (errno != EAGAIN && errno != EINTR) {
      return ErrnoStatus(errno, Call(address));
    }
    if (errno == EAGAIN && deadline.Expired()) {
      return absl::DeadlineExceededError(absl::StrCat(
          Call(address), ": as many as fit wait there to be accepted"));
    }
  }
  return SetTimeout(socket, absl::ZeroDuration());
}

bool IsConnectedToItself(int socket) {
  SocketAddress here, there;
  return getsockname(socket, here.get(), &here.size) == 0 &&
         getpeername(socket, there.get(), &there.size) == 0 &&
         here.size == there.size &&
         memcmp(&here.bytes, &there.bytes, here.size) == 0;
}

absl::Status ConnectTcp(int socket, const Address& address,
                        const SocketAddress& to, Deadline deadline) {
  if (connect(socket, to.get(), to.size) != 0) {
    // After a signal it goes on by itself.
    if (errno != EINPROGRESS && errno != EINTR) {
      return ErrnoStatus(errno, Call(address));
    }
    absl::StatusOr<bool> ready = Await(socket, POLLOUT, deadline);
    if (!ready.ok()) return ready.status();
    if (!*ready) {
      return absl::DeadlineExceededError(
          absl::StrCat(Call(address), ": nobody answered"));
    }
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
      return ErrnoStatus(errno, "getsockopt(SO_ERROR)");
    }
    if (error != 0) return ErrnoStatus(error, Call(address));
  }
  // Where nobody listens at a port that the kernel gives to clients, a socket
  // can meet itself.
  if (IsConnectedToItself(socket)) {
    return ErrnoStatus(ECONNREFUSED, Call(address));
  }
  const int on = 1;  // messages are not to wait for the next ones
  if (setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) {
    return ErrnoStatus(errno, "setsockopt(TCP_NODELAY)");
  }
  return absl::OkStatus();
}

absl::Status Authenticate(int socket, HandshakeKey key, Deadline deadline) {
  Handshake handshake(Handshake::Role::kClient, std::move(key));
  for (;;) {
    absl::StatusOr<bool> done = handshake.Advance(socket);
    if (!done.ok()) return done.status();
    if (*done) return absl::OkStatus();
    absl::StatusOr<bool> ready = Await(socket, handshake.awaited(), deadline);
    if (!ready.ok()) return ready.status();
    if (!*ready) {
      return absl::DeadlineExceededError(
          absl::StrCat("the listener did not send ", ToAbsl(handshake.awaits()),
                       " in time: it is busy, or has no key"));
    }
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<SocketEnd>> Connect(const Address& address,
                                                   ClientOptions options,
                                                   Deadline deadline) {
  const absl::StatusOr<SocketAddress> to = ToSocketAddress(address);
  if (!to.ok()) return to.status();
  const int family = to->bytes.ss_family;
  const bool tcp = family != AF_UNIX;
  UniqueFd socket = AboveStandardStreams(UniqueFd(::socket(
      family, SOCK_STREAM | SOCK_CLOEXEC | (tcp ? SOCK_NONBLOCK : 0), 0)));
  if (!socket) return ErrnoStatus(errno, "socket");
  absl::Status error = tcp ? ConnectTcp(socket.get(), address, *to, deadline)
                           : ConnectUnix(socket.get(), address, *to, deadline);
  if (!error.ok()) return error;
  if (options.authkey.has_value()) {
    error = Authenticate(
        socket.get(),
        {.bytes = *std::move(options.authkey), .allow_md5 = options.allow_md5},
        deadline);
    if (!error.ok()) return error;
  }
  return SocketEnd::Create(std::move(socket), options.max_message_bytes);
}

}  // namespace mp::ipc_internal
