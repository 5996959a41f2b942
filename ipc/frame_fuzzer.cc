// Hostile records in queues and pipes, and hostile memory under them. Whatever
// is there, each call that does not wait returns: with a value, with nothing,
// or with the error that the memory is corrupted.
//
// The input: what it is about, and a program for that, one step after another.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/joinable_queue.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/pipe_end.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/segment.h"
#include "mp/sync/in_place_lock.h"
#include "mp/testing/fuzz_input.h"

namespace mp {
namespace {

using ipc_internal::Ring;
using ipc_internal::RingGrowth;
using ipc_internal::RingResult;
using testing::FuzzInput;

constexpr absl::Duration kZero = absl::ZeroDuration();
constexpr Deadline kNow = Deadline::Now();

// Another process may be stopped while it holds a lock, and a word that says so
// costs each call a tenth of a second. Then an input has been long enough.
class Patience {
 public:
  bool gone() const { return Deadline::Infinite() == end_ || end_.Expired(); }

 private:
  const Deadline end_ = Deadline::After(absl::Milliseconds(80));
};

// ---- Records

bool Put(Ring& ring, std::span<const std::byte> record) {
  return ring.Put(
             record.size(),
             [record](std::byte* to, uint32_t) {
               std::copy(record.begin(), record.end(), to);
               return true;
             },
             kNow) == RingResult::kDone;
}

template <class Handle>
Ring RingOf(const Handle& handle) {
  return std::get<0>(HandleAccess::Parts(handle));
}

using Value = std::map<std::string, std::vector<std::optional<int32_t>>>;

void RecordsInAQueue(FuzzInput& input) {
  Queue<Value> queue;
  Ring ring = RingOf(queue);
  while (!input.empty()) {
    MP_CHECK(Put(ring, input.Bytes(input.Below(256))));
    const absl::StatusOr<Value> item = queue.Get(kZero);
    MP_CHECK(item.ok() || absl::IsDataLoss(item.status()));
    MP_CHECK(queue.Empty());
  }
}

// Among those that are sent as they should be, with their descriptors.
void RecordsWithDescriptors(FuzzInput& input) {
  using Item = std::vector<UniqueFd>;
  static const UniqueFd some(dup(STDERR_FILENO));
  Queue<Item> queue;
  Ring ring = RingOf(queue);
  while (!input.empty()) {
    switch (input.Below(3)) {
      case 0:
        Put(ring, input.Bytes(input.Below(64)));
        break;
      case 1: {
        Item item;
        item.emplace_back(dup(some.get()));
        queue.Put(item, kZero).IgnoreError();
        break;
      }
      case 2: {
        const size_t before = queue.qsize();
        const absl::StatusOr<Item> item = queue.Get(kZero);
        MP_CHECK(item.ok() || absl::IsDataLoss(item.status()) || before == 0)
            << item.status().ToString();
        MP_CHECK(queue.qsize() == before - (before > 0 ? 1 : 0));
        break;
      }
    }
  }
}

template <class T>
void Receive(Connection<T>& end, size_t how) {
  const absl::StatusOr<bool> ready = end.Poll();
  absl::Status status;
  std::array<std::byte, 16> buffer;
  switch (how) {
    case 0:
      status = end.Recv(kZero).status();
      break;
    case 1:
      status = end.RecvBytes(kZero).status();
      break;
    case 2:
      status = end.RecvBytes(8, kZero).status();
      break;
    case 3:
      status = end.RecvBytesInto(buffer, kZero).status();
      break;
  }
  MP_CHECK(status.ok() || absl::IsDataLoss(status) ||
           absl::IsInvalidArgument(status) || !ready.ok() || !*ready)
      << status.ToString();
}

void RecordsInAPipe(FuzzInput& input) {
  auto [a, b] = Pipe<Value>();
  Ring ring = *std::get<1>(HandleAccess::Parts(a));
  while (!input.empty()) {
    switch (input.Below(4)) {
      case 0:
        Put(ring, input.Bytes(input.Below(64)));
        break;
      case 1: {  // with a head that is right
        const ipc_internal::Frame frame = {
            .version = ipc_internal::Frame::kVersion,
            .type = input.Bool() ? ipc_internal::TypeMark<Value>()
                                 : ipc_internal::kRawBytes};
        const auto head = std::as_bytes(std::span(&frame, 1));
        std::vector<std::byte> record(head.begin(), head.end());
        const auto body = input.Bytes(input.Below(256));
        record.insert(record.end(), body.begin(), body.end());
        Put(ring, record);
        break;
      }
      default:
        Receive(b, input.Below(4));
    }
  }
}

// ---- Memory

// The contents of a segment, and what lies behind.
class HostileMemory {
 public:
  explicit HostileMemory(std::shared_ptr<Segment> segment, size_t size)
      : segment_(std::move(segment)), bytes_(segment_->data(), size) {}

