// System call failures as absl::Status.
//
// Every error that the environment can cause names the call and the error, for
// example "memfd_create: Too many open files (EMFILE, errno 24)". The canonical
// code is the one absl::ErrnoToStatus chooses.

#ifndef MP_BASE_ERRNO_STATUS_H_
#define MP_BASE_ERRNO_STATUS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mp {

// "Too many open files (EMFILE, errno 24)".
std::string ErrnoName(int error);

// The status for a `call` (with whatever detail helps: "open(/dev/null)") that
// failed with `error`. REQUIRES: error != 0.
absl::Status ErrnoStatus(int error, std::string_view call);

// Abseil's own string_view is a different type in Debian's build.
inline absl::string_view ToAbsl(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

}  // namespace mp

#endif  // MP_BASE_ERRNO_STATUS_H_
