// queue_latency/64/*: from the moment before one process puts a message of 64
// bytes until the other has got it; both are running, and the queue is empty.
// queue_latency_blocked/64/*: the same where both have slept for a while: mp
// without spinning, and the kernel's own means, which do not spin.
//
// The time is the mean of the samples that the percentiles are of. It includes
// that of reading the clock, some tens of nanoseconds.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "mp/base/deadline.h"
#include "mp/base/spin.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/testing/gang.h"
#include "mp/testing/shared_page.h"

namespace mp::ipc_benchmark {
namespace {

constexpr size_t kSize = 64;

// Between two messages: long enough for the consumer to be back at the queue,
// and in the other case asleep.
constexpr int64_t kRunningNanos = 1'000;
constexpr int64_t kAsleepNanos = 100'000;

// Also if a few that were held up have taken the wanted time.
constexpr int64_t kMinSamples = 1'000;
// As many take a second or so.
constexpr int64_t kMaxAsleep = 5'000;

struct Recorder {
  alignas(64) std::atomic<int64_t> gotten{0};
  Samples samples;
};

void Pause(Waiting waiting) {
  if (waiting == Waiting::kAsleep) {
    absl::SleepFor(absl::Nanoseconds(kAsleepNanos));
    return;
  }
  const int64_t end = MonotonicNanos() + kRunningNanos;
  while (MonotonicNanos() < end) CpuRelax();
}

template <class T>
void Latency(benchmark::State& state, Waiting waiting) {
  if (!T::Available()) {
    state.SkipWithError(kNoneHere);
    return;
  }
  const SetWaiting set_waiting(waiting);
  T queue;
  testing::SharedPage<Recorder> recorder;
  testing::Gang gang(2, [&](int member, int64_t messages) {
    auto message = MakeMessage<kSize>();
    for (int64_t i = 0; i < messages; ++i) {
      if (member == 0) {
        for (int rounds = 0; recorder->gotten != i;) PauseInSpin(rounds++, 1);
        Pause(waiting);
        const int64_t begin = MonotonicNanos();
        memcpy(message.data(), &begin, sizeof(begin));
        queue.Put(message);
      } else {
        queue.Get(message);
        const int64_t end = MonotonicNanos();
        int64_t begin;
        memcpy(&begin, message.data(), sizeof(begin));
        recorder->samples.nanos[i] = end - begin;
        recorder->gotten = i + 1;
      }
    }
  });
  const auto measure = [&](int64_t count) {
    recorder->gotten = 0;
    gang.Run(count);
    return recorder->samples.First(count);
  };
  measure(2);  // the memory comes
  const auto messages = static_cast<int64_t>(state.max_iterations);
  const int64_t measured =
      std::clamp(messages, kMinSamples,
                 waiting == Waiting::kAsleep ? kMaxAsleep : Samples::kMax);
  std::vector<int64_t> samples;
  while (state.KeepRunningBatch(messages)) {
    samples = measure(measured);
    double total = 0;
    for (const int64_t nanos : samples) total += static_cast<double>(nanos);
    state.SetIterationTime(total * 1e-9 * static_cast<double>(messages) /
                           static_cast<double>(measured));
  }
  ReportPercentiles(state, std::move(samples));
}

// Arguments: bytes, nanoseconds between messages. Reads the number of messages,
// answers with the nanoseconds that each took.
constexpr char kPythonLatency[] = R"(
import multiprocessing
import sys
import time

size, pause = map(int, sys.argv[1:])
context = multiprocessing.get_context("fork")
queue = context.Queue()
ours, theirs = context.Pipe()

def consume():
    while (message := queue.get()) is not None:
        end = time.monotonic_ns()
        theirs.send(end - int.from_bytes(message[:8], "little"))

consumer = context.Process(target=consume, daemon=True)
consumer.start()
theirs.close()
for line in sys.stdin:
    nanos = []
    for _ in range(int(line)):
        time.sleep(pause / 1e9)
        begin = time.monotonic_ns()
        queue.put(begin.to_bytes(8, "little") + bytes(size - 8))
        nanos.append(ours.recv())
    print(*nanos, flush=True)
queue.put(None)
consumer.join()
)";

template <class T>
void RegisterLatency(const std::string& implementation, Waiting waiting) {
  Register(BenchmarkName("queue_latency", waiting, kSize, implementation),
           [=](benchmark::State& state) { Latency<T>(state, waiting); });
}

}  // namespace
}  // namespace mp::ipc_benchmark

int main(int argc, char** argv) {
  using namespace mp::ipc_benchmark;  // NOLINT
  RegisterLatency<RingFloor<kSize, 1>>("floor", Waiting::kRunning);
  for (const Waiting waiting : {Waiting::kRunning, Waiting::kAsleep}) {
    RegisterLatency<MpQueue<kSize>>("mp", waiting);
    RegisterLatency<Peer<Pipe, kSize>>("pipe", waiting);
    RegisterLatency<Peer<SocketPair, kSize>>("socketpair", waiting);
    RegisterLatency<Peer<PosixMq, kSize>>("posix_mq", waiting);
#ifdef MP_HAVE_BOOST
    RegisterLatency<Peer<BoostQueue, kSize>>("boost", waiting);
#endif
  }
  // Its consumer always sleeps.
  RegisterPython(
      BenchmarkName("queue_latency", Waiting::kAsleep, kSize, "python"),
      kPythonLatency, {std::to_string(kSize), std::to_string(kAsleepNanos)},
      PythonTimes::kEach);
  return RunRegistered(argc, argv);
}
