// What the drivers of optional peers share.

#ifndef MP_BENCHMARKS_PEER_BENCHMARK_UTIL_H_
#define MP_BENCHMARKS_PEER_BENCHMARK_UTIL_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "benchmark/benchmark.h"

namespace mp::benchmarks {

// Registers a benchmark that measures its time itself, as the Register() of
// mp/ipc/message_benchmark_util.h does. Unless the peer is `there`, it reports
// the message of that status and does nothing.
void RegisterPeer(const std::string& name, const absl::Status& there,
                  std::function<void(benchmark::State&)> run);

// NotInstalled(package) unless one of the folders in PATH has the program.
absl::Status FindProgram(const std::string& program,
                         const std::string& package);

// A folder that is there as long as the object is, with all that is in it.
// Forked processes may use it, but it is the maker's.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace mp::benchmarks

#endif  // MP_BENCHMARKS_PEER_BENCHMARK_UTIL_H_
