#include "mp/pool/task_control.h"

#include "mp/base/deadline.h"

namespace mp {
namespace {

using pool_internal::TaskStop;

constinit thread_local const TaskStop* thread_stop = nullptr;
constinit std::atomic<const TaskStop*> process_stop{nullptr};

}  // namespace

void pool_internal::SetThreadTaskStop(const TaskStop* stop) {
  thread_stop = stop;
}

void pool_internal::SetProcessTaskStop(const TaskStop* stop) {
  process_stop.store(stop, std::memory_order_release);
}

bool TaskStopRequested() {
  const TaskStop* const stop =
      thread_stop != nullptr ? thread_stop
                             : process_stop.load(std::memory_order_acquire);
  if (stop == nullptr) return false;
  const uint64_t task = stop->task.load(std::memory_order_relaxed);
  if (task == 0) return false;
  if (stop->asked->load(std::memory_order_relaxed) == task) return true;
  const int64_t soft =
      stop->soft_deadline_nanos.load(std::memory_order_relaxed);
  return soft != std::numeric_limits<int64_t>::max() &&
         MonotonicNanos() >= soft;
}

}  // namespace mp
