// Pool: worker processes that run functions for you.
//
//   int Square(int x) { return x * x; }
//
//   mp::Pool pool({.processes = 4});
//   absl::StatusOr<int> nine = pool.Apply(Square, 3);
//   mp::AsyncResult<int> later = pool.ApplyAsync(Square, 4);
//   absl::StatusOr<std::vector<int>> all = pool.Map(Square, numbers);
//
// A task is a function or a lambda without captures, with arguments and a
// result that the codec takes (mp/ipc/codec.h); it cannot reach the caller's
// variables. It may throw: the caller gets a status with type, message and
// process.
//
// Workers are forked when the pool is made, and again when one has died: they
// see the program's memory as it was then. They are daemonic: they get SIGKILL
// when the pool is terminated, and when its process has ended in whatever way.
// They may not start processes. All of them take tasks from one queue in shared
// memory, so no task waits behind a slow one while a worker is idle.
//
// If a worker dies while it runs a task, that task fails with an error for
// which IsWorkerDied() is true, and another worker takes its place. Nothing
// else is affected: each task has exactly one outcome, whenever and however
// often workers are killed.
//
// Results are delivered by a thread of the pool, or by whichever thread waits
// for one. All calls are safe from any thread of the process that made the
// pool; in others they fail. Fork: do not use a pool that a child has
// inherited.
//
// Differs from Python's: a dead worker fails its own task only and is reported;
// what cannot be sent does not compile; the destructor terminates and waits.

#ifndef MP_POOL_POOL_H_
#define MP_POOL_POOL_H_

#include <sys/types.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <ranges>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/ipc/codec.h"
#include "mp/pool/async_result.h"
#include "mp/pool/completion.h"
#include "mp/pool/executor.h"
#include "mp/pool/task.h"
#include "mp/pool/worker_died.h"

namespace mp {

struct PoolOptions {
  // Workers; 0 for as many as there are processors to use (CpuCount()).
  int processes = 0;
  // Shared memory, reserved at once, for tasks that wait and for results that
  // have not been delivered. It bounds the arguments and the result of one
  // call, not their number: tasks that find no room wait in the caller's
  // memory.
  size_t task_capacity_bytes = size_t{1} << 20;
  size_t result_capacity_bytes = size_t{1} << 20;
};

class Pool {
 public:
  // As Create(), but aborts with the message if that fails.
  explicit Pool(const PoolOptions& options = {});
  // Errors: InvalidArgument for a negative number of processes; what the system
  // said if a worker cannot be started, or there is no memory or descriptor,
  // with nothing left behind. FailedPrecondition in a daemonic process.
  static absl::StatusOr<Pool> Create(const PoolOptions& options = {});

  Pool(Pool&&) noexcept = default;
  Pool& operator=(Pool&& other) noexcept;
  // Terminates the pool and waits until the workers have ended. Call Close()
  // and Join() first to have what was submitted done.
  ~Pool();

  // Runs function(arguments...) in a worker and waits for the result: an
  // absl::StatusOr of it, or an absl::Status for functions that return void or
  // a Status. Arguments are copied; text arrives as std::string. Errors: see
  // AsyncResult::Get() and ApplyAsync().
  template <class F, class... Args>
  auto Apply(F function, const Args&... arguments) {
    return ApplyAsync(function, arguments...).Get();
  }

  // The same without waiting. What prevents the submission is the result's
  // error: FailedPrecondition if the pool is closed, InvalidArgument if the
  // arguments cannot be encoded or are larger than the memory for tasks.
  template <class F, class... Args>
  auto ApplyAsync(F function, const Args&... arguments) {
    static_assert(pool_internal::TaskCallable<F>,
                  "mp: a task must be a function or a lambda without captures; "
                  "pass what it needs as arguments");
    static_assert(
        (Encodable<pool_internal::TaskArgument<Args>> && ...),
        "mp: an argument of the task cannot be sent to another process; "
        "mp/ipc/codec.h says what can and how to add a type");
    static_assert(
        std::is_invocable_v<F&, pool_internal::TaskArgument<Args>...>,
        "mp: the task cannot be called with these arguments, which arrive as "
        "values");
    return Submit<F, pool_internal::TaskArgument<Args>...>(function,
                                                           arguments...);
  }

  // Calls `function` with every item of `items`, in the workers, and returns
  // the results in the order of the items: absl::StatusOr<std::vector<R>>, or
  // absl::Status if it returns void or a Status. Items travel in chunks of
  // `chunksize`, by default a quarter of a worker's share, but no more than
  // fits well into the memory for tasks. A chunk is a task. If something fails,
  // all the rest is done nevertheless, and the error that came first is
  // returned.
  template <class F, std::ranges::forward_range Items>
  auto Map(F function, const Items& items, size_t chunksize = 0);

  // No more tasks. Those submitted are still done, then the workers end.
  void Close();
  // Kills the workers at once, whatever they do. Tasks that have not ended fail
  // with Cancelled.
  void Terminate();
  // After Close() or Terminate(): waits until the workers have ended and all
  // results are delivered. FailedPrecondition before; DeadlineExceeded if that
  // takes longer than `timeout`.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration());

  int processes() const;
  // The process ids of the workers that are alive at the moment.
  std::vector<pid_t> pids() const;

 private:
  explicit Pool(std::shared_ptr<pool_internal::Executor> executor);

  template <class F, class... A>
  auto Submit(F function, const A&... arguments);

