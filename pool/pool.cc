#include "mp/pool/pool.h"

#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/front_executor.h"
#include "mp/pool/pinning.h"
#include "mp/pool/process_executor.h"
#include "mp/pool/thread_executor.h"
#include "mp/process/process.h"
#include "mp/process/start_method.h"

namespace mp {

absl::StatusOr<Pool> Pool::Create(const PoolOptions& options) {
  if (options.processes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a pool of ", options.processes, " processes"));
  }
  if (options.maxtasksperchild < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers for ", options.maxtasksperchild, " tasks"));
  }
  if (options.idle_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers that leave when they have been idle for ",
                     absl::FormatDuration(options.idle_timeout)));
  }
  if (absl::Status status = pool_internal::CheckProcessors(options.processors);
      !status.ok()) {
    return status;
  }
  const pool_internal::ExecutorOptions executor_options = {
      .processes = options.processes == 0 ? CpuCount() : options.processes,
      .task_capacity_bytes = options.task_capacity_bytes,
      .result_capacity_bytes = options.result_capacity_bytes,
      .initializer = options.initializer,
      .maxtasksperchild = options.maxtasksperchild,
      .start_method = options.start_method.value_or(GetStartMethod()),
      .idle_timeout = options.idle_timeout,
      .max_growth_bytes = options.max_growth_bytes,
      .processors = options.processors,
      .timeline = options.timeline};
  if (options.workers == PoolWorkers::kThreads) {
    auto threads = pool_internal::ThreadExecutor::Create(executor_options);
    if (!threads.ok()) return threads.status();
    return Pool(*std::move(threads));
  }
  auto processes = pool_internal::ProcessExecutor::Create(executor_options);
  if (!processes.ok()) return processes.status();
  return Pool(*std::move(processes));
}

Pool::Pool(const PoolOptions& options) {
  absl::StatusOr<Pool> pool = Create(options);
  MP_CHECK_OK(pool.status());
  *this = *std::move(pool);
}

Pool::Pool(std::shared_ptr<pool_internal::Executor> executor)
    : PoolCalls(
          std::make_shared<pool_internal::FrontExecutor>(std::move(executor))) {
}

Pool& Pool::operator=(Pool&& other) noexcept {
  if (this != &other) {
    // Results that still hold on to the executor must not keep workers alive.
    Pool old(std::move(*this));
    executor_ = std::move(other.executor_);
  }
  return *this;
}

Pool::~Pool() {
  if (executor_ == nullptr) return;
  executor_->Terminate();
  if (executor_->OnOwnThread()) {
    // In a callback, or a task in a thread: somebody else waits until that is
    // back, and then destroys what is left.
    try {
      std::thread([executor = executor_]() mutable {
        executor->Join(Deadline::Infinite()).IgnoreError();
        executor.reset();
      }).detach();
    } catch (const std::system_error&) {
      new std::shared_ptr<pool_internal::FrontExecutor>(executor_);
    }
    return;
  }
  executor_->Join(Deadline::Infinite()).IgnoreError();
}

void Pool::Close() { executor_->Close(); }

void Pool::Terminate() { executor_->Terminate(); }

absl::Status Pool::Join(absl::Duration timeout) {
  return executor_->Join(Deadline::After(timeout));
}

int Pool::processes() const { return executor_->workers(); }

absl::Status Pool::Resize(int processes) {
  return executor_->Resize(processes);
}

PoolStats Pool::Stats() const { return executor_->Stats(); }

std::vector<pid_t> Pool::pids() const { return executor_->pids(); }

}  // namespace mp
