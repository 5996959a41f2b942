// Values to bytes and back, for messages between processes of one program.
//
//   std::vector<std::byte> message(mp::EncodedSize(value));
//   absl::Status sent = mp::Encode(value, message);
//   absl::StatusOr<T> received = mp::Decode<T>(message);
//
// Queue and Pool do this for you; use the codec directly only for bytes that
// travel some other way. It is no file format and no network protocol: both
// sides must be the same binary.
//
// What can be sent (mp::Encodable<T>):
// - numbers, enums and other trivially copyable types: as their own bytes;
// - strings, standard containers and containers with the same interface, such
//   as absl::flat_hash_map, btree_map and InlinedVector; array, pair, tuple,
//   optional, variant, unique_ptr, bitset; absl::Status, StatusOr, Duration,
//   Time and Cord; all of types that can be sent;
// - structs of up to 16 public fields that can be sent, if they have no base
//   class, C array, union or bit-field;
// - handles of shared objects (mp::Lock, mp::Queue...), std::shared_ptr to what
//   MakeShared() made, and UniqueFd: not copies but the same thing. They need
//   descriptors to travel beside the bytes, which they can as arguments of a
//   Process, through a Queue and through a Connection; it is an error to give
//   one to a Pool's task;
// - messages of Protocol Buffers, with mp/ipc/protobuf.h;
// - your own types, by one function or by specialising mp::Codec, see below.
// What cannot be sent does not compile: pointers, references, views and
// iterators mean nothing in another process. The fields of a struct as above
// are looked at; the inside of any other trivially copyable class is not, so
// there it is up to you that it holds no pointer and that any bytes are a valid
// value. Give an enum a fixed type (enum E : int), or an unknown number is
// none. Capturing lambdas and types that cannot be assigned (absl::FixedArray)
// are refused.
//
// To send a class, name its fields in a function beside it or in a friend. It
// takes exactly this class, not a template parameter and not a base class, and
// the class needs a default constructor. mp/ipc/codec.h need not be included:
//
//   class Account {
//     ...
//     friend auto MpFields(Account& a) { return std::tie(a.name_, a.cents_); }
//   };
//
// For full control specialise mp::Codec before the first use of the type:
//
//   template <>
//   struct mp::Codec<Celsius> {
//     static size_t Size(const Celsius& t) {       // what Write() will write;
//       return mp::EncodedSize(t.degrees());       // at least 1
//     }
//     static void Write(const Celsius& t, mp::Writer& writer) {
//       writer.Write(t.degrees());
//     }
//     static Celsius Read(mp::Reader& reader) {
//       return Celsius(reader.Read<double>());
//     }
//   };
//
// Errors belong to the sender: what only turns out at run time to be unfit (a
// variant without a value, data nested deeper than 1000 levels) fails Encode().
// Decode() never trusts the bytes: whatever they are, the result is a valid
// value or a DataLoss error, without undefined behaviour, and memory is not
// allocated for lengths that the message cannot hold. Bytes left over are an
// error too. Nothing is assumed about alignment.

#ifndef MP_IPC_CODEC_H_
#define MP_IPC_CODEC_H_

#include <algorithm>
#include <array>
#include <bit>
#include <bitset>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/codec_aggregate.h"
#include "mp/shm/handle.h"
#include "mp/shm/segment.h"
#include "mp/shm/slab.h"

namespace mp {

class Reader;
class Writer;

// How a T is encoded. A specialisation has
//   static size_t Size(const T&);              // exactly what Write() writes
//   static void Write(const T&, Writer&);
// and one or both of
//   static T Read(Reader&);
//   static void ReadInto(Reader&, T&);         // over an old value
// may refuse T by `static constexpr bool kEncodable = false`, and may name the
// types that it consists of by `using Elements = mp::TypeList<...>`.
template <class T>
struct Codec;

template <class... T>
struct TypeList {};

namespace codec_internal {

template <class T>
consteval bool IsEncodable() {
  if constexpr (requires { Codec<T>::kEncodable; }) {
    return Codec<T>::kEncodable;
  } else {
    return true;
  }
}

}  // namespace codec_internal

// T can be sent. A type with its own MpFields or Codec is believed; whether its
// fields can be sent shows when it is first used.
template <class T>
concept Encodable =
    std::is_object_v<T> && !std::is_array_v<T> &&
    std::is_same_v<T, std::remove_cv_t<T>> && codec_internal::IsEncodable<T>();

// T is sent as its own sizeof(T) bytes, and any bytes are a valid T.
template <class T>
concept PlainBytes = requires {
  requires Codec<T>::kPlain;
};

// Whether descriptors may travel with a T: not with numbers, strings, and what
// consists of these. A Codec that does not name its Elements may send any.
template <class T>
consteval bool CarriesDescriptors();

// The number of bytes that Encode() needs; sizeof(T) for PlainBytes types.
template <class T>
constexpr size_t EncodedSize(const T& value);

// Fills `out`, which must have EncodedSize(value) bytes, and writes nowhere
// else. After an error the contents of `out` mean nothing. Descriptors that go
// with the value are added to `descriptors`; with null, it is an error if there
// are any.
//
// Errors: InvalidArgument if the value cannot be sent; Internal if it was
// changed by another thread since EncodedSize(), or its Codec is wrong.
template <class T>
absl::Status Encode(
    const T& value, std::span<std::byte> out,
    OutgoingDescriptors* descriptors = nullptr) noexcept(PlainBytes<T>);

// The value that was encoded, with the descriptors that came with it. Errors:
// DataLoss if `bytes` are not one whole T; with descriptors also what the
// system says.
template <class T>
absl::StatusOr<T> Decode(std::span<const std::byte> bytes,
                         IncomingDescriptors* descriptors = nullptr);

// Same, without a copy where the result is kept anyway. An old value's memory
// may be used again.
template <class T>
void DecodeTo(std::span<const std::byte> bytes, absl::StatusOr<T>& result,
              IncomingDescriptors* descriptors = nullptr);

// Same, into an old value whose memory is used again where that is possible.
// After an error it has a valid but unspecified value.
template <class T>
absl::Status DecodeInto(std::span<const std::byte> bytes, T& value,
                        IncomingDescriptors* descriptors = nullptr);

// Where a Codec writes to. The first error sticks, what is written after it is
// dropped, and Encode() returns it.
class Writer {
 public:
  // With null for descriptors, what needs one cannot be sent.
  explicit Writer(std::span<std::byte> out,
                  OutgoingDescriptors* descriptors = nullptr)
      : next_(out.data()),
        end_(next_ + out.size()),
        descriptors_(descriptors) {}
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  template <class T>
  void Write(const T& value);
  void WriteBytes(const void* data, size_t size);
  // Room for so many bytes, which the caller fills; empty after an error.
  std::span<std::byte> Reserve(size_t size);
  // For the number of elements or bytes that follow.
  void WriteLength(size_t length) { Write(uint64_t{length}); }
  // Each takes kDescriptorSize bytes. The descriptor stays the caller's, who
  // keeps it open until the message has gone.
  void WriteDescriptor(int fd);
  void WriteSegment(const Segment* segment);
  static constexpr size_t kDescriptorSize = sizeof(uint32_t);

