// iceoryx 2, publish and subscribe through shared memory:
//
// pipe_rtt/<size>/iceoryx, queue_1p1c/<size>/iceoryx: all of the message is
// copied in and out, as with the other rows of these operations.
// .../iceoryx_in_place: without copies, as its documentation advises and its
// own benchmark (iceperf) does: a message is written where it is sent from, and
// read where it is received. As in iceperf, that is a little of it, whatever
// its size. queue_zero_copy/<size>/iceoryx: that of queue_1p1c, beside mp's
// queue that does the same.
//
// They mean what they do in ipc/pipe_benchmark.cc, ipc/queue_benchmark.cc and
// ipc/zero_copy_queue_benchmark.cc.
//
// Settings: both sides poll, as in iceperf; nothing is quicker as long as there
// is a processor for each, and after a while of it they yield, as the floors
// do. No message is lost: the publisher waits for the subscriber when its queue
// is full (WAIT_FOR_CONSUMER, BLOCK_PRODUCER), which holds the greatest number
// of messages that iceoryx permits, 256, but for large ones as few as the
// other queues do. There is no history. For each size there is a memory pool
// with chunks of that size, enough for all of that.
//
// The daemon RouDi, which owns the memory, is started with the first benchmark
// and ended after the last, and removes what it made. There can be only one on
// a machine: with another one running, the benchmarks are skipped.
//
// It is there where Debian's iceoryx and libiceoryx-binding-c2 are installed;
// no header of them is needed.

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
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
using ipc_benchmark::PauseInSpin;
using ipc_benchmark::Waiting;

// ---- The library: what iceoryx_binding_c/{publisher,subscriber,enums,log}.h
// of version 2 declare.

enum class TooSlowPolicy : int { kWaitForConsumer = 0 };
enum class QueueFullPolicy : int { kBlockProducer = 0 };
constexpr int kLogErrors = 5;   // Iceoryx_LogLevel_Error
constexpr int kReceived = 3;    // ChunkReceiveResult_SUCCESS
constexpr int kNoneThere = 1;   // ChunkReceiveResult_NO_CHUNK_AVAILABLE
constexpr int kAllocated = 8;   // AllocationResult_SUCCESS
constexpr int kSubscribed = 2;  // SubscribeState_SUBSCRIBED

struct PublisherOptions {
  uint64_t history_capacity;
  const char* node_name;
  bool offer_on_create;
  TooSlowPolicy too_slow_policy;
  uint64_t init_check;
};

struct SubscriberOptions {
  uint64_t queue_capacity;
  uint64_t history_request;
  const char* node_name;
  bool subscribe_on_create;
  QueueFullPolicy queue_full_policy;
  bool require_publisher_history_support;
  uint64_t init_check;
};

// Room for the handle of a publisher or a subscriber.
struct Storage {
  uint64_t pointer = 0;
};

struct Iceoryx {
  explicit Iceoryx(const DynamicLibrary& library);

  void (*set_log_level)(int level);
  void (*runtime_init)(const char* name);
  void (*pub_options_init)(PublisherOptions*);
  void* (*pub_init)(Storage*, const char* service, const char* instance,
                    const char* event, const PublisherOptions*);
  bool (*pub_has_subscribers)(void* publisher);
  int (*pub_loan_chunk)(void* publisher, void** payload, uint32_t size);
  void (*pub_publish_chunk)(void* publisher, void* payload);
  void (*sub_options_init)(SubscriberOptions*);
  void* (*sub_init)(Storage*, const char* service, const char* instance,
                    const char* event, const SubscriberOptions*);
  int (*sub_state)(void* subscriber);
  int (*sub_take_chunk)(void* subscriber, const void** payload);
  void (*sub_release_chunk)(void* subscriber, const void* payload);
};

Iceoryx::Iceoryx(const DynamicLibrary& library) {
  const auto find = [&library]<class F>(const char* name, F*& function) {
    function = library.Function<F>(name);
  };
  find("iox_set_loglevel", set_log_level);
  find("iox_runtime_init", runtime_init);
  find("iox_pub_options_init", pub_options_init);
  find("iox_pub_init", pub_init);
  find("iox_pub_has_subscribers", pub_has_subscribers);
  find("iox_pub_loan_chunk", pub_loan_chunk);
  find("iox_pub_publish_chunk", pub_publish_chunk);
  find("iox_sub_options_init", sub_options_init);
  find("iox_sub_init", sub_init);
  find("iox_sub_get_subscription_state", sub_state);
  find("iox_sub_take_chunk", sub_take_chunk);
  find("iox_sub_release_chunk", sub_release_chunk);
}

const absl::StatusOr<Iceoryx>& Load() {
  static const auto* const iceoryx = new absl::StatusOr<Iceoryx>([] {
    const absl::Status roudi = FindProgram("iox-roudi", "iceoryx");
    if (!roudi.ok()) return absl::StatusOr<Iceoryx>(roudi);
    const absl::StatusOr<DynamicLibrary> library = DynamicLibrary::Open(
        "libiceoryx_binding_c.so.2", "libiceoryx-binding-c2");
    return library.ok() ? absl::StatusOr<Iceoryx>(Iceoryx(*library))
                        : library.status();
  }());
  return *iceoryx;
}

