// AsyncResult: what a task of a pool came to, or will come to.

#ifndef MP_POOL_ASYNC_RESULT_H_
#define MP_POOL_ASYNC_RESULT_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/codec.h"
#include "mp/pool/completion.h"
#include "mp/pool/executor.h"
#include "mp/pool/task.h"
#include "mp/pool/task_control.h"
#include "mp/pool/worker.h"
#include "mp/sync/in_place_lock.h"

namespace mp {

class PoolCalls;

namespace pool_internal {

// Vectors say that they can be copied, whatever they hold.
template <class T>
inline constexpr bool kCopyable = std::is_copy_constructible_v<T>;
template <class T>
inline constexpr bool kCopyable<std::vector<T>> = kCopyable<T>;
template <class T>
inline constexpr bool kCopyable<absl::StatusOr<T>> = kCopyable<T>;

template <class T>
class ResultState final : public TaskSink,
                          public std::enable_shared_from_this<ResultState<T>> {
 public:
  using Outcome =
      std::conditional_t<std::is_void_v<T>, absl::Status, absl::StatusOr<T>>;
  using Callback = absl::AnyInvocable<void(const Outcome&)>;

  explicit ResultState(std::shared_ptr<Executor> executor)
      : executor_(std::move(executor)) {}

  bool ready() const { return ready_.load(std::memory_order_acquire); }
  // REQUIRES: ready().
  const Outcome& outcome() const { return *outcome_; }
  // The outcome itself, or a copy if callbacks read it. REQUIRES: ready().
  Outcome TakeOutcome() {
    const std::lock_guard lock(mutex_);
    return copy_ != nullptr ? copy_(*outcome_) : std::move(*outcome_);
  }

  bool Wait(Deadline deadline) {
    return completion_.Wait(
        *executor_, [this] { return ready(); }, deadline);
  }

  // What it is the result of. Before anybody but sinks has this.
  void set_task(TaskId task) { task_ = task; }
  void set_tasks(std::vector<TaskId> tasks) { tasks_ = std::move(tasks); }

  bool Cancel(CancelMode mode) {
    if (ready()) return false;
    bool all = task_.has_value() || !tasks_.empty();
    if (task_.has_value()) all = executor_->Cancel(*task_, mode);
    for (const TaskId task : tasks_) all = executor_->Cancel(task, mode) && all;
    return all;
  }

  void OnDone(Callback callback) {
    {
      const std::lock_guard lock(mutex_);
      if constexpr (kCopyable<Outcome>) {
        copy_ = [](const Outcome& outcome) { return Outcome(outcome); };
      }
      if (!ready()) {
        callbacks_.push_back(std::move(callback));
        return;
      }
    }
    Post(std::move(callback));
  }

  // A result of one call is never sent in parts.
  void Part(std::span<const std::byte>) override {}

  void Finish(std::span<const std::byte> bytes) override {
    if constexpr (std::is_void_v<T>) {
      Set(absl::OkStatus());
    } else {
      absl::StatusOr<T> decoded;
      try {
        decoded = Decode<T>(bytes);
      } catch (...) {
        decoded = ExceptionError();
      }
      Set(std::move(decoded));
    }
  }

  void Fail(absl::Status error) override { Set(std::move(error)); }

  // Once.
  void Set(Outcome outcome) {
    std::vector<Callback> callbacks;
    {
      const std::lock_guard lock(mutex_);
      outcome_.emplace(std::move(outcome));
      callbacks.swap(callbacks_);
      // Release: who sees ready_ sees the outcome.
      ready_.store(true, std::memory_order_release);
    }
    completion_.NotifyAfterRmw();
    for (Callback& callback : callbacks) Post(std::move(callback));
  }

 private:
  void Post(Callback callback) {
    // If the pool has gone, the callback is called at once, and may drop what
    // else keeps the executor.
    const std::shared_ptr<Executor> executor = executor_;
    // Executors take what can be copied, which a callback need not be.
    executor->Post([self = this->shared_from_this(),
                    callback = std::make_shared<Callback>(std::move(
                        callback))] { (*callback)(self->outcome()); });
  }

  const std::shared_ptr<Executor> executor_;
  std::optional<TaskId> task_;
  std::vector<TaskId> tasks_;  // of a map
  Completion completion_;
  std::atomic<bool> ready_{false};
  InPlaceLock mutex_;
  std::optional<Outcome> outcome_;  // set once, before ready_
  std::vector<Callback> callbacks_;
  // Set once there has been a callback. (Here, as a result that cannot be
  // copied has none either.)
  Outcome (*copy_)(const Outcome&) = nullptr;
};

}  // namespace pool_internal

// A handle; copies mean the same result. May outlive the pool: a task that had
// not ended then has the error Cancelled. Use it in the process of the pool
// only: what was not ready when a child was forked never is there, so that
// Get() says DeadlineExceeded without waiting, and no callback is called. All
// calls are safe from any thread.
//
// There is none without a task, so that each call means something: keep one
// that is to come in a std::optional.
//
// T is void for functions that return void or absl::Status.
template <class T>
class AsyncResult {
 public:
  // absl::StatusOr<T>, or absl::Status if T is void.
  using Outcome = typename pool_internal::ResultState<T>::Outcome;