  // Most programs change a word of what is at the beginning.
  void Step(FuzzInput& input) {
    static constexpr uint32_t kWords[] = {
        0,          1,          2,          3,          4,          10,
        11,         12,         0x1ff,      0x200,      0x201,      0x7fffffff,
        0x80000000, 0x80000001, 0xffffffff, 0xfffffffe, 0x3fffffff, 0x40000000};
    const size_t how = input.Below(6);
    const size_t at = input.Take<uint16_t>();
    switch (how) {
      case 0:
        Store(bytes_, at * 4, kWords[input.Below(std::size(kWords))]);
        break;
      case 1:
        Store(bytes_, at * 4, input.Take<uint32_t>());
        break;
      case 2:
        Store(bytes_, at, input.Take<uint8_t>());
        break;
      case 3: {  // as if it were of another time
        const size_t from = input.Take<uint16_t>() * size_t{8};
        uint64_t word;
        std::memcpy(&word, &bytes_[from % (bytes_.size() - 7)], sizeof(word));
        Store(bytes_, at * 8, word);
        break;
      }
      case 4:
        Store({segment_->ring(), segment_->ring_size()}, at * 8,
              input.Take<uint64_t>());
        break;
      case 5: {  // the spare bytes, wherever they are
        const uint64_t word = input.Take<uint64_t>();
        const auto begin =
            static_cast<size_t>(segment_->ring() - segment_->data()) +
            Segment::kHeaderSize + segment_->ring_size();
        const size_t offset = input.Take<uint32_t>() * uint64_t{8};
        if (segment_->spare_size() == 0) break;
        MP_PCHECK(pwrite(segment_->fd(), &word, sizeof(word),
                         static_cast<off_t>(
                             begin + offset % segment_->spare_size())) > 0);
        break;
      }
    }
  }

 private:
  template <class Word>
  static void Store(std::span<std::byte> into, size_t at, Word word) {
    if (into.size() < sizeof(word)) return;
    std::memcpy(&into[at % (into.size() - sizeof(word) + 1)], &word,
                sizeof(word));
  }

  std::shared_ptr<Segment> segment_;
  std::span<std::byte> bytes_;
};

// Smaller files than it could have, so that no input takes gigabytes.
class SmallFiles {
 public:
  SmallFiles() {
    MP_PCHECK(getrlimit(RLIMIT_FSIZE, &before_) == 0);
    rlimit limit = before_;
    limit.rlim_cur = std::min<rlim_t>(before_.rlim_cur, size_t{8} << 20);
    MP_PCHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  SmallFiles(const SmallFiles&) = delete;
  SmallFiles& operator=(const SmallFiles&) = delete;
  ~SmallFiles() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

}  // namespace

namespace ipc_internal {

struct RingTestPeer {
  static size_t ControlSize() { return sizeof(Ring::Control); }

