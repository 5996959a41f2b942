#include "mp/examples/program_test_util.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <sstream>
#include <utility>

#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"

namespace mp::examples {
namespace {

// The end to read from and the end to write to.
std::pair<UniqueFd, UniqueFd> MakePipe() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

int Execute(const std::vector<std::string>& command, int output, int errors) {
  dup2(output, STDOUT_FILENO);
  dup2(errors, STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return 127;
}

// Appends what can be read; false at the end of the file.
bool ReadSome(int fd, std::string& text) {
  char buffer[65536];
  const ssize_t size = read(fd, buffer, sizeof(buffer));
  if (size <= 0) return false;
  text.append(buffer, static_cast<size_t>(size));
  return true;
}

}  // namespace

ProgramRun RunProgram(
    const std::vector<std::string>& command,
    const std::function<void(pid_t, const std::string&)>& on_errors) {
  constexpr int kMillis = 5;
  auto [output, output_end] = MakePipe();
  auto [errors, errors_end] = MakePipe();
  auto child = testing::ChildProcess::Start(
      [&command, output = output_end.get(), errors = errors_end.get()] {
        return Execute(command, output, errors);
      });
  output_end.reset();
  errors_end.reset();
  ProgramRun run;
  pollfd polled[] = {{.fd = output.get(), .events = POLLIN, .revents = 0},
                     {.fd = errors.get(), .events = POLLIN, .revents = 0}};
  std::string* const texts[] = {&run.output, &run.errors};
  // poll() ignores negative descriptors.
  while (polled[0].fd >= 0 || polled[1].fd >= 0) {
    poll(polled, 2, on_errors != nullptr ? kMillis : -1);
    for (int i = 0; i < 2; ++i) {
      if (polled[i].revents != 0 && !ReadSome(polled[i].fd, *texts[i])) {
        polled[i].fd = -1;
      }
    }
    if (on_errors != nullptr) on_errors(child.pid(), run.errors);
  }
  run.status = *child.Wait();
  return run;
}

std::vector<std::string> SplitLines(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace mp::examples
