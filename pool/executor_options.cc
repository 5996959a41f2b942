#include "mp/pool/executor_options.h"

#include <algorithm>

#include "absl/base/optimization.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "mp/base/errno_status.h"

namespace mp::pool_internal {

absl::Status InputTooLargeError(size_t size, size_t max_size) {
  return absl::InvalidArgumentError(absl::StrCat(
      "arguments of ", size,
      " encoded bytes: the pool's memory for tasks takes ", max_size,
      " at most; raise PoolOptions::task_capacity_bytes"));
}

absl::Status ResultTooLargeError(size_t size, size_t max_size) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "a result of ", size,
      " encoded bytes: the pool's memory for results takes ", max_size,
      " at most; raise PoolOptions::result_capacity_bytes"));
}

absl::Status PoolClosedError() {
  return absl::FailedPreconditionError("the pool is closed");
}

absl::Status NoWorkersError(int workers) {
  return absl::InvalidArgumentError(
      absl::StrCat("a pool of ", workers, " workers"));
}

absl::Status PoolTerminatedError() {
  return absl::CancelledError("the pool was terminated");
}

absl::Status TaskCancelledError() {
  return absl::CancelledError("the task was cancelled before it began");
}

absl::Status TaskKilledError() {
  return absl::CancelledError(
      "the task was cancelled while it ran, and its worker killed");
}

absl::Status CheckLimits(const TaskLimits& limits) {
  const absl::Duration least = std::min(limits.soft, limits.hard);
  if (ABSL_PREDICT_TRUE(least > absl::ZeroDuration())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a time limit of ", absl::FormatDuration(least),
                   " for a task: must be more than zero"));
}

absl::Status ForkedPoolError() {
  return absl::FailedPreconditionError(
      "this pool belongs to another process; make one here");
}

absl::Status InitializerError(absl::StatusCode code, std::string_view what) {
  return {code, absl::StrCat("the pool's initializer failed: ", ToAbsl(what))};
}

absl::Status DeepCopy(const absl::Status& status) {
  absl::Status copy(status.code(), status.message());
  status.ForEachPayload(
      [&copy](absl::string_view type, const absl::Cord& text) {
        copy.SetPayload(type, text);
      });
  return copy;
}

}  // namespace mp::pool_internal
