// queue_<P>p<C>c/<size>/*: P processes put and C processes get messages of that
// size; time per message of all of them together, as many on the way as there
// is room for.
// queue_<P>p<C>c_blocked/64/mp: the same without spinning. The others, but for
// the floor and Boost's locks, do not spin anyway.
// .../mp_growing: a queue without a limit to its memory.
// queue_put_get/64/mp: one process puts a message and gets it.

#include <cstddef>
#include <cstdint>
#include <string>

#include "benchmark/benchmark.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/ipc/message_loops_benchmark_util.h"

namespace mp::ipc_benchmark {
namespace {

constexpr Ladder kLadders[] = {{1, 1}, {4, 1}, {1, 4}, {2, 2}, {4, 4}};

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
    worker = context.Process(target=work, args=(theirs, i < producers),
                             daemon=True)
    worker.start()
    theirs.close()
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
void RegisterTransfer(Ladder ladder, const std::string& implementation,
                      Waiting waiting = Waiting::kRunning) {
  Register(BenchmarkName(ladder.Name(), waiting, kSize, implementation),
           [=](benchmark::State& state) {
             Transfer<T, kSize>(state, ladder, waiting);
           });
}

template <size_t kSize>
void RegisterAll(Ladder ladder) {
  RegisterTransfer<MpQueue<kSize>, kSize>(ladder, "mp");
  if (ladder.IsOneToOne()) {
    RegisterTransfer<RingFloor<kSize>, kSize>(ladder, "floor");
  }
  RegisterTransfer<Peer<Pipe, kSize>, kSize>(ladder, "pipe");
  RegisterTransfer<Peer<SocketPair, kSize>, kSize>(ladder, "socketpair");
  RegisterTransfer<Peer<PosixMq, kSize>, kSize>(ladder, "posix_mq");
#ifdef MP_HAVE_BOOST
  RegisterTransfer<Peer<BoostQueue, kSize>, kSize>(ladder, "boost");
#endif
  RegisterPython(
      BenchmarkName(ladder.Name(), Waiting::kRunning, kSize, "python"),
      kPythonQueue,
      {std::to_string(ladder.producers), std::to_string(ladder.consumers),
       std::to_string(kSize)},
      PythonTimes::kTotal);
}

}  // namespace
}  // namespace mp::ipc_benchmark

int main(int argc, char** argv) {
  using namespace mp::ipc_benchmark;  // NOLINT
  ForEachSize([]<size_t kSize>() {
    RegisterAll<kSize>(kLadders[0]);
    if (!kSmall<kSize>) {
      RegisterTransfer<GrowingMpQueue<kSize>, kSize>(kLadders[0], "mp_growing");
    }
  });
  for (const Ladder& ladder : kLadders) {
    if (!ladder.IsOneToOne()) RegisterAll<64>(ladder);
    RegisterTransfer<MpQueue<64>, 64>(ladder, "mp", Waiting::kAsleep);
  }
  benchmark::RegisterBenchmark("queue_put_get/64/mp", PutGet<MpQueue<64>>);
  return RunRegistered(argc, argv);
}
