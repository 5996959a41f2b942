// A process above the test that bounds it and takes in its orphans.
//
// Before the first test of a binary that links this target, the process forks:
// the child runs the tests, the parent becomes the supervisor. It
//   - reaps orphans: a process whose parent died is still found by the leak
//     check, and nothing escapes to init;
//   - ends the tests at the watchdog's deadline (mp/testing/watchdog.h), after
//     printing every process and where it sleeps. It works whatever the tests
//     do with threads, signals and forks, because it is none of them;
//   - kills what the last test left behind, and fails the binary for it;
//   - ends the way the tests ended.
// The tests are killed when the supervisor dies.
//
// There is no supervisor under a debugger or strace, in the child of a death
// test, and in a process that has other threads already; then there is no
// watchdog either.

#ifndef MP_TESTING_SUPERVISOR_H_
#define MP_TESTING_SUPERVISOR_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace mp::testing_internal {

// The pid of the supervisor if this very process is the one that it watches,
// otherwise 0: children of the test have none.
pid_t SupervisorPid();

// The moment (CLOCK_MONOTONIC) at which the supervisor ends the tests, and what
// is running until then.
struct Alarm {
  int64_t at_nanos = INT64_MAX;
  std::string what;
};

// Sets the alarm and returns the previous one. Does nothing without supervisor.
Alarm SetAlarm(const Alarm& alarm);

// The moment at which TEST_TIMEOUT, counted from the start of the supervisor,
// is nearly over; INT64_MAX if it is not set. Set by Bazel, in seconds.
int64_t TestTimeoutNanos();

}  // namespace mp::testing_internal

#endif  // MP_TESTING_SUPERVISOR_H_
