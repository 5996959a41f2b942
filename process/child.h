// A running child of this process: how it is watched, signalled and reaped.
//
// The only place in the library that collects exit statuses. It asks for its
// own child and no other (waitid with P_PIDFD), so children and waitpid() calls
// of the rest of the program are undisturbed, and a pid that the kernel has
// given to somebody else is never waited for or signalled. Users have
// mp::Process (mp/process/process.h) in front of it.

#ifndef MP_PROCESS_CHILD_H_
#define MP_PROCESS_CHILD_H_

#include <sys/types.h>

#include <atomic>
#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"

namespace mp::process_internal {

// The exit code of a child whose status somebody else has taken: waitpid(-1)
// elsewhere in the program, or a program that ignores SIGCHLD.
inline constexpr int kUnknownExitCode = 255;

// pidfd_open(2), close-on-exec; errno is set on failure.
UniqueFd OpenPidfd(pid_t pid);

// A descriptor that is ready like the pidfd of a process that has ended.
UniqueFd ReadableForEver();

// Waits until the process behind `pidfd` has ended, reaped or not.
// DeadlineExceeded if the deadline passes first. Any process may ask.
absl::Status WaitForEnd(int pidfd, Deadline deadline);

// What to do with a child when OpenPidfd() has failed, errno still set: kills
// and reaps it. The error to return.
absl::Status DiscardWithoutPidfd(pid_t pid);

class Child {
 public:
  // `pid` is a child of the calling process and not yet waited for; `pidfd`
  // refers to it. Without a pidfd the child is one that somebody else has
  // reaped already.
  Child(pid_t pid, UniqueFd pidfd);

  pid_t pid() const { return pid_; }
  // Readable once the child has ended, for the life of this object.
  int pidfd() const { return pidfd_.get(); }
  // Any process that has inherited a copy may ask.
  bool HasEnded() const;

  // Blocks until Reap() has an answer. Only for the parent. Cheaper than
  // WaitForEnd(), and a child that has ended but is traced by another process,
  // so that it cannot be reaped yet, is waited for.
  void WaitUntilReapable() const;
  // Nothing while the child runs. Reaps a child that has ended. Only for the
  // parent, and not from two threads at once: one of them would find nothing.
  std::optional<int> Reap();
  // OK also if the child has ended.
  absl::Status Signal(int signal) const;

 private:
  static constexpr int kRunning = std::numeric_limits<int>::min();

  const pid_t pid_;
  UniqueFd pidfd_;
  std::atomic<int> exitcode_{kRunning};
};

}  // namespace mp::process_internal

#endif  // MP_PROCESS_CHILD_H_
