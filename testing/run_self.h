// Runs a disabled test of this binary in a fresh process and returns what it
// did. For tests about how tests fail.

#ifndef MP_TESTING_RUN_SELF_H_
#define MP_TESTING_RUN_SELF_H_

#include <sys/types.h>

#include <functional>
#include <string>

#include "mp/testing/child.h"

namespace mp::testing_internal {

struct SelfRun {
  testing::ExitStatus status;
  std::string output;  // of standard output and standard error
};

// Runs "Suite.DISABLED_Name". Returns when it and everything that it started
// and that still has its output open have ended. `started`, if given, is called
// with the pid of the process and its output so far whenever there is more of
// it. `test_timeout` becomes TEST_TIMEOUT, none if empty.
SelfRun RunSelf(
    const std::string& test, const std::string& test_timeout = "",
    const std::function<void(pid_t, const std::string&)>& started = nullptr);

}  // namespace mp::testing_internal

#endif  // MP_TESTING_RUN_SELF_H_
