#include "mp/ipc/carrier.h"

#include <errno.h>
#include <sys/socket.h>

#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"

namespace mp::ipc_internal {
namespace {

// The ancillary data of a message with the most descriptors.
struct Ancillary {
  alignas(cmsghdr) char bytes[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
};

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
      "(ulimit -n), or of sockets that are on the way themselves, or hundreds "
      "of "
      "senders have died in the middle of Send");
}

absl::StatusOr<DescriptorSockets> DescriptorSockets::Create() {
  int ends[2];
  // Keeps the borders of messages.
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus(errno, "socketpair");
  }
  std::array<UniqueFd, 2> sockets = {UniqueFd(ends[0]), UniqueFd(ends[1])};
  for (UniqueFd& socket : sockets) {
    socket = AboveStandardStreams(std::move(socket));
    if (!socket) return ErrnoStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
  }
  const auto part = [](UniqueFd& socket) {
    return DescriptorPart{std::make_shared<const UniqueFd>(std::move(socket))};
  };
  const DescriptorPart own = part(sockets[0]);
  return DescriptorSockets(own, part(sockets[1]));
}

absl::StatusOr<bool> DescriptorSockets::Send(uint64_t serial,
                                             std::span<const int> fds) const {
  if (fds.size() > kMaxDescriptors) {
    return absl::InvalidArgumentError(
        absl::StrCat("mp: a message with ", fds.size(),
                     " descriptors: at most ", kMaxDescriptors, " can go"));
  }
  Ancillary ancillary = {};
  iovec data = {.iov_base = &serial, .iov_len = sizeof(serial)};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.bytes;
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size_bytes());
  memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  if (sendmsg(own_.fd->get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
    return true;
  }
  // The second one is about all sockets of this user.
  if (errno == EAGAIN || errno == ETOOMANYREFS) return false;
  return ErrnoStatus(errno, "sendmsg");
}

absl::StatusOr<IncomingDescriptors> DescriptorSockets::Peek(
    uint64_t serial) const {
  const int fd = (other_.has_value() ? *other_ : own_).fd->get();
  if (serial == 0) return Missing(serial);
  RemoveUpTo(serial - 1);
  if (NextSerial(fd) != serial) return Missing(serial);
  Ancillary ancillary;
  uint64_t number = 0;
  iovec data = {.iov_base = &number, .iov_len = sizeof(number)};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.bytes;
  message.msg_controllen = sizeof(ancillary.bytes);
  if (recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) {
    return ErrnoStatus(errno, "recvmsg");
  }
  std::vector<UniqueFd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int came;
      memcpy(&came, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.emplace_back(came);
    }
  }
  // The kernel does not say why it leaves some out; this is the only reason.
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return ErrnoStatus(EMFILE, "recvmsg");
  }
  for (UniqueFd& came : fds) {
    came = AboveStandardStreams(std::move(came));
    if (!came) return ErrnoStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
  }
  return IncomingDescriptors(std::move(fds));
}

void DescriptorSockets::RemoveUpTo(uint64_t serial) const {
  const int fd = (other_.has_value() ? *other_ : own_).fd->get();
  for (uint64_t next = NextSerial(fd); next != 0 && next <= serial;
       next = NextSerial(fd)) {
    // Without room for descriptors, they are closed.
    if (recv(fd, &next, sizeof(next), MSG_DONTWAIT) < 0) return;
  }
}

}  // namespace mp::ipc_internal
