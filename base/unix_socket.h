// Unix sockets: connected pairs, and messages with descriptors through them.

#ifndef MP_BASE_UNIX_SOCKET_H_
#define MP_BASE_UNIX_SOCKET_H_

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"

namespace mp {

// Two sockets of `type` (SOCK_STREAM, SOCK_SEQPACKET), close-on-exec and above
// the standard streams. Errors name the system call.
absl::StatusOr<std::array<UniqueFd, 2>> ConnectedSockets(int type);

// The kernel's limit.
inline constexpr size_t kMaxDescriptorsPerMessage = 253;

// As sendmsg(2), with `fds`, at most kMaxDescriptorsPerMessage, beside the
// data. There is no SIGPIPE, and signals do not end it.
ssize_t SendWithDescriptors(int socket, std::span<const std::byte> data,
                            std::span<const int> fds, int flags = 0);

// As recvmsg(2), and appends the descriptors that came, close-on-exec and above
// the standard streams. EMFILE if this process has no room for all of them;
// then those that came are of no use. Signals do not end it.
ssize_t ReceiveWithDescriptors(int socket, std::span<std::byte> data,
                               std::vector<UniqueFd>& fds, int flags = 0);

}  // namespace mp

#endif  // MP_BASE_UNIX_SOCKET_H_
