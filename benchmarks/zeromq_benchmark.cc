// ZeroMQ, between processes of one machine (ipc://, a Unix socket):
//
// pipe_rtt/<size>/zeromq: between two PAIR sockets.
// queue_1p1c/<size>/zeromq: from a PUSH to a PULL socket.
//
// They mean what they do in ipc/pipe_benchmark.cc and ipc/queue_benchmark.cc.
// There is no queue_2p2c: a PUSH socket deals its messages out to the PULL
// sockets as they come, to each its own, so ZeroMQ has no queue from which
// whichever consumer is free takes the next; and one that had taken its share
// would leave messages that the others wait for.
//
// Settings, from the manual (zmq_ctx_set(3), zmq_setsockopt(3)): one context
// for each process, made after the fork, with one I/O thread, which is the
// default and what the guide advises up to a gigabyte a second. The high-water
// marks are the default thousand messages, but for larger ones as few as the
// other queues hold, or what is measured is memory that was never used before.
// Messages are copied in and out (zmq_send, zmq_recv), as with the others.
//
// It is there where Debian's libzmq5 is installed; no header of it is needed.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/benchmarks/dynamic_library.h"
#include "mp/benchmarks/peer_benchmark_util.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/ipc/message_loops_benchmark_util.h"

namespace mp::benchmarks {
namespace {

using ipc_benchmark::BenchmarkName;
using ipc_benchmark::kRoomBytes;
using ipc_benchmark::Ladder;
using ipc_benchmark::Message;
using ipc_benchmark::Waiting;

// ---- The library. The numbers are from zmq.h, stable since version 3.

enum class SocketType { kPair = 0, kPull = 7, kPush = 8 };
constexpr int kSendHighWaterMark = 23;
constexpr int kReceiveHighWaterMark = 24;

struct ZeroMq {
  explicit ZeroMq(const DynamicLibrary& library)
      : ctx_new(library.Function<void*()>("zmq_ctx_new")),
        socket(library.Function<void*(void*, int)>("zmq_socket")),
        setsockopt(library.Function<int(void*, int, const void*, size_t)>(
            "zmq_setsockopt")),
        bind(library.Function<int(void*, const char*)>("zmq_bind")),
        connect(library.Function<int(void*, const char*)>("zmq_connect")),
        send(
            library.Function<int(void*, const void*, size_t, int)>("zmq_send")),
        recv(library.Function<int(void*, void*, size_t, int)>("zmq_recv")) {}

  void* (*ctx_new)();
  void* (*socket)(void* context, int type);
  int (*setsockopt)(void* socket, int option, const void* value, size_t size);
  int (*bind)(void* socket, const char* endpoint);
  int (*connect)(void* socket, const char* endpoint);
  int (*send)(void* socket, const void* data, size_t size, int flags);
  int (*recv)(void* socket, void* data, size_t size, int flags);
};

const absl::StatusOr<ZeroMq>& Load() {
  static const auto* const zmq = new absl::StatusOr<ZeroMq>([] {
    const absl::StatusOr<DynamicLibrary> library =
        DynamicLibrary::Open("libzmq.so.5", "libzmq5");
    return library.ok() ? absl::StatusOr<ZeroMq>(ZeroMq(*library))
                        : library.status();
  }());
  return *zmq;
}

// ---- Sockets

// What a process has of the connection. The context starts threads, so it is
// made where the socket is first used, in the forked process, which is killed
// in the end.
template <size_t kSize>
class Socket {
 public:
  enum class Side { kBinds, kConnects };

  void Send(SocketType type, Side side, const Message<kSize>& message) {
    Open(type, side);
    while (Load()->send(socket_, message.data(), kSize, 0) < 0) {
      MP_PCHECK(errno == EINTR) << "zmq_send";
    }
  }
  void Recv(SocketType type, Side side, Message<kSize>& message) {
    Open(type, side);
    int got;
    while ((got = Load()->recv(socket_, message.data(), kSize, 0)) < 0) {
      MP_PCHECK(errno == EINTR) << "zmq_recv";
    }
    MP_CHECK(got == static_cast<int>(kSize)) << got;
  }

 private:
  static constexpr int kHighWaterMark =
      static_cast<int>(std::min<size_t>(1000, kRoomBytes<kSize> / kSize));

  void Open(SocketType type, Side side) {
    if (socket_ != nullptr) return;
    const ZeroMq& zmq = *Load();
    void* const context = zmq.ctx_new();
    MP_PCHECK(context != nullptr) << "zmq_ctx_new";
    socket_ = zmq.socket(context, static_cast<int>(type));
    MP_PCHECK(socket_ != nullptr) << "zmq_socket";
    for (const int option : {kSendHighWaterMark, kReceiveHighWaterMark}) {
      MP_PCHECK(zmq.setsockopt(socket_, option, &kHighWaterMark,
                               sizeof(kHighWaterMark)) == 0)
          << "zmq_setsockopt";
    }
    const std::string endpoint = "ipc://" + directory_.path() + "/socket";
    const auto open = side == Side::kBinds ? zmq.bind : zmq.connect;
    MP_PCHECK(open(socket_, endpoint.c_str()) == 0) << endpoint;
  }

  TemporaryDirectory directory_;
  void* socket_ = nullptr;
};

template <size_t kSize>
class Pair {
 public:
  void Send(int side, const Message<kSize>& message) {
    socket_.Send(SocketType::kPair, Who(side), message);
  }
  void Recv(int side, Message<kSize>& message) {
    socket_.Recv(SocketType::kPair, Who(side), message);
  }

 private:
  using Side = typename Socket<kSize>::Side;

  static Side Who(int side) {
    return side == 0 ? Side::kBinds : Side::kConnects;
  }

  Socket<kSize> socket_;
};

template <size_t kSize>
class PushPull {
 public:
  static bool Available() { return Load().ok(); }
  void Put(const Message<kSize>& message) {
    socket_.Send(SocketType::kPush, Socket<kSize>::Side::kConnects, message);
  }
  void Get(Message<kSize>& message) {
    socket_.Recv(SocketType::kPull, Socket<kSize>::Side::kBinds, message);
  }

 private:
  Socket<kSize> socket_;
};

constexpr Ladder kOneToOne = {1, 1};

template <size_t kSize>
void RegisterSize() {
  const auto name = [](const std::string& operation) {
    return BenchmarkName(operation, Waiting::kRunning, kSize, "zeromq");
  };
  const absl::Status there = Load().status();
  RegisterPeer(name("pipe_rtt"), there, [](benchmark::State& state) {
    ipc_benchmark::RoundTrip<Pair<kSize>, kSize>(state, Waiting::kRunning);
  });
  RegisterPeer(name(kOneToOne.Name()), there, [](benchmark::State& state) {
    ipc_benchmark::Transfer<PushPull<kSize>, kSize>(state, kOneToOne,
                                                    Waiting::kRunning);
  });
}

}  // namespace
}  // namespace mp::benchmarks

int main(int argc, char** argv) {
  mp::ipc_benchmark::ForEachSize(
      []<size_t kSize>() { mp::benchmarks::RegisterSize<kSize>(); });
  return mp::ipc_benchmark::RunRegistered(argc, argv);
}
