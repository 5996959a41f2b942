// Carrier: how values get into the records of a ring and out of them, together
// with the descriptors that some of them need at the receiver.
//
// Internal to mp::Queue and mp::Connection. For a T that consists of bytes only
// this is the codec. Descriptors, which the memory of a ring cannot hold,
// travel through a socket beside it: the kernel keeps them open while they are
// on the way, whoever dies. A message there is a serial number with the
// descriptors of one value, and the value's record names the number:
//
//   put:  under the producers' lock, send the descriptors with a number that
//         was never used, and put the record
//   get:  under the consumers' lock, peek at the descriptors, remove the
//         record, and then the message in the socket
//
// A process that dies in between leaves a message whose number no record in the
// ring names. Numbers grow, so the next one to look for a greater number throws
// it away. Whatever is there when the ring is empty is such a message.

#ifndef MP_IPC_CARRIER_H_
#define MP_IPC_CARRIER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"

namespace mp::ipc_internal {

// The most descriptors that go with one value: the kernel's limit.
inline constexpr size_t kMaxDescriptors = 253;

absl::Status NoRoomForDescriptors();

// The two sockets. Every process that has the ring has both.
class DescriptorSockets {
 public:
  static absl::StatusOr<DescriptorSockets> Create();

  // The same sockets for a ring in the other direction.
  DescriptorSockets Reversed() const { return {from_, to_}; }

  // False, without an error, if the kernel has no room for more descriptors on
  // the way, of this pair or of this user.
  absl::StatusOr<bool> Send(uint64_t serial, std::span<const int> fds) const;
  // Duplicates of the descriptors of the message with that number. The message
  // stays. Errors: DataLoss if it is not there, ResourceExhausted if this
  // process can have no more descriptors.
  absl::StatusOr<IncomingDescriptors> Peek(uint64_t serial) const;
  // Removes the messages up to that number.
  void RemoveUpTo(uint64_t serial) const;

 private:
  friend struct mp::HandleAccess;
  DescriptorSockets(DescriptorPart to, DescriptorPart from)
      : to_(std::move(to)), from_(std::move(from)) {}
  auto parts() const { return std::tuple(to_, from_); }

  DescriptorPart to_;    // where senders send
  DescriptorPart from_;  // where that arrives
};

// For values without descriptors.
template <class T, bool kDescriptors = CarriesDescriptors<T>()>
class Carrier {
 public:
  static absl::StatusOr<Carrier> Create() { return Carrier(); }
  Carrier Reversed() const { return *this; }
  // For the parts() of a handle that has this one.
  std::tuple<> parts() const { return {}; }

  // The size of the value's record.
  static size_t Size(const T& value) { return EncodedSize(value); }

  // What Ring::Put calls. The error is of the last time.
  FillResult Write(Ring&, const T& value, std::span<std::byte> to,
                   absl::Status& error) const {
    error = Encode(value, to);
    return error.ok() ? FillResult::kFilled : FillResult::kAborted;
  }

  // What Ring::Get calls: Read() returns whether the record is to go, and once
  // it is gone, Removed() has the same `serial`.
  bool Read(std::span<const std::byte> record, absl::StatusOr<T>& value,
            uint64_t& /*serial*/) const {
    value = Decode<T>(record);
    return true;
  }
  void Removed(uint64_t /*serial*/) const {}
};

template <class T>
class Carrier<T, true> {
 public:
  static absl::StatusOr<Carrier> Create() {
    absl::StatusOr<DescriptorSockets> sockets = DescriptorSockets::Create();
    if (!sockets.ok()) return sockets.status();
    return Carrier(*std::move(sockets));
  }
  Carrier(DescriptorSockets sockets)  // NOLINT: from its part
      : sockets_(std::move(sockets)) {}
  Carrier Reversed() const { return sockets_.Reversed(); }
  std::tuple<DescriptorSockets> parts() const { return {sockets_}; }

  static size_t Size(const T& value) { return kHead + EncodedSize(value); }
  FillResult Write(Ring& ring, const T& value, std::span<std::byte> to,
                   absl::Status& error) const;
  bool Read(std::span<const std::byte> record, absl::StatusOr<T>& value,
            uint64_t& serial) const;
  void Removed(uint64_t serial) const {
    if (serial != 0) sockets_.RemoveUpTo(serial);
  }

 private:
  // In front of the encoded value: the number, or 0 without descriptors.
  static constexpr size_t kHead = sizeof(uint64_t);

  DescriptorSockets sockets_;
};

// ---- implementation ----

template <class T>
FillResult Carrier<T, true>::Write(Ring& ring, const T& value,
                                   std::span<std::byte> to,
                                   absl::Status& error) const {
  OutgoingDescriptors descriptors;
  error = Encode(value, to.subspan(kHead), &descriptors);
  if (!error.ok()) return FillResult::kAborted;
  uint64_t serial = 0;
  if (!descriptors.fds().empty()) {
    serial = ring.NextSerial();
    absl::StatusOr<bool> sent = sockets_.Send(serial, descriptors.fds());
    if (sent.ok() && !*sent) {
      ring.WhileNoGet(
          [&] {
            if (ring.HasRecord()) return;
            // What is in the socket is what the dead have left there.
            sockets_.RemoveUpTo(serial);
            sent = sockets_.Send(serial, descriptors.fds());
            if (sent.ok() && !*sent) sent = NoRoomForDescriptors();
          },
          Deadline::Now());
    }
    error = sent.status();
    if (!sent.ok()) return FillResult::kAborted;
    if (!*sent) return FillResult::kNoRoom;
  }
  memcpy(to.data(), &serial, kHead);
  return FillResult::kFilled;
}

template <class T>
bool Carrier<T, true>::Read(std::span<const std::byte> record,
                            absl::StatusOr<T>& value, uint64_t& serial) const {
  if (record.size() < kHead) {
    value = absl::DataLossError("a message without a head");
    return true;
  }
  memcpy(&serial, record.data(), kHead);
  IncomingDescriptors descriptors;
  if (serial != 0) {
    absl::StatusOr<IncomingDescriptors> came = sockets_.Peek(serial);
    if (!came.ok()) {
      value = came.status();
      return !absl::IsResourceExhausted(value.status());
    }
    descriptors = *std::move(came);
  }
  value = Decode<T>(record.subspan(kHead), &descriptors);
  // What does not fit into this process today may do so later.
  return !absl::IsResourceExhausted(value.status());
}

}  // namespace mp::ipc_internal

#endif  // MP_IPC_CARRIER_H_
