// What /proc tells about processes: who descends from whom, who sleeps where.
//
// Everything here is a look at a moment; the processes go on. Works with the
// rights of the caller: what may not be read is left out.

#ifndef MP_TESTING_PROC_INFO_H_
#define MP_TESTING_PROC_INFO_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mp::testing {

struct ProcessInfo {
  pid_t pid = 0;
  pid_t parent = 0;
  // 'R' runs, 'S' and 'D' sleep, 'T' is stopped, 't' is stopped by a tracer,
  // 'Z' is a zombie, 'X' has gone.
  char state = '?';
  std::string name;
  // Ticks since boot; tells a process from a later one with the same pid.
  uint64_t start_ticks = 0;
};

// Nothing if there is no such process.
std::optional<ProcessInfo> ReadProcessInfo(pid_t pid);

// All living processes and zombies below `root`, parents before children.
std::vector<ProcessInfo> Descendants(pid_t root);

// The system call in which the first thread of `pid` sleeps, as a line of
// /proc/<pid>/syscall; empty if it does not sleep in one.
std::string SleepingIn(pid_t pid);

// A table of the descendants of `root`: pid, state, name, and for each thread
// where in the kernel it waits. For people who look for the cause of a hang.
std::string DescribeDescendants(pid_t root);

// One line of that table without the threads: "1234 (name) state S".
std::string Describe(const ProcessInfo& info);

// SIGKILLs everything below the calling process until nothing is left, and
// reaps its own children. Only for a process whose orphans come back to it
// (PR_SET_CHILD_SUBREAPER) is that complete.
void KillDescendants();

}  // namespace mp::testing

#endif  // MP_TESTING_PROC_INFO_H_