  // The value cannot be sent.
  void Fail(absl::Status why);
  // OK if there was no error and all bytes were written.
  absl::Status Finish();

 private:
  bool CanSendDescriptors();

  std::byte* next_;
  std::byte* end_;
  OutgoingDescriptors* descriptors_;
  int depth_ = 0;
  absl::Status status_;
};

// Where a Codec reads from. The first error sticks, what is read after it is
// zero or empty, and Decode() returns it. So a Codec need not check for errors,
// as long as it copes with any values and does not loop without end on zeros.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes,
                  IncomingDescriptors* descriptors = nullptr)
      : begin_(bytes.data()),
        next_(begin_),
        end_(begin_ + bytes.size()),
        descriptors_(descriptors) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  template <class T>
  T Read();
  template <class T>
  void ReadInto(T& value);
  // A view into the message; empty after an error.
  std::span<const std::byte> ReadBytes(size_t size);
  // What WriteLength() wrote, but never more than the rest of the message can
  // hold if each element takes at least `min_element_size` bytes.
  size_t ReadLength(size_t min_element_size = 1);

  // What was written; none, or null, after an error.
  UniqueFd ReadDescriptor();
  std::shared_ptr<Segment> ReadSegment(uint64_t layout);

  // The bytes are no valid message: `what` says why.
  void Fail(std::string_view what);
  // They are, but what they stand for cannot be had.
  void Fail(absl::Status why);
  bool ok() const { return status_.ok(); }
  size_t remaining() const { return static_cast<size_t>(end_ - next_); }
  // OK if there was no error and nothing is left over.
  absl::Status Finish();

 private:
  const std::byte* begin_;
  const std::byte* next_;
  const std::byte* end_;
  IncomingDescriptors* descriptors_;
  int depth_ = 0;
  absl::Status status_;
};

// -----------------------------------------------------------------------------
// Which types are encoded how.
// -----------------------------------------------------------------------------

