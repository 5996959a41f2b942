#include "mp/base/check.h"

#include <errno.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "mp/base/errno_status.h"

namespace mp::base_internal {

CheckFailure::CheckFailure(const char* file, int line, const char* condition,
                           bool with_errno)
    : saved_errno_(errno), with_errno_(with_errno) {
  stream_ << file << ":" << line << ": check failed in process " << getpid()
          << ": " << condition << " ";
}

CheckFailure::~CheckFailure() {
  if (with_errno_) stream_ << ": " << ErrnoName(saved_errno_);
  stream_ << "\n";
  const std::string message = stream_.str();
  // One write, so that messages of several processes do not mix. There is
  // nothing to be done if it fails.
  [[maybe_unused]] const ssize_t written =
      ::write(STDERR_FILENO, message.data(), message.size());
  std::abort();
}

}  // namespace mp::base_internal
