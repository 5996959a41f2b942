// Pool: worker processes, or threads, that run functions for you.
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
// process. What a type of its own throws while it is encoded or decoded in a
// worker, or decoded by the pool, is the task's error as well; while an
// argument is encoded, it is thrown to the caller.
//
// Handles of shared objects (mp::Lock, mp::Queue, mp::Event...) and descriptors
// do not travel with a task, neither as arguments nor as results: that is an
// InvalidArgument error. They go as arguments of the initializer, which hands
// them to all tasks (mp/pool/initializer.h), or in global variables that are
// set before the pool is made.
//
// Workers are forked when the pool is made, and again when one has died: they
// see the program's memory as it was then. They are daemonic: they get SIGKILL
// when the pool is terminated, and when its process has ended in whatever way.
// They may not start processes. They ignore SIGINT: Ctrl-C is for the program,
// which ends, and they with it, or does something better about its tasks. All
// of them take tasks from one queue in shared
// memory, so no task waits behind a slow one while a worker is idle.
//
// If a worker dies while it runs a task, that task fails with an error for
// which IsWorkerDied() is true, and another worker takes its place. Nothing
// else is affected: each task has exactly one outcome, whenever and however
// often workers are killed. Workers that die although they have nothing to do
// are replaced at once ten times in a row, then after a delay that grows to a
// tenth of a second.
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
#include <cstddef>
#include <memory>
#include <ranges>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/ipc/codec.h"
#include "mp/pool/async_result.h"
#include "mp/pool/chunks.h"
#include "mp/pool/executor.h"
#include "mp/pool/gathering.h"
#include "mp/pool/initializer.h"
#include "mp/pool/result_stream.h"
#include "mp/pool/task.h"
#include "mp/pool/worker_died.h"

namespace mp {

enum class PoolWorkers {
  kProcesses,
  // Threads of the calling process: for debugging, and for tasks that do not
  // need a process. Calls, results, callbacks and errors are the same, and so
  // are the limits of the memory; arguments and results are copies. But a task
  // that crashes or exits takes the program with it, tasks share the program's
  // variables, Terminate() cannot stop a task that runs, and Join() and the
  // destructor wait for it. There are no pids.
  kThreads,
};

struct PoolOptions {
  // Workers; 0 for as many as there are processors to use (CpuCount()).
  int processes = 0;
  // Shared memory, reserved at once, for tasks that wait and for results that
  // have not been delivered. It bounds the arguments and the result of one
  // call, not their number: tasks that find no room wait in the caller's
  // memory.
  size_t task_capacity_bytes = size_t{1} << 20;
  size_t result_capacity_bytes = size_t{1} << 20;
  // What each worker does first, and keeps: see mp/pool/initializer.h.
  Initializer initializer = {};
  // Tasks after which a worker leaves and another takes its place, so that what
  // it has gathered is given back; a chunk of a map is one task. 0: it stays.
  int maxtasksperchild = 0;
  PoolWorkers workers = PoolWorkers::kProcesses;
};

class Pool {
 public:
  // As Create(), but aborts with the message if that fails.
  explicit Pool(const PoolOptions& options = {});
  // Errors: InvalidArgument for a negative number of processes or tasks; what
  // the system said if a worker cannot be started, or there is no memory or
  // descriptor, with nothing left behind. FailedPrecondition in a daemonic
  // process. An initializer that fails is reported by the tasks.
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

  // Calls `function` with every item of `items`, any range, in the workers, and
  // returns the results in the order of the items:
  // absl::StatusOr<std::vector<R>>, or absl::Status if it returns void or a
  // Status. Items travel in chunks of `chunksize`, by default a quarter of a
  // worker's share, but no more than fits well into the memory for tasks. A
  // chunk is a task: if its worker dies, that is the error of the chunk.
  //
  // If something fails, all the rest is done nevertheless, and of the errors
  // the one that comes first in the order of the items is returned. (In Python
  // it is the one that came first in time, and the rest of its chunk is not
  // done.) What the range throws is thrown here; what was submitted before is
  // still done.
  template <class F, std::ranges::input_range Items>
  auto Map(F function, Items&& items, size_t chunksize = 0);

  // The same without waiting: AsyncResult<std::vector<R>>, or AsyncResult<void>
  // with callbacks that get all results at once. All items are read and
  // encoded before it returns; those that find no room wait in the caller's
  // memory. For inputs larger than that use Map() or Imap().
  template <class F, std::ranges::input_range Items>
  auto MapAsync(F function, Items&& items, size_t chunksize = 0);