namespace codec_internal {

// Counts how deep we are in a value: a hostile message must not exhaust the
// stack through a recursive type.
class Nested {
 public:
  explicit Nested(int& depth) : depth_(depth) { ++depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;
  ~Nested() { --depth_; }

  bool too_deep() const { return depth_ > kMaxDepth; }

 private:
  static constexpr int kMaxDepth = 1000;
  int& depth_;
};

template <class T>
inline constexpr bool kIsView = std::ranges::enable_borrowed_range<T>;
template <>
inline constexpr bool kIsView<absl::string_view> = true;
template <class T>
inline constexpr bool kIsView<absl::Span<T>> = true;
template <class T>
inline constexpr bool kIsView<std::reference_wrapper<T>> = true;

// Converts to T& only, so that MpFields() of a base class does not match.
template <class T>
struct Exactly {
  template <class U>
  requires std::is_same_v<T, U>
  operator U&() const;
};

template <class T>
concept HasMpFields = requires(Exactly<T> object) {
  MpFields(object);
};

// See mp/shm/handle.h.
template <class T>
using HandlePartsOf = decltype(HandleAccess::Parts(std::declval<const T&>()));

template <class T>
struct FromParts {
  template <class... Part>
  auto operator()(Part&&... parts) const
      -> decltype(HandleAccess::FromParts<T>(std::forward<Part>(parts)...)) {
    return HandleAccess::FromParts<T>(std::forward<Part>(parts)...);
  }
};

template <class T, class Parts>
inline constexpr bool kIsMadeFrom = false;
template <class T, class... Part>
inline constexpr bool kIsMadeFrom<T, std::tuple<Part...>> =
    std::is_invocable_v<FromParts<T>, Part...>;

template <class T>
concept Handle = requires {
  requires kIsMadeFrom<T, HandlePartsOf<T>>;
};

template <class T>
concept ReadsInto = requires(Reader& reader, T& value) {
  Codec<T>::ReadInto(reader, value);
};

template <class T>
concept Container = requires(T& c, typename T::value_type& element) {
  c.size();
  c.clear();
  c.insert(c.end(), std::move(element));
};

// absl::Cord, whose header need not be here.
template <class T>
concept Cord = requires(T& c, const T& text, absl::string_view more) {
  c.Clear();
  c.Append(more);
  text.size();
  { *text.Chunks().begin() } -> std::convertible_to<absl::string_view>;
};

enum Kind {
  kNone,
  kPointer,
  kView,
  kBool,
  kPlain,
  kAggregate,
  kMpFields,
  kHandle,
  kContainer,
  kCord,
};

struct ArePlain {
  template <class... F>
  constexpr auto operator()(const F&...) const {
    return std::bool_constant<(PlainBytes<F> && ...)>{};
  }
};

struct AreEncodable {
  template <class... F>
  constexpr auto operator()(const F&...) const {
    return std::bool_constant<(Encodable<F> && ...)>{};
  }
};

// What `Predicate` says of the types of the fields of T.
template <class T, class Predicate>
consteval bool AllFields() {
  return decltype(VisitFields(std::declval<const T&>(), Predicate{}))::value;
}

template <class T>
consteval bool IsBool() {
  if constexpr (std::is_enum_v<T>) {
    return std::is_same_v<std::underlying_type_t<T>, bool>;
  } else {
    return std::is_same_v<T, bool>;
  }
}

template <class T>
consteval Kind KindOf() {
  if constexpr (HasMpFields<T>) {
    return kMpFields;
  } else if constexpr (Handle<T>) {
    return kHandle;
  } else if constexpr (std::is_pointer_v<T> || std::is_member_pointer_v<T> ||
                       std::is_null_pointer_v<T>) {
    return kPointer;
  } else if constexpr (kIsView<T>) {
    return kView;
  } else if constexpr (IsBool<T>()) {
    return kBool;
  } else if constexpr (Container<T>) {
    return kContainer;
  } else if constexpr (Cord<T>) {
    return kCord;
  } else if constexpr (!std::is_move_constructible_v<T> ||
                       !std::is_move_assignable_v<T>) {
    return kNone;  // Has a reference or const field, captures, a lock...
  } else if constexpr (CountFields<T>() > 0) {
    return std::is_trivially_copyable_v<T> && AllFields<T, ArePlain>()
               ? kPlain
               : kAggregate;
  } else if constexpr (!std::is_trivially_copyable_v<T>) {
    return kNone;
  } else if constexpr (requires(T & t) { *t; }) {
    return kView;  // An iterator or something like it.
  } else {
    return kPlain;
  }
}

template <class T, Kind kKind>
concept OfKind = (KindOf<T>() == kKind);

// Does not compile, and says why.
template <class T>
constexpr void ExplainRefusal() {
  constexpr Kind kind = KindOf<T>();
  static_assert(kind != kPointer,
                "mp: a pointer means nothing in another process; send the "
                "value");
  static_assert(kind != kView,
                "mp: a view, iterator or reference means nothing in another "
                "process; send the value (std::string, std::vector...)");
  static_assert(kind == kPointer || kind == kView,
                "mp: no way to send this type is known: make it a simple "
                "struct, give it MpFields(), or specialise mp::Codec for it "
                "(see mp/ipc/codec.h)");
}

// Converts to the T whose bytes these are, so that a T can be built from it in
// its place: one copy, without a default constructor, whatever the alignment.
template <class T>
struct Loader {
  const std::byte* bytes;

  operator T() const {
    if constexpr (std::is_trivially_default_constructible_v<T>) {
      T value;
      std::memcpy(static_cast<void*>(&value), bytes, sizeof(T));
      return value;
    } else {
      std::array<std::byte, sizeof(T)> copy;
      std::memcpy(&copy, bytes, sizeof(T));
      return std::bit_cast<T>(copy);
    }
  }
};

template <class T>
T Load(const std::byte* bytes) {
  return Loader<T>{bytes};
}

absl::Status WrongSizeForEncode();
absl::Status WrongSizeForDecode(size_t size, size_t expected);

// Out of line, so that the good case needs no stack frame.
template <class T>
ABSL_ATTRIBUTE_NOINLINE absl::StatusOr<T> WrongSizeResult(size_t size) {
  return WrongSizeForDecode(size, sizeof(T));
}

// Whether T, or anything that it consists of, is sent by a Codec that does not
// name its Elements. `Outer` are the types around T, which may be recursive.
template <class T, class... Outer>
consteval bool HasUnknownElements();

template <class... Outer, class... T>
consteval bool AnyUnknown(TypeList<T...>) {
  return (HasUnknownElements<T, Outer...>() || ...);
}

template <class T, class... Outer>
consteval bool HasUnknownElements() {
  if constexpr (PlainBytes<T> || (std::is_same_v<T, Outer> || ...)) {
    return false;
  } else if constexpr (requires { typename Codec<T>::Elements; }) {
    return AnyUnknown<T, Outer...>(typename Codec<T>::Elements());
  } else {
    return true;
  }
}

// Visitors of fields, which are those of a struct or the elements of a tuple.
struct TypesOfAll {
  template <class... F>
  constexpr TypeList<F...> operator()(const F&...) const {
    return {};
  }
};

struct SizeOfAll {
  template <class... F>
  constexpr size_t operator()(const F&... fields) const {
    return (size_t{0} + ... + EncodedSize(fields));
  }
};

struct WriteAll {
  Writer& writer;
  template <class... F>
  void operator()(const F&... fields) const {
    (writer.Write(fields), ...);
  }
};

struct ReadAllInto {
  Reader& reader;
  template <class... F>
  void operator()(F&... fields) const {
    (reader.ReadInto(fields), ...);
  }
};

}  // namespace codec_internal

// -----------------------------------------------------------------------------
// The codecs.
// -----------------------------------------------------------------------------

// What is not listed below cannot be sent.
template <class T>
struct Codec {
  static constexpr bool kEncodable = false;

