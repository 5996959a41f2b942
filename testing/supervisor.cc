#include "mp/testing/supervisor.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/sanitizers.h"

namespace mp::testing_internal {
namespace {

using ::mp::testing::Descendants;
using ::mp::testing::DescribeDescendants;
using ::mp::testing::KillDescendants;

constexpr int64_t kNanosPerSecond = 1'000'000'000;
// How often the supervisor looks whether the alarm was set nearer.
constexpr int64_t kLookNanos = 200'000'000;
// Processes that are being killed need a moment to go.
constexpr int64_t kGraceNanos = 2 * kNanosPerSecond;

// Shared between the supervisor and the tests. The text is written before the
// time and read only after it has passed.
struct Page {
  std::atomic<int64_t> alarm_nanos;
  char what[512];
};

struct State {
  pid_t supervisor = 0;
  pid_t tests = 0;
  Page* page = nullptr;
  int64_t test_timeout_nanos = INT64_MAX;
};
State state;

int64_t ReadTestTimeout() {
  const char* const text = getenv("TEST_TIMEOUT");
  const long seconds = text == nullptr ? 0 : strtol(text, nullptr, 10);
  if (seconds <= 0) return INT64_MAX;
  // Bazel must not be first: it would kill the tests without a word.
  const long margin = std::max(1L, std::min(10L, seconds / 6));
  return MonotonicNanos() + (seconds - margin) * kNanosPerSecond;
}

bool BeingTraced() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind("TracerPid:", 0) == 0) return atoi(line.c_str() + 10) != 0;
  }
  return false;
}

int64_t CountThreads() {
  std::error_code error;
  return std::distance(
      std::filesystem::directory_iterator("/proc/self/task", error),
      std::filesystem::directory_iterator());
}

[[noreturn]] void EndBySignal(int signal) {
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_UNBLOCK, &all, nullptr);
  raise(signal);
  _exit(128 + signal);
}

[[noreturn]] void Expire() {
  const std::string processes = DescribeDescendants(getpid());
  fprintf(stderr,
          "\nwatchdog: %s did not end in time; its processes:\n%s"
          "watchdog: killing them\n",
          state.page->what, processes.c_str());
  KillDescendants();
  EndBySignal(SIGABRT);
}

// The tests have ended: nothing else may be left, and the supervisor ends as
// they did.
[[noreturn]] void Finish(int status) {
  const int64_t until = MonotonicNanos() + kGraceNanos;
  bool left = true;
  while (left && MonotonicNanos() < until) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    left = !Descendants(getpid()).empty();
    const timespec pause = {.tv_sec = 0, .tv_nsec = 2'000'000};
    if (left) nanosleep(&pause, nullptr);
  }
  if (left) {
    fprintf(stderr, "supervisor: processes left behind by the tests:\n%s",
            DescribeDescendants(getpid()).c_str());
    KillDescendants();
  }
  if (WIFSIGNALED(status)) EndBySignal(WTERMSIG(status));
  _exit(left && WEXITSTATUS(status) == 0 ? 1 : WEXITSTATUS(status));
}

[[noreturn]] void Supervise() {
  sigset_t handled;
  sigemptyset(&handled);
  for (const int signal : {SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM}) {
    sigaddset(&handled, signal);
  }
  sigprocmask(SIG_BLOCK, &handled, nullptr);
  while (true) {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid == state.tests) Finish(status);
    }
    const int64_t left =
        state.page->alarm_nanos.load(std::memory_order_acquire) -
        MonotonicNanos();
    if (left <= 0) Expire();
    const timespec pause = {.tv_sec = 0, .tv_nsec = std::min(left, kLookNanos)};
    const int signal = sigtimedwait(&handled, nullptr, &pause);
    if (signal > 0 && signal != SIGCHLD) {
      KillDescendants();
      EndBySignal(signal);
    }
  }
}

void StartSupervisor() {
  if (state.page != nullptr || BeingTraced()) return;
  if (::testing::internal::InDeathTestChild()) return;
  // The background thread of ThreadSanitizer does not matter to a fork.
  if (CountThreads() > (testing::kThreadSanitizer ? 2 : 1)) {
    fprintf(stderr, "supervisor: not started, there are threads already\n");
    return;
  }
  void* const memory = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  MP_PCHECK(memory != MAP_FAILED) << "mmap";
  state.page = static_cast<Page*>(memory);
  state.test_timeout_nanos = ReadTestTimeout();
  SetAlarm({.at_nanos = state.test_timeout_nanos, .what = "the test program"});

  fflush(stdout);
  fflush(stderr);
  // Before there can be orphans. Children do not inherit it.
  MP_PCHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0) << "prctl";
  const pid_t supervisor = getpid();
  const pid_t tests = fork();
  MP_PCHECK(tests >= 0) << "fork";
  if (tests != 0) {
    state.tests = tests;
    Supervise();
  }
  MP_PCHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0) << "prctl";
  if (getppid() != supervisor) _exit(1);
  state.supervisor = supervisor;
  state.tests = getpid();
  // In a forked process it starts that thread anew with the first other one,
  // where the leak check would find it.
  if (testing::kThreadSanitizer) std::thread([] {}).join();
}

class SupervisorEnvironment : public ::testing::Environment {
 public:
  void SetUp() override { StartSupervisor(); }
};

[[maybe_unused]] ::testing::Environment* const environment =
    ::testing::AddGlobalTestEnvironment(new SupervisorEnvironment);

}  // namespace

pid_t SupervisorPid() { return state.tests == getpid() ? state.supervisor : 0; }

Alarm SetAlarm(const Alarm& alarm) {
  Page* const page = state.page;
  // A child of the test shares the page but must not touch it.
  if (page == nullptr || (state.tests != 0 && state.tests != getpid())) {
    return {};
  }
  Alarm previous = {
      .at_nanos = page->alarm_nanos.load(std::memory_order_relaxed),
      .what = page->what};
  // Never rings with half a text.
  page->alarm_nanos.store(INT64_MAX, std::memory_order_relaxed);
  snprintf(page->what, sizeof(page->what), "%s", alarm.what.c_str());
  page->alarm_nanos.store(alarm.at_nanos, std::memory_order_release);
  return previous;
}

int64_t TestTimeoutNanos() { return state.test_timeout_nanos; }

}  // namespace mp::testing_internal
