// queue_<P>p<C>c/64/*: P processes put and C processes get messages of 64
// bytes; time per message of all of them together.
// queue_put_get/64/mp: one process puts a message and gets it.

#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <type_traits>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/spin.h"
#include "mp/ipc/queue.h"
#include "mp/testing/gang.h"

// A peer only where it is installed.
#if __has_include(<boost/interprocess/ipc/message_queue.hpp>)
#include <boost/interprocess/ipc/message_queue.hpp>
#define MP_HAVE_BOOST 1
#endif

namespace {

using Item = std::array<char, 64>;

// The kinds of queues. Each is made before the processes that use it.

class Mp {
 public:
  static bool Available() { return true; }
  void Put(const Item& item) { MP_CHECK_OK(queue_.Put(item)); }
  Item Get() {
    const absl::StatusOr<Item> item = queue_.Get();
    MP_CHECK(item.ok()) << item.status().ToString();
    return *item;
  }

 private:
  // With a limit, as the others have.
  mp::Queue<Item> queue_{mp::QueueOptions{.capacity_bytes = size_t{1} << 20}};
};

// The least that a queue can be: fixed slots, one producer, one consumer, no
// sleeping, no deaths. Each looks at the other's index only if the value seen
// last does not suffice.
class Floor {
 public:
  Floor() {
    void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MP_PCHECK(memory != MAP_FAILED) << "mmap";
    shared_ = new (memory) Shared;
  }
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;
  ~Floor() { munmap(shared_, sizeof(Shared)); }

  static bool Available() { return true; }

  void Put(const Item& item) {
    Side& self = shared_->producer;
    const uint64_t index = self.index.load(std::memory_order_relaxed);
    int rounds = 0;
    while (index - self.other == kSlots) {
      self.other = shared_->consumer.index.load(std::memory_order_acquire);
      if (index - self.other == kSlots) Pause(rounds++);
    }
    shared_->slots[index % kSlots] = item;
    self.index.store(index + 1, std::memory_order_release);
  }

  Item Get() {
    Side& self = shared_->consumer;
    const uint64_t index = self.index.load(std::memory_order_relaxed);
    int rounds = 0;
    while (index == self.other) {
      self.other = shared_->producer.index.load(std::memory_order_acquire);
      if (index == self.other) Pause(rounds++);
    }
    const Item item = shared_->slots[index % kSlots];
    self.index.store(index + 1, std::memory_order_release);
    return item;
  }

 private:
  static constexpr uint64_t kSlots = 1024;

  struct alignas(64) Side {
    std::atomic<uint64_t> index{0};
    uint64_t other = 0;  // the other side's index, as seen last
  };
  struct Shared {
    Side producer;
    Side consumer;
    alignas(64) Item slots[kSlots];
  };

  // Long enough for several items to gather, which halves the time for each
  // (measured with 1, 8, 32 and 128 pauses). Where the other one has no
  // processor, it would wait for a whole time slice.
  static void Pause(int rounds) {
    if (rounds < 1000) {
      for (int i = 0; i < 32; ++i) mp::CpuRelax();
    } else {
      sched_yield();
    }
  }

  Shared* shared_;
};

class Pipe {
 public:
  Pipe() { MP_PCHECK(pipe2(ends_, O_CLOEXEC) == 0) << "pipe2"; }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close(ends_[0]);
    close(ends_[1]);
  }

  static bool Available() { return true; }
  // Whole messages: the kernel neither splits nor mixes writes of this size.
  void Put(const Item& item) {
    MP_PCHECK(write(ends_[1], item.data(), item.size()) == kSize) << "write";
  }
  Item Get() {
    Item item;
    MP_PCHECK(read(ends_[0], item.data(), item.size()) == kSize) << "read";
    return item;
  }

 private:
  static constexpr ssize_t kSize = sizeof(Item);
  int ends_[2];
};

std::string NameForNow() {
  return "/mp-queue-benchmark-" + std::to_string(getpid());
}

