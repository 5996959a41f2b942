#include "mp/base/unix_socket.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>
#include <utility>

#include "mp/base/check.h"
#include "mp/base/errno_status.h"

namespace mp {
namespace {

// The ancillary data of a message with the most descriptors.
struct Ancillary {
  alignas(
      cmsghdr) char bytes[CMSG_SPACE(kMaxDescriptorsPerMessage * sizeof(int))];
};

}  // namespace

absl::StatusOr<std::array<UniqueFd, 2>> ConnectedSockets(int type) {
  int ends[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus(errno, "socketpair");
  }
  std::array<UniqueFd, 2> sockets = {UniqueFd(ends[0]), UniqueFd(ends[1])};
  for (UniqueFd& socket : sockets) {
    socket = AboveStandardStreams(std::move(socket));
    if (!socket) return ErrnoStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
  }
  return sockets;
}

ssize_t SendWithDescriptors(int socket, std::span<const std::byte> data,
                            std::span<const int> fds, int flags) {
  MP_CHECK(fds.size() <= kMaxDescriptorsPerMessage);
  Ancillary ancillary = {};
  iovec io = {.iov_base = const_cast<std::byte*>(data.data()),
              .iov_len = data.size()};
  msghdr message = {};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = ancillary.bytes;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  ssize_t size;
  do {
    size = sendmsg(socket, &message, flags | MSG_NOSIGNAL);
  } while (size < 0 && errno == EINTR);
  return size;
}

ssize_t ReceiveWithDescriptors(int socket, std::span<std::byte> data,
                               std::vector<UniqueFd>& fds, int flags) {
  Ancillary ancillary;
  iovec io = {.iov_base = data.data(), .iov_len = data.size()};
  msghdr message = {};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.bytes;
  message.msg_controllen = sizeof(ancillary.bytes);
  ssize_t size;
  do {
    size = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return size;
  // The kernel does not say why it leaves some out; this is the only reason.
  int error = (message.msg_flags & MSG_CTRUNC) != 0 ? EMFILE : 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.push_back(AboveStandardStreams(UniqueFd(fd)));
      if (!fds.back()) error = errno;
    }
  }
  if (error == 0) return size;
  errno = error;
  return -1;
}

}  // namespace mp
