// Runs a program as a test's user would.

#ifndef MP_EXAMPLES_PROGRAM_TEST_UTIL_H_
#define MP_EXAMPLES_PROGRAM_TEST_UTIL_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mp/testing/child.h"

namespace mp::examples {

struct ProgramRun {
  testing::ExitStatus status;
  std::string output;
  std::string errors;
};

// Runs `command`, the first word of which is looked for in the PATH unless it
// has a slash, until it has ended and everything that has its output open.
// `on_errors`, if given, is called with its pid and its standard error so far,
// every few milliseconds.
ProgramRun RunProgram(
    const std::vector<std::string>& command,
    const std::function<void(pid_t, const std::string&)>& on_errors = nullptr);

std::vector<std::string> SplitLines(std::string_view text);

}  // namespace mp::examples

#endif  // MP_EXAMPLES_PROGRAM_TEST_UTIL_H_
