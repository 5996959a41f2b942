#include "mp/testing/run_self.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "mp/base/check.h"
#include "mp/base/unique_fd.h"

namespace mp::testing_internal {

SelfRun RunSelf(const std::string& test, const std::string& test_timeout,
                const std::function<void(pid_t, const std::string&)>& started) {
  int ends[2];
  MP_PCHECK(pipe2(ends, O_CLOEXEC) == 0) << "pipe2";
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  auto child = testing::ChildProcess::Start([&]() -> int {
    dup2(write_end.get(), STDOUT_FILENO);
    dup2(write_end.get(), STDERR_FILENO);
    // It must not write the report of this run.
    for (const char* const name :
         {"XML_OUTPUT_FILE", "TEST_PREMATURE_EXIT_FILE", "TEST_TIMEOUT",
          "TEST_TOTAL_SHARDS", "TEST_SHARD_STATUS_FILE", "TEST_SHARD_INDEX",
          "GTEST_OUTPUT"}) {
      unsetenv(name);
    }
    if (!test_timeout.empty()) setenv("TEST_TIMEOUT", test_timeout.c_str(), 1);
    const std::string filter = "--gtest_filter=" + test;
    execl("/proc/self/exe", "self", filter.c_str(),
          "--gtest_also_run_disabled_tests", nullptr);
    return 127;
  });
  write_end.reset();
  std::string output;
  char buffer[4096];
  while (true) {
    const ssize_t size = read(read_end.get(), buffer, sizeof(buffer));
    if (size == 0) break;
    if (size < 0) {
      MP_PCHECK(errno == EINTR) << "read";
      continue;
    }
    output.append(buffer, static_cast<size_t>(size));
    if (started != nullptr) started(child.pid(), output);
  }
  return {.status = *child.Wait(), .output = output};
}

}  // namespace mp::testing_internal