// ---- The daemon

template <size_t kSize>
inline constexpr size_t kQueueCapacity = std::min<size_t>(256,
                                                          kRoomBytes<kSize> /
                                                              kSize);

// The queue's, those that the two sides have in hand, and some to spare.
template <size_t kSize>
inline constexpr size_t kChunks = kQueueCapacity<kSize> + 16;

class Roudi {
 public:
  // Waits until it is ready, or has ended because it cannot be.
  Roudi() {
    const std::string config = directory_.path() + "/roudi.toml";
    WriteConfig(config);
    pid_ = fork();
    MP_PCHECK(pid_ >= 0) << "fork";
    if (pid_ == 0) {
      // Its clients die with this program as well, and then it cannot end in
      // good order. The next one removes what it leaves.
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const UniqueFd log(open(log_path().c_str(), O_CREAT | O_RDWR, 0600));
      dup2(log.get(), STDOUT_FILENO);
      dup2(log.get(), STDERR_FILENO);
      execlp("iox-roudi", "iox-roudi", "--log-level", "warning",
             "--config-file", config.c_str(), nullptr);
      _exit(127);
    }
    while (!IsReady()) {
      absl::SleepFor(absl::Milliseconds(10));
      int status;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return;
      }
    }
  }
  Roudi(const Roudi&) = delete;
  Roudi& operator=(const Roudi&) = delete;
  ~Roudi() {
    if (pid_ < 0) return;
    kill(pid_, SIGTERM);
    int status = -1;
    while (waitpid(pid_, &status, 0) < 0) MP_PCHECK(errno == EINTR);
    MP_CHECK(status == 0) << "iox-roudi: wait status " << status;
  }

  bool ready() const { return pid_ >= 0; }

  // Of a process that will connect to it.
  std::string NameClient() {
    return "mp-benchmark-" + std::to_string(getpid()) + "-" +
           std::to_string(++clients_);
  }

 private:
  static void WriteConfig(const std::string& path) {
    std::ofstream config(path);
    config << "[general]\nversion = 1\n\n[[segment]]\n";
    ipc_benchmark::ForEachSize([&config]<size_t kSize>() {
      config << "\n[[segment.mempool]]\nsize = " << kSize
             << "\ncount = " << kChunks<kSize> << "\n";
    });
  }

  std::string log_path() const { return directory_.path() + "/log"; }

  // Whether it has said so.
  bool IsReady() const {
    std::ifstream log(log_path());
    for (std::string line; std::getline(log, line);) {
      if (line == "RouDi is ready for clients") return true;
    }
    return false;
  }

  TemporaryDirectory directory_;
  pid_t pid_ = -1;
  int clients_ = 0;
};

// Started when it is first needed, ended by main(): not by a destructor, which
// would run in the clients as well.
Roudi* the_daemon = nullptr;

Roudi* Daemon() {
  if (the_daemon == nullptr) the_daemon = new Roudi;
  return the_daemon;
}

void EndDaemon() {
  delete the_daemon;
  the_daemon = nullptr;
}

// A client leaves by ending in good order: the runtime's destructor, which is
// of a static object, takes leave of the daemon. A client that was killed makes
// the daemon abort in the end, and leave its files.
struct Client {
  static void Leave() {
    // The program's own output, which it may not have written yet, is not the
    // client's.
    const UniqueFd null(open("/dev/null", O_WRONLY | O_CLOEXEC));
    dup2(null.get(), STDOUT_FILENO);
    exit(0);
  }
};

// ---- Publishers and subscribers

// How much of a message the application touches.
enum class Touch { kOneByte, kAll };

// What a process has of the connection: a publisher and a subscriber, or one of
// them. Made before the fork; the library is first used after it.
template <size_t kSize, Touch kTouch>
class Party {
 public:
  Party() : name_(Daemon()->NameClient()) {}

  const std::string& name() const { return name_; }

