// What the tests of examples with a pool share.

#ifndef MP_EXAMPLES_WORKER_TEST_UTIL_H_
#define MP_EXAMPLES_WORKER_TEST_UTIL_H_

#include <vector>

#include "mp/process/process.h"

namespace mp::examples {

inline void KillFirstWorker() {
  const std::vector<mp::Process> workers = mp::ActiveChildren();
  if (!workers.empty()) workers.front().Kill().IgnoreError();
}

}  // namespace mp::examples

#endif  // MP_EXAMPLES_WORKER_TEST_UTIL_H_
