// pipe_rtt/<bytes>/*: a message of so many bytes to another process and one
// back, both of them running.
// pipe_rtt_blocked/64/*: the same with both asleep in between: mp without
// spinning, and the kernel's own means.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/spin.h"
#include "mp/ipc/pipe.h"
#include "mp/testing/gang.h"

namespace {

using Message = std::array<char, 64>;

// The kinds of pipes, each made before the processes that use it. Side 0 and
// side 1 send to each other.

template <int kProcessors>
class Mp {
 public:
  Mp() { mp::SetAvailableProcessorsForTest(kProcessors); }
  ~Mp() { mp::SetAvailableProcessorsForTest(0); }

  void Send(int side, const Message& message) {
    MP_CHECK_OK((side == 0 ? ends_.first : ends_.second).Send(message));
  }
  Message Recv(int side) {
    const absl::StatusOr<Message> message =
        (side == 0 ? ends_.first : ends_.second).Recv();
    MP_CHECK(message.ok()) << message.status().ToString();
    return *message;
  }

 private:
  std::pair<mp::Connection<Message>, mp::Connection<Message>> ends_ =
      mp::Pipe<Message>();
};
using MpSpinning = Mp<0>;
using MpSleeping = Mp<1>;

// The least there can be: the message beside a word that says that it is there,
// for each direction.
class Floor {
 public:
  Floor() {
    void* const memory =
        mmap(nullptr, sizeof(Direction) * 2, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MP_PCHECK(memory != MAP_FAILED) << "mmap";
    to_ = new (memory) Direction[2];
  }
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;
  ~Floor() { munmap(to_, sizeof(Direction) * 2); }

  void Send(int side, const Message& message) {
    Direction& to = to_[1 - side];
    to.message = message;
    to.there.store(1, std::memory_order_release);
  }
  Message Recv(int side) {
    Direction& to = to_[side];
    while (to.there.load(std::memory_order_acquire) == 0) mp::CpuRelax();
    to.there.store(0, std::memory_order_relaxed);
    return to.message;
  }

 private:
  struct alignas(64) Direction {
    std::atomic<uint32_t> there{0};
    alignas(64) Message message;
  };
  Direction* to_;
};

class SocketPair {
 public:
  SocketPair() {
    MP_PCHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_) == 0)
        << "socketpair";
  }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
  ~SocketPair() {
    close(ends_[0]);
    close(ends_[1]);
  }

  void Send(int side, const Message& message) {
    MP_PCHECK(write(ends_[side], message.data(), sizeof(message)) ==
              sizeof(message))
        << "write";
  }
  Message Recv(int side) {
    Message message;
    MP_PCHECK(read(ends_[side], message.data(), sizeof(message)) ==
              sizeof(message))
        << "read";
    return message;
  }

 private:
  int ends_[2];
};

class TwoPipes {
 public:
  TwoPipes() {
    for (auto& ends : to_) {
      MP_PCHECK(pipe2(ends.data(), O_CLOEXEC) == 0) << "pipe2";
    }
  }
  TwoPipes(const TwoPipes&) = delete;
  TwoPipes& operator=(const TwoPipes&) = delete;
  ~TwoPipes() {
    for (auto& ends : to_) {
      close(ends[0]);
      close(ends[1]);
    }
  }

  void Send(int side, const Message& message) {
    MP_PCHECK(write(to_[1 - side][1], message.data(), sizeof(message)) ==
              sizeof(message))
        << "write";
  }
  Message Recv(int side) {
    Message message;
    MP_PCHECK(read(to_[side][0], message.data(), sizeof(message)) ==
              sizeof(message))
        << "read";
    return message;
  }

 private:
  std::array<std::array<int, 2>, 2> to_;  // those to side 0, to side 1
};

template <class T, int64_t kTimes>
void RoundTrip(benchmark::State& state) {
  T pipe;
  mp::testing::Gang gang(2, [&pipe](int side, int64_t times) {
    Message message = {};
    for (int64_t i = 0; i < times; ++i) {
      message[0] = static_cast<char>(i);
      if (side == 0) {
        pipe.Send(0, message);
        const Message answer = pipe.Recv(0);
        MP_CHECK(answer[0] == static_cast<char>(i));
      } else {
        pipe.Send(1, pipe.Recv(1));
      }
    }
  });
  for (auto _ : state) {
    state.SetIterationTime(gang.Run(kTimes) / static_cast<double>(kTimes));
  }
}

// A message to oneself: what the code costs where no cache line moves.
void SendRecv(benchmark::State& state) {
  MpSpinning pipe;
  Message message = {};
  for (auto _ : state) {
    message[0] = static_cast<char>(message[0] + 1);
    pipe.Send(0, message);
    benchmark::DoNotOptimize(pipe.Recv(1));
  }
}
BENCHMARK(SendRecv)->Name("pipe_send_recv/64/mp");

BENCHMARK_TEMPLATE(RoundTrip, MpSpinning, 20'000)
    ->Name("pipe_rtt/64/mp")
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_TEMPLATE(RoundTrip, Floor, 20'000)
    ->Name("pipe_rtt/64/floor")
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_TEMPLATE(RoundTrip, TwoPipes, 500)
    ->Name("pipe_rtt/64/pipe")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(RoundTrip, SocketPair, 500)
    ->Name("pipe_rtt/64/socketpair")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(RoundTrip, MpSleeping, 500)
    ->Name("pipe_rtt_blocked/64/mp")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(RoundTrip, SocketPair, 500)
    ->Name("pipe_rtt_blocked/64/socketpair")
    ->UseManualTime()
    ->Iterations(10);

}  // namespace
