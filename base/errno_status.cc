#include "mp/base/errno_status.h"

#include <string.h>

#include "absl/strings/str_format.h"

namespace mp {

std::string ErrnoName(int error) {
  const char* description = strerrordesc_np(error);
  const char* name = strerrorname_np(error);
  return absl::StrFormat("%s (%s, errno %d)",
                         description ? description : "unknown error",
                         name ? name : "?", error);
}

absl::Status ErrnoStatus(int error, std::string_view call) {
  return absl::Status(
      absl::ErrnoToStatusCode(error),
      absl::StrFormat("%s: %s", ToAbsl(call), ErrnoName(error)));
}

}  // namespace mp
