// Who runs a task: a worker as it looks from inside. Internal to the pool.

#ifndef MP_POOL_WORKER_H_
#define MP_POOL_WORKER_H_

#include <memory>
#include <string>
#include <typeinfo>

#include "absl/status/status.h"

namespace mp::pool_internal {

// The name of the worker that the calling thread is: its own if it has been
// given one, as the threads of an executor are, or that of the process.
std::string WorkerName();
void SetWorkerName(std::string name);  // the calling thread's

// The exception that is being handled as the error of a task:
// "PoolWorker-1: std::runtime_error: no such file". Call it in a catch block.
absl::Status ExceptionError();

// What an initializer has returned.
struct WorkerObject {
  std::shared_ptr<void> object;
  const std::type_info* type = nullptr;  // null: nothing
};

// That of the worker that the calling thread is.
WorkerObject& CurrentWorkerObject();

}  // namespace mp::pool_internal

#endif  // MP_POOL_WORKER_H_
