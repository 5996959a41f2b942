#include "mp/process/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "mp/base/check.h"
#include "mp/base/errno_status.h"

namespace mp::process_internal {
namespace {

// The C library's headers have the name only from glibc 2.36 on.
constexpr idtype_t kPidfd = static_cast<idtype_t>(3);  // P_PIDFD

}  // namespace

UniqueFd OpenPidfd(pid_t pid) {
  return AboveStandardStreams(
      UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))));
}

UniqueFd ReadableForEver() {
  return AboveStandardStreams(UniqueFd(eventfd(1, EFD_CLOEXEC)));
}

absl::Status WaitForEnd(int pidfd, Deadline deadline) {
  pollfd entry = {.fd = pidfd, .events = POLLIN, .revents = 0};
  while (true) {
    const int ready = poll(&entry, 1, deadline.ToPollMillis());
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll(pidfd)");
    // Not earlier: poll() counts milliseconds, and only up to 24 days of them.
    if (ready == 0 && deadline.Expired()) {
      return absl::DeadlineExceededError("the process is still running");
    }
  }
}

absl::Status DiscardWithoutPidfd(pid_t pid) {
  const int error = errno;
  siginfo_t info;
  // As long as nobody has reaped it the pid is its own.
  if (waitid(P_PID, static_cast<id_t>(pid), &info,
             WEXITED | WNOHANG | WNOWAIT) == 0) {
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  return ErrnoStatus(error, "pidfd_open");
}

Child::Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {
  if (pidfd_.valid()) return;
  pidfd_ = ReadableForEver();
  exitcode_.store(kUnknownExitCode, std::memory_order_release);
}

bool Child::HasEnded() const {
  return exitcode_.load(std::memory_order_acquire) != kRunning ||
         WaitForEnd(pidfd(), Deadline::Now()).ok();
}

void Child::WaitUntilReapable() const {
  siginfo_t info;
  while (exitcode_.load(std::memory_order_acquire) == kRunning &&
         waitid(kPidfd, static_cast<id_t>(pidfd()), &info, WEXITED | WNOWAIT) !=
             0) {
    if (errno != EINTR) return;  // ECHILD: nobody to wait for any more
  }
}

std::optional<int> Child::Reap() {
  int code = exitcode_.load(std::memory_order_acquire);
  if (code != kRunning) return code;
  siginfo_t info = {};
  if (waitid(kPidfd, static_cast<id_t>(pidfd()), &info, WEXITED | WNOHANG) !=
      0) {
    // EBADF: somebody closed a descriptor that is not theirs.
    MP_PCHECK(errno == ECHILD) << "waitid(P_PIDFD, " << pidfd() << ")";
    code = kUnknownExitCode;
  } else if (info.si_pid == 0) {
    return std::nullopt;
  } else {
    code = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
  }
  exitcode_.store(code, std::memory_order_release);
  return code;
}

absl::Status Child::Signal(int signal) const {
  if (exitcode_.load(std::memory_order_acquire) != kRunning) {
    return absl::OkStatus();
  }
  if (syscall(SYS_pidfd_send_signal, pidfd(), signal, nullptr, 0) != 0 &&
      errno != ESRCH) {
    return ErrnoStatus(errno, "pidfd_send_signal");
  }
  return absl::OkStatus();
}

}  // namespace mp::process_internal
