#include "mp/process/process_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/base/errno_status.h"
#include "mp/base/unique_fd.h"
#include "mp/process/child.h"

namespace mp::process_internal {
namespace {

struct Stat {
  char state;
  pid_t parent;
};

// Of the process or thread with that directory; nothing if it has gone.
std::optional<Stat> ReadStat(const std::string& directory) {
  const UniqueFd fd(open((directory + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::array<char, 512> text;
  const ssize_t size = read(fd.get(), text.data(), text.size() - 1);
  if (size <= 0) return std::nullopt;
  text[static_cast<size_t>(size)] = '\0';
  // After the name, which may contain anything.
  const char* const name_end = strrchr(text.data(), ')');
  Stat stat;
  if (name_end == nullptr ||
      sscanf(name_end, ") %c %d", &stat.state, &stat.parent) != 2) {
    return std::nullopt;
  }
  return stat;
}

std::string DirectoryOf(pid_t pid) { return absl::StrCat("/proc/", pid); }

// The entries of a directory whose names are numbers.
absl::StatusOr<std::vector<pid_t>> Numbers(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()),
                                                      &closedir);
  if (directory == nullptr) {
    return ErrnoStatus(errno, absl::StrCat("opendir(", path, ")"));
  }
  std::vector<pid_t> numbers;
  while (const dirent* const entry = readdir(directory.get())) {
    pid_t number;
    if (absl::SimpleAtoi(entry->d_name, &number)) numbers.push_back(number);
  }
  return numbers;
}

// Whether a thread of the process has neither stopped nor ended. One that waits
// in the kernel may be in the middle of a fork.
bool CanStillFork(pid_t pid) {
  const std::string tasks = DirectoryOf(pid) + "/task";
  const absl::StatusOr<std::vector<pid_t>> threads = Numbers(tasks);
  if (!threads.ok()) return false;  // it has gone
  for (const pid_t thread : *threads) {
    const std::optional<Stat> stat = ReadStat(absl::StrCat(tasks, "/", thread));
    if (stat.has_value() && strchr("TtZXx", stat->state) == nullptr) {
      return true;
    }
  }
  return false;
}

class Tree {
 public:
  Tree(pid_t root, int pidfd) : root_(root), root_pidfd_(pidfd) {}

  // Everybody gets the signal. The first error.
  absl::Status Signal(int signal) const {
    absl::Status status = Send(root_pidfd_, signal);
    for (const auto& [pid, pidfd] : below_) {
      status.Update(Send(pidfd.get(), signal));
    }
    return status;
  }

  // Looks once for children of those that are known, and stops them. Whether
  // there may be more: somebody was new, or has not stopped yet.
  absl::StatusOr<bool> Grow() {
    // Before the look: what they fork after it, they were seen to be able to.
    bool more = CanStillFork(root_);
    for (const auto& [pid, pidfd] : below_) more = more || CanStillFork(pid);
    const absl::StatusOr<std::vector<pid_t>> pids = Numbers("/proc");
    if (!pids.ok()) return pids.status();
    for (const pid_t pid : *pids) {
      if (Knows(pid)) continue;
      const std::optional<Stat> stat = ReadStat(DirectoryOf(pid));
      if (!stat.has_value() || !Knows(stat->parent)) continue;
      UniqueFd pidfd = OpenPidfd(pid);
      if (!pidfd && errno == ESRCH) continue;
      if (!pidfd) return ErrnoStatus(errno, "pidfd_open");
      // As long as it has this parent, it is the process that was found.
      const std::optional<Stat> again = ReadStat(DirectoryOf(pid));
      if (!again.has_value() || !Knows(again->parent)) continue;
      if (absl::Status sent = Send(pidfd.get(), SIGSTOP); !sent.ok()) {
        return sent;
      }
      below_.emplace(pid, std::move(pidfd));
      more = true;
    }
    return more;
  }

 private:
  bool Knows(pid_t pid) const { return pid == root_ || below_.count(pid) > 0; }

  static absl::Status Send(int pidfd, int signal) {
    if (syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) != 0 &&
        errno != ESRCH) {
      return ErrnoStatus(errno, "pidfd_send_signal");
    }
    return absl::OkStatus();
  }

  const pid_t root_;
  const int root_pidfd_;
  std::map<pid_t, UniqueFd> below_;
};

}  // namespace

absl::Status KillTree(pid_t pid, int pidfd) {
  Tree tree(pid, pidfd);
  absl::Status status = tree.Signal(SIGSTOP);
  while (status.ok()) {
    const absl::StatusOr<bool> more = tree.Grow();
    status = more.status();
    if (!more.ok() || !*more) break;
    absl::SleepFor(absl::Microseconds(100));
  }
  if (!status.ok()) {
    tree.Signal(SIGCONT).IgnoreError();
    return status;
  }
  return tree.Signal(SIGKILL);
}

}  // namespace mp::process_internal