  static size_t Size(const T&) {
    codec_internal::ExplainRefusal<T>();
    return 0;
  }
  static void Write(const T&, Writer&) { codec_internal::ExplainRefusal<T>(); }
  static void ReadInto(Reader&, T&) { codec_internal::ExplainRefusal<T>(); }
};

// EncodedSize(), Writer and Reader need no help.
template <codec_internal::OfKind<codec_internal::kPlain> T>
struct Codec<T> {
  static constexpr bool kPlain = true;
};

// bool, and enums over bool: any byte but 0 and 1 would be undefined behaviour.
template <codec_internal::OfKind<codec_internal::kBool> T>
struct Codec<T> {
  using Elements = TypeList<>;

  static constexpr size_t Size(T) { return 1; }
  static void Write(T value, Writer& writer) {
    writer.Write(static_cast<uint8_t>(value));
  }
  static T Read(Reader& reader) {
    const uint8_t value = reader.Read<uint8_t>();
    if (value > 1) reader.Fail("a bool is neither 0 nor 1");
    return static_cast<T>(value == 1);
  }
};

template <codec_internal::OfKind<codec_internal::kAggregate> T>
struct Codec<T> {
  static constexpr bool kEncodable =
      codec_internal::AllFields<T, codec_internal::AreEncodable>();
  using Elements = decltype(codec_internal::VisitFields(
      std::declval<const T&>(), codec_internal::TypesOfAll{}));

  static constexpr size_t Size(const T& value) {
    return codec_internal::VisitFields(value, codec_internal::SizeOfAll{});
  }
  static void Write(const T& value, Writer& writer) {
    codec_internal::VisitFields(value, codec_internal::WriteAll{writer});
  }
  static void ReadInto(Reader& reader, T& value) {
    codec_internal::VisitFields(value, codec_internal::ReadAllInto{reader});
  }
};

template <codec_internal::OfKind<codec_internal::kMpFields> T>
struct Codec<T> {
  using Elements = decltype(std::apply(codec_internal::TypesOfAll{},
                                       MpFields(std::declval<T&>())));

  static constexpr size_t Size(const T& value) {
    return std::apply(codec_internal::SizeOfAll{}, Fields(value));
  }
  static void Write(const T& value, Writer& writer) {
    std::apply(codec_internal::WriteAll{writer}, Fields(value));
  }
  static void ReadInto(Reader& reader, T& value) {
    std::apply(codec_internal::ReadAllInto{reader}, Fields(value));
  }

 private:
  // The user writes one function, for T&; Size() and Write() only read from it.
  static constexpr auto Fields(const T& value) {
    auto fields = MpFields(const_cast<T&>(value));
    static_assert(std::tuple_size_v<decltype(fields)> > 0,
                  "mp: MpFields() must name at least one field");
    return fields;
  }
};

// Handles of shared objects, by their parts (mp/shm/handle.h).
template <codec_internal::OfKind<codec_internal::kHandle> T>
struct Codec<T> {
  static size_t Size(const T& value) {
    return EncodedSize(HandleAccess::Parts(value));
  }
  static void Write(const T& value, Writer& writer) {
    writer.Write(HandleAccess::Parts(value));
  }
  // After an error the handle is one of nothing, as if moved from.
  static T Read(Reader& reader) {
    T handle = std::apply(codec_internal::FromParts<T>(),
                          reader.Read<codec_internal::HandlePartsOf<T>>());
    if constexpr (requires { HandleAccess::Valid(handle); }) {
      if (reader.ok() && !HandleAccess::Valid(handle)) {
        reader.Fail("the shared memory of a handle is not what it should be");
      }
    }
    return handle;
  }
};

template <>
struct Codec<StaysBehind> {
  using Elements = TypeList<>;

