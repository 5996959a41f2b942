#include "mp/process/lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <mutex>
#include <string>

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

  static Pipe& Get() {
    static auto* const pipe = new Pipe;  // outlives every thread
    return *pipe;
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
  if (!pipe.write_end) {
    std::array<int, 2> ends;
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe2");
    // Nothing is ever in it, and users have a limit on pages in pipes.
    fcntl(ends[1], F_SETPIPE_SZ, sysconf(_SC_PAGESIZE));
    pipe.read_end = AboveStandardStreams(UniqueFd(ends[0]));
    pipe.write_end = AboveStandardStreams(UniqueFd(ends[1]));
    if (!pipe.read_end || !pipe.write_end) {
      const int error = errno;
      pipe.write_end.reset();
      return ErrnoStatus(error, "fcntl(F_DUPFD_CLOEXEC)");
    }
  }
  // Not a duplicate: whom the kernel tells is a property of the open file.
  const std::string path = absl::StrCat("/proc/self/fd/", pipe.read_end.get());
  UniqueFd own = AboveStandardStreams(
      UniqueFd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)));
  if (!own) return ErrnoStatus(errno, absl::StrCat("open(", path, ")"));
  return own;
}

void HoldLifeline(UniqueFd lifeline) {
  const int fd = lifeline.release();  // for the life of the process
  MP_PCHECK(fcntl(fd, F_SETOWN, getpid()) == 0 &&
            fcntl(fd, F_SETSIG, SIGKILL) == 0 &&
            fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) == 0)
      << "fcntl of a lifeline";
  // Only what happens from now on is told.
  pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  if (poll(&entry, 1, 0) > 0) kill(getpid(), SIGKILL);
}

}  // namespace mp::process_internal
