// The programs of this folder as functions, so that the tour can run them, and
// what they share.

#ifndef MP_EXAMPLES_PROGRAMS_H_
#define MP_EXAMPLES_PROGRAMS_H_

#include <string>

#include "absl/status/status.h"

namespace mp::examples {

// Two processes append lines to one file, under a lock. See lock_program.cc.
void LockProgram();

// Four workers, three at a time. See semaphore_program.cc.
void SemaphoreProgram();

// One waits for an event, one gives up. See event_program.cc.
void EventProgram();

// A writer and a reader that never wait. See queue_program.cc.
void QueueProgram();

// Numbers through a pipe, until the end of the file. See pipe_program.cc.
void PipeProgram();

// Four tasks for three workers, at once and one by one. See pool_program.cc.
void PoolProgram();

// Prints a line at once and in one piece: several processes write to the same
// standard output.
void Print(const std::string& line);

// Ends the calling process with a message if `status` is an error.
void OrDie(const absl::Status& status);

}  // namespace mp::examples

#endif  // MP_EXAMPLES_PROGRAMS_H_
