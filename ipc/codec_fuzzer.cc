// Decodes hostile bytes as one of many types, with hostile descriptors beside
// them where the type may have some. There is either an error or a value; a
// value can be sent again, and what then arrives is the same. Memory is not
// allocated for what the message does not hold.
//
// The input: the type, the number of descriptors and the kind of each if the
// type carries any, and the message.

#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/attachments_test_util.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/joinable_queue.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/shm/handle.h"
#include "mp/shm/raw_array.h"
#include "mp/shm/segment.h"
#include "mp/shm/shared_memory.h"
#include "mp/shm/slab.h"
#include "mp/sync/array.h"
#include "mp/sync/barrier.h"
#include "mp/sync/condition.h"
#include "mp/sync/event.h"
#include "mp/sync/lock.h"
#include "mp/sync/semaphore.h"
#include "mp/sync/value.h"
#include "mp/testing/fuzz_input.h"

// ---- Memory in use, counted where it is allocated.

namespace {

size_t bytes_in_use = 0;
size_t most_bytes_in_use = 0;

void* Allocate(size_t size) {
  void* const memory = std::malloc(std::max<size_t>(size, 1));
  MP_CHECK(memory != nullptr) << size << " bytes";
  bytes_in_use += malloc_usable_size(memory);
  most_bytes_in_use = std::max(most_bytes_in_use, bytes_in_use);
  return memory;
}

void Free(void* memory) {
  bytes_in_use -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return Allocate(size); }
void* operator new[](size_t size) { return Allocate(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size);
}
void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size);
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, size_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t) noexcept { Free(memory); }

// ---- Types

namespace fuzzed {

struct Point {
  int32_t x;
  int32_t y;
  friend bool operator==(const Point&, const Point&) = default;
};
enum class Color : uint8_t { kRed, kGreen };
struct Person {
  std::string name;
  int age = 0;
  std::optional<Point> home;
  std::vector<std::string> friends;
  friend bool operator==(const Person&, const Person&) = default;
};
class NoDefault {
 public:
  explicit NoDefault(int v) : v_(v) {}

 private:
  [[maybe_unused]] int v_;
};
class Account {
 public:
  friend auto MpFields(Account& a) { return std::tie(a.name_, a.cents_); }

 private:
  std::string name_;
  int64_t cents_ = 0;
};
struct Grid {
  int cells[2][3] = {};
  std::string names[2];
  bool flags[3] = {};
};
auto MpFields(Grid& g) { return std::tie(g.cells, g.names, g.flags); }
struct Node {
  int value = 0;
  std::unique_ptr<Node> next;
};
auto MpFields(Node& n) { return std::tie(n.value, n.next); }
struct Tree {
  std::string name;
  std::vector<Tree> children;
};
auto MpFields(Tree& t) { return std::tie(t.name, t.children); }
struct Celsius {
  explicit Celsius(double d) : degrees(d) {}
  double degrees;
};
struct Everything {
  std::vector<Person> people;
  std::map<std::string, std::variant<int64_t, std::string, std::vector<bool>>>
      by_name;
  std::array<std::optional<double>, 3> maybe;
  std::tuple<bool, Color, std::set<int>> mixed;
  Account account;
  Tree tree;
  absl::Duration duration;
  std::chrono::nanoseconds nanos;
};
struct Handles {
  std::string name;
  mp::Lock lock;
  std::optional<mp::Queue<std::string>> queue;
  std::vector<mp::Event> events;
};
auto MpFields(Handles& h) {
  return std::tie(h.name, h.lock, h.queue, h.events);
}

}  // namespace fuzzed

template <>
struct mp::Codec<fuzzed::Celsius> {
  using Elements = TypeList<>;
  static size_t Size(const fuzzed::Celsius& t) {
    return EncodedSize(t.degrees);
  }
  static void Write(const fuzzed::Celsius& t, Writer& writer) {
    writer.Write(t.degrees);
  }
  static fuzzed::Celsius Read(Reader& reader) {
    return fuzzed::Celsius(reader.Read<double>());
  }
};

