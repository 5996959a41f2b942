#include "mp/ipc/message_benchmark_util.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/base/unix_socket.h"
#include "mp/testing/percentiles.h"
#include "mp/testing/python_peer.h"

#ifdef MP_HAVE_BOOST
#include <boost/interprocess/ipc/message_queue.hpp>
#endif

namespace mp::ipc_benchmark {
namespace {

std::string NameForNow() {
  return "/mp-message-benchmark-" + std::to_string(getpid());
}

}  // namespace

std::string SizeName(size_t size) {
  if (size % kMiB == 0) return std::to_string(size / kMiB) + "MiB";
  if (size % kKiB == 0) return std::to_string(size / kKiB) + "KiB";
  return std::to_string(size);
}

void WriteAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t done = write(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    MP_PCHECK(done > 0) << "write";
    data += done;
    size -= static_cast<size_t>(done);
  }
}

void ReadAll(int fd, char* data, size_t size) {
  while (size > 0) {
    const ssize_t done = read(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    MP_PCHECK(done > 0) << "read";
    data += done;
    size -= static_cast<size_t>(done);
  }
}

Pipe::Pipe(size_t /*size*/, size_t /*room*/) {
  int ends[2];
  MP_PCHECK(pipe2(ends, O_CLOEXEC) == 0) << "pipe2";
  reader_.reset(ends[0]);
  writer_.reset(ends[1]);
}

SocketPair::SocketPair(size_t /*size*/, size_t /*room*/) {
  absl::StatusOr<std::array<UniqueFd, 2>> ends = ConnectedSockets(SOCK_STREAM);
  MP_CHECK(ends.ok()) << ends.status().ToString();
  ends_ = *std::move(ends);
}

PosixMq::PosixMq(size_t size, size_t /*room*/) : queue_(Open(size)) {
  MP_PCHECK(queue_.valid()) << "mq_open";
}

UniqueFd PosixMq::Open(size_t size) {
  mq_attr attributes = {};
  attributes.mq_maxmsg = 10;
  attributes.mq_msgsize = static_cast<long>(size);
  const std::string name = NameForNow();
  UniqueFd queue(mq_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC,
                         0600, &attributes));
  if (queue) mq_unlink(name.c_str());
  return queue;
}

void PosixMq::Put(const char* data, size_t size) {
  MP_PCHECK(mq_send(queue_.get(), data, size, 0) == 0) << "mq_send";
}

void PosixMq::Get(char* data, size_t size) {
  const ssize_t got = mq_receive(queue_.get(), data, size, nullptr);
  MP_PCHECK(got == static_cast<ssize_t>(size)) << "mq_receive";
}

#ifdef MP_HAVE_BOOST

struct BoostQueue::Impl {
  Impl(size_t size, size_t room)
      : queue(boost::interprocess::create_only, NameForNow().c_str(),
              std::min<size_t>(1024, room / size), size) {
    boost::interprocess::message_queue::remove(NameForNow().c_str());
  }

  boost::interprocess::message_queue queue;
};

BoostQueue::BoostQueue(size_t size, size_t room)
    : impl_(std::make_unique<Impl>(size, room)) {}

void BoostQueue::Put(const char* data, size_t size) {
  impl_->queue.send(data, size, 0);
}

void BoostQueue::Get(char* data, size_t size) {
  size_t got = 0;
  unsigned priority = 0;
  impl_->queue.receive(data, size, got, priority);
  MP_CHECK(got == size) << got;
}

BoostQueue::~BoostQueue() = default;

#endif  // MP_HAVE_BOOST

void ReportPercentiles(benchmark::State& state, std::vector<int64_t> samples) {
  const testing::Percentiles percentiles(std::move(samples));
  const auto report = [&state](const char* name, double value) {
    state.counters[name] = benchmark::Counter(value);
  };
  report("p50_ns", static_cast<double>(percentiles.at(500)));
  report("p99_ns", static_cast<double>(percentiles.at(990)));
  report("p99.9_ns", static_cast<double>(percentiles.at(999)));
  report("max_ns", static_cast<double>(percentiles.max()));
  report("samples", static_cast<double>(percentiles.count()));
}

std::string BenchmarkName(const std::string& operation, Waiting waiting,
                          size_t size, const std::string& implementation) {
  return operation + (waiting == Waiting::kAsleep ? "_blocked/" : "/") +
         SizeName(size) + "/" + implementation;
}

void Register(const std::string& name,
              std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))->UseManualTime();
}

int RunRegistered(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

void RegisterPython(const std::string& name, const std::string& script,
                    const std::vector<std::string>& args, PythonTimes times) {
  Register(name, [=](benchmark::State& state) {
    if (!testing::PythonPeer::Available()) {
      state.SkipWithError("skipped: not installed: python3");
      return;
    }
    testing::PythonPeer peer(script, args);
    peer.Run(1);  // its processes start, and its threads
    const auto messages = static_cast<int64_t>(state.max_iterations);
    std::vector<int64_t> nanos;
    while (state.KeepRunningBatch(messages)) {
      nanos = peer.Run(messages);
      double total = 0;
      for (const int64_t n : nanos) total += static_cast<double>(n);
      state.SetIterationTime(total * 1e-9);
    }
    if (times == PythonTimes::kEach) {
      ReportPercentiles(state, std::move(nanos));
    }
  });
}

}  // namespace mp::ipc_benchmark
