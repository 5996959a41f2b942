// What all executors are made with, and errors that all of them have. Internal
// to the pool.

#ifndef MP_POOL_EXECUTOR_OPTIONS_H_
#define MP_POOL_EXECUTOR_OPTIONS_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mp/pool/executor.h"
#include "mp/pool/initializer.h"
#include "mp/process/start_method.h"

namespace mp::pool_internal {

// As PoolOptions, but that `processes` and `start_method` are what they say.
struct ExecutorOptions {
  int processes = 1;
  size_t task_capacity_bytes = 0;
  size_t result_capacity_bytes = 0;
  Initializer initializer = {};
  int maxtasksperchild = 0;
  StartMethod start_method = StartMethod::kFork;
  absl::Duration idle_timeout = absl::InfiniteDuration();
  size_t max_growth_bytes = 0;
  std::vector<int> processors = {};
  std::string timeline = {};
};

absl::Status InputTooLargeError(size_t size, size_t max_size);
absl::Status ResultTooLargeError(size_t size, size_t max_size);
absl::Status PoolClosedError();
absl::Status NoWorkersError(int workers);
absl::Status PoolTerminatedError();
absl::Status TaskCancelledError();
absl::Status TaskKilledError();
// InvalidArgument unless they are more than zero.
absl::Status CheckLimits(const TaskLimits& limits);
absl::Status ForkedPoolError();
absl::Status InitializerError(absl::StatusCode code, std::string_view what);

// One that shares nothing. Copies of a Status count themselves, so that those
// in several threads contend; and ThreadSanitizer sees races where it does not
// see the counting, in an Abseil that was built without it.
absl::Status DeepCopy(const absl::Status& status);

}  // namespace mp::pool_internal

#endif  // MP_POOL_EXECUTOR_OPTIONS_H_
