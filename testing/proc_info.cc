#include "mp/testing/proc_info.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "mp/base/unique_fd.h"

namespace mp::testing {
namespace {

std::string ReadFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd) return text;
  char buffer[4096];
  ssize_t size;
  while ((size = read(fd.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(size));
  }
  return std::string(absl::StripSuffix(text, "\n"));
}

// The numeric names in a directory of /proc.
std::vector<pid_t> NumericEntries(const std::string& path) {
  std::vector<pid_t> numbers;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()),
                                                      &closedir);
  if (directory == nullptr) return numbers;
  while (const dirent* entry = readdir(directory.get())) {
    char* end = nullptr;
    const long number = strtol(entry->d_name, &end, 10);
    if (number > 0 && *end == '\0') {
      numbers.push_back(static_cast<pid_t>(number));
    }
  }
  return numbers;
}

std::optional<ProcessInfo> ParseStat(pid_t pid, const std::string& text) {
  // The name is in parentheses and may contain anything, also parentheses.
  const size_t open = text.find('(');
  const size_t close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos) {
    return std::nullopt;
  }
  const std::vector<std::string> fields =
      absl::StrSplit(text.substr(close + 2), ' ');
  constexpr size_t kStartTime = 19;  // the 22nd field of all
  if (fields.size() <= kStartTime || fields[0].empty()) return std::nullopt;
  return ProcessInfo{
      .pid = pid,
      .parent = static_cast<pid_t>(atoi(fields[1].c_str())),
      .state = fields[0][0],
      .name = text.substr(open + 1, close - open - 1),
      .start_ticks = strtoull(fields[kStartTime].c_str(), nullptr, 10)};
}

void AppendBelow(pid_t root, const std::multimap<pid_t, ProcessInfo>& by_parent,
                 std::vector<ProcessInfo>* out) {
  const auto [begin, end] = by_parent.equal_range(root);
  for (auto child = begin; child != end; ++child) {
    out->push_back(child->second);
    AppendBelow(child->second.pid, by_parent, out);
  }
}

}  // namespace

std::optional<ProcessInfo> ReadProcessInfo(pid_t pid) {
  return ParseStat(pid, ReadFile(absl::StrCat("/proc/", pid, "/stat")));
}

std::vector<ProcessInfo> Descendants(pid_t root) {
  std::multimap<pid_t, ProcessInfo> by_parent;
  for (const pid_t pid : NumericEntries("/proc")) {
    std::optional<ProcessInfo> info = ReadProcessInfo(pid);
    if (info.has_value()) by_parent.emplace(info->parent, *std::move(info));
  }
  std::vector<ProcessInfo> below;
  AppendBelow(root, by_parent, &below);
  return below;
}

std::string SleepingIn(pid_t pid) {
  const std::optional<ProcessInfo> info = ReadProcessInfo(pid);
  if (!info.has_value() || info->state != 'S') return "";
  std::string call = ReadFile(absl::StrCat("/proc/", pid, "/syscall"));
  // "running", or not in a system call at all ("-1").
  if (!call.empty() && (call[0] < '0' || call[0] > '9')) return "";
  return call.empty() ? "unknown" : call;
}

std::string Describe(const ProcessInfo& info) {
  return absl::StrFormat("%d (%s) state %c", info.pid, info.name, info.state);
}

std::string DescribeDescendants(pid_t root) {
  std::string text;
  std::map<pid_t, int> depth;
  depth[root] = 0;
  for (const ProcessInfo& info : Descendants(root)) {
    const int level = depth[info.pid] = depth[info.parent] + 1;
    const std::string indent(static_cast<size_t>(2 * level), ' ');
    absl::StrAppend(&text, indent, Describe(info), "\n");
    const std::string tasks = absl::StrCat("/proc/", info.pid, "/task");
    for (const pid_t task : NumericEntries(tasks)) {
      const std::string path = absl::StrCat(tasks, "/", task);
      const std::optional<ProcessInfo> thread =
          ParseStat(task, ReadFile(absl::StrCat(path, "/stat")));
      absl::StrAppendFormat(
          &text, "%s  thread %d state %c waits in %s, system call %s\n", indent,
          task, thread.has_value() ? thread->state : '?',
          ReadFile(absl::StrCat(path, "/wchan")),
          ReadFile(absl::StrCat(path, "/syscall")));
    }
  }
  return text;
}

void KillDescendants() {
  while (true) {
    const std::vector<ProcessInfo> below = Descendants(getpid());
    if (below.empty()) return;
    // Stopped first: a process cannot fork faster than it is killed.
    for (const ProcessInfo& info : below) kill(info.pid, SIGSTOP);
    for (const ProcessInfo& info : below) kill(info.pid, SIGKILL);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    const timespec pause = {.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace mp::testing
