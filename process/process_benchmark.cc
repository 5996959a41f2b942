// What it costs to start a process and to wait for its end, beside the least
// that the kernel asks for it.

#include <sys/wait.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "benchmark/benchmark.h"
#include "mp/process/process.h"

namespace mp {
namespace {

void StartJoinFork(benchmark::State& state) {
  for (auto _ : state) {
    Process process([] {});
    absl::Status status = process.Start();
    if (status.ok()) status = process.Join();
    if (!status.ok() || process.exitcode() != 0) {
      state.SkipWithError(status.ToString().c_str());
      break;
    }
  }
}
BENCHMARK(StartJoinFork)->Name("process_start_join/fork")->UseRealTime();

void StartJoinFloor(benchmark::State& state) {
  for (auto _ : state) {
    const pid_t pid = fork();
    if (pid == 0) _exit(0);
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
      state.SkipWithError("fork or waitpid");
      break;
    }
  }
}
BENCHMARK(StartJoinFloor)->Name("process_start_join/floor")->UseRealTime();

}  // namespace
}  // namespace mp
