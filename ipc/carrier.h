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
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"

namespace mp::ipc_internal {

absl::Status NoRoomForDescriptors();

// A pair of connected sockets, or one of them. Every process that has a queue
// has both. An end of a pipe has one for both directions, so that the kernel
// closes what is on the way to an end that nobody has any more.
class DescriptorSockets {
 public:
  static absl::StatusOr<DescriptorSockets> Create();
  // None: where descriptors cannot go.
  DescriptorSockets() = default;
  // Of one that has both.
  std::pair<DescriptorSockets, DescriptorSockets> Split() const {
    return {{own_, std::nullopt}, {*other_, std::nullopt}};
  }
  // Whether what Send() sends arrives here.
  bool has_both() const { return other_.has_value(); }
  const std::shared_ptr<const UniqueFd>& own() const { return own_.fd; }

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
  DescriptorSockets(DescriptorPart own, std::optional<DescriptorPart> other)
      : own_(std::move(own)), other_(std::move(other)) {}
  auto parts() const { return std::tuple(own_, other_); }
  int from() const { return (other_.has_value() ? *other_ : own_).fd->get(); }

  DescriptorPart own_;  // to send to, and without another, to receive from
  std::optional<DescriptorPart> other_;  // to receive from
};

// For values without descriptors.
template <class T, bool kDescriptors = CarriesDescriptors<T>()>
class Carrier {
 public:
  // For a queue; split, for the ends of a pipe.
  static absl::StatusOr<Carrier> Create() { return Carrier(); }
  std::pair<Carrier, Carrier> Split() const { return {*this, *this}; }
  // The socket of an end of a pipe.
  std::shared_ptr<const UniqueFd> socket() const { return nullptr; }
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
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool Read(std::span<const std::byte> record,
                                         absl::StatusOr<T>& value,
                                         uint64_t& /*serial*/) const {
    DecodeTo(record, value);
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
  Carrier() = default;                // where descriptors cannot go
  Carrier(DescriptorSockets sockets)  // NOLINT: from a half
      : sockets_(std::move(sockets)) {}
  Carrier(std::optional<DescriptorSockets> part)  // NOLINT: from its part
      : sockets_(std::move(part).value_or(DescriptorSockets())) {}
  std::pair<Carrier, Carrier> Split() const { return sockets_.Split(); }
  const std::shared_ptr<const UniqueFd>& socket() const {
    return sockets_.own();
  }
  std::tuple<std::optional<DescriptorSockets>> parts() const {
    return {sockets_.own() == nullptr ? std::nullopt : std::optional(sockets_)};
  }

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
            if (sockets_.has_both()) sockets_.RemoveUpTo(serial);
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
