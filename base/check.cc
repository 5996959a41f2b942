#include "mp/base/check.h"

#include <errno.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>
#include <string>

#include "mp/base/errno_status.h"

namespace mp::base_internal {

struct CheckFailure::Message {
  int saved_errno;
  bool with_errno;
  std::ostringstream stream;
};

CheckFailure::CheckFailure(const char* file, int line, const char* condition,
                           bool with_errno) {
  const int saved_errno = errno;  // before the allocation
  message_ = new Message{
      .saved_errno = saved_errno, .with_errno = with_errno, .stream = {}};
  stream() << file << ":" << line << ": check failed in process " << getpid()
           << ": " << condition << " ";
}

std::ostream& CheckFailure::stream() { return message_->stream; }

CheckFailure::~CheckFailure() {
  if (message_->with_errno) {
    stream() << ": " << ErrnoName(message_->saved_errno);
  }
  stream() << "\n";
  const std::string message = message_->stream.str();
  // One write, so that messages of several processes do not mix. There is
  // nothing to be done if it fails.
  [[maybe_unused]] const ssize_t written =
      ::write(STDERR_FILENO, message.data(), message.size());
  std::abort();
}

}  // namespace mp::base_internal