  static constexpr size_t Size(StaysBehind) { return 1; }
  static void Write(StaysBehind value, Writer& writer);
  static StaysBehind Read(Reader& reader);
};

template <uint64_t kLayout>
struct Codec<SegmentPart<kLayout>> {
  static constexpr size_t Size(const SegmentPart<kLayout>&) {
    return Writer::kDescriptorSize;
  }
  static void Write(const SegmentPart<kLayout>& value, Writer& writer) {
    writer.WriteSegment(value.segment.get());
  }
  static SegmentPart<kLayout> Read(Reader& reader) {
    return {reader.ReadSegment(kLayout)};
  }
};

template <>
struct Codec<DescriptorPart> {
  static size_t Size(const DescriptorPart&) { return Writer::kDescriptorSize; }
  static void Write(const DescriptorPart& value, Writer& writer) {
    writer.WriteDescriptor(value.fd != nullptr ? value.fd->get() : -1);
  }
  static DescriptorPart Read(Reader& reader) {
    return {std::make_shared<const UniqueFd>(reader.ReadDescriptor())};
  }
};

// What MakeShared() and MakeSharedWithArray() return: the same object, not a
// copy.
template <SafeInSharedMemory T>
struct Codec<std::shared_ptr<T>> {
  static constexpr size_t Size(const std::shared_ptr<T>&) {
    return Writer::kDescriptorSize + sizeof(uint64_t);
  }
  static void Write(const std::shared_ptr<T>& value, Writer& writer) {
    const std::shared_ptr<Segment> segment = Segment::Of(value);
    writer.WriteSegment(segment.get());
    if (segment == nullptr) return;
    const auto offset = static_cast<uint64_t>(
        reinterpret_cast<const std::byte*>(value.get()) - segment->data());
    if (offset % shm_internal::kSlabAlignment != 0) {
      writer.Fail(absl::InvalidArgumentError(
          "mp: a pointer into the middle of a shared object cannot be sent"));
    }
    writer.Write(offset);
  }
  static std::shared_ptr<T> Read(Reader& reader) {
    std::shared_ptr<Segment> segment =
        reader.ReadSegment(shm_internal::kSlabLayout);
    const uint64_t offset = reader.Read<uint64_t>();
    if (segment == nullptr) return nullptr;
    if (offset > segment->size() || sizeof(T) > segment->size() - offset ||
        offset % shm_internal::kSlabAlignment != 0) {
      reader.Fail("no object is at the place of a shared object");
      return nullptr;
    }
    std::byte* const object = segment->data() + offset;
    return std::shared_ptr<T>(std::move(segment), reinterpret_cast<T*>(object));
  }
};

// The descriptor is duplicated; the sender keeps its own.
template <>
struct Codec<UniqueFd> {
  static constexpr size_t Size(const UniqueFd&) {
    return Writer::kDescriptorSize;
  }
  static void Write(const UniqueFd& value, Writer& writer) {
    writer.WriteDescriptor(value.get());
  }
  static UniqueFd Read(Reader& reader) { return reader.ReadDescriptor(); }
};

// Strings, vectors, sets, maps...: the length, then the elements.
template <codec_internal::OfKind<codec_internal::kContainer> T>
struct Codec<T> {
 private:
  // Maps hold pairs with a const key, which cannot be read.
  template <class C>
  struct ElementOf : std::type_identity<typename C::value_type> {};
  template <class C>
  requires requires { typename C::mapped_type; }
  struct ElementOf<C>
      : std::type_identity<
            std::pair<typename C::key_type, typename C::mapped_type>> {};
  using Element = typename ElementOf<T>::type;

  // The elements are copied in one go.
  static constexpr bool kBlock =
      PlainBytes<Element> && requires(T & c, const Element* p) {
    { c.data() } -> std::same_as<Element*>;
    c.assign(p, p);
  };

 public:
  static constexpr bool kEncodable = Encodable<Element>;
  using Elements = TypeList<Element>;

  static constexpr size_t Size(const T& value) {
    size_t size = sizeof(uint64_t);
    if constexpr (PlainBytes<Element>) {
      size += value.size() * sizeof(Element);
    } else {
      for (const auto& element : value) size += EncodedSize(element);
    }
    return size;
  }

  static void Write(const T& value, Writer& writer) {
    writer.WriteLength(value.size());
    if constexpr (kBlock) {
      writer.WriteBytes(value.data(), value.size() * sizeof(Element));
    } else {
      for (const auto& element : value) writer.Write(element);
    }
  }

  static void ReadInto(Reader& reader, T& value) {
    constexpr size_t kMinSize = PlainBytes<Element> ? sizeof(Element) : 1;
    const size_t length = reader.ReadLength(kMinSize);
    if constexpr (kBlock) {
      ReadBlock(reader.ReadBytes(length * sizeof(Element)), value);
    } else {
      value.clear();
      if constexpr (requires { value.reserve(length); }) {
        // A small message must not reserve much for large elements.
        value.reserve(std::min(length, reader.remaining() / sizeof(Element)));
      }
      for (size_t i = 0; i < length && reader.ok(); ++i) {
        if constexpr (requires { value.push_back(reader.Read<Element>()); }) {
          value.push_back(reader.Read<Element>());
        } else {
          value.insert(value.end(), reader.Read<Element>());
        }
      }
    }
  }

 private:
  static void ReadBlock(std::span<const std::byte> bytes, T& value) {
    const size_t length = bytes.size() / sizeof(Element);
    if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(Element) == 0) {
      const auto* elements = reinterpret_cast<const Element*>(bytes.data());
      value.assign(elements, elements + length);
    } else if constexpr (std::is_default_constructible_v<Element>) {
      value.resize(length);
      if (length == 0) return;  // data() may be null.
      std::memcpy(static_cast<void*>(value.data()), bytes.data(), bytes.size());
    } else {
      value.clear();
      value.reserve(length);
      for (; !bytes.empty(); bytes = bytes.subspan(sizeof(Element))) {
        value.push_back(codec_internal::Load<Element>(bytes.data()));
      }
    }
  }
};

template <codec_internal::OfKind<codec_internal::kCord> T>
struct Codec<T> {
  using Elements = TypeList<>;

