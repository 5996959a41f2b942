// Pipes, by which tests see what other processes write and when they end.

#ifndef MP_TESTING_PIPE_H_
#define MP_TESTING_PIPE_H_

#include <string>

#include "mp/base/unique_fd.h"

namespace mp::testing {

struct PipeEnds {
  UniqueFd reader, writer;
};

// Close-on-exec. Aborts with a message if there is no descriptor left.
PipeEnds MakePipe();

// All until the end, which comes when nobody has the write end any more, or
// until an error.
std::string ReadAll(int fd);

// Whether a read would not wait, at the moment.
bool IsReadable(int fd);

}  // namespace mp::testing

#endif  // MP_TESTING_PIPE_H_