namespace mp {
namespace {

using fuzzed::Celsius;
using fuzzed::Everything;
using fuzzed::Grid;
using fuzzed::Handles;
using fuzzed::Node;
using fuzzed::NoDefault;
using fuzzed::Person;
using fuzzed::Point;
using fuzzed::Tree;
using testing::FuzzInput;

// ---- Descriptors

template <uint64_t kLayout>
constexpr uint64_t LayoutOf(const SegmentPart<kLayout>&) {
  return kLayout;
}

UniqueFd NewSegment(uint64_t layout, size_t size, size_t ring_size = 0,
                    size_t spare_size = 0) {
  const auto segment = ValueOrDie(Segment::Create({.name = "fuzzed",
                                                   .layout = layout,
                                                   .size = size,
                                                   .ring_size = ring_size,
                                                   .spare_size = spare_size}));
  std::fill_n(segment->data(), segment->size(), std::byte{0xff});
  return UniqueFd(fcntl(segment->fd(), F_DUPFD_CLOEXEC, 0));
}

// Of every kind, made once; the messages have duplicates.
class Descriptors {
 public:
  Descriptors() {
    int pipe_fds[2];
    MP_PCHECK(pipe2(pipe_fds, O_CLOEXEC) == 0);
    Add(UniqueFd(pipe_fds[0]));
    Add(UniqueFd(pipe_fds[1]));
    Add(UniqueFd(memfd_create("fuzzed", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
    // What real handles consist of.
    AddThoseOf(lock_);
    AddThoseOf(queue_);
    AddThoseOf(ends_.first);
    AddThoseOf(ends_.second);
    AddThoseOf(memory_);
    // As if they were, but with contents that cannot be.
    const auto ring = std::get<0>(
        HandleAccess::Parts(std::get<0>(HandleAccess::Parts(queue_))));
    const uint64_t ring_layout = LayoutOf(ring);
    const uint64_t block_layout =
        LayoutOf(std::get<0>(HandleAccess::Parts(memory_)));
    Add(NewSegment(ring_layout, 1));
    Add(NewSegment(ring_layout, 1, 4096));
    Add(NewSegment(ring_layout, 8192, 4096));
    Add(NewSegment(ring_layout, 8192, 3 * 4096));
    Add(NewSegment(ring_layout, 8192, 4096, 4096));
    Add(NewSegment(block_layout, 1));
    Add(NewSegment(shm_internal::kSlabLayout, 1));
  }

  // A duplicate.
  UniqueFd Get(size_t kind) const {
    return UniqueFd(fcntl(all_[kind % all_.size()].get(), F_DUPFD_CLOEXEC, 0));
  }

 private:
  void Add(UniqueFd fd) {
    MP_PCHECK(fd.get() >= 0);
    all_.push_back(std::move(fd));
  }
  template <class T>
  void AddThoseOf(const T& handle) {
    const PackedMessage message = ValueOrDie(Pack(handle));
    for (const int fd : message.descriptors.fds()) {
      Add(UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
    }
  }

  const Lock lock_;
  const Queue<std::string> queue_;
  const std::pair<Connection<int>, Connection<int>> ends_ = Pipe<int>();
  const SharedMemory memory_{100};
  std::vector<UniqueFd> all_;
};

IncomingDescriptors TakeDescriptors(FuzzInput& input) {
  static const Descriptors* const descriptors = new Descriptors;
  std::vector<UniqueFd> fds(input.Below(8));
  for (UniqueFd& fd : fds) fd = descriptors->Get(input.Below(256));
  return IncomingDescriptors(std::move(fds));
}

// ---- What is checked

// The most that a byte of a message, at the worst an empty std::deque of which
// it is an eighth, takes when it is decoded; and what needs no message.
constexpr size_t kMostPerByte = 256;
constexpr size_t kMostForNothing = 16 << 10;

// Whether a value can be encoded in one way only, or may have elements in any
// order, or bytes that mean nothing.
enum Form { kOne, kAny };

template <class T, Form kForm = kOne>
void Check(FuzzInput& input) {
  IncomingDescriptors descriptors;
  if constexpr (CarriesDescriptors<T>()) descriptors = TakeDescriptors(input);
  const std::span<const std::byte> bytes = input.Rest();

  const size_t before = bytes_in_use;
  most_bytes_in_use = before;
  absl::StatusOr<T> value = Decode<T>(bytes, &descriptors);
  MP_CHECK(most_bytes_in_use - before <=
           kMostForNothing + kMostPerByte * bytes.size())
      << most_bytes_in_use - before << " bytes of memory for a message of "
      << bytes.size();
  if (!value.ok()) {
    MP_CHECK(CarriesDescriptors<T>() || absl::IsDataLoss(value.status()))
        << value.status().ToString();
    return;
  }

  // It may have been encoded in another way, as a map with a key twice.
  const PackedMessage message = ValueOrDie(Pack(*value));
  T other = ValueOrDie(Unpack<T>(message));
  const auto is_the_same = [&] {
    if (ValueOrDie(Pack(other)).bytes == message.bytes) return true;
    if constexpr (kForm == kAny) return other == *value;
    return false;
  };
  MP_CHECK(is_the_same());
  // Over an old value.
  IncomingDescriptors again = message.Arrive();
  MP_CHECK_OK(DecodeInto(message.bytes, other, &again));
  MP_CHECK(is_the_same());
}

// The inputs in the corpus name these by number: add at the end.
constexpr void (*kTypes[])(FuzzInput&) = {
    Check<Everything>,
    Check<std::vector<std::vector<std::string>>>,
    Check<std::variant<Person, std::set<bool>, std::monostate>, kAny>,
    Check<std::optional<absl::Status>, kAny>,
    Check<absl::Time>,
    Check<absl::Duration>,
    Check<std::vector<absl::StatusOr<std::string>>, kAny>,
    Check<Node>,
    Check<Tree>,
    Check<std::unordered_map<std::string, std::vector<Point>>, kAny>,
    Check<
        std::tuple<std::unordered_multiset<uint16_t>, std::multimap<int, bool>>,
        kAny>,
    Check<std::pair<std::string, std::vector<double>>>,
    Check<std::pair<std::string, std::vector<NoDefault>>>,
    Check<std::deque<std::optional<std::tuple<bool, std::string, Celsius>>>>,
    Check<std::list<std::unique_ptr<std::string>>>,
    Check<std::array<std::optional<std::array<uint64_t, 8>>, 3>>,
    Check<Grid>,
    Check<std::vector<std::tuple<>>, kAny>,
    Check<std::variant<std::u32string, std::vector<std::bitset<67>>,
                       std::deque<std::deque<bool>>>>,
    Check<absl::flat_hash_map<std::string, absl::InlinedVector<int, 2>>, kAny>,
    Check<absl::node_hash_map<uint16_t, absl::Cord>, kAny>,
    Check<absl::btree_map<std::string, absl::InlinedVector<bool, 4>>>,
    Check<absl::Cord>,
    Check<UniqueFd>,
    Check<std::vector<UniqueFd>>,
    Check<Lock>,
    Check<std::map<uint8_t, std::variant<Lock, Semaphore, Event>>>,
    Check<Queue<std::string>>,
    Check<std::vector<Queue<Lock>>>,
    Check<Connection<int>>,
    Check<Connection<std::vector<UniqueFd>>>,
    Check<JoinableQueue<int>>,
    Check<SharedMemory>,
    Check<RawArray<int32_t>>,
    Check<std::pair<Array<double>, Value<int>>>,
    Check<std::tuple<Condition, Barrier>>,
    Check<Handles>,
};

}  // namespace
}  // namespace mp

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mp::testing::FuzzInput input(data, size);
  mp::kTypes[input.Below(std::size(mp::kTypes))](input);
  return 0;
}
