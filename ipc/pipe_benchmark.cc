// pipe_rtt/<size>/*: a message of that size to another process and one back,
// both of them running.
// pipe_rtt_blocked/<size>/*: the same with both asleep in between: mp without
// spinning, a raw futex, and the kernel's own means, which do not spin.
// pipe_send_recv/64/mp: a message to oneself: what the code costs where no
// cache line moves.
//
// The percentiles are of other round trips, as many up to 100,000, each of
// which includes reading the clock, some tens of nanoseconds.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/ipc/message_loops_benchmark_util.h"
#include "mp/ipc/pipe.h"
#include "mp/testing/shared_page.h"

namespace mp::ipc_benchmark {
namespace {

// The kinds of pipes, each made before the processes that use it. Side 0 and
// side 1 send to each other.

// Large messages are raw bytes, received into a buffer.
template <size_t kSize>
class MpPipe {
 public:
  void Send(int side, const Message<kSize>& message) {
    if constexpr (kSmall<kSize>) {
      MP_CHECK_OK(end(side).Send(message));
    } else {
      MP_CHECK_OK(end(side).SendBytes(message));
    }
  }
  void Recv(int side, Message<kSize>& message) {
    if constexpr (kSmall<kSize>) {
      const absl::StatusOr<Message<kSize>> got = end(side).Recv();
      MP_CHECK(got.ok()) << got.status().ToString();
      message = *got;
    } else {
      const absl::StatusOr<size_t> got =
          end(side).RecvBytesInto(std::as_writable_bytes(std::span(message)));
      MP_CHECK(got.ok() && *got == kSize) << got.status().ToString();
    }
  }

 private:
  using End = Connection<Message<kSize>>;

  End& end(int side) { return side == 0 ? ends_.first : ends_.second; }

  std::pair<End, End> ends_ = mp::Pipe<Message<kSize>>();
};

// The least there can be: the message beside a word that says that it is there,
// for each direction. Asleep, a raw futex: one system call to wake, one to
// sleep.
template <size_t kSize, Waiting kWaiting>
class MailboxFloor {
 public:
  void Send(int side, const Message<kSize>& message) {
    Box& to = boxes_->to[1 - side];
    memcpy(to.message, message.data(), kSize);
    to.there.store(1, std::memory_order_release);
    if constexpr (kWaiting == Waiting::kAsleep) FutexWake(to.there, 1);
  }
  void Recv(int side, Message<kSize>& message) {
    Box& to = boxes_->to[side];
    for (int rounds = 0; to.there.load(std::memory_order_acquire) == 0;) {
      if constexpr (kWaiting == Waiting::kAsleep) {
        FutexWait(to.there, 0, Deadline::Infinite());
      } else {
        PauseInSpin(rounds++, 1);
      }
    }
    to.there.store(0, std::memory_order_relaxed);
    memcpy(message.data(), to.message, kSize);
  }

 private:
  struct Box {
    alignas(64) FutexWord there{0};
    alignas(64) char message[kSize];
  };
  struct Boxes {
    Box to[2];
  };

  testing::SharedPage<Boxes> boxes_;
};

template <size_t kSize>
class OneSocketPair {
 public:
  void Send(int side, const Message<kSize>& message) {
    WriteAll(pair_.end(side), message.data(), kSize);
  }
  void Recv(int side, Message<kSize>& message) {
    ReadAll(pair_.end(side), message.data(), kSize);
  }

 private:
  SocketPair pair_{kSize, kRoomBytes<kSize>};
};

template <size_t kSize>
class TwoPipes {
 public:
  void Send(int side, const Message<kSize>& message) {
    to_[1 - side].Put(message);
  }
  void Recv(int side, Message<kSize>& message) { to_[side].Get(message); }

 private:
  std::array<Peer<Pipe, kSize>, 2> to_;
};

void SendRecv(benchmark::State& state) {
  MpPipe<64> pipe;
  auto message = MakeMessage<64>();
  for (auto _ : state) {
    message[0] = static_cast<char>(message[0] + 1);
    pipe.Send(0, message);
    pipe.Recv(1, message);
    benchmark::DoNotOptimize(message);
  }
}

// Arguments: bytes. Reads the number of round trips, answers with the
// nanoseconds of each.
constexpr char kPythonPipe[] = R"(
import multiprocessing
import sys
import time

context = multiprocessing.get_context("fork")
ours, theirs = context.Pipe()

def echo():
    while (message := theirs.recv()) is not None:
        theirs.send(message)

other = context.Process(target=echo, daemon=True)
other.start()
theirs.close()
message = bytes(int(sys.argv[1]))
for line in sys.stdin:
    nanos = []
    for _ in range(int(line)):
        begin = time.monotonic_ns()
        ours.send(message)
        ours.recv()
        nanos.append(time.monotonic_ns() - begin)
    print(*nanos, flush=True)
ours.send(None)
other.join()
)";

template <class T, size_t kSize>
void RegisterRoundTrip(const std::string& implementation, Waiting waiting) {
  Register(
      BenchmarkName("pipe_rtt", waiting, kSize, implementation),
      [=](benchmark::State& state) { RoundTrip<T, kSize>(state, waiting); });
}

}  // namespace
}  // namespace mp::ipc_benchmark

int main(int argc, char** argv) {
  using namespace mp::ipc_benchmark;  // NOLINT
  ForEachSize([]<size_t kSize>() {
    RegisterRoundTrip<MpPipe<kSize>, kSize>("mp", Waiting::kRunning);
    RegisterRoundTrip<MailboxFloor<kSize, Waiting::kRunning>, kSize>(
        "floor", Waiting::kRunning);
    RegisterRoundTrip<TwoPipes<kSize>, kSize>("pipe", Waiting::kRunning);
    RegisterRoundTrip<OneSocketPair<kSize>, kSize>("socketpair",
                                                   Waiting::kRunning);
    RegisterPython(
        BenchmarkName("pipe_rtt", Waiting::kRunning, kSize, "python"),
        kPythonPipe, {std::to_string(kSize)}, PythonTimes::kEach);
    RegisterRoundTrip<MpPipe<kSize>, kSize>("mp", Waiting::kAsleep);
    RegisterRoundTrip<MailboxFloor<kSize, Waiting::kAsleep>, kSize>(
        "futex", Waiting::kAsleep);
    RegisterRoundTrip<OneSocketPair<kSize>, kSize>("socketpair",
                                                   Waiting::kAsleep);
  });
  benchmark::RegisterBenchmark("pipe_send_recv/64/mp", SendRecv);
  return RunRegistered(argc, argv);
}
