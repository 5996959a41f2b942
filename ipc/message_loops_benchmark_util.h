// The loops of the benchmarks of queues and pipes, which peers run as well:
// messages to another process and back, and messages one way.
//
// A pipe passes messages of kSize bytes both ways. It is made before the two
// processes that use it, side 0 and side 1, and has:
//
//   void Send(int side, const Message<kSize>&);
//   void Recv(int side, Message<kSize>&);
//
// For a queue see mp/ipc/message_benchmark_util.h, which calls it a channel.
// Either may have `static void Leave()`, which each process calls in the end;
// otherwise the processes are killed.

#ifndef MP_IPC_MESSAGE_LOOPS_BENCHMARK_UTIL_H_
#define MP_IPC_MESSAGE_LOOPS_BENCHMARK_UTIL_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/testing/gang.h"
#include "mp/testing/shared_page.h"

namespace mp::ipc_benchmark {

template <class T>
std::function<void()> LeaveOf() {
  if constexpr (requires { T::Leave(); }) {
    return T::Leave;
  } else {
    return nullptr;
  }
}

// ---- There and back

// Shared by both sides.
struct Recorder {
  std::atomic<bool> records{false};
  Samples samples;
};

// Time of a round trip; the percentiles are of others, recorded one by one.
template <class T, size_t kSize>
void RoundTrip(benchmark::State& state, Waiting waiting) {
  const SetWaiting set_waiting(waiting);
  T pipe;
  testing::SharedPage<Recorder> recorder;
  testing::Gang gang(
      2,
      [&](int side, int64_t times) {
        auto message = MakeMessage<kSize>();
        if (side == 1) {
          for (int64_t i = 0; i < times; ++i) {
            pipe.Recv(1, message);
            pipe.Send(1, message);
          }
          return;
        }
        // Apart from the answer: a large load behind a small store waits for
        // that.
        auto question = MakeMessage<kSize>();
        const auto ask = [&](int64_t i) {
          question[0] = static_cast<char>(i);
          pipe.Send(0, question);
          pipe.Recv(0, message);
          MP_CHECK(message[0] == static_cast<char>(i));
        };
        if (recorder->records) {
          for (int64_t i = 0; i < times; ++i) {
            const int64_t begin = MonotonicNanos();
            ask(i);
            recorder->samples.nanos[i] = MonotonicNanos() - begin;
          }
        } else {
          for (int64_t i = 0; i < times; ++i) ask(i);
        }
      },
      LeaveOf<T>());
  gang.Run(2);  // the memory comes
  const auto times = static_cast<int64_t>(state.max_iterations);
  while (state.KeepRunningBatch(times)) {
    state.SetIterationTime(gang.Run(times));
  }
  // Enough also if a few that were held up have taken the wanted time.
  const int64_t recorded =
      std::clamp<int64_t>(times, kSmall<kSize> ? 1'000 : 10, Samples::kMax);
  recorder->records = true;
  gang.Run(recorded);
  ReportPercentiles(state, recorder->samples.First(recorded));
}

// ---- One way

// How many processes put, and how many get.
struct Ladder {
  int producers;
  int consumers;

  std::string Name() const {
    return "queue_" + std::to_string(producers) + "p" +
           std::to_string(consumers) + "c";
  }
  bool IsOneToOne() const { return producers == 1 && consumers == 1; }
};
// Divisible by the producers and the consumers of all ladders.
inline constexpr int64_t kRound = 4;

// Time per message of all of them together.
template <class T, size_t kSize>
void Transfer(benchmark::State& state, Ladder ladder, Waiting waiting) {
  if (!T::Available()) {
    state.SkipWithError(kNoneHere);
    return;
  }
  const SetWaiting set_waiting(waiting);
  T queue;
  testing::Gang gang(
      ladder.producers + ladder.consumers,
      [&](int member, int64_t messages) {
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
            MP_CHECK(!ladder.IsOneToOne() ||
                     message[0] == static_cast<char>(i));
          }
        }
      },
      LeaveOf<T>());
  // The memory comes: that of the messages on the way, and of each process.
  gang.Run(2 * kRound);
  const auto messages = static_cast<int64_t>(state.max_iterations);
  const int64_t rounded = (messages + kRound - 1) / kRound * kRound;
  while (state.KeepRunningBatch(messages)) {
    const double seconds = gang.Run(rounded);
    state.SetIterationTime(seconds * static_cast<double>(messages) /
                           static_cast<double>(rounded));
  }
}

}  // namespace mp::ipc_benchmark

#endif  // MP_IPC_MESSAGE_LOOPS_BENCHMARK_UTIL_H_
