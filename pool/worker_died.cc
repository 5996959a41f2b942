#include "mp/pool/worker_died.h"

#include <string.h>

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_format.h"
#include "mp/base/errno_status.h"
#include "mp/process/process.h"

namespace mp {
namespace {

// Tells this error from a task's own Aborted.
constexpr char kPayload[] = "mp/pool/worker_died";

}  // namespace

bool IsWorkerDied(const absl::Status& status) {
  return status.GetPayload(kPayload).has_value();
}

namespace pool_internal {

std::string DescribeEnd(int exitcode) {
  const char* const signal = exitcode < 0 ? sigabbrev_np(-exitcode) : nullptr;
  if (exitcode == kExitCodeUnknown) {
    return "exited with code 255, or nobody knows how";
  }
  return signal != nullptr ? absl::StrFormat("was killed by SIG%s", signal)
         : exitcode < 0 ? absl::StrFormat("was killed by signal %d", -exitcode)
                        : absl::StrFormat("exited with code %d", exitcode);
}

absl::Status HardLimitError(std::string_view name, pid_t pid,
                            absl::Duration limit) {
  return absl::DeadlineExceededError(absl::StrFormat(
      "the task ran for longer than its limit of %s, and its worker was "
      "killed: %s (pid %d)",
      absl::FormatDuration(limit), ToAbsl(name), pid));
}

std::string DescribeLastWords(std::string_view words) {
  return words.empty() ? std::string()
                       : absl::StrFormat("; its last words: %s", ToAbsl(words));
}

absl::Status WorkerDiedError(std::string_view name, pid_t pid, int exitcode,
                             std::string_view last_words) {
  absl::Status status = absl::AbortedError(absl::StrFormat(
      "worker died: %s (pid %d) %s while it ran this task%s", ToAbsl(name), pid,
      DescribeEnd(exitcode), DescribeLastWords(last_words)));
  status.SetPayload(kPayload, absl::Cord("1"));
  return status;
}

}  // namespace pool_internal
}  // namespace mp
