// How large a file this process may make (ulimit -f). It goes for shared memory
// as well, and to exceed it is the end of the process, by SIGXFSZ.

#ifndef MP_BASE_FILE_SIZE_LIMIT_H_
#define MP_BASE_FILE_SIZE_LIMIT_H_

#include <sys/resource.h>

#include <cstddef>
#include <limits>

namespace mp {

// In bytes; the largest number if there is no limit.
inline size_t FileSizeLimit() {
  rlimit limit;
  return getrlimit(RLIMIT_FSIZE, &limit) == 0
             ? limit.rlim_cur
             : std::numeric_limits<size_t>::max();
}

}  // namespace mp

#endif  // MP_BASE_FILE_SIZE_LIMIT_H_
