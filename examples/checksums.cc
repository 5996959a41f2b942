// SHA-256 of all files below the given paths, hashed in parallel, in the format
// of sha256sum.
//
//   tools/bazel run //examples:checksums -- --compare /usr/share/doc

#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/examples/find_files.h"
#include "mp/examples/hash_files.h"
#include "mp/examples/progress.h"
#include "mp/examples/sha256.h"
#include "mp/process/process.h"

ABSL_FLAG(int, processes, 0,
          "worker processes; 0 for as many as there are processors");
ABSL_FLAG(
    bool, compare, false,
    "do the same work without a pool, too, and print the speed-up; have the "
    "system's sha256sum check every line");

namespace mp::examples {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void PrintError(const std::string& path, const std::string& why) {
  std::cerr << "checksums: " << path << ": " << why << "\n";
}

void PrintTime(const std::string& what, double seconds, uint64_t bytes) {
  std::cerr << absl::StrFormat(
      "%s: %.2f s, %s/s\n", what, seconds,
      FormatBytes(static_cast<double>(bytes) / seconds));
}

struct Hashed {
  std::string lines;   // kept only for comparing
  uint64_t bytes = 0;  // of the files that have a line
  int failures = 0;
};

// Hashes all files and, unless `quietly`, prints the lines as they come.
absl::StatusOr<Hashed> Hash(const std::vector<File>& files, bool keep_lines,
                            bool quietly) {
  Hashed hashed;
  HashOptions options;
  options.processes = absl::GetFlag(FLAGS_processes);
  options.on_warning = [](const std::string& text) {
    std::cerr << text << "\n";
  };
  options.on_result = [&](const File& file,
                          const absl::StatusOr<std::string>& digest) {
    if (quietly) return;
    if (!digest.ok()) {
      ++hashed.failures;
      PrintError(file.path, std::string(digest.status().message()));
      return;
    }
    const std::string line = ChecksumLine(*digest, file.path);
    std::cout << line;
    if (keep_lines) hashed.lines += line;
    hashed.bytes += file.size;
  };
  if (absl::Status status = HashInPool(files, options); !status.ok()) {
    return status;
  }
  return hashed;
}

// A file without a name, to be read from its begin.
UniqueFd FileWith(const std::string& text) {
  UniqueFd file(memfd_create("checksums", MFD_CLOEXEC));
  MP_PCHECK(file.valid()) << "memfd_create";
  for (size_t done = 0; done < text.size();) {
    const ssize_t size =
        write(file.get(), text.data() + done, text.size() - done);
    MP_PCHECK(size >= 0 || errno == EINTR) << "write";
    if (size > 0) done += static_cast<size_t>(size);
  }
  MP_PCHECK(lseek(file.get(), 0, SEEK_SET) == 0) << "lseek";
  return file;
}

// Runs `sha256sum --check` on the lines. What it has to say goes to standard
// error. Whether it finds all of them right.
bool SystemAgrees(const std::string& lines) {
  const UniqueFd input = FileWith(lines);
  posix_spawn_file_actions_t actions;
  MP_CHECK(posix_spawn_file_actions_init(&actions) == 0);
  MP_CHECK(posix_spawn_file_actions_adddup2(&actions, input.get(),
                                            STDIN_FILENO) == 0);
  MP_CHECK(posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO,
                                            STDOUT_FILENO) == 0);
  const char* const argv[] = {"sha256sum", "--check", "--strict", "--quiet",
                              nullptr};
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr,
                                 const_cast<char* const*>(argv), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    PrintError("sha256sum", strerror(error));
    return false;
  }
  int status = -1;
  while (waitpid(pid, &status, 0) < 0) MP_PCHECK(errno == EINTR) << "waitpid";
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Prints what others need for the same. Whether the system's tool agrees.
bool Compare(const std::vector<File>& files, const Hashed& hashed,
             double seconds) {
  const int processes = absl::GetFlag(FLAGS_processes);
  PrintTime(
      absl::StrCat("pool of ", processes > 0 ? processes : mp::CpuCount()),
      seconds, hashed.bytes);
  const Clock::time_point start = Clock::now();
  HashHere(files, {});
  const double alone_seconds = SecondsSince(start);
  PrintTime("one process", alone_seconds, hashed.bytes);
  const Clock::time_point system_start = Clock::now();
  const bool agrees = SystemAgrees(hashed.lines);
  PrintTime("sha256sum", SecondsSince(system_start), hashed.bytes);
  std::cerr << absl::StrFormat("speed-up %.2f, results %s\n",
                               alone_seconds / seconds,
                               agrees ? "identical" : "DIFFERENT");
  return agrees;
}

int Main(const std::vector<std::string>& paths) {
  FoundFiles found = FindFiles(paths);
  std::sort(found.files.begin(), found.files.end(),
            [](const File& a, const File& b) { return a.path < b.path; });
  for (const auto& [path, why] : found.skipped) PrintError(path, why);

  const bool compare = absl::GetFlag(FLAGS_compare);
  // Once without a word, so that all that is compared find the files in memory.
  if (compare) Hash(found.files, false, true).status().IgnoreError();

  const Clock::time_point start = Clock::now();
  const absl::StatusOr<Hashed> hashed = Hash(found.files, compare, false);
  const double seconds = SecondsSince(start);
  if (!hashed.ok()) {
    std::cerr << "checksums: " << hashed.status().ToString() << "\n";
    return EXIT_FAILURE;
  }
  std::cout << std::flush;
  bool right = found.skipped.empty() && hashed->failures == 0;
  if (!std::cout) {
    PrintError("standard output", "cannot write");
    right = false;
  }
  if (compare && !hashed->lines.empty()) {
    right = Compare(found.files, *hashed, seconds) && right;
  }
  return right ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace mp::examples

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "prints the SHA-256 of the files below PATH..., as sha256sum does");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() < 2) {
    std::cerr << "usage: checksums [--processes=N] [--compare] PATH...\n";
    return 2;
  }
  return mp::examples::Main({arguments.begin() + 1, arguments.end()});
}
