// What the benchmarks of queues and pipes share: messages of all sizes, and
// what to compare with.
//
// A channel passes messages of kSize bytes one way. It is made before the
// processes that use it, any number of them on both sides unless it says
// otherwise, and has:
//
//   static bool Available();           // whether this system has it
//   void Put(const Message<kSize>&);   // waits for room
//   void Get(Message<kSize>&);         // waits for a message
//
// Failures abort.

#ifndef MP_IPC_MESSAGE_BENCHMARK_UTIL_H_
#define MP_IPC_MESSAGE_BENCHMARK_UTIL_H_

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/spin.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/queue.h"
#include "mp/testing/shared_page.h"

// A peer only where it is installed.
#if __has_include(<boost/interprocess/ipc/message_queue.hpp>)
#define MP_HAVE_BOOST 1
#endif

namespace mp::ipc_benchmark {

inline constexpr size_t kKiB = size_t{1} << 10;
inline constexpr size_t kMiB = size_t{1} << 20;

// Calls `f.operator()<kSize>()` with each size of the sweep.
template <class F>
void ForEachSize(F f) {
  f.template operator()<8>();
  f.template operator()<64>();
  f.template operator()<512>();
  f.template operator()<4 * kKiB>();
  f.template operator()<64 * kKiB>();
  f.template operator()<kMiB>();
  f.template operator()<4 * kMiB>();
}

// 64, 4KiB, 1MiB
std::string SizeName(size_t size);

// Small ones are passed by value, large ones on the heap.
template <size_t kSize>
inline constexpr bool kSmall = kSize <= 4 * kKiB;
template <size_t kSize>
using Message =
    std::conditional_t<kSmall<kSize>, std::array<char, kSize>, std::string>;

template <size_t kSize>
Message<kSize> MakeMessage() {
  if constexpr (kSmall<kSize>) {
    return {};
  } else {
    return std::string(kSize, '\0');
  }
}

// Room for messages on the way, where one can choose: enough for a few, and for
// small ones no more than the caches hold.
template <size_t kSize>
inline constexpr size_t kRoomBytes = std::max(kMiB, 4 * kSize);

// A wait in a spin loop. Where the other side has no processor of its own, it
// would otherwise wait for a whole time slice.
inline void PauseInSpin(int rounds, int pauses) {
  if (rounds < 1000) {
    for (int i = 0; i < pauses; ++i) CpuRelax();
  } else {
    sched_yield();
  }
}

// ---- Ours

template <size_t kSize>
class MpQueue {
 public:
  // With a limit, as the others have.
  explicit MpQueue(QueueOptions options = {.capacity_bytes = kRoomBytes<kSize>})
      : queue_(options) {}

  static bool Available() { return true; }
  void Put(const Message<kSize>& message) { MP_CHECK_OK(queue_.Put(message)); }
  void Get(Message<kSize>& message) {
    absl::StatusOr<Message<kSize>> got = queue_.Get();
    MP_CHECK(got.ok()) << got.status().ToString();
    message = *std::move(got);
  }

 private:
  Queue<Message<kSize>> queue_;
};

// As one that is made without options, whose memory comes and goes; but with a
// limit to the messages, or it would measure how far the producer runs ahead.
template <size_t kSize>
class GrowingMpQueue : public MpQueue<kSize> {
 public:
  GrowingMpQueue() : MpQueue<kSize>({.maxsize = 4}) {}
};

// ---- The least

// The least that a queue can be: fixed slots, one producer, one consumer, no
// sleeping, no deaths; a message is copied in and out. Each looks at the
// other's index only if the value seen last does not suffice, and then again
// after so many pauses. With 32, several messages gather, which halves the time
// for each (measured with 1, 8, 32 and 128); with 1, each is seen soonest.
template <size_t kSize, int kPauses = 32>
class RingFloor {
 public:
  static bool Available() { return true; }

  void Put(const Message<kSize>& message) {
    Side& self = shared_->producer;
    const uint64_t index = self.index.load(std::memory_order_relaxed);
    int rounds = 0;
    while (index - self.other == kSlots) {
      self.other = shared_->consumer.index.load(std::memory_order_acquire);
      if (index - self.other == kSlots) PauseInSpin(rounds++, kPauses);
    }
    memcpy(shared_->slots[index % kSlots], message.data(), kSize);
    self.index.store(index + 1, std::memory_order_release);
  }

  void Get(Message<kSize>& message) {
    Side& self = shared_->consumer;
    const uint64_t index = self.index.load(std::memory_order_relaxed);
    int rounds = 0;
    while (index == self.other) {
      self.other = shared_->producer.index.load(std::memory_order_acquire);
      if (index == self.other) PauseInSpin(rounds++, kPauses);
    }
    memcpy(message.data(), shared_->slots[index % kSlots], kSize);
    self.index.store(index + 1, std::memory_order_release);
  }

