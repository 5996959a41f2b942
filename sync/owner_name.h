// How the handles' ToString() name who holds a lock. Internal to sync.

#ifndef MP_SYNC_OWNER_NAME_H_
#define MP_SYNC_OWNER_NAME_H_

#include <sys/types.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "mp/shm/liveness.h"

namespace mp::sync_internal {

// "None", "pid 4711", or "died" if that was so long ago that the pid is not
// known any more.
inline std::string OwnerName(Token owner) {
  if (owner == kNoToken) return "None";
  const pid_t pid = Liveness::Pid(owner);
  return pid == 0 ? "died" : absl::StrCat("pid ", pid);
}

}  // namespace mp::sync_internal

#endif  // MP_SYNC_OWNER_NAME_H_
