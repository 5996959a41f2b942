#include "mp/ipc/carrier.h"

#include <errno.h>
#include <sys/socket.h>

#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"
#include "mp/base/unix_socket.h"

namespace mp::ipc_internal {
namespace {

absl::Status Missing(uint64_t serial) {
  return absl::DataLossError(absl::StrCat("the descriptors of message ", serial,
                                          " are not in the socket"));
}

// The number of the next message, which stays; 0 if there is none.
uint64_t NextSerial(int fd) {
  uint64_t serial = 0;
  return recv(fd, &serial, sizeof(serial), MSG_PEEK | MSG_DONTWAIT) ==
                 sizeof(serial)
             ? serial
             : 0;
}

}  // namespace

absl::Status NoRoomForDescriptors() {
  return absl::ResourceExhaustedError(
      "sendmsg: the kernel takes no more descriptors on the way of this user "
      "(ulimit -n), or of sockets that are on the way themselves; or hundreds "
      "of senders have died in the middle of Send");
}

absl::StatusOr<DescriptorSockets> DescriptorSockets::Create() {
  // Keeps the borders of messages.
  absl::StatusOr<std::array<UniqueFd, 2>> sockets =
      ConnectedSockets(SOCK_SEQPACKET);
  if (!sockets.ok()) return sockets.status();
  const auto part = [](UniqueFd& socket) {
    return DescriptorPart{std::make_shared<const UniqueFd>(std::move(socket))};
  };
  return DescriptorSockets(part((*sockets)[0]), part((*sockets)[1]));
}

absl::StatusOr<bool> DescriptorSockets::Send(uint64_t serial,
                                             std::span<const int> fds) const {
  if (fds.size() > kMaxDescriptorsPerMessage) {
    return absl::InvalidArgumentError(absl::StrCat(
        "mp: a message with ", fds.size(), " descriptors: at most ",
        kMaxDescriptorsPerMessage, " can go"));
  }
  if (SendWithDescriptors(own_.fd->get(), std::as_bytes(std::span(&serial, 1)),
                          fds, MSG_DONTWAIT) >= 0) {
    return true;
  }
  // The second one is about all sockets of this user.
  if (errno == EAGAIN || errno == ETOOMANYREFS) return false;
  return ErrnoStatus(errno, "sendmsg");
}

absl::StatusOr<IncomingDescriptors> DescriptorSockets::Peek(
    uint64_t serial) const {
  if (serial == 0) return Missing(serial);
  RemoveUpTo(serial - 1);
  if (NextSerial(from()) != serial) return Missing(serial);
  uint64_t number = 0;
  std::vector<UniqueFd> fds;
  if (ReceiveWithDescriptors(from(),
                             std::as_writable_bytes(std::span(&number, 1)), fds,
                             MSG_PEEK | MSG_DONTWAIT) < 0) {
    return ErrnoStatus(errno, "recvmsg");
  }
  return IncomingDescriptors(std::move(fds));
}

void DescriptorSockets::RemoveUpTo(uint64_t serial) const {
  const int fd = from();
  for (uint64_t next = NextSerial(fd); next != 0 && next <= serial;
       next = NextSerial(fd)) {
    // Without room for descriptors, they are closed.
    if (recv(fd, &next, sizeof(next), MSG_DONTWAIT) < 0) return;
  }
}

}  // namespace mp::ipc_internal
