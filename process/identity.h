// Who a process is, to itself and to its family.

#ifndef MP_PROCESS_IDENTITY_H_
#define MP_PROCESS_IDENTITY_H_

#include <sys/types.h>

#include <string>

#include "mp/process/start_method.h"

namespace mp::process_internal {

struct Identity {
  std::string name;
  // The path of creation counters: empty in the main process, "2" in one that
  // it has created, "2:1" below that.
  std::string path;
  bool daemon = false;
  std::string authkey;
  // Who created it; 0 if the library did not start it.
  pid_t parent_pid = 0;
  std::string parent_name;
  // How it was started, and how it starts others unless told otherwise.
  StartMethod method = StartMethod::kFork;
  StartMethod default_method = StartMethod::kFork;
};

}  // namespace mp::process_internal

#endif  // MP_PROCESS_IDENTITY_H_