  // Waits for the result and returns it, any number of times. While many more
  // tasks wait than the workers do meanwhile, that may be up to a millisecond
  // after the task has ended: the processors are left to the workers. Errors:
  //   DeadlineExceeded  not ready after `timeout`; call again later
  //   Aborted           the worker died, see IsWorkerDied()
  //   Cancelled         the pool was terminated, or see Cancel()
  //   Unknown           the function threw; the message has type and what()
  //   ResourceExhausted the result is larger than the pool's memory for results
  //   and whatever status the function itself returned
  Outcome Get(absl::Duration timeout = absl::InfiniteDuration()) const& {
    if (!Wait(timeout)) return NotReady();
    return state_->outcome();
  }
  // The same for a result that is not needed again, without a copy unless there
  // are callbacks. (If it cannot be copied, call this when they have run.)
  Outcome Get(absl::Duration timeout = absl::InfiniteDuration()) && {
    if (!Wait(timeout)) return NotReady();
    return state_->TakeOutcome();
  }

  // Waits until the result is there. False if it is not after `timeout`.
  bool Wait(absl::Duration timeout = absl::InfiniteDuration()) const {
    return state_->ready() || state_->Wait(Deadline::After(timeout));
  }

  bool Ready() const { return state_->ready(); }

  // Takes the task back. True: it has not begun and never will, and its outcome
  // is Cancelled, at once. False: it has begun or ended, and goes on; or it is
  // just about to begin, or thousands of cancelled tasks wait to be skipped,
  // and only its outcome will tell. Of a map, the chunks that have not begun
  // are taken back; true if those were all. (Python has nothing like it.)
  //
  // A task that has begun can be asked to stop, or its worker can be killed:
  // see CancelMode in mp/pool/task_control.h. With kKill true also means that
  // it runs no more, and its outcome is Cancelled, at once; of a map, each
  // chunk that has begun.
  bool Cancel(CancelMode mode = CancelMode::kUnbegun) const {
    return state_->Cancel(mode);
  }

  // Whether the task has ended without an error. Aborts if it has not ended.
  bool Successful() const {
    MP_CHECK(Ready()) << "Successful() of a result that is not ready";
    return state_->outcome().ok();
  }

  // Has `callback` called once with the outcome, on the pool's own thread, one
  // callback at a time. It must not wait for the pool, and be quick: results
  // of a pool of processes may have to wait for it. It may be a callable that
  // can only be moved. A result that no thread waits for may be delivered a
  // millisecond late, together with others. A result has any number of
  // callbacks.
  //
  // When the pool has gone, there is no thread to call it: OnDone() then does
  // so itself, in the calling thread, before it returns.
  void OnDone(absl::AnyInvocable<void(const Outcome&)> callback) const {
    state_->OnDone(std::move(callback));
  }

  // The same if the task has ended without an error (Python's `callback`): with
  // the result, or without arguments if T is void.
  using SuccessCallback = std::conditional_t<
      std::is_void_v<T>, absl::AnyInvocable<void()>,
      absl::AnyInvocable<void(
          const std::conditional_t<std::is_void_v<T>, std::monostate, T>&)>>;
  void OnSuccess(SuccessCallback callback) const {
    OnDone([callback = std::move(callback)](const Outcome& outcome) mutable {
      if (!outcome.ok()) return;
      if constexpr (std::is_void_v<T>) {
        callback();
      } else {
        callback(*outcome);
      }
    });
  }

  // The same with the error, if there is one (Python's `error_callback`).
  void OnError(absl::AnyInvocable<void(const absl::Status&)> callback) const {
    OnDone([callback = std::move(callback)](const Outcome& outcome) mutable {
      if (!outcome.ok()) callback(pool_internal::StatusOf(outcome));
    });
  }

 private:
  friend class PoolCalls;

  explicit AsyncResult(std::shared_ptr<pool_internal::ResultState<T>> state)
      : state_(std::move(state)) {}

  static absl::Status NotReady() {
    return absl::DeadlineExceededError("the result is not ready");
  }

  std::shared_ptr<pool_internal::ResultState<T>> state_;
};

}  // namespace mp

#endif  // MP_POOL_ASYNC_RESULT_H_
