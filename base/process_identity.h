// Which process, for certain: a pid alone names whoever has it now.
//
// An identity is a pid together with a moment at which that process is known to
// have lived. A process that has the same pid but started after that moment is
// another one. Works between any two processes of one PID namespace.

#ifndef MP_BASE_PROCESS_IDENTITY_H_
#define MP_BASE_PROCESS_IDENTITY_H_

#include <sys/types.h>

#include <cstdint>

namespace mp {

struct ProcessIdentity {
  pid_t pid = 0;
  // CLOCK_BOOTTIME in nanoseconds, taken by the process itself.
  int64_t alive_at_nanos = 0;
};

// The calling process, now. One system call and one clock reading.
ProcessIdentity SelfIdentity();

// True only on proof: the process has ended (a zombie has), or its pid belongs
// to a younger process. A stopped or slow process is not dead, and where the
// kernel withholds the evidence the answer is false. A few system calls.
bool IsProvablyDead(const ProcessIdentity& identity);

}  // namespace mp

#endif  // MP_BASE_PROCESS_IDENTITY_H_
