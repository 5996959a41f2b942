#include "mp/process/start_message.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <iterator>
#include <tuple>
#include <utility>

#include "mp/base/errno_status.h"
#include "mp/ipc/codec.h"
#include "mp/process/child.h"
#include "mp/process/lifeline.h"
#include "mp/shm/liveness.h"

namespace mp::process_internal {
namespace {

// Before the attachments: the message itself, the liveness table, and for a
// daemonic child the lifeline.
constexpr size_t kMessage = 0;
constexpr size_t kLiveness = 1;
constexpr size_t kLifeline = 2;

using Contents = std::tuple<Identity, Task, uint64_t>;

size_t FirstAttachment(bool daemon) {
  return daemon ? kLifeline + 1 : kLifeline;
}

absl::Status WriteAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t size = write(fd, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return ErrnoStatus(errno, "write(start message)");
    bytes = bytes.subspan(static_cast<size_t>(size));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::byte>> ReadAll(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus(errno, "fstat(start message)");
  std::vector<std::byte> bytes(static_cast<size_t>(info.st_size));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t size = pread(fd, bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(done));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return ErrnoStatus(errno, "pread(start message)");
    if (size == 0) return absl::DataLossError("the start message is cut off");
    done += static_cast<size_t>(size);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<Parcel> Parcel::Pack(const StartMessage& message) {
  Parcel parcel;
  UniqueFd file =
      AboveStandardStreams(UniqueFd(memfd_create("mp:start", MFD_CLOEXEC)));
  if (!file) return ErrnoStatus(errno, "memfd_create(mp:start)");
  const Contents contents{message.identity, message.task, message.signal_mask};
  std::vector<std::byte> bytes(EncodedSize(contents));
  if (absl::Status status = Encode(contents, bytes); !status.ok()) {
    return status;
  }
  if (absl::Status status = WriteAll(file.get(), bytes); !status.ok()) {
    return status;
  }
  const absl::StatusOr<int> table = Liveness::TableFd();
  if (!table.ok()) return table.status();
  parcel.descriptors_ = {file.get(), *table};
  parcel.own_.push_back(std::move(file));
  if (message.identity.daemon) {
    absl::StatusOr<UniqueFd> lifeline = NewLifeline();
    if (!lifeline.ok()) return lifeline.status();
    parcel.descriptors_.push_back(lifeline->get());
    parcel.own_.push_back(*std::move(lifeline));
  }
  parcel.descriptors_.insert(parcel.descriptors_.end(),
                             message.attachments.fds().begin(),
                             message.attachments.fds().end());
  return parcel;
}

absl::StatusOr<Received> Unpack(std::vector<UniqueFd> descriptors) {
  if (descriptors.size() <= kLiveness) {
    return absl::DataLossError("too few descriptors came");
  }
  const absl::StatusOr<std::vector<std::byte>> bytes =
      ReadAll(descriptors[kMessage].get());
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<Contents> contents = Decode<Contents>(*bytes);
  if (!contents.ok()) return contents.status();
  Received received;
  std::tie(received.identity, received.task, received.signal_mask) =
      *std::move(contents);
  const bool daemon = received.identity.daemon;
  if (descriptors.size() < FirstAttachment(daemon)) {
    return absl::DataLossError("too few descriptors came");
  }
  received.liveness_table = std::move(descriptors[kLiveness]);
  if (daemon) received.lifeline = std::move(descriptors[kLifeline]);
  descriptors.erase(
      descriptors.begin(),
      descriptors.begin() + static_cast<ptrdiff_t>(FirstAttachment(daemon)));
  received.attachments = IncomingDescriptors(std::move(descriptors));
  return received;
}

uint64_t MaskToBits(const sigset_t& mask) {
  uint64_t bits = 0;
  for (int signal = 1; signal < _NSIG; ++signal) {
    // Not an error for the two that the C library keeps to itself, and these
    // are never in a mask.
    if (sigismember(&mask, signal) == 1) bits |= uint64_t{1} << (signal - 1);
  }
  return bits;
}

sigset_t BitsToMask(uint64_t bits) {
  sigset_t mask;
  sigemptyset(&mask);
  for (int signal = 1; signal < _NSIG; ++signal) {
    if ((bits >> (signal - 1) & 1) != 0) sigaddset(&mask, signal);
  }
  return mask;
}

}  // namespace mp::process_internal
