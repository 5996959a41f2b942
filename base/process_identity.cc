#include "mp/base/process_identity.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "mp/base/unique_fd.h"

namespace mp {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;

int64_t BoottimeNanos() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);  // cannot fail with this clock
  return now.tv_sec * kNanosPerSecond + now.tv_nsec;
}

// When the present owner of `pid` started, in nanoseconds of CLOCK_BOOTTIME
// rounded down to clock ticks; -1 if that cannot be read. Uses no heap: it may
// run in a forked child of a program with threads.
int64_t StartNanos(pid_t pid) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/%d/stat", pid);
  const UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return -1;
  char text[1024];
  const ssize_t size = read(fd.get(), text, sizeof(text) - 1);
  if (size <= 0) return -1;
  text[size] = '\0';
  // The second field is the program's name in parentheses and may contain
  // anything; the start time is the 22nd field, the 20th after the name.
  const char* field = strrchr(text, ')');
  for (int i = 0; field != nullptr && i < 20; ++i) {
    field = strchr(field + 1, ' ');
  }
  if (field == nullptr) return -1;
  const long ticks_per_second = sysconf(_SC_CLK_TCK);
  return strtoll(field + 1, nullptr, 10) * (kNanosPerSecond / ticks_per_second);
}

}  // namespace

ProcessIdentity SelfIdentity() {
  return ProcessIdentity{.pid = getpid(), .alive_at_nanos = BoottimeNanos()};
}

bool IsProvablyDead(const ProcessIdentity& identity) {
  // The order makes reuse of the pid harmless: whoever the descriptor names
  // held the pid when it was opened, so if that process is alive at the end,
  // the start time read in between was its own.
  const UniqueFd pidfd(
      static_cast<int>(syscall(SYS_pidfd_open, identity.pid, 0)));
  if (!pidfd) {
    if (errno == ESRCH) return true;
    // No descriptor left, or a kernel or sandbox without pidfd_open.
    if (kill(identity.pid, 0) != 0 && errno == ESRCH) return true;
  }
  if (StartNanos(identity.pid) > identity.alive_at_nanos) return true;
  if (!pidfd) return false;
  pollfd poll_fd = {.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 1;  // readable once the process has ended
}

}  // namespace mp