  // Whether so many bytes lie in the memory of one of the regions.
  static bool Contains(const Ring& ring, const std::byte* at, size_t size) {
    for (uint32_t i = 0; i < ring.regions_; ++i) {
      const std::byte* const begin = ring.mapping_->regions[i].load();
      if (begin == nullptr || at < begin) continue;
      const size_t mapped = 2 * size_t{ring.Capacity(i)} * kBlock;
      const auto offset = static_cast<size_t>(at - begin);
      if (offset <= mapped && size <= mapped - offset) return true;
    }
    return false;
  }

  // Calls `f()`, which changes whatever it likes, but not who has a lock: that
  // a lock is taken from its holder is the one thing that aborts.
  template <class F>
  static void ExceptLocks(Ring& ring, F f) {
    const std::array<std::byte*, 2> at = {
        reinterpret_cast<std::byte*>(&ring.control_->producers.lock),
        reinterpret_cast<std::byte*>(&ring.control_->consumers.lock)};
    std::array<std::array<std::byte, sizeof(InPlaceLock)>, 2> kept;
    for (int i = 0; i < 2; ++i) std::copy_n(at[i], kept[i].size(), &kept[i][0]);
    f();
    for (int i = 0; i < 2; ++i) std::copy_n(&kept[i][0], kept[i].size(), at[i]);
  }
};

}  // namespace ipc_internal

namespace {

std::shared_ptr<Segment> SegmentOf(const Ring& ring) {
  return std::get<0>(HandleAccess::Parts(ring)).segment;
}

HostileMemory MemoryOf(const Ring& ring) {
  return HostileMemory(SegmentOf(ring),
                       ipc_internal::RingTestPeer::ControlSize());
}

// As another process has it, with mappings of its own.
Ring Again(const Ring& ring) {
  return HandleAccess::FromParts<Ring>(std::get<0>(HandleAccess::Parts(ring)));
}

void PutInto(Ring& ring, HostileMemory* meanwhile, FuzzInput& input) {
  const bool large = input.Below(4) == 0;
  const size_t size =
      large ? input.Take<uint32_t>() % (1 << 20) : input.Below(256);
  const size_t what = input.Below(4);
  ring.Put(
      size,
      [&](std::byte* to, uint32_t) {
        MP_CHECK(ipc_internal::RingTestPeer::Contains(ring, to, size));
        std::fill_n(to, size, std::byte{0x77});
        if (meanwhile != nullptr) {
          ipc_internal::RingTestPeer::ExceptLocks(
              ring, [&] { meanwhile->Step(input); });
        }
        return what == 0   ? ipc_internal::FillResult::kAborted
               : what == 1 ? ipc_internal::FillResult::kNoRoom
                           : ipc_internal::FillResult::kFilled;
      },
      kNow);
}

void GetFrom(Ring& ring, HostileMemory* meanwhile, FuzzInput& input) {
  const bool keep = input.Below(4) == 0;
  ring.Get(
      [&](std::span<const std::byte> record, uint32_t) {
        MP_CHECK(ipc_internal::RingTestPeer::Contains(ring, record.data(),
                                                      record.size()));
        if (meanwhile != nullptr) {
          ipc_internal::RingTestPeer::ExceptLocks(
              ring, [&] { meanwhile->Step(input); });
        }
        // Looks at all of it.
        const auto ones =
            std::count(record.begin(), record.end(), std::byte{1});
        return ones >= 0 && !keep;
      },
      kNow);
}

void UseRing(Ring& ring, HostileMemory& memory, FuzzInput& input) {
  switch (input.Below(14)) {
    case 0:
    case 1:
      PutInto(ring, nullptr, input);
      break;
    case 2:
    case 3:
      GetFrom(ring, nullptr, input);
      break;
    case 4:
      ring.size();
      ring.gotten();
      ring.closed();
      ring.max_records();
      ring.reserved_bytes();
      ring.producer();
      ring.consumer();
      break;
    case 5:
      ring.SpinForRecord();
      break;
    case 6:
      ring.AwaitRecord(kNow, [](WatchList&) { return true; });
      ring.WaitForRecord([] { return true; }, kNow);
      break;
    case 7:
      ring.WhileNoGet([] {}, kNow);
      ring.LowerSignal([] {}, kNow);
      break;
    case 8:
      ring.Leave(Liveness::Self());
      ring.SetProducer(Liveness::Self(), ring.departures());
      ring.SetConsumer(Liveness::Self(), ring.departures());
      break;
    case 9:
      ring = Again(ring);
      break;
    case 12:
      PutInto(ring, &memory, input);
      break;
    case 13:
      GetFrom(ring, &memory, input);
      break;
    default:
      memory.Step(input);
  }
}

void MemoryOfARing(FuzzInput& input) {
  const SmallFiles small;
  static constexpr RingGrowth kGrowth[] = {
      RingGrowth::kNone, RingGrowth::kForLargeRecords, RingGrowth::kUnlimited};
  Ring first = ValueOrDie(
      Ring::Create({.name = "fuzzed",
                    .capacity_bytes = size_t{4096} << input.Below(4),
                    .growth = kGrowth[input.Below(std::size(kGrowth))],
                    .large_bytes = 65536,
                    .max_records = static_cast<uint32_t>(input.Below(4))}));
  MP_CHECK(first.valid());
  Ring second = Again(first);
  HostileMemory memory = MemoryOf(first);
  const Patience patience;
  while (!input.empty() && !patience.gone()) {
    UseRing(input.Bool() ? first : second, memory, input);
  }
}

void MemoryOfAPipe(FuzzInput& input) {
  const SmallFiles small;
  auto [a, b] = Pipe<std::string>(/*duplex=*/input.Bool());
  HostileMemory memory = MemoryOf(*std::get<0>(HandleAccess::Parts(a)));
  const Patience patience;
  while (!input.empty() && !patience.gone()) {
    switch (input.Below(6)) {
      case 0:
        b.Send(std::string(input.Below(256) * 16, 'x'), kZero).IgnoreError();
        break;
      case 1:
        a.Recv(kZero).IgnoreError();
        break;
      case 2:
        a.Poll().IgnoreError();
        break;
      case 3:
        a.fileno().IgnoreError();
        break;
      default:
        memory.Step(input);
    }
  }
}

void MemoryOfAJoinableQueue(FuzzInput& input) {
  const SmallFiles small;
  JoinableQueue<int> queue;
  const auto [inner, accounts] = HandleAccess::Parts(queue);
  HostileMemory ring = MemoryOf(RingOf(inner));
  const auto state = std::get<0>(HandleAccess::Parts(accounts));
  const std::span<std::byte> bytes =
      std::as_writable_bytes(std::span(state.get(), 1));
  const Patience patience;
  bool may_wait = true;
  while (!input.empty() && !patience.gone()) {
    switch (input.Below(6)) {
      case 0:
        queue.Put(1, kZero).IgnoreError();
        break;
      case 1:
        queue.Get(kZero).IgnoreError();
        break;
      case 2:
        // Who is to say that the holder of a lock will never release it?
        if (may_wait) queue.TaskDone().IgnoreError();
        break;
      case 3:
        queue.Join(kZero).IgnoreError();
        break;
      case 4:
        ring.Step(input);
        may_wait = false;
        break;
      case 5: {
        const auto what = input.Take<uint64_t>();
        const size_t at = input.Take<uint16_t>() % (bytes.size() / 8);
        std::memcpy(&bytes[at * 8], &what, sizeof(what));
        break;
      }
    }
  }
}

// The inputs in the corpus name these by number: add at the end.
constexpr void (*kSubjects[])(FuzzInput&) = {
    RecordsInAQueue, RecordsWithDescriptors, RecordsInAPipe,
    MemoryOfARing,   MemoryOfAPipe,          MemoryOfAJoinableQueue,
};

}  // namespace
}  // namespace mp

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mp::testing::FuzzInput input(data, size);
  mp::kSubjects[input.Below(std::size(mp::kSubjects))](input);
  return 0;
}
