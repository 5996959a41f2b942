// Protocol Buffers as messages between processes.
//
//   #include "mp/ipc/protobuf.h"
//
//   mp::Queue<my::Request> requests;                     // a generated class
//   absl::Status put = requests.Put(request);
//   absl::StatusOr<my::Request> got = requests.Get();
//
// With this header included, every generated message class can be sent by a
// Queue, a Connection, a Process or a Pool, alone or inside of what else can be
// sent (mp/ipc/codec.h): std::vector<my::Request>, a struct that has one,
// std::unique_ptr<my::Request>. Include it before the first use of mp with such
// a class, in every file that has one, or the program is ill-formed.
//
// Here is no dependency on any version of Protocol Buffers: a message is known
// by its interface, that of google::protobuf::MessageLite. Your program depends
// on the version that it uses; the lite runtime does as well. A
// google::protobuf::Message of whatever class cannot be sent; an Any can.
//
// A message is written to its place in shared memory and parsed there, without
// a copy in between; the sender goes over it twice, to learn its size and to
// write it. Unknown fields and extensions travel. It is encoded as anywhere, so
// the receiver would understand a message from another version of its .proto,
// though both sides are the same program.
//
// Errors at the sender: InvalidArgument for a message that lacks required
// fields, which it names, or has 2 GiB or more; Internal for one that another
// thread changes while it is sent, if that is noticed. At the receiver:
// DataLoss for bytes that are no such message, for which mp never is the
// reason, with one exception: Protocol Buffers write what they will not read
// when messages are nested deeper than 100 levels.
//
// Threads: as for the message; sending only reads it.

#ifndef MP_IPC_PROTOBUF_H_
#define MP_IPC_PROTOBUF_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/ipc/codec.h"

namespace mp {

// A generated class of Protocol Buffers.
template <class T>
concept ProtobufMessage = std::default_initializable<T> && std::movable<T> &&
    requires(T& message, const T& sent, uint8_t* to, const void* from,
             int size) {
  { sent.IsInitialized() } -> std::same_as<bool>;
  { sent.InitializationErrorString() } -> std::same_as<std::string>;
  { sent.ByteSizeLong() } -> std::same_as<size_t>;
  { sent.SerializeWithCachedSizesToArray(to) } -> std::same_as<uint8_t*>;
  { message.ParsePartialFromArray(from, size) } -> std::same_as<bool>;
};

// The length, then what Protocol Buffers write.
template <ProtobufMessage T>
struct Codec<T> {
  using Elements = TypeList<>;

  static size_t Size(const T& message) {
    const size_t size = message.ByteSizeLong();
    // What is too large is refused below, before it takes gigabytes.
    return sizeof(uint64_t) + (size <= kMaxSize ? size : 0);
  }

  static void Write(const T& message, Writer& writer) {
    if (!message.IsInitialized()) {
      writer.Fail(absl::InvalidArgumentError(
          absl::StrCat("mp: a message lacks required fields: ",
                       message.InitializationErrorString())));
      return;
    }
    // Once more: it puts the sizes of what is inside of the message there, for
    // the call below, and the message may have been changed since Size().
    const size_t size = message.ByteSizeLong();
    if (size > kMaxSize) {
      writer.Fail(absl::InvalidArgumentError(
          absl::StrCat("mp: a message of Protocol Buffers with ", size,
                       " bytes: at most ", kMaxSize, " can be sent")));
      return;
    }
    writer.WriteLength(size);
    const std::span<std::byte> room = writer.Reserve(size);
    if (room.empty()) return;
    auto* const begin = reinterpret_cast<uint8_t*>(room.data());
    if (message.SerializeWithCachedSizesToArray(begin) != begin + size) {
      writer.Fail(absl::InternalError(
          "mp: a message of Protocol Buffers was changed while it was sent"));
    }
  }

  static void ReadInto(Reader& reader, T& message) {
    const std::span<const std::byte> bytes =
        reader.ReadBytes(reader.ReadLength());
    // Partial, as the other one logs what is an error here.
    if (bytes.size() > kMaxSize ||
        !message.ParsePartialFromArray(bytes.data(),
                                       static_cast<int>(bytes.size()))) {
      reader.Fail("a message of Protocol Buffers cannot be parsed");
    } else if (!message.IsInitialized()) {
      reader.Fail("a message of Protocol Buffers lacks required fields");
    }
  }

 private:
  static constexpr size_t kMaxSize = std::numeric_limits<int>::max();
};

}  // namespace mp

#endif  // MP_IPC_PROTOBUF_H_
