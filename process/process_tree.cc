#include "mp/process/process_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
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
#include "mp/base/deadline.h"
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

enum class Activity {
  kStopped,  // or ended: all its threads
  kWaits,    // in the kernel, where it may be in the middle of a fork or vfork
  kRuns,
};

Activity ActivityOf(pid_t pid) {
  const std::string tasks = DirectoryOf(pid) + "/task";
  const absl::StatusOr<std::vector<pid_t>> threads = Numbers(tasks);
  if (!threads.ok()) return Activity::kStopped;  // it has gone
  Activity most = Activity::kStopped;
  for (const pid_t thread : *threads) {
    const std::optional<Stat> stat = ReadStat(absl::StrCat(tasks, "/", thread));
    if (!stat.has_value() || strchr("TtZXx", stat->state) != nullptr) continue;
    most =
        std::max(most, stat->state == 'D' ? Activity::kWaits : Activity::kRuns);
  }
  return most;
}

// Then its pid may be somebody else's.
bool HasEnded(int pidfd) { return WaitForEnd(pidfd, Deadline::Now()).ok(); }

class Tree {
 public:
  Tree(pid_t root, UniqueFd pidfd) {
    members_.emplace(root, Member{.pidfd = std::move(pidfd), .parent = 0});
  }

  // Everybody gets the signal. The first error.
  absl::Status Signal(int signal) const {
    absl::Status status;
    for (const auto& [pid, member] : members_) {
      status.Update(Send(member.pidfd.get(), signal));
    }
    return status;
  }

  // What the most active member does, before a look at all processes for
  // children of members, who are stopped. kRuns also if there were any.
  absl::StatusOr<Activity> Grow() {
    Activity most = Activity::kStopped;
    for (const auto& [pid, member] : members_) {
      if (!HasEnded(member.pidfd.get())) most = std::max(most, ActivityOf(pid));
    }
    const absl::StatusOr<std::vector<pid_t>> pids = Numbers("/proc");
    if (!pids.ok()) return pids.status();
    for (const pid_t pid : *pids) {
      if (members_.count(pid) > 0) continue;
      const std::optional<Stat> stat = ReadStat(DirectoryOf(pid));
      if (!stat.has_value() || members_.count(stat->parent) == 0) continue;
      UniqueFd pidfd = OpenPidfd(pid);
      if (!pidfd && errno == ESRCH) continue;
      if (!pidfd) return ErrnoStatus(errno, "pidfd_open");
      // As long as it has this parent, it is the process that was found; as
      // long as the parent has not ended, that is the member.
      const std::optional<Stat> again = ReadStat(DirectoryOf(pid));
      if (!again.has_value() || again->parent != stat->parent ||
          HasEnded(members_.at(stat->parent).pidfd.get())) {
        continue;
      }
      if (absl::Status sent = Send(pidfd.get(), SIGSTOP); !sent.ok()) {
        return sent;
      }
      members_.emplace(
          pid, Member{.pidfd = std::move(pidfd), .parent = stat->parent});
      most = Activity::kRuns;
    }
    return most;
  }

  // Kills those that have no children and have stopped. Who waits may wait for
  // one of them: a parent in vfork() does, until its child has called exec.
  absl::Status KillStoppedLeaves() const {
    absl::Status status;
    for (const auto& [pid, member] : members_) {
      const pid_t self = pid;
      const bool leaf = std::none_of(
          members_.begin(), members_.end(), [self](const auto& other) {
            return other.second.parent == self &&
                   !HasEnded(other.second.pidfd.get());
          });
      if (leaf && !HasEnded(member.pidfd.get()) &&
          ActivityOf(pid) == Activity::kStopped) {
        status.Update(Send(member.pidfd.get(), SIGKILL));
      }
    }
    return status;
  }

 private:
  struct Member {
    UniqueFd pidfd;
    pid_t parent;
  };

  static absl::Status Send(int pidfd, int signal) {
    if (syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) != 0 &&
        errno != ESRCH) {
      return ErrnoStatus(errno, "pidfd_send_signal");
    }
    return absl::OkStatus();
  }

  std::map<pid_t, Member> members_;
};

// How often to look at who only waits before it is killed as it is: it may wait
// for a dead file server.
constexpr int kPatience = 1'000;

absl::Status StopAll(Tree& tree) {
  absl::Status status = tree.Signal(SIGSTOP);
  for (int waits = 0; status.ok() && waits < kPatience;) {
    const absl::StatusOr<Activity> activity = tree.Grow();
    if (!activity.ok()) return activity.status();
    if (*activity == Activity::kStopped) break;
    if (*activity == Activity::kWaits) {
      ++waits;
      status = tree.KillStoppedLeaves();
    }
    absl::SleepFor(absl::Microseconds(100));
  }
  return status;
}

}  // namespace

absl::Status KillTree(pid_t pid, int pidfd) {
  UniqueFd own(fcntl(pidfd, F_DUPFD_CLOEXEC, 0));
  if (!own) return ErrnoStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
  Tree tree(pid, std::move(own));
  if (absl::Status status = StopAll(tree); !status.ok()) {
    tree.Signal(SIGCONT).IgnoreError();
    return status;
  }
  return tree.Signal(SIGKILL);
}

}  // namespace mp::process_internal