  // Map() for functions of several parameters: the items are tuples, pairs or
  // arrays, whose elements are the arguments.
  //
  //   pool.Starmap(Power, std::vector<std::pair<double, int>>{{2, 3}, {3, 2}});
  template <class F, std::ranges::input_range Items>
  auto Starmap(F function, Items&& items, size_t chunksize = 0);
  template <class F, std::ranges::input_range Items>
  auto StarmapAsync(F function, Items&& items, size_t chunksize = 0);

  // The same as a stream of the outcomes of the items, in their order or as
  // they come, for inputs of any length: ResultStream<R>, see
  // mp/pool/result_stream.h. Items travel in chunks of `chunksize`; results
  // come out when their chunk is done. The stream reads no more than
  // `buffersize` items ahead (0: a default) of what it has handed out.
  template <class F, std::ranges::input_range Items>
  auto Imap(F function, Items&& items, size_t chunksize = 1,
            size_t buffersize = 0) {
    return MakeStream(function, std::forward<Items>(items), true, chunksize,
                      buffersize);
  }
  template <class F, std::ranges::input_range Items>
  auto ImapUnordered(F function, Items&& items, size_t chunksize = 1,
                     size_t buffersize = 0) {
    return MakeStream(function, std::forward<Items>(items), false, chunksize,
                      buffersize);
  }

  // No more tasks. Those submitted are still done, then the workers end.
  void Close();
  // Kills the workers at once, whatever they do. Tasks that have not ended fail
  // with Cancelled.
  void Terminate();
  // After Close() or Terminate(): waits until the workers have ended, and all
  // results are delivered and callbacks have returned. FailedPrecondition
  // before, and in callbacks; DeadlineExceeded if that takes longer than
  // `timeout`.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration());

  int processes() const;
  // The process ids of the workers that are alive at the moment.
  std::vector<pid_t> pids() const;

 private:
  explicit Pool(std::shared_ptr<pool_internal::Executor> executor);

  template <class F, class... A>
  auto Submit(F function, const A&... arguments);
  enum class Pace { kAllAtOnce, kAsWorkersGo };
  template <class How, class F, class Items>
  auto SubmitMap(F function, Items& items, size_t chunksize, Pace pace);
  template <class F, class Items>
  auto MakeStream(F function, Items&& items, bool ordered, size_t chunksize,
                  size_t buffersize);

