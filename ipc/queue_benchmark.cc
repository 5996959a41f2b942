// queue_<P>p<C>c/<size>/*: P processes put and C processes get messages of that
// size; time per message of all of them together, as many on the way as there
// is room for.
// queue_<P>p<C>c_blocked/64/mp: the same without spinning. All others but the
// floor do not spin anyway.
// queue_put_get/64/mp: one process puts a message and gets it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/testing/gang.h"

namespace mp::ipc_benchmark {
namespace {

struct Ladder {
  int producers;
  int consumers;

  std::string Name() const {
    return "queue_" + std::to_string(producers) + "p" +
           std::to_string(consumers) + "c";
  }
};
constexpr Ladder kOneToOne = {1, 1};
constexpr Ladder kLadders[] = {{1, 1}, {4, 1}, {1, 4}, {2, 2}, {4, 4}};

// Divisible by the producers and the consumers of all ladders.
constexpr int64_t kRound = 4;

enum class Waiting { kSpinning, kAsleep };

template <class T, size_t kSize>
void Transfer(benchmark::State& state, Ladder ladder, Waiting waiting) {
  if (!T::Available()) {
    state.SkipWithError(kNoneHere);
    return;
  }
  std::optional<WithoutSpinning> without_spinning;
  if (waiting == Waiting::kAsleep) without_spinning.emplace();
  T queue;
  testing::Gang gang(
      ladder.producers + ladder.consumers, [&](int member, int64_t messages) {
        auto message = MakeMessage<kSize>();
        if (member < ladder.producers) {
          for (int64_t i = 0; i < messages / ladder.producers; ++i) {
            message[0] = static_cast<char>(i);
            queue.Put(message);
          }
        } else {
          for (int64_t i = 0; i < messages / ladder.consumers; ++i) {
            queue.Get(message);
            benchmark::DoNotOptimize(message.data());
            // With one of each, they come in order.
            MP_CHECK(ladder.producers > 1 || ladder.consumers > 1 ||
                     message[0] == static_cast<char>(i));
          }
        }
      });
  // The memory comes: that of the messages on the way, and of each process.
  gang.Run(2 * kRound);
  // All iterations, which are messages, in one go: as many as take the wanted
  // time, but for the first few tries.
  const auto messages = static_cast<int64_t>(state.max_iterations);
  const int64_t rounded = (messages + kRound - 1) / kRound * kRound;
  while (state.KeepRunningBatch(messages)) {
    const double seconds = gang.Run(rounded);
    state.SetIterationTime(seconds * static_cast<double>(messages) /
                           static_cast<double>(rounded));
  }
}

template <class T>
void PutGet(benchmark::State& state) {
  T queue;
  auto message = MakeMessage<64>();
  for (auto _ : state) {
    benchmark::DoNotOptimize(message);
    queue.Put(message);
    queue.Get(message);
  }
}

// Arguments: producers, consumers, bytes. Reads the number of messages, answers
// with the nanoseconds from the first one's beginning to the last one's end.
constexpr char kPythonQueue[] = R"(
import multiprocessing
import sys
import time

producers, consumers, size = map(int, sys.argv[1:])
context = multiprocessing.get_context("fork")
queue = context.Queue()
barrier = context.Barrier(producers + consumers)

def work(control, produces):
    message = bytes(size)
    while (messages := control.recv()) is not None:
        barrier.wait()
        begin = time.monotonic_ns()
        for _ in range(messages):
            if produces:
                queue.put(message)
            else:
                queue.get()
        control.send((begin, time.monotonic_ns()))

workers = []
for i in range(producers + consumers):
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs, i < producers))
    worker.start()
    workers.append((ours, worker, producers if i < producers else consumers))
for line in sys.stdin:
    # As many for each, so rounded up.
    rounds = -(-int(line) // (producers * consumers))
    messages = rounds * producers * consumers
    for control, _, members in workers:
        control.send(messages // members)
    times = [control.recv() for control, _, _ in workers]
    nanos = max(end for _, end in times) - min(begin for begin, _ in times)
    print(nanos * int(line) // messages, flush=True)
for control, worker, _ in workers:
    control.send(None)
    worker.join()
)";

template <class T, size_t kSize>
void Register(Ladder ladder, const std::string& implementation,
              Waiting waiting = Waiting::kSpinning) {
  const char* const suffix = waiting == Waiting::kAsleep ? "_blocked" : "";
  benchmark::RegisterBenchmark(
      (ladder.Name() + suffix + "/" + SizeName(kSize) + "/" + implementation)
          .c_str(),
      [=](benchmark::State& state) {
        Transfer<T, kSize>(state, ladder, waiting);
      })
      ->UseManualTime();
}

// What takes any number of processes.
template <size_t kSize>
void RegisterAll(Ladder ladder) {
  Register<MpQueue<kSize>, kSize>(ladder, "mp");
  if (ladder.producers == 1 && ladder.consumers == 1) {
    Register<RingFloor<kSize>, kSize>(ladder, "floor");
  }
  Register<Peer<Pipe, kSize>, kSize>(ladder, "pipe");
  Register<Peer<SocketPair, kSize>, kSize>(ladder, "socketpair");
  Register<Peer<PosixMq, kSize>, kSize>(ladder, "posix_mq");
#ifdef MP_HAVE_BOOST
  Register<Peer<BoostQueue, kSize>, kSize>(ladder, "boost");
#endif
  benchmark::RegisterBenchmark(
      (ladder.Name() + "/" + SizeName(kSize) + "/python").c_str(),
      [ladder](benchmark::State& state) {
        RunPython(state, kPythonQueue,
                  {std::to_string(ladder.producers),
                   std::to_string(ladder.consumers), std::to_string(kSize)},
                  PythonTimes::kTotal);
      })
      ->UseManualTime();
}

}  // namespace
}  // namespace mp::ipc_benchmark

int main(int argc, char** argv) {
  using namespace mp::ipc_benchmark;  // NOLINT
  ForEachSize([]<size_t kSize>() {
    RegisterAll<kSize>(kOneToOne);
    if (!kSmall<kSize>) {
      Register<GrowingMpQueue<kSize>, kSize>(kOneToOne, "mp_growing");
    }
  });
  for (const Ladder& ladder : kLadders) {
    if (ladder.producers + ladder.consumers > 2) RegisterAll<64>(ladder);
    Register<MpQueue<64>, 64>(ladder, "mp", Waiting::kAsleep);
  }
  benchmark::RegisterBenchmark("queue_put_get/64/mp", PutGet<MpQueue<64>>);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