  // Publishes under its own name, and subscribes to what the other publishes.
  void Open(bool publishes, bool subscribes, const std::string& other) {
    if (open_) return;
    open_ = true;
    const Iceoryx& iceoryx = *Load();
    iceoryx.set_log_level(kLogErrors);
    iceoryx.runtime_init(name_.c_str());
    if (publishes) {
      PublisherOptions options;
      iceoryx.pub_options_init(&options);
      options.history_capacity = 0;
      options.too_slow_policy = TooSlowPolicy::kWaitForConsumer;
      publisher_ = iceoryx.pub_init(&publisher_storage_, "mp", "benchmark",
                                    name_.c_str(), &options);
    }
    if (subscribes) {
      SubscriberOptions options;
      iceoryx.sub_options_init(&options);
      options.queue_capacity = kQueueCapacity<kSize>;
      options.history_request = 0;
      options.queue_full_policy = QueueFullPolicy::kBlockProducer;
      subscriber_ = iceoryx.sub_init(&subscriber_storage_, "mp", "benchmark",
                                     other.c_str(), &options);
    }
    // What nobody is subscribed to is not kept.
    while ((publishes && !iceoryx.pub_has_subscribers(publisher_)) ||
           (subscribes && iceoryx.sub_state(subscriber_) != kSubscribed)) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  void Send(const Message<kSize>& message) {
    const Iceoryx& iceoryx = *Load();
    void* payload = nullptr;
    const int result = iceoryx.pub_loan_chunk(publisher_, &payload,
                                              static_cast<uint32_t>(kSize));
    MP_CHECK(result == kAllocated) << result;
    memcpy(payload, message.data(), kTouched);
    iceoryx.pub_publish_chunk(publisher_, payload);
  }

  void Recv(Message<kSize>& message) {
    const Iceoryx& iceoryx = *Load();
    const void* payload = nullptr;
    for (int rounds = 0;; PauseInSpin(rounds++, 1)) {
      const int result = iceoryx.sub_take_chunk(subscriber_, &payload);
      if (result == kReceived) break;
      MP_CHECK(result == kNoneThere) << result;
    }
    memcpy(message.data(), payload, kTouched);
    iceoryx.sub_release_chunk(subscriber_, payload);
  }

 private:
  static constexpr size_t kTouched = kTouch == Touch::kAll ? kSize : 1;

  const std::string name_;
  bool open_ = false;
  Storage publisher_storage_, subscriber_storage_;
  void* publisher_ = nullptr;
  void* subscriber_ = nullptr;
};

template <size_t kSize, Touch kTouch>
class Pipe : public Client {
 public:
  void Send(int side, const Message<kSize>& message) {
    Open(side).Send(message);
  }
  void Recv(int side, Message<kSize>& message) { Open(side).Recv(message); }

 private:
  Party<kSize, kTouch>& Open(int side) {
    parties_[side].Open(true, true, parties_[1 - side].name());
    return parties_[side];
  }

  Party<kSize, kTouch> parties_[2];
};

template <size_t kSize, Touch kTouch>
class Queue : public Client {
 public:
  static bool Available() { return true; }
  void Put(const Message<kSize>& message) {
    producer_.Open(true, false, consumer_.name());
    producer_.Send(message);
  }
  void Get(Message<kSize>& message) {
    consumer_.Open(false, true, producer_.name());
    consumer_.Recv(message);
  }

 private:
  Party<kSize, kTouch> producer_, consumer_;
};

template <size_t kSize>
void Register(const std::string& operation, const std::string& implementation,
              void (*run)(benchmark::State&)) {
  RegisterPeer(
      BenchmarkName(operation, Waiting::kRunning, kSize, implementation),
      Load().status(), [run](benchmark::State& state) {
        if (Daemon()->ready()) {
          run(state);
        } else {
          state.SkipWithError("skipped: iox-roudi does not start");
        }
      });
}

constexpr Ladder kOneToOne = {1, 1};

template <size_t kSize, Touch kTouch>
void RunPipe(benchmark::State& state) {
  ipc_benchmark::RoundTrip<Pipe<kSize, kTouch>, kSize>(state,
                                                       Waiting::kRunning);
}

template <size_t kSize, Touch kTouch>
void RunQueue(benchmark::State& state) {
  ipc_benchmark::Transfer<Queue<kSize, kTouch>, kSize>(state, kOneToOne,
                                                       Waiting::kRunning);
}

template <size_t kSize>
void RegisterSize() {
  Register<kSize>("pipe_rtt", "iceoryx_in_place",
                  RunPipe<kSize, Touch::kOneByte>);
  Register<kSize>("pipe_rtt", "iceoryx", RunPipe<kSize, Touch::kAll>);
  const std::string queue = kOneToOne.Name();
  Register<kSize>(queue, "iceoryx_in_place", RunQueue<kSize, Touch::kOneByte>);
  Register<kSize>(queue, "iceoryx", RunQueue<kSize, Touch::kAll>);
}

}  // namespace
}  // namespace mp::benchmarks

int main(int argc, char** argv) {
  using namespace mp::benchmarks;  // NOLINT
  using mp::ipc_benchmark::kKiB;
  using mp::ipc_benchmark::kMiB;
  mp::ipc_benchmark::ForEachSize([]<size_t kSize>() { RegisterSize<kSize>(); });
  Register<4 * kKiB>("queue_zero_copy", "iceoryx",
                     RunQueue<4 * kKiB, Touch::kOneByte>);
  Register<kMiB>("queue_zero_copy", "iceoryx", RunQueue<kMiB, Touch::kOneByte>);
  const int result = mp::ipc_benchmark::RunRegistered(argc, argv);
  EndDaemon();
  return result;
}
