// What the tests of values with descriptors share.

#ifndef MP_IPC_ATTACHMENTS_TEST_UTIL_H_
#define MP_IPC_ATTACHMENTS_TEST_UTIL_H_

#include <fcntl.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/codec.h"

namespace mp {

// As it travels, between two processes or, here, within one.
struct PackedMessage {
  std::vector<std::byte> bytes;
  OutgoingDescriptors descriptors;

  IncomingDescriptors Arrive() const {
    std::vector<UniqueFd> fds;
    for (const int fd : descriptors.fds()) {
      fds.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    }
    return IncomingDescriptors(std::move(fds));
  }
};

template <class T>
absl::StatusOr<PackedMessage> Pack(const T& value) {
  PackedMessage message;
  message.bytes.resize(EncodedSize(value));
  if (absl::Status status = Encode(value, message.bytes, &message.descriptors);
      !status.ok()) {
    return status;
  }
  return message;
}

template <class T>
absl::StatusOr<T> Unpack(const PackedMessage& message) {
  IncomingDescriptors descriptors = message.Arrive();
  return Decode<T>(message.bytes, &descriptors);
}

}  // namespace mp

#endif  // MP_IPC_ATTACHMENTS_TEST_UTIL_H_