  std::shared_ptr<pool_internal::Executor> executor_;
};

// ---- implementation ----

template <class F, class... A>
auto Pool::Submit(F function, const A&... arguments) {
  using Task = pool_internal::ApplyTask<F, A...>;
  using Value = typename pool_internal::TaskResult<F, A...>::Value;
  auto state = std::make_shared<pool_internal::ResultState<Value>>(executor_);
  const size_t size = Task::InputSize(arguments...);
  absl::Status status = executor_->Submit(
      &Task::Run, size,
      [&](std::span<std::byte> out) {
        return Task::EncodeInput(function, out, arguments...);
      },
      state);
  if (!status.ok()) state->Fail(std::move(status));
  return AsyncResult<Value>(std::move(state));
}

namespace pool_internal {

// The chunks of one Map that are under way, and the first error.
class MapProgress {
 public:
  void Began() { under_way_.fetch_add(1, std::memory_order_relaxed); }

  void Ended(const absl::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      status_.Update(status);
    }
    // Release: who sees the chunk ended sees its results and its error.
    under_way_.fetch_sub(1, std::memory_order_release);
    completion_.Notify();
  }

  // Waits until at most `limit` chunks are under way.
  void Wait(Executor& executor, int limit) {
    const auto ready = [this, limit] {
      return under_way_.load(std::memory_order_acquire) <= limit;
    };
    completion_.Wait(executor, ready, Deadline::Infinite());
  }

  // REQUIRES: no chunk is under way.
  absl::Status TakeStatus() {
    const std::lock_guard lock(mutex_);
    return std::move(status_);
  }

 private:
  Completion completion_;
  std::atomic<int> under_way_{0};
  std::mutex mutex_;
  absl::Status status_;
};

// Where the results of one chunk go.
template <class Task>
class ChunkSink final : public TaskSink {
 public:
  using Value = typename Task::Value;

  explicit ChunkSink(std::shared_ptr<MapProgress> progress)
      : progress_(std::move(progress)) {
    progress_->Began();
  }

  void Part(std::span<const std::byte> bytes) override {
    if constexpr (!std::is_void_v<Value>) {
      status_.Update(ReadItems(bytes, results_));
    }
  }
  void Finish(std::span<const std::byte> bytes) override {
    Part(bytes);
    progress_->Ended(status_);
  }
  void Fail(absl::Status error) override { progress_->Ended(error); }

  auto& results() { return results_; }

 private:
  const std::shared_ptr<MapProgress> progress_;
  absl::Status status_;
  std::conditional_t<std::is_void_v<Value>, std::monostate, std::vector<Value>>
      results_;
};

}  // namespace pool_internal

template <class F, std::ranges::forward_range Items>
auto Pool::Map(F function, const Items& items, size_t chunksize) {
  using Item = pool_internal::TaskArgument<std::ranges::range_value_t<Items>>;
  static_assert(pool_internal::TaskCallable<F>,
                "mp: a task must be a function or a lambda without captures; "
                "pass what it needs as arguments");
  static_assert(Encodable<Item>,
                "mp: the items cannot be sent to another process; "
                "mp/ipc/codec.h says what can and how to add a type");
  static_assert(std::is_invocable_v<F&, Item>,
                "mp: the task cannot be called with an item of this range");
  using Task = pool_internal::MapTask<F, Item>;
  using Sink = pool_internal::ChunkSink<Task>;
  using Value = typename Task::Value;

  const int window = 4 * executor_->workers();
  const auto count = static_cast<size_t>(std::ranges::distance(items));
  if (chunksize == 0) {
    chunksize = std::max<size_t>(1, (count + window - 1) / window);
  }
  const size_t chunk_bytes = executor_->max_input_size() / 4;

  const auto progress = std::make_shared<pool_internal::MapProgress>();
  std::vector<std::shared_ptr<Sink>> chunks;
  absl::Status submitted;
  std::vector<std::byte> input;
  for (auto item = std::ranges::begin(items);
       item != std::ranges::end(items) && submitted.ok();) {
    const uint64_t address = pool_internal::FunctionAddress(function);
    input.resize(sizeof(address));
    memcpy(input.data(), &address, sizeof(address));
    if constexpr (PlainBytes<Item> && std::ranges::contiguous_range<Items>) {
      const auto left = static_cast<size_t>(std::ranges::end(items) - item);
      const size_t most = std::max<size_t>(1, chunk_bytes / sizeof(Item));
      const size_t n = std::min({chunksize, left, most});
      const auto bytes = std::as_bytes(std::span(std::to_address(item), n));
      input.insert(input.end(), bytes.begin(), bytes.end());
      item += static_cast<std::ptrdiff_t>(n);
    } else {
      for (size_t n = 0; n < chunksize && item != std::ranges::end(items) &&
                         (n == 0 || input.size() < chunk_bytes);
           ++n, ++item) {
        pool_internal::AppendItem<Item>(*item, input, submitted);
      }
    }
    if (!submitted.ok()) break;
    // So many ahead that no worker waits, but not the whole input.
    progress->Wait(*executor_, window - 1);
    auto sink = std::make_shared<Sink>(progress);
    submitted = executor_->Submit(
        &Task::Run, input.size(),
        [&input](std::span<std::byte> out) {
          std::copy(input.begin(), input.end(), out.begin());
          return absl::OkStatus();
        },
        sink);
    if (!submitted.ok()) sink->Fail(submitted);
    chunks.push_back(std::move(sink));
  }
  progress->Wait(*executor_, 0);

  submitted.Update(progress->TakeStatus());
  if constexpr (std::is_void_v<Value>) {
    return submitted;
  } else {
    using Outcome = absl::StatusOr<std::vector<Value>>;
    if (!submitted.ok()) return Outcome(submitted);
    std::vector<Value> results;
    results.reserve(count);
    for (const std::shared_ptr<Sink>& chunk : chunks) {
      std::ranges::move(chunk->results(), std::back_inserter(results));
      chunk->results().clear();
    }
    return Outcome(std::move(results));
  }
}

}  // namespace mp

#endif  // MP_POOL_POOL_H_
