#include "mp/process/program.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"

namespace mp::process_internal {
namespace {

// The link leads to the file that runs, also if that has been deleted or
// replaced since.
constexpr char kExecutable[] = "/proc/self/exe";

// "child 5" or "forkserver 5": the role, and how many descriptors there are
// from kFirstDescriptor on.
constexpr char kVariable[] = "MP_PROCESS_ASSIGNMENT";
constexpr int kFirstDescriptor = STDERR_FILENO + 1;

const char* RoleName(Role role) {
  return role == Role::kChild ? "child" : "forkserver";
}

// Those of main(); empty before RememberArguments(). Not destroyed: children
// may still be started at exit.
std::vector<std::string>& Arguments() {
  static auto* const arguments = new std::vector<std::string>;
  return *arguments;
}

// The strings must outlive it.
std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& string : strings) {
    pointers.push_back(const_cast<char*>(string.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

// posix_spawn_file_actions_t and posix_spawnattr_t with an end.
class SpawnOptions {
 public:
  explicit SpawnOptions(const sigset_t& mask) {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &mask);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  }
  SpawnOptions(const SpawnOptions&) = delete;
  SpawnOptions& operator=(const SpawnOptions&) = delete;
  ~SpawnOptions() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

}  // namespace

void RememberArguments(int argc, char** argv) {
  Arguments().assign(argv, argv + argc);
  // execve() allows none, but nobody expects that.
  if (Arguments().empty()) Arguments().emplace_back("mp");
}

absl::Status CanSpawnProgram() {
  if (getauxval(AT_SECURE) != 0) {
    return absl::FailedPreconditionError(
        "a program with more rights than its caller (set-user-ID...) can only "
        "fork");
  }
  if (!Arguments().empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the start methods spawn and forkserver need mp::Init(&argc, &argv) at "
      "the beginning of main()");
}

absl::StatusOr<pid_t> SpawnProgram(Role role,
                                   const std::vector<int>& descriptors,
                                   const sigset_t& mask) {
  const auto count = static_cast<int>(descriptors.size());
  const int end = kFirstDescriptor + count;
  SpawnOptions options(mask);
  posix_spawn_file_actions_addopen(&options.actions, STDIN_FILENO, "/dev/null",
                                   O_RDONLY, 0);
  // One that is in the way of another is moved out of it first.
  std::vector<UniqueFd> moved;
  for (int i = 0; i < count; ++i) {
    int from = descriptors[static_cast<size_t>(i)];
    if (from < end) {
      UniqueFd& copy =
          moved.emplace_back(UniqueFd(fcntl(from, F_DUPFD_CLOEXEC, end)));
      if (!copy) return ErrnoStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
      from = copy.get();
    }
    // Fails for a descriptor beyond a limit that was lowered since.
    if (const int error = posix_spawn_file_actions_adddup2(
            &options.actions, from, kFirstDescriptor + i);
        error != 0) {
      return ErrnoStatus(error, "posix_spawn_file_actions_adddup2");
    }
  }
  posix_spawn_file_actions_addclosefrom_np(&options.actions, end);

  const std::string assignment =
      absl::StrCat(kVariable, "=", RoleName(role), " ", count);
  std::vector<char*> environment;
  for (char** variable = environ; variable != nullptr && *variable != nullptr;
       ++variable) {
    environment.push_back(*variable);
  }
  environment.push_back(const_cast<char*>(assignment.c_str()));
  environment.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, kExecutable, &options.actions, &options.attributes,
                  Pointers(Arguments()).data(), environment.data());
  if (error != 0) {
    return ErrnoStatus(error, absl::StrCat("posix_spawn(", kExecutable, ")"));
  }
  return pid;
}

std::optional<Assignment> TakeAssignment() {
  // Not in a program that has more rights than its caller: the variable says
  // what code is to run.
  const char* const value = secure_getenv(kVariable);
  if (value == nullptr) return std::nullopt;
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(value, absl::MaxSplits(' ', 1));
  unsetenv(kVariable);  // not for the programs that this one starts
  int count = 0;
  MP_CHECK((parts.first == RoleName(Role::kChild) ||
            parts.first == RoleName(Role::kForkserver)) &&
           absl::SimpleAtoi(parts.second, &count) && count > 0)
      << kVariable << " is in the environment, but not from mp";
  Assignment assignment;
  assignment.role =
      parts.first == RoleName(Role::kChild) ? Role::kChild : Role::kForkserver;
  for (int i = 0; i < count; ++i) {
    UniqueFd& fd =
        assignment.descriptors.emplace_back(UniqueFd(kFirstDescriptor + i));
    MP_PCHECK(fcntl(fd.get(), F_SETFD, FD_CLOEXEC) == 0)
        << "descriptor " << fd.get() << " of " << kVariable;
  }
  // The kernel has named the process after the link.
  prctl(PR_SET_NAME, assignment.role == Role::kChild
                         ? program_invocation_short_name
                         : "mp-forkserver");
  return assignment;
}

}  // namespace mp::process_internal
