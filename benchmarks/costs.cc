// What mp costs that is not time, as a JSON array on standard output, for the
// scorecard:
//
//   system_calls/<operation>  of the calling thread, for each operation; the
//                             mean of many, counted by ptrace
//   bytes/<primitive>         memory that comes into use, private and shared,
//                             for each of many that live; with its handle
//   bytes/worker              private memory of an idle worker of a pool
//   percent/64_idle_workers   of one processor, for a program with so many

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/pool/pool.h"
#include "mp/process/process.h"
#include "mp/sync/barrier.h"
#include "mp/sync/event.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/sync/rwlock.h"
#include "mp/sync/semaphore.h"
#include "mp/sync/value.h"

namespace mp {
namespace {

void Print(const std::string& name, const std::string& title, double value,
           const char* unit) {
  static bool first = true;
  printf(
      "%s\n {\"name\": \"%s\", \"title\": \"%s\", \"value\": %.6g, "
      "\"unit\": \"%s\"}",
      first ? "[" : ",", name.c_str(), title.c_str(), value, unit);
  fflush(stdout);  // children must not print it again
  first = false;
}

// ---- System calls

// A system call that nobody makes by chance says when to count.
constexpr uint64_t kMark = 0x6d70'636f'7374'73;
void Mark() { syscall(SYS_getpid, kMark); }

// Of the calling thread of a child, between its two calls of Mark(). What the
// child starts is not followed, so that it runs as fast as ever.
int64_t CountSystemCalls(const std::function<void()>& child) {
  const pid_t pid = fork();
  MP_PCHECK(pid >= 0) << "fork";
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    MP_PCHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) << "ptrace";
    raise(SIGSTOP);
    child();
    _exit(0);
  }
  int status = 0;
  int64_t count = 0;
  bool counts = false;
  const auto resume = [&](int signal) {
    MP_PCHECK(ptrace(PTRACE_SYSCALL, pid, nullptr, signal) == 0) << "ptrace";
    MP_PCHECK(waitpid(pid, &status, 0) == pid) << "waitpid";
  };
  MP_PCHECK(waitpid(pid, &status, 0) == pid) << "waitpid";
  MP_CHECK(WIFSTOPPED(status)) << "the child ended before it began";
  MP_PCHECK(ptrace(PTRACE_SETOPTIONS, pid, nullptr,
                   PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0)
      << "ptrace";
  resume(0);
  while (WIFSTOPPED(status)) {
    const int signal = WSTOPSIG(status);
    if (signal != (SIGTRAP | 0x80)) {
      resume(signal);
      continue;
    }
    __ptrace_syscall_info info = {};
    MP_PCHECK(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) > 0)
        << "ptrace";
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
      if (info.entry.nr == SYS_getpid && info.entry.args[0] == kMark) {
        counts = !counts;
      } else if (counts) {
        ++count;
      }
    }
    resume(0);
  }
  MP_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0)
      << "the child whose system calls were counted failed";
  MP_CHECK(!counts) << "one mark is missing";
  return count;
}

template <class Subject, class Operation>
void SystemCalls(const std::string& name, const std::string& title, int times,
                 const std::function<Subject()>& make, Operation operation) {
  const int64_t count = CountSystemCalls([&] {
    Subject subject = make();
    operation(subject);  // what happens once only
    Mark();
    for (int i = 0; i < times; ++i) operation(subject);
    Mark();
  });
  Print("system_calls/" + name, title, static_cast<double>(count) / times,
        "system calls");
}

struct Nothing {};
void DoNothing() {}
int Increment(const int& n) { return n + 1; }

void StartAndJoin(StartMethod method) {
  Process process({.start_method = method}, DoNothing);
  MP_CHECK_OK(process.Start());
  MP_CHECK_OK(process.Join());
}

Pool TwoWorkers() { return Pool({.processes = 2}); }

