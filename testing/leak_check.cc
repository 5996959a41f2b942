#include "mp/testing/leak_check.h"

#include <dirent.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "mp/base/deadline.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/supervisor.h"

namespace mp::testing {
namespace {

constexpr char kSharedMemoryMount[] = "/dev/shm";

using Snapshot = std::map<std::string, int>;

void AddProcesses(Snapshot* out) {
  // Orphans of this process are below its supervisor.
  const pid_t self = getpid();
  const pid_t supervisor = testing_internal::SupervisorPid();
  for (const ProcessInfo& info :
       Descendants(supervisor != 0 ? supervisor : self)) {
    if (info.pid == self) continue;
    // Zombies below the supervisor are about to be reaped by it.
    if (info.state == 'X' || (info.state == 'Z' && info.parent == supervisor)) {
      continue;
    }
    ++(*out)[absl::StrCat(info.state == 'Z' ? "zombie " : "process ", info.pid,
                          " (", info.name, "), child of ", info.parent,
                          ", started at tick ", info.start_ticks)];
  }
}

void AddThreads(Snapshot* out) {
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/task", error)) {
    ++(*out)[absl::StrCat("thread ", entry.path().filename().string())];
  }
}

// Which end of a lifeline, or nothing.
const char* LifelineEnd(int fd) {
  if (fcntl(fd, F_GETPIPE_SZ) != sysconf(_SC_PAGESIZE)) return "";
  return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY
             ? " (mp:lifeline, read end)"
             : " (mp:lifeline, write end)";
}

void AddDescriptors(Snapshot* out) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"),
                                                      &closedir);
  if (directory == nullptr) return;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." ||
        name == absl::StrCat(dirfd(directory.get()))) {
      continue;
    }
    std::error_code error;
    const std::string target =
        std::filesystem::read_symlink("/proc/self/fd/" + name, error).string();
    ++(*out)[absl::StrCat("descriptor ", name, " -> ", target,
                          LifelineEnd(std::stoi(name)))];
  }
}

// Shared memory of any kind: memfds, POSIX shared memory, anonymous.
void AddMappings(Snapshot* out) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    std::istringstream fields(line);
    std::string range, rights, offset, device, inode, path;
    fields >> range >> rights >> offset >> device >> inode;
    std::getline(fields >> std::ws, path);
    if (rights.size() < 4 || rights[3] != 's') continue;
    ++(*out)[absl::StrCat("mapping of ", path, " inode ", inode)];
  }
}

void AddFiles(const std::string& directory, Snapshot* out) {
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(error)) {
    ++(*out)[absl::StrCat("file ", entry->path().string())];
  }
}

// The name in kKept that this line is about, if any.
std::optional<std::string> Kept(const std::string& what) {
  for (const char* const name : kKept) {
    const size_t at = what.find(name);
    if (at == std::string::npos) continue;
    const size_t end = at + strlen(name);
    if (end < what.size() && (what[end] == ' ' || what[end] == ')')) {
      return name;
    }
  }
  return std::nullopt;
}

}  // namespace

LeakCheck::LeakCheck() : before_(Take()) {}

LeakCheck::Snapshot LeakCheck::Take() {
  Snapshot now;
  AddProcesses(&now);
  AddThreads(&now);
  AddDescriptors(&now);
  AddMappings(&now);
  AddFiles(kSharedMemoryMount, &now);
  const char* const temporary = getenv("TEST_TMPDIR");
  if (temporary != nullptr) AddFiles(temporary, &now);
  return now;
}

std::vector<std::string> LeakCheck::CompareOnce() const {
  const Snapshot now = Take();
  std::vector<std::string> differences;
  // Which of the kept ones have had their one descriptor and mapping.
  std::set<std::pair<std::string, bool>> kept;
  for (const auto& [what, count] : now) {
    const auto then = before_.find(what);
    const int extra = count - (then == before_.end() ? 0 : then->second);
    if (extra <= 0) continue;
    const bool mapping = absl::StartsWith(what, "mapping");
    const std::optional<std::string> name = Kept(what);
    if (name.has_value() && kept.insert({*name, mapping}).second) continue;
    differences.push_back(absl::StrCat(
        "new: ", what, extra > 1 ? absl::StrCat(" (", extra, " times)") : ""));
  }
  for (const auto& [what, count] : before_) {
    const auto after = now.find(what);
    const int missing = count - (after == now.end() ? 0 : after->second);
    // Processes, threads and files of others may go.
    if (missing <= 0 || absl::StartsWith(what, "process") ||
        absl::StartsWith(what, "zombie") || absl::StartsWith(what, "thread") ||
        absl::StartsWith(what, "file") || Kept(what).has_value()) {
      continue;
    }
    differences.push_back(absl::StrCat("gone: ", what));
  }
  return differences;
}

std::vector<std::string> LeakCheck::Compare(absl::Duration grace) const {
  const Deadline deadline = Deadline::After(grace);
  timespec pause = {.tv_sec = 0, .tv_nsec = 500'000};
  while (true) {
    std::vector<std::string> differences = CompareOnce();
    if (differences.empty() || deadline.Expired()) return differences;
    nanosleep(&pause, nullptr);
    pause.tv_nsec = std::min(2 * pause.tv_nsec, 50'000'000L);
  }
}

}  // namespace mp::testing