  static size_t Size(const T& value) { return sizeof(uint64_t) + value.size(); }
  static void Write(const T& value, Writer& writer) {
    writer.WriteLength(value.size());
    for (const absl::string_view chunk : value.Chunks()) {
      writer.WriteBytes(chunk.data(), chunk.size());
    }
  }
  static void ReadInto(Reader& reader, T& value) {
    const std::span<const std::byte> bytes =
        reader.ReadBytes(reader.ReadLength());
    value.Clear();
    value.Append(absl::string_view(reinterpret_cast<const char*>(bytes.data()),
                                   bytes.size()));
  }
};

// Its own bytes, which may have bits set that the bitset does not have.
template <size_t N>
struct Codec<std::bitset<N>> {
  using Elements = TypeList<>;

  static constexpr size_t Size(const std::bitset<N>&) {
    return sizeof(std::bitset<N>);
  }
  static void Write(const std::bitset<N>& value, Writer& writer) {
    writer.WriteBytes(&value, sizeof(value));
  }
  static std::bitset<N> Read(Reader& reader) {
    std::bitset<N> value;
    const auto bytes = reader.ReadBytes(sizeof(value));
    if (bytes.empty()) return value;
    const auto came = codec_internal::Load<std::bitset<N>>(bytes.data());
    for (size_t i = 0; i < N; ++i) value[i] = came[i];
    if (N > 0 && std::memcmp(&value, &came, sizeof(value)) != 0) {
      reader.Fail("a bitset has more bits than it should");
    }
    return value;
  }
};

// The elements, without a length. A C array can only be a field (MpFields).
template <class T, size_t N>
struct Codec<T[N]> {
  static constexpr bool kEncodable = Encodable<T>;
  static constexpr bool kPlain = PlainBytes<T>;
  using Elements = TypeList<T>;

  static constexpr size_t Size(const T (&value)[N]) {
    size_t size = 0;
    for (const T& element : value) size += EncodedSize(element);
    return size;
  }
  static void Write(const T (&value)[N], Writer& writer) {
    for (const T& element : value) writer.Write(element);
  }
  static void ReadInto(Reader& reader, T (&value)[N]) {
    for (T& element : value) reader.ReadInto(element);
  }
};

template <class T, size_t N>
struct Codec<std::array<T, N>> {
  static constexpr bool kEncodable = Encodable<T>;
  static constexpr bool kPlain = N == 0 || PlainBytes<T>;
  using Elements = TypeList<T>;

  static constexpr size_t Size(const std::array<T, N>& value) {
    size_t size = 0;
    for (const T& element : value) size += EncodedSize(element);
    return size;
  }
  static void Write(const std::array<T, N>& value, Writer& writer) {
    for (const T& element : value) writer.Write(element);
  }
  static std::array<T, N> Read(Reader& reader) requires(
      !std::default_initializable<T>) {
    return ReadElements(reader, std::make_index_sequence<N>{});
  }
  static void ReadInto(Reader& reader, std::array<T, N>& value) {
    for (T& element : value) reader.ReadInto(element);
  }

 private:
  template <size_t... I>
  static std::array<T, N> ReadElements(Reader& reader,
                                       std::index_sequence<I...>) {
    return {(static_cast<void>(I), reader.Read<T>())...};
  }
};

template <class... T>
struct Codec<std::tuple<T...>> {
  static constexpr bool kEncodable = (Encodable<T> && ...);
  static constexpr bool kPlain = sizeof...(T) == 0;
  using Elements = TypeList<T...>;

  static constexpr size_t Size(const std::tuple<T...>& value) {
    return std::apply(codec_internal::SizeOfAll{}, value);
  }
  static void Write(const std::tuple<T...>& value, Writer& writer) {
    std::apply(codec_internal::WriteAll{writer}, value);
  }
  static std::tuple<T...> Read(Reader& reader) {
    return std::tuple<T...>{reader.Read<T>()...};  // Braces: left to right.
  }
  static void ReadInto(Reader& reader, std::tuple<T...>& value) {
    std::apply(codec_internal::ReadAllInto{reader}, value);
  }
};

template <class A, class B>
struct Codec<std::pair<A, B>> {
  // The key of a map's element is const, which is fine for writing.
  static constexpr bool kEncodable = Encodable<A> && Encodable<B>;
  using Elements = TypeList<std::remove_const_t<A>, B>;

  static constexpr size_t Size(const std::pair<A, B>& value) {
    return EncodedSize(value.first) + EncodedSize(value.second);
  }
  static void Write(const std::pair<A, B>& value, Writer& writer) {
    writer.Write(value.first);
    writer.Write(value.second);
  }
  static std::pair<A, B> Read(Reader& reader) {
    return std::pair<A, B>{reader.Read<A>(), reader.Read<B>()};
  }
  static void ReadInto(Reader& reader, std::pair<A, B>& value) {
    reader.ReadInto(value.first);
    reader.ReadInto(value.second);
  }
};

template <class T>
struct Codec<std::optional<T>> {
  static constexpr bool kEncodable = Encodable<T>;
  using Elements = TypeList<T>;

  static constexpr size_t Size(const std::optional<T>& value) {
    return 1 + (value.has_value() ? EncodedSize(*value) : 0);
  }
  static void Write(const std::optional<T>& value, Writer& writer) {
    writer.Write(value.has_value());
    if (value.has_value()) writer.Write(*value);
  }
  static std::optional<T> Read(Reader& reader) {
    if (!reader.Read<bool>()) return std::nullopt;
    return std::optional<T>(std::in_place, reader.Read<T>());
  }
};

