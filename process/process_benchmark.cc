// What it costs to start a process and to wait for its end, beside the least
// that the kernel asks for it: raw fork and waitpid for fork and forkserver,
// posix_spawn of this very program for spawn. Also from a parent with two
// gibibytes of memory, with 64 threads, with thousands of descriptors, and with
// 500 children alive.

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/process/process.h"

namespace mp {
namespace {

constexpr char kEndAtOnce[] = "--end-at-once";

void DoNothing() {}

// ---- What is started

bool Ours(StartMethod method) {
  Process process({.start_method = method}, DoNothing);
  return process.Start().ok() && process.Join().ok() && process.exitcode() == 0;
}

bool RawFork() {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  int status = -1;
  return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

bool PosixSpawn() {
  char self[] = "/proc/self/exe";
  char argument[sizeof(kEndAtOnce)];
  memcpy(argument, kEndAtOnce, sizeof(kEndAtOnce));
  char* const arguments[] = {self, argument, nullptr};
  pid_t pid = -1;
  int status = -1;
  return posix_spawn(&pid, self, nullptr, nullptr, arguments, environ) == 0 &&
         waitpid(pid, &status, 0) == pid && status == 0;
}

// ---- What the parent is like

struct Small {};

struct TwoGibibytes {
  static constexpr size_t kSize = size_t{2} << 30;
  void* const memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  TwoGibibytes() {
    MP_PCHECK(memory != MAP_FAILED) << "mmap of 2 GiB";
    // As a heap usually is: in small pages.
    madvise(memory, kSize, MADV_NOHUGEPAGE);
  }
  ~TwoGibibytes() { munmap(memory, kSize); }
};

struct SixtyFourThreads {
  std::mutex mutex;
  std::condition_variable ended;
  bool end = false;
  std::vector<std::thread> threads;
  SixtyFourThreads() {
    for (int i = 0; i < 64; ++i) {
      threads.emplace_back([this] {
        std::unique_lock lock(mutex);
        ended.wait(lock, [this] { return end; });
      });
    }
  }
  ~SixtyFourThreads() {
    {
      const std::lock_guard lock(mutex);
      end = true;
    }
    ended.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
};

struct ThousandsOfDescriptors {
  std::vector<UniqueFd> descriptors;
  ThousandsOfDescriptors() {
    rlimit limit;
    MP_PCHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0) << "getrlimit";
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 8'000);
    MP_PCHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0) << "setrlimit";
    while (descriptors.size() + 100 < std::min<rlim_t>(limit.rlim_cur, 5'000)) {
      descriptors.emplace_back(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    }
  }
};

struct FiveHundredChildren {
  std::vector<Process> children;
  FiveHundredChildren() {
    for (int i = 0; i < 500; ++i) {
      children.emplace_back([] {
        for (;;) pause();
      });
      MP_CHECK_OK(children.back().Start());
    }
  }
  ~FiveHundredChildren() {
    for (const Process& child : children) MP_CHECK_OK(child.Kill());
    for (const Process& child : children) MP_CHECK_OK(child.Join());
  }
};

// ---- The rows

template <typename ParentIs, typename Start>
void Row(const char* operation, const char* implementation, Start start) {
  benchmark::RegisterBenchmark(
      (std::string(operation) + "/" + implementation).c_str(),
      [start](benchmark::State& state) {
        const auto parent = std::make_unique<ParentIs>();
        // The forkserver is there, as it is from the second start on.
        bool ok = start();
        for (auto _ : state) ok = ok && start();
        if (!ok) state.SkipWithError("a process could not be started");
      })
      ->UseRealTime();
}

template <typename ParentIs>
void Rows(const char* operation) {
  Row<ParentIs>(operation, "floor", RawFork);
  Row<ParentIs>(operation, "fork", [] { return Ours(StartMethod::kFork); });
  Row<ParentIs>(operation, "forkserver",
                [] { return Ours(StartMethod::kForkserver); });
  Row<ParentIs>(operation, "posix_spawn", PosixSpawn);
  Row<ParentIs>(operation, "spawn", [] { return Ours(StartMethod::kSpawn); });
}

}  // namespace
}  // namespace mp

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == mp::kEndAtOnce) _exit(0);
  mp::Init(&argc, &argv);
  mp::Rows<mp::Small>("process_start_join");
  mp::Rows<mp::TwoGibibytes>("process_start_join_2gib");
  mp::Rows<mp::SixtyFourThreads>("process_start_join_64_threads");
  mp::Rows<mp::ThousandsOfDescriptors>("process_start_join_5000_descriptors");
  mp::Rows<mp::FiveHundredChildren>("process_start_join_500_children");
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