void PrintSystemCalls() {
  constexpr int kMany = 1000;
  constexpr int kSome = 20;
  SystemCalls<Lock>(
      "lock", "Lock: acquire, release", kMany, [] { return Lock(); },
      [](Lock& lock) {
        lock.lock();
        lock.unlock();
      });
  SystemCalls<Semaphore>(
      "semaphore", "Semaphore: acquire, release", kMany,
      [] { return Semaphore(1); },
      [](Semaphore& semaphore) {
        semaphore.Acquire();
        MP_CHECK_OK(semaphore.Release());
      });
  SystemCalls<Event>(
      "event", "Event: set, clear", kMany, [] { return Event(); },
      [](Event& event) {
        event.Set();
        event.Clear();
      });
  SystemCalls<Queue<int>>(
      "queue", "Queue: put, get", kMany, [] { return Queue<int>(100); },
      [](Queue<int>& queue) {
        MP_CHECK_OK(queue.Put(1));
        MP_CHECK_OK(queue.Get().status());
      });
  using Ends = std::pair<Connection<int>, Connection<int>>;
  SystemCalls<Ends>(
      "pipe", "Pipe: send, receive", kMany, [] { return Pipe<int>(); },
      [](Ends& ends) {
        MP_CHECK_OK(ends.first.Send(1));
        MP_CHECK_OK(ends.second.Recv().status());
      });
  SystemCalls<Pool>(
      "pool_apply", "Pool: Apply", kMany, TwoWorkers,
      [](Pool& pool) { MP_CHECK_OK(pool.Apply(Increment, 1).status()); });
  SystemCalls<Pool>("pool_map", "Pool: Map of 10,000 items", kSome, TwoWorkers,
                    [](Pool& pool) {
                      const std::vector<int> items(10'000);
                      MP_CHECK_OK(pool.Map(Increment, items).status());
                    });
  const std::function<Nothing()> nothing = [] { return Nothing(); };
  for (const auto& [method, name] :
       {std::pair(StartMethod::kFork, "fork"),
        std::pair(StartMethod::kForkserver, "forkserver"),
        std::pair(StartMethod::kSpawn, "spawn")}) {
    SystemCalls<Nothing>(std::string("process_") + name,
                         std::string("Process: start, join, by ") + name, kSome,
                         nothing,
                         [method = method](Nothing&) { StartAndJoin(method); });
  }
}

// ---- Memory

// Of a process, in bytes.
int64_t Memory(pid_t pid, const std::vector<std::string>& keys) {
  std::ifstream rollup("/proc/" + std::to_string(pid) + "/smaps_rollup");
  MP_CHECK(rollup.good()) << "/proc/" << pid << "/smaps_rollup";
  int64_t sum = 0;
  for (std::string line; std::getline(rollup, line);) {
    for (const std::string& key : keys) {
      if (line.rfind(key + ":", 0) == 0) {
        sum += 1024 * std::stoll(line.substr(key.size() + 1));
      }
    }
  }
  return sum;
}

template <class Make>
void Bytes(const std::string& name, int64_t count, Make make) {
  std::vector<decltype(make())> all;
  all.reserve(static_cast<size_t>(count));
  all.push_back(make());  // what is needed once only
  const int64_t before = Memory(getpid(), {"Rss"});
  for (int64_t i = 1; i < count; ++i) all.push_back(make());
  const int64_t after = Memory(getpid(), {"Rss"});
  Print("bytes/" + name, "Memory of " + name,
        static_cast<double>(after - before) / static_cast<double>(count - 1),
        "bytes");
}

void PrintMemory() {
  constexpr int64_t kMany = 20'000;
  constexpr int64_t kSome = 200;
  Bytes("a Lock", kMany, [] { return Lock(); });
  Bytes("an RLock", kMany, [] { return RLock(); });
  Bytes("an RWLock", kMany, [] { return RWLock(); });
  Bytes("a Semaphore", kMany, [] { return Semaphore(1); });
  Bytes("an Event", kMany, [] { return Event(); });
  Bytes("a Barrier", kMany, [] { return Barrier(2); });
  Bytes("a Value<int>", kMany, [] { return Value<int>(0); });
  Bytes("a Queue<int> of 100, unused", kSome, [] { return Queue<int>(100); });
  Bytes("a Pipe<int>, unused", kSome, [] { return Pipe<int>(); });
}

// ---- Workers

// What all threads of a process have had of the processors.
int64_t ProcessorNanos(pid_t pid) {
  int64_t nanos = 0;
  for (const auto& thread : std::filesystem::directory_iterator(
           "/proc/" + std::to_string(pid) + "/task")) {
    int64_t each = 0;
    std::ifstream(thread.path() / "schedstat") >> each;
    nanos += each;
  }
  return nanos;
}

void PrintWorkers() {
  constexpr int kWorkers = 64;
  Pool pool({.processes = kWorkers});
  MP_CHECK_OK(pool.Map(Increment, std::vector<int>(1000), 1).status());
  // They sleep ever longer, up to a second.
  absl::SleepFor(absl::Seconds(2));
  int64_t memory = 0;
  for (const pid_t pid : pool.pids()) {
    memory += Memory(pid, {"Private_Clean", "Private_Dirty"});
  }
  Print("bytes/worker", "Private memory of an idle worker",
        static_cast<double>(memory) / kWorkers, "bytes");

  std::vector<pid_t> program = pool.pids();
  program.push_back(getpid());
  const auto all = [&] {
    int64_t nanos = 0;
    for (const pid_t pid : program) nanos += ProcessorNanos(pid);
    return nanos;
  };
  const int64_t used_before = all();
  const absl::Time begin = absl::Now();
  absl::SleepFor(absl::Seconds(5));
  const int64_t used = all() - used_before;
  Print("percent/64_idle_workers", "64 idle workers, of one processor",
        100 * static_cast<double>(used) /
            absl::ToDoubleNanoseconds(absl::Now() - begin),
        "%");
}

}  // namespace
}  // namespace mp

int main(int argc, char** argv) {
  mp::Init(&argc, &argv);
  mp::PrintSystemCalls();
  mp::PrintMemory();
  mp::PrintWorkers();
  printf("\n]\n");
  return 0;
}