// The object, not its address: each process has its own copy. Refuses classes
// with virtual functions that others may be derived from, as it would send the
// base part only.
template <class T>
struct Codec<std::unique_ptr<T>> {
 private:
  static constexpr bool kMaySlice =
      std::is_polymorphic_v<T> && !std::is_final_v<T>;

 public:
  static constexpr bool kEncodable = Encodable<T> && !kMaySlice;
  using Elements = TypeList<T>;

  static constexpr size_t Size(const std::unique_ptr<T>& value) {
    return 1 + (value != nullptr ? EncodedSize(*value) : 0);
  }
  static void Write(const std::unique_ptr<T>& value, Writer& writer) {
    static_assert(!kMaySlice,
                  "mp: a pointer to a class with virtual functions cannot be "
                  "sent, unless the class is final");
    writer.Write(value != nullptr);
    if (value != nullptr) writer.Write(*value);
  }
  static std::unique_ptr<T> Read(Reader& reader) {
    if (!reader.Read<bool>()) return nullptr;
    return std::make_unique<T>(reader.Read<T>());
  }
};

template <class... T>
struct Codec<std::variant<T...>> {
  static_assert(sizeof...(T) < 256, "mp: a variant of more than 255 types");
  static constexpr bool kEncodable = (Encodable<T> && ...);
  using Elements = TypeList<T...>;

  static constexpr size_t Size(const std::variant<T...>& value) {
    if (value.valueless_by_exception()) return 1;
    return 1 + std::visit([](const auto& v) { return EncodedSize(v); }, value);
  }
  static void Write(const std::variant<T...>& value, Writer& writer) {
    if (value.valueless_by_exception()) {
      writer.Fail(absl::InvalidArgumentError(
          "mp: a variant without a value (valueless_by_exception) cannot be "
          "sent"));
      return;
    }
    writer.Write(static_cast<uint8_t>(value.index()));
    std::visit([&writer](const auto& v) { writer.Write(v); }, value);
  }
  static std::variant<T...> Read(Reader& reader) {
    size_t index = reader.Read<uint8_t>();
    if (index >= sizeof...(T)) {
      reader.Fail("a variant has no such alternative");
      index = 0;  // Some value is needed; the reader now gives an empty one.
    }
    return ReadAlternative(reader, index, std::index_sequence_for<T...>{});
  }

 private:
  template <size_t... I>
  static std::variant<T...> ReadAlternative(Reader& reader, size_t index,
                                            std::index_sequence<I...>) {
    using Function = std::variant<T...> (*)(Reader&);
    static constexpr Function kRead[] = {ReadAlternative<I>...};
    return kRead[index](reader);
  }
  template <size_t I>
  static std::variant<T...> ReadAlternative(Reader& reader) {
    using Alternative = std::variant_alternative_t<I, std::variant<T...>>;
    return std::variant<T...>(std::in_place_index<I>,
                              reader.Read<Alternative>());
  }
};

// With its message and payloads.
template <>
struct Codec<absl::Status> {
  using Elements = TypeList<>;

  static size_t Size(const absl::Status& value);
  static void Write(const absl::Status& value, Writer& writer);
  static absl::Status Read(Reader& reader);
};

template <class T>
struct Codec<absl::StatusOr<T>> {
  static constexpr bool kEncodable = Encodable<T>;
  using Elements = TypeList<T>;

  static size_t Size(const absl::StatusOr<T>& value) {
    return EncodedSize(value.status()) + (value.ok() ? EncodedSize(*value) : 0);
  }
  static void Write(const absl::StatusOr<T>& value, Writer& writer) {
    writer.Write(value.status());
    if (value.ok()) writer.Write(*value);
  }
  static absl::StatusOr<T> Read(Reader& reader) {
    absl::Status status = reader.Read<absl::Status>();
    if (!status.ok()) return status;
    return absl::StatusOr<T>(reader.Read<T>());
  }
};

template <>
struct Codec<absl::Duration> {
  using Elements = TypeList<>;

  static constexpr size_t Size(absl::Duration) { return 2 * sizeof(int64_t); }
  static void Write(absl::Duration value, Writer& writer);
  static absl::Duration Read(Reader& reader);
};

template <>
struct Codec<absl::Time> {
  using Elements = TypeList<>;

  static size_t Size(absl::Time value) {
    return EncodedSize(value - absl::UnixEpoch());
  }
  static void Write(absl::Time value, Writer& writer) {
    writer.Write(value - absl::UnixEpoch());
  }
  static absl::Time Read(Reader& reader) {
    return absl::UnixEpoch() + reader.Read<absl::Duration>();
  }
};

// -----------------------------------------------------------------------------
// Implementation only below.
// -----------------------------------------------------------------------------

inline std::span<std::byte> Writer::Reserve(size_t size) {
  if (ABSL_PREDICT_FALSE(size > static_cast<size_t>(end_ - next_))) {
    Fail(codec_internal::WrongSizeForEncode());
    return {};
  }
  const std::span<std::byte> room(next_, size);
  next_ += size;
  return room;
}

inline void Writer::WriteBytes(const void* data, size_t size) {
  const std::span<std::byte> room = Reserve(size);
  // Also when there is nothing to write, and `data` may be null.
  if (room.empty()) return;
  std::memcpy(room.data(), data, size);
}

template <class T>
void Writer::Write(const T& value) {
  if constexpr (PlainBytes<T>) {
    WriteBytes(&value, sizeof(T));
  } else {
    const codec_internal::Nested nested(depth_);
    if (nested.too_deep()) {
      Fail(absl::InvalidArgumentError("mp: the value is nested too deeply"));
    } else {
      Codec<T>::Write(value, *this);
    }
  }
}