 private:
  static constexpr uint64_t kSlots =
      std::min<uint64_t>(1024, kRoomBytes<kSize> / kSize);

  struct alignas(64) Side {
    std::atomic<uint64_t> index{0};
    uint64_t other = 0;  // the other side's index, as seen last
  };
  struct Shared {
    Side producer;
    Side consumer;
    alignas(64) char slots[kSlots][kSize];
  };

  testing::SharedPage<Shared> shared_;
};

// ---- The others. Each is a class of channels for messages of any size, which
// Peer<> makes one for messages of kSize bytes.

template <class Channel, size_t kSize>
class Peer {
 public:
  static bool Available() { return Channel::Available(kSize); }
  void Put(const Message<kSize>& message) {
    channel_.Put(message.data(), kSize);
  }
  void Get(Message<kSize>& message) { channel_.Get(message.data(), kSize); }

 private:
  Channel channel_{kSize, kRoomBytes<kSize>};
};

// All of it, in as many calls as that takes.
void WriteAll(int fd, const char* data, size_t size);
void ReadAll(int fd, char* data, size_t size);

// Those up to 4096 bytes are neither split nor mixed by the kernel. With larger
// ones it has one producer and one consumer.
class Pipe {
 public:
  Pipe(size_t size, size_t room);
  static bool Available(size_t) { return true; }
  void Put(const char* data, size_t size) {
    WriteAll(writer_.get(), data, size);
  }
  void Get(char* data, size_t size) { ReadAll(reader_.get(), data, size); }

 private:
  UniqueFd reader_, writer_;
};

// A stream, which takes messages of any size. For processes as a pipe. Both
// ends send and receive; as a channel, end 0 sends to end 1.
class SocketPair {
 public:
  SocketPair(size_t size, size_t room);
  static bool Available(size_t) { return true; }
  void Put(const char* data, size_t size) { WriteAll(end(0), data, size); }
  void Get(char* data, size_t size) { ReadAll(end(1), data, size); }
  int end(int side) const { return ends_[side].get(); }

 private:
  std::array<UniqueFd, 2> ends_;
};

// With ten messages on the way, as many as one gets without privileges.
class PosixMq {
 public:
  PosixMq(size_t size, size_t room);
  static bool Available(size_t size) { return Open(size).valid(); }
  void Put(const char* data, size_t size);
  void Get(char* data, size_t size);

 private:
  static UniqueFd Open(size_t size);

  UniqueFd queue_;  // descriptors, on Linux
};

#ifdef MP_HAVE_BOOST
// Boost.Interprocess's message_queue.
class BoostQueue {
 public:
  BoostQueue(size_t size, size_t room);
  ~BoostQueue();
  static bool Available(size_t) { return true; }
  void Put(const char* data, size_t size);
  void Get(char* data, size_t size);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
#endif

// ---- Running and results

// Whether both sides are running, or asleep when a message comes. What uses the
// kernel's means does not spin, and is asleep in either case.
enum class Waiting { kRunning, kAsleep };

// While one of these lives, mp's waiters in this process, and in those that it
// forks meanwhile, spin or do not spin for the other side.
class SetWaiting {
 public:
  explicit SetWaiting(Waiting waiting) {
    SetAvailableProcessorsForTest(waiting == Waiting::kAsleep ? 1 : 0);
  }
  SetWaiting(const SetWaiting&) = delete;
  SetWaiting& operator=(const SetWaiting&) = delete;
  ~SetWaiting() { SetAvailableProcessorsForTest(0); }
};

inline constexpr char kNoneHere[] = "skipped: the system has none";

// operation/64/implementation, or operation_blocked/64/implementation.
std::string BenchmarkName(const std::string& operation, Waiting waiting,
                          size_t size, const std::string& implementation);

// Of one that measures its time itself, and runs all of max_iterations in one
// go: as many as take the wanted time, but for the first few tries.
void Register(const std::string& name,
              std::function<void(benchmark::State&)> run);
int RunRegistered(int argc, char** argv);

// Adds the percentiles of the nanoseconds in `samples` to what is reported.
void ReportPercentiles(benchmark::State& state, std::vector<int64_t> samples);

// Samples that one of the processes records: enough for one in a thousand.
struct Samples {
  static constexpr int64_t kMax = 100'000;
  int64_t nanos[kMax];

  std::vector<int64_t> First(int64_t count) const {
    return std::vector<int64_t>(nanos, nanos + count);
  }
};

// What a Python program answers with: the time of all messages together, or
// that of each.
enum class PythonTimes { kTotal, kEach };

// A program for mp/testing/python_peer.h, which reads how many messages.
void RegisterPython(const std::string& name, const std::string& script,
                    const std::vector<std::string>& args, PythonTimes times);

}  // namespace mp::ipc_benchmark

#endif  // MP_IPC_MESSAGE_BENCHMARK_UTIL_H_
