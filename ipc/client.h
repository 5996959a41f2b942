// Client: a connection to a Listener, of this program or of another one.
//
//   absl::StatusOr<mp::Connection<std::string>> connection =
//       mp::Client<std::string>(mp::Address::Abstract("app.control"),
//                               {.authkey = key}, absl::Seconds(5));
//
// mp/ipc/listener.h says all about it.

#ifndef MP_IPC_CLIENT_H_
#define MP_IPC_CLIENT_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/ipc/address.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/socket_end.h"

namespace mp {

struct ClientOptions {
  // As the listener's: one, or none.
  std::optional<std::string> authkey = std::nullopt;
  // For Python up to 3.11: also takes and gives HMAC-MD5. Weak.
  bool allow_md5 = false;
  // What the other side may send at once, and this one.
  size_t max_message_bytes = size_t{1} << 30;
};

namespace ipc_internal {

absl::StatusOr<std::shared_ptr<SocketEnd>> Connect(const Address& address,
                                                   ClientOptions options,
                                                   Deadline deadline);

}  // namespace ipc_internal

// An error at once if nobody listens. Otherwise it may have to wait until the
// listener has fewer who wait to be accepted and, with a key, until it is in
// Accept(): a listener without a key never answers one who has.
template <class T>
absl::StatusOr<Connection<T>> Client(
    const Address& address, ClientOptions options = {},
    absl::Duration timeout = absl::InfiniteDuration()) {
  absl::StatusOr<std::shared_ptr<ipc_internal::SocketEnd>> end =
      ipc_internal::Connect(address, std::move(options),
                            Deadline::After(timeout));
  if (!end.ok()) return end.status();
  return ipc_internal::SocketConnection::Make<T>(*std::move(end));
}

}  // namespace mp

#endif  // MP_IPC_CLIENT_H_