inline std::span<const std::byte> Reader::ReadBytes(size_t size) {
  if (ABSL_PREDICT_FALSE(size > remaining())) {
    Fail("it ends too early");
    return {};
  }
  const std::span<const std::byte> bytes(next_, size);
  next_ += size;
  return bytes;
}

inline size_t Reader::ReadLength(size_t min_element_size) {
  const uint64_t length = Read<uint64_t>();
  if (ABSL_PREDICT_TRUE(length <= remaining() / min_element_size)) {
    return static_cast<size_t>(length);
  }
  Fail("a length is greater than the rest of the message");
  return 0;
}

template <class T>
T Reader::Read() {
  if constexpr (PlainBytes<T>) {
    const std::span<const std::byte> bytes = ReadBytes(sizeof(T));
    if (bytes.empty()) return std::bit_cast<T>(std::array<char, sizeof(T)>{});
    return codec_internal::Load<T>(bytes.data());
  } else {
    const codec_internal::Nested nested(depth_);
    if (nested.too_deep()) Fail("it is nested too deeply");
    if constexpr (requires { Codec<T>::Read(*this); }) {
      return Codec<T>::Read(*this);
    } else {
      T value{};
      Codec<T>::ReadInto(*this, value);
      return value;
    }
  }
}

template <class T>
void Reader::ReadInto(T& value) {
  if constexpr (PlainBytes<T>) {
    const std::span<const std::byte> bytes = ReadBytes(sizeof(T));
    // The byte of an empty class may belong to its neighbour.
    if (bytes.empty() || std::is_empty_v<T>) return;
    std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof(T));
  } else if constexpr (codec_internal::ReadsInto<T>) {
    const codec_internal::Nested nested(depth_);
    if (nested.too_deep()) Fail("it is nested too deeply");
    Codec<T>::ReadInto(*this, value);
  } else {
    value = Read<T>();
  }
}

template <class T>
constexpr size_t EncodedSize(const T& value) {
  if constexpr (PlainBytes<T>) {
    return sizeof(T);
  } else {
    return Codec<T>::Size(value);
  }
}

template <class T>
consteval bool CarriesDescriptors() {
  return codec_internal::HasUnknownElements<T>();
}

template <class T>
absl::Status Encode(const T& value, std::span<std::byte> out,
                    OutgoingDescriptors* descriptors) noexcept(PlainBytes<T>) {
  if constexpr (PlainBytes<T>) {
    if (ABSL_PREDICT_FALSE(out.size() != sizeof(T))) {
      return codec_internal::WrongSizeForEncode();
    }
    std::memcpy(out.data(), &value, sizeof(T));
    return absl::OkStatus();
  } else {
    Writer writer(out, descriptors);
    writer.Write(value);
    return writer.Finish();
  }
}

template <class T>
absl::StatusOr<T> Decode(std::span<const std::byte> bytes,
                         IncomingDescriptors* descriptors) {
  if constexpr (PlainBytes<T>) {
    if (ABSL_PREDICT_FALSE(bytes.size() != sizeof(T))) {
      return codec_internal::WrongSizeResult<T>(bytes.size());
    }
    if constexpr (std::is_aggregate_v<T>) {  // Has no greedy constructor.
      return absl::StatusOr<T>(absl::in_place,
                               codec_internal::Loader<T>{bytes.data()});
    } else {
      return absl::StatusOr<T>(codec_internal::Load<T>(bytes.data()));
    }
  } else if constexpr (std::default_initializable<T> &&
                       codec_internal::ReadsInto<T>) {
    absl::StatusOr<T> result(absl::in_place);
    absl::Status status = DecodeInto(bytes, *result, descriptors);
    if (ABSL_PREDICT_FALSE(!status.ok())) result = std::move(status);
    return result;
  } else {
    Reader reader(bytes, descriptors);
    T value = reader.Read<T>();
    absl::Status status = reader.Finish();
    if (ABSL_PREDICT_FALSE(!status.ok())) return status;
    return absl::StatusOr<T>(std::move(value));
  }
}

template <class T>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void DecodeTo(
    std::span<const std::byte> bytes, absl::StatusOr<T>& result,
    IncomingDescriptors* descriptors) {
  if constexpr (PlainBytes<T> && std::is_aggregate_v<T>) {
    if (ABSL_PREDICT_TRUE(bytes.size() == sizeof(T))) {
      if (!result.ok()) {
        result.emplace(codec_internal::Loader<T>{bytes.data()});
      } else if constexpr (!std::is_empty_v<T>) {
        std::memcpy(static_cast<void*>(&*result), bytes.data(), sizeof(T));
      }
      return;
    }
  }
  result = Decode<T>(bytes, descriptors);
}

template <class T>
absl::Status DecodeInto(std::span<const std::byte> bytes, T& value,
                        IncomingDescriptors* descriptors) {
  if constexpr (PlainBytes<T>) {
    if (ABSL_PREDICT_FALSE(bytes.size() != sizeof(T))) {
      return codec_internal::WrongSizeForDecode(bytes.size(), sizeof(T));
    }
    if constexpr (!std::is_empty_v<T>) {
      std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof(T));
    }
    return absl::OkStatus();
  } else {
    Reader reader(bytes, descriptors);
    reader.ReadInto(value);
    return reader.Finish();
  }
}

}  // namespace mp

#endif  // MP_IPC_CODEC_H_
