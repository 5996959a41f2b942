#include "mp/testing/child.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <typeinfo>
#include <utility>

#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/testing/proc_info.h"

namespace mp::testing {
namespace {

// Prints failures to standard error at once: the child may be killed later.
class FailurePrinter : public ::testing::EmptyTestEventListener {
 public:
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    failed_ = true;
    fprintf(stderr, "%s:%d: failure in child process %d\n%s\n",
            result.file_name() != nullptr ? result.file_name() : "unknown",
            result.line_number(), getpid(), result.message());
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

int RunBody(absl::FunctionRef<int()> body) {
  // The listeners of the parent would print to its standard output and write
  // its report.
  auto* const printer = new FailurePrinter;
  ::testing::TestEventListeners& listeners =
      ::testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(printer);
  int code = kChildFailedCode;
  try {
    code = body();
  } catch (const std::exception& exception) {
    fprintf(stderr, "exception of type %s in child process %d: %s\n",
            typeid(exception).name(), getpid(), exception.what());
  } catch (...) {
    fprintf(stderr, "unknown exception in child process %d\n", getpid());
  }
  return printer->failed() ? kChildFailedCode : code;
}

void Pause(int64_t nanos) {
  const timespec pause = {.tv_sec = 0, .tv_nsec = static_cast<long>(nanos)};
  nanosleep(&pause, nullptr);
}

}  // namespace

ExitStatus ExitStatus::FromWait(int status) {
  return WIFSIGNALED(status) ? Signal(WTERMSIG(status))
                             : Code(WEXITSTATUS(status));
}

std::ostream& operator<<(std::ostream& os, const ExitStatus& status) {
  if (status.exited()) return os << "exit code " << status.code;
  return os << "signal " << status.signal << " (" << strsignal(status.signal)
            << ")";
}

ChildProcess::ChildProcess(pid_t pid, UniqueFd pidfd)
    : owner_(getpid()), pid_(pid), pidfd_(std::move(pidfd)) {}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : owner_(std::exchange(other.owner_, 0)),
      pid_(other.pid_),
      pidfd_(std::move(other.pidfd_)),
      status_(other.status_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    Finish();
    owner_ = std::exchange(other.owner_, 0);
    pid_ = other.pid_;
    pidfd_ = std::move(other.pidfd_);
    status_ = other.status_;
  }
  return *this;
}

ChildProcess::~ChildProcess() { Finish(); }

void ChildProcess::Finish() {
  if (owner_ != getpid() || status_.has_value()) return;
  Kill();
  Wait();
}

ChildProcess ChildProcess::Fork(absl::FunctionRef<int()> body) {
  const pid_t pid = testing_internal::ForkForTest(body);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  MP_PCHECK(pidfd.valid()) << "pidfd_open";
  return ChildProcess(pid, std::move(pidfd));
}

bool ChildProcess::IsAlive() const {
  if (status_.has_value()) return false;
  pollfd poll_fd = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 0;
}

void ChildProcess::Kill(int signal) {
  // Not reaped, so the pid is still its own.
  if (!status_.has_value()) MP_PCHECK(kill(pid_, signal) == 0) << "kill";
}

bool ChildProcess::Stop() {
  Kill(SIGSTOP);
  // Does not consume the end of the child, which Wait() wants to see.
  siginfo_t info;
  while (true) {
    info.si_pid = 0;
    const int result = waitid(P_PID, static_cast<id_t>(pid_), &info,
                              WSTOPPED | WEXITED | WNOWAIT);
    if (result == 0) break;
    MP_PCHECK(errno == EINTR) << "waitid";
  }
  if (info.si_code != CLD_STOPPED) return false;
  waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WNOHANG);
  return true;
}

void ChildProcess::Continue() { Kill(SIGCONT); }

bool ChildProcess::WaitUntilAsleep() {
  std::string before;
  while (IsAlive()) {
    // The same call with the same arguments in looks some milliseconds apart:
    // not just passing through.
    const std::string now = SleepingIn(pid_);
    if (!now.empty() && now == before) return true;
    before = now;
    Pause(now.empty() ? 200'000 : 5'000'000);
  }
  return false;
}

std::optional<ExitStatus> ChildProcess::Wait(absl::Duration timeout) {
  const Deadline deadline = Deadline::After(timeout);
  while (!status_.has_value()) {
    pollfd poll_fd = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    const int ready = poll(&poll_fd, 1, deadline.ToPollMillis());
    if (ready == 1) {
      int status = 0;
      const pid_t reaped = waitpid(pid_, &status, 0);
      MP_PCHECK(reaped == pid_) << "waitpid: somebody else reaped the child";
      status_ = ExitStatus::FromWait(status);
    } else if (ready == 0 && deadline.Expired()) {
      break;
    } else {
      MP_PCHECK(ready == 0 || errno == EINTR) << "poll";
    }
  }
  return status_;
}

void ChildProcess::ExpectExit(int code) {
  EXPECT_EQ(*Wait(), ExitStatus::Code(code)) << "child process " << pid_;
}

void ChildProcess::ExpectSignal(int signal) {
  EXPECT_EQ(*Wait(), ExitStatus::Signal(signal)) << "child process " << pid_;
}

}  // namespace mp::testing

namespace mp::testing_internal {

pid_t ForkForTest(absl::FunctionRef<int()> body) {
  // Otherwise the child would print what the parent has buffered.
  fflush(stdout);
  fflush(stderr);
  std::cout.flush();
  const pid_t parent = getpid();
  const pid_t pid = fork();
  MP_PCHECK(pid >= 0) << "fork";
  if (pid != 0) return pid;

  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(testing::kChildFailedCode);
  const int code = testing::RunBody(body);
  std::cout.flush();
  fflush(stdout);
  fflush(stderr);
  _exit(code);
}

int CountFailures() {
  const ::testing::TestInfo* const test =
      ::testing::UnitTest::GetInstance()->current_test_info();
  if (test == nullptr) return 0;
  const ::testing::TestResult& result = *test->result();
  int failures = 0;
  for (int i = 0; i < result.total_part_count(); ++i) {
    if (result.GetTestPartResult(i).failed()) ++failures;
  }
  return failures;
}

}  // namespace mp::testing_internal