class PosixMq {
 public:
  PosixMq() : queue_(Open()) { MP_PCHECK(queue_ >= 0) << "mq_open"; }
  PosixMq(const PosixMq&) = delete;
  PosixMq& operator=(const PosixMq&) = delete;
  ~PosixMq() { mq_close(queue_); }

  static bool Available() {
    const mqd_t queue = Open();
    if (queue >= 0) mq_close(queue);
    return queue >= 0;
  }
  void Put(const Item& item) {
    MP_PCHECK(mq_send(queue_, item.data(), item.size(), 0) == 0) << "mq_send";
  }
  Item Get() {
    Item item;
    const ssize_t size = mq_receive(queue_, item.data(), item.size(), nullptr);
    MP_PCHECK(size == sizeof(Item)) << "mq_receive";
    return item;
  }

 private:
  static mqd_t Open() {
    mq_attr attributes = {};
    attributes.mq_maxmsg = 10;  // more takes a privilege
    attributes.mq_msgsize = sizeof(Item);
    const std::string name = NameForNow();
    const mqd_t queue = mq_open(
        name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600, &attributes);
    if (queue >= 0) mq_unlink(name.c_str());
    return queue;
  }

  mqd_t queue_;
};

#ifdef MP_HAVE_BOOST
class Boost {
 public:
  Boost()
      : queue_(boost::interprocess::create_only, NameForNow().c_str(), 1024,
               sizeof(Item)) {
    boost::interprocess::message_queue::remove(NameForNow().c_str());
  }

  static bool Available() { return true; }
  void Put(const Item& item) { queue_.send(item.data(), item.size(), 0); }
  Item Get() {
    Item item;
    size_t size = 0;
    unsigned priority = 0;
    queue_.receive(item.data(), item.size(), size, priority);
    MP_CHECK(size == sizeof(Item)) << size;
    return item;
  }

 private:
  boost::interprocess::message_queue queue_;
};
#endif

template <class T>
void Transfer(benchmark::State& state, int pairs) {
  if (!T::Available()) {
    state.SkipWithError("skipped: the system has none");
    return;
  }
  T queue;
  mp::testing::Gang gang(2 * pairs, [&](int member, int64_t messages) {
    if (member < pairs) {
      Item item = {};
      for (int64_t i = 0; i < messages; ++i) {
        item[0] = static_cast<char>(i);
        queue.Put(item);
      }
    } else {
      for (int64_t i = 0; i < messages; ++i) {
        const Item item = queue.Get();
        benchmark::DoNotOptimize(item);
        // With one of each, they come in order.
        MP_CHECK(pairs > 1 || item[0] == static_cast<char>(i));
      }
    }
  });
  // All iterations, which are messages, in one go: as many as take the wanted
  // time, but for the first few tries.
  const auto messages = static_cast<int64_t>(state.max_iterations);
  const int64_t each = (messages + pairs - 1) / pairs;
  while (state.KeepRunningBatch(messages)) {
    const double seconds = gang.Run(each);
    state.SetIterationTime(seconds * static_cast<double>(messages) /
                           static_cast<double>(each * pairs));
  }
}

template <class T>
void PutGet(benchmark::State& state) {
  T queue;
  Item item = {};
  for (auto _ : state) {
    benchmark::DoNotOptimize(item);
    queue.Put(item);
    item = queue.Get();
  }
}

template <class T>
void Register(const std::string& implementation) {
  for (const int pairs : {1, 2, 4}) {
    if (pairs > 1 && std::is_same_v<T, Floor>) continue;
    const std::string count = std::to_string(pairs);
    benchmark::RegisterBenchmark(
        ("queue_" + count + "p" + count + "c/64/" + implementation).c_str(),
        [pairs](benchmark::State& state) { Transfer<T>(state, pairs); })
        ->UseManualTime();
  }
}

}  // namespace

int main(int argc, char** argv) {
  Register<Mp>("mp");
  Register<Floor>("floor");
  Register<Pipe>("pipe");
  Register<PosixMq>("posix_mq");
#ifdef MP_HAVE_BOOST
  Register<Boost>("boost");
#endif
  benchmark::RegisterBenchmark("queue_put_get/64/mp", PutGet<Mp>);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
