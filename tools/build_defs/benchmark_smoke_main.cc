// Runs a Google Benchmark program (argv[1]) as briefly as it can and fails
// unless every benchmark in it works that a filter (argv[2]) selects. The exit
// code of such a program is not enough: it is zero when nothing ran and when a
// benchmark reported an error.
//
// A benchmark that cannot run on this machine says so with an error message
// that begins with "skipped:". At least one must run, or with "optional"
// (argv[3]) at least one must say so.

#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace {

// In seconds. A plain number, because 1.7.1 takes no unit and 1.9.5 needs none.
constexpr char kMinTime[] = "--benchmark_min_time=0.00001";

// Returns the wait status of `program`, or -1.
int Run(const char* program, const char* filter, const std::string& report) {
  const std::string out = "--benchmark_out=" + report;
  const std::string which = std::string("--benchmark_filter=") + filter;
  const char* const argv[] = {program,
                              kMinTime,
                              which.c_str(),
                              out.c_str(),
                              "--benchmark_out_format=json",
                              nullptr};
  pid_t pid;
  const int error = posix_spawn(&pid, program, nullptr, nullptr,
                                const_cast<char* const*>(argv), environ);
  if (error != 0) {
    std::fprintf(stderr, "cannot start %s: %s\n", program,
                 std::strerror(error));
    return -1;
  }
  int status = -1;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  const bool optional = argc == 4 && std::strcmp(argv[3], "optional") == 0;
  if (argc != 3 && !optional) {
    std::fprintf(stderr, "usage: benchmark_smoke PROGRAM FILTER [optional]\n");
    return 2;
  }
  const char* directory = std::getenv("TEST_TMPDIR");
  if (directory == nullptr) directory = "/tmp";
  const std::string report = std::string(directory) + "/benchmark_smoke.json";

  const int status = Run(argv[1], argv[2], report);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    std::fprintf(stderr, "%s failed: wait status %d\n", argv[1], status);
    return 1;
  }

  int runs = 0;
  int skipped = 0;
  int errors = 0;
  std::ifstream json(report);
  for (std::string line; std::getline(json, line);) {
    if (line.find("\"run_type\": \"iteration\"") != std::string::npos) ++runs;
    const size_t message = line.find("\"error_message\": \"");
    if (message == std::string::npos) continue;
    if (line.find("\"skipped:", message + 1) != std::string::npos) {
      ++skipped;
    } else {
      ++errors;
      std::fprintf(stderr, "%s\n", line.c_str());
    }
  }
  std::printf("%d runs, %d skipped, %d errors\n", runs, skipped, errors);
  const bool some_ran = optional ? runs > 0 : runs > skipped;
  if (!some_ran) std::fprintf(stderr, "no benchmark ran\n");
  return errors == 0 && some_ran ? 0 : 1;
}