  std::shared_ptr<pool_internal::Executor> executor_;
};

// ---- implementation ----

template <class F, class... A>
auto Pool::Submit(F function, const A&... arguments) {
  using Task = pool_internal::ApplyTask<F, A...>;
  using Value = typename pool_internal::TaskResult<F, A...>::Value;
  auto state = std::make_shared<pool_internal::ResultState<Value>>(executor_);
  const size_t size = Task::InputSize(arguments...);
  const absl::StatusOr<pool_internal::TaskId> id = executor_->Submit(
      &Task::Run, size,
      [&](std::span<std::byte> out) {
        return Task::EncodeInput(function, out, arguments...);
      },
      state);
  if (!id.ok()) {
    state->Fail(id.status());
  } else {
    state->set_task(*id);
  }
  return AsyncResult<Value>(std::move(state));
}

namespace pool_internal {

// Whether a task can be made of this function and items of this range; says
// what is wrong.
template <class How, class F, class Items>
constexpr void CheckMap() {
  using Item = typename How::template Item<std::ranges::range_value_t<Items>>;
  static_assert(TaskCallable<F>,
                "mp: a task must be a function or a lambda without captures; "
                "pass what it needs as arguments");
  static_assert(Encodable<Item>,
                "mp: the items cannot be sent to another process; "
                "mp/ipc/codec.h says what can and how to add a type");
  static_assert(How::template kInvocable<F, Item>,
                "mp: the task cannot be called with an item of this range");
}

template <class T>
constexpr void CheckTupleLike() {
  static_assert(TupleLike<T>,
                "mp: the items of a Starmap must be tuples, pairs or arrays");
}

}  // namespace pool_internal

template <class How, class F, class Items>
auto Pool::SubmitMap(F function, Items& items, size_t chunksize, Pace pace) {
  namespace internal = pool_internal;
  internal::CheckMap<How, F, Items>();
  using Chunks = internal::Chunks<How, F, Items>;
  using Task = internal::MapTask<How, F, typename Chunks::Item>;
  using Gathering = internal::Gathering<typename Task::Value>;
  using State = internal::ResultState<typename Gathering::Value>;

  if (chunksize == 0) {
    if constexpr (std::ranges::sized_range<Items> ||
                  std::ranges::forward_range<Items>) {
      const auto count = static_cast<size_t>(std::ranges::distance(items));
      chunksize = internal::DefaultChunkSize(count, executor_->workers());
    } else {
      // As in Python: an input of unknown length is read first.
      std::vector<std::ranges::range_value_t<Items>> read;
      for (auto&& item : items) {
        read.emplace_back(std::forward<decltype(item)>(item));
      }
      return SubmitMap<How>(function, read, chunksize, pace);
    }
  }

  auto state = std::make_shared<State>(executor_);
  const auto gathering = std::make_shared<Gathering>(state);
  // Whatever is thrown, the chunks that have been submitted get an end.
  const absl::Cleanup submitted = [&] { gathering->AllSubmitted(); };
  // So many ahead that no worker waits, but not the whole input.
  const int ahead = 4 * executor_->workers();
  Chunks chunks(function, items, chunksize, executor_->max_input_size());
  internal::Chunk chunk;
  std::vector<internal::TaskId> ids;
  while (chunks.Next(chunk)) {
    if (pace == Pace::kAsWorkersGo) gathering->Wait(*executor_, ahead - 1);
    const auto sink = gathering->AddChunk(chunk.count);
    absl::Status status = chunk.error;
    if (status.ok()) {
      const absl::StatusOr<internal::TaskId> id = executor_->Submit(
          &Task::Run, chunk.input.size(),
          [&chunk](std::span<std::byte> out) {
            std::copy(chunk.input.begin(), chunk.input.end(), out.begin());
            return absl::OkStatus();
          },
          sink);
      if (id.ok() && pace == Pace::kAllAtOnce) ids.push_back(*id);
      status = id.status();
    }
    if (status.ok()) continue;
    sink->Fail(status);
    if (!executor_->IsOpen()) break;
  }
  state->set_tasks(std::move(ids));
  return AsyncResult<typename Gathering::Value>(std::move(state));
}

template <class F, class Items>
auto Pool::MakeStream(F function, Items&& items, bool ordered, size_t chunksize,
                      size_t buffersize) {
  namespace internal = pool_internal;
  using How = internal::PassItem;
  using Range = std::remove_cvref_t<Items>;
  internal::CheckMap<How, F, Range>();
  using Chunks = internal::HeldChunks<How, F, Items>;
  using Item = typename How::template Item<std::ranges::range_value_t<Range>>;
  using Task = internal::StreamTask<How, F, Item>;
  using Value = typename Task::Value;
  chunksize = std::max<size_t>(1, chunksize);
  return ResultStream<Value>(std::make_unique<internal::Stream<Value>>(
      executor_,
      internal::StreamPlan{.function = &Task::Run,
                           .chunks = std::make_unique<Chunks>(
                               function, std::forward<Items>(items), chunksize,
                               executor_->max_input_size()),
                           .ordered = ordered,
                           .chunksize = chunksize,
                           .buffersize = buffersize}));
}

template <class F, std::ranges::input_range Items>
auto Pool::Map(F function, Items&& items, size_t chunksize) {
  return SubmitMap<pool_internal::PassItem>(function, items, chunksize,
                                            Pace::kAsWorkersGo)
      .Get();
}

template <class F, std::ranges::input_range Items>
auto Pool::MapAsync(F function, Items&& items, size_t chunksize) {
  return SubmitMap<pool_internal::PassItem>(function, items, chunksize,
                                            Pace::kAllAtOnce);
}

template <class F, std::ranges::input_range Items>
auto Pool::Starmap(F function, Items&& items, size_t chunksize) {
  pool_internal::CheckTupleLike<std::ranges::range_value_t<Items>>();
  return SubmitMap<pool_internal::SpreadItem>(function, items, chunksize,
                                              Pace::kAsWorkersGo)
      .Get();
}

template <class F, std::ranges::input_range Items>
auto Pool::StarmapAsync(F function, Items&& items, size_t chunksize) {
  pool_internal::CheckTupleLike<std::ranges::range_value_t<Items>>();
  return SubmitMap<pool_internal::SpreadItem>(function, items, chunksize,
                                              Pace::kAllAtOnce);
}

}  // namespace mp

#endif  // MP_POOL_POOL_H_
