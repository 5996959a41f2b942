#include "mp/process/lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"
#include "mp/base/fork_handlers.h"
#include "mp/process/child.h"

namespace mp::process_internal {
namespace {

// This process's pipe, made when it is first needed.
struct Pipe {
  std::mutex mutex;
  UniqueFd read_end;
  UniqueFd write_end;
  // Of pipes that this process may not open any more: it was another user when
  // it made them. Children hang on them still.
  std::vector<UniqueFd> old_write_ends;

  static Pipe& Get() {
    static auto* const pipe = new Pipe;  // outlives every thread
    return *pipe;
  }

  absl::Status Make() {
    std::array<int, 2> ends;
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe2");
    // Nothing is ever in it, and users have a limit on pages in pipes.
    fcntl(ends[1], F_SETPIPE_SZ, sysconf(_SC_PAGESIZE));
    read_end = AboveStandardStreams(UniqueFd(ends[0]));
    write_end = AboveStandardStreams(UniqueFd(ends[1]));
    if (read_end && write_end) return absl::OkStatus();
    const int error = errno;
    write_end.reset();
    return ErrnoStatus(error, "fcntl(F_DUPFD_CLOEXEC)");
  }

 private:
  Pipe() {
    // Nobody else may have the write end. The read end would tell a child's
    // children of its parent's death.
    AddForkHandlers({.before = [] { Get().mutex.lock(); },
                     .in_parent = [] { Get().mutex.unlock(); },
                     .in_child =
                         [] {
                           Get().write_end.reset();
                           Get().read_end.reset();
                           Get().old_write_ends.clear();
                           Get().mutex.unlock();
                         }});
  }
};

// Made before main(), while no other thread can fork: a child forked while the
// static in Get() is initialised would wait for that for ever.
[[maybe_unused]] const Pipe& made_before_main = Pipe::Get();

}  // namespace

absl::StatusOr<UniqueFd> NewLifeline() {
  Pipe& pipe = Pipe::Get();
  const std::lock_guard lock(pipe.mutex);
  while (true) {
    const bool is_new = !pipe.write_end;
    if (is_new) {
      if (absl::Status status = pipe.Make(); !status.ok()) return status;
    }
    // Not a duplicate: whom the kernel tells is a property of the open file.
    const std::string path =
        absl::StrCat("/proc/self/fd/", pipe.read_end.get());
    UniqueFd own = AboveStandardStreams(
        UniqueFd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)));
    if (own) return own;
    if (errno != EACCES || is_new) {
      return ErrnoStatus(errno, absl::StrCat("open(", path, ")"));
    }
    pipe.old_write_ends.push_back(std::move(pipe.write_end));
  }
}

void HoldLifeline(int fd) {
  MP_PCHECK(fcntl(fd, F_SETOWN, getpid()) == 0 &&
            fcntl(fd, F_SETSIG, SIGKILL) == 0 &&
            fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) == 0)
      << "fcntl of a lifeline";
  // Only what happens from now on is told.
  pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  if (poll(&entry, 1, 0) > 0) kill(getpid(), SIGKILL);
}

}  // namespace mp::process_internal
