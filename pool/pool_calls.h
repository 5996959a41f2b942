// PoolCalls: the calls that run functions in the workers of a pool. mp::Pool
// has them (mp/pool/pool.h, which says what a task is), and so has what its
// With() returns: the same calls with options.
//
//   mp::Pool pool({.processes = 4});
//   mp::PoolCalls patient = pool.With({.retries = 2, .progress = "Hashing"});
//   absl::StatusOr<std::vector<Hash>> hashes = patient.Map(HashFile, files);
//
// A handle, which costs little to make and to copy. It does not keep the pool:
// when that is closed or has gone, calls fail with FailedPrecondition. All
// calls are safe from any thread of the process that made the pool; in others
// they fail.

#ifndef MP_POOL_POOL_CALLS_H_
#define MP_POOL_POOL_CALLS_H_

#include <algorithm>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/ipc/codec.h"
#include "mp/pool/async_result.h"
#include "mp/pool/chunks.h"
#include "mp/pool/executor.h"
#include "mp/pool/front_executor.h"
#include "mp/pool/gathering.h"
#include "mp/pool/progress_bar.h"
#include "mp/pool/result_stream.h"
#include "mp/pool/task.h"
#include "mp/pool/task_options.h"

namespace mp {

namespace pool_internal {

// The parameters of a function with one signature, as a tuple of values.
template <class R, class... A>
std::tuple<std::remove_cvref_t<A>...> ParametersOf(
    const std::function<R(A...)>&);
template <class F>
using Parameters = decltype(ParametersOf(std::function(std::declval<F>())));

}  // namespace pool_internal

class PoolCalls {
 public:
  // These calls with other options, instead of those that they have: see
  // mp/pool/task_options.h. The pool itself has none.
  PoolCalls With(TaskOptions options) const {
    return PoolCalls(executor_->With(std::move(options)));
  }

  // Runs function(arguments...) in a worker and waits for the result: an
  // absl::StatusOr of it, or an absl::Status for functions that return void or
  // a Status. Arguments are copied; text arrives as std::string. Errors: see
  // AsyncResult::Get() and ApplyAsync().
  template <class F, class... Args>
  auto Apply(F function, const Args&... arguments) const {
    return ApplyAsync(function, arguments...).Get();
  }

  // The same without waiting. What prevents the submission is the result's
  // error: FailedPrecondition if the pool is closed, InvalidArgument if the
  // arguments cannot be encoded or are larger than the memory for tasks.
  template <class F, class... Args>
  auto ApplyAsync(F function, const Args&... arguments) const {
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
  auto Map(F function, Items&& items, size_t chunksize = 0) const {
    return RunMap<pool_internal::PassItem>(function, items, chunksize);
  }

  // The same without waiting: AsyncResult<std::vector<R>>, or AsyncResult<void>
  // with callbacks that get all results at once. All items are read and
  // encoded before it returns; those that find no room wait in the caller's
  // memory. For inputs larger than that use Map() or Imap().
  template <class F, std::ranges::input_range Items>
  auto MapAsync(F function, Items&& items, size_t chunksize = 0) const {
    return SubmitMap<pool_internal::PassItem>(function, items, chunksize,
                                              Pace::kAllAtOnce);
  }

  // Map() for functions of several parameters: the items are tuples, pairs or
  // arrays, whose elements are the arguments.
  //
  //   pool.Starmap(Power, std::vector<std::pair<double, int>>{{2, 3}, {3, 2}});
  template <class F, std::ranges::input_range Items>
  auto Starmap(F function, Items&& items, size_t chunksize = 0) const {
    CheckTupleLike<std::ranges::range_value_t<Items>>();
    return RunMap<pool_internal::SpreadItem>(function, items, chunksize);
  }
  template <class F, std::ranges::input_range Items>
  auto StarmapAsync(F function, Items&& items, size_t chunksize = 0) const {
    CheckTupleLike<std::ranges::range_value_t<Items>>();
    return SubmitMap<pool_internal::SpreadItem>(function, items, chunksize,
                                                Pace::kAllAtOnce);
  }

  // The same as a stream of the outcomes of the items, in their order or as
  // they come, for inputs of any length: ResultStream<R>, see
  // mp/pool/result_stream.h. Items travel in chunks of `chunksize`; results
  // come out when their chunk is done. The stream reads no more than
  // `buffersize` items ahead (0: a default), or one chunk if that is more, of
  // what it has handed out.
  template <class F, std::ranges::input_range Items>
  auto Imap(F function, Items&& items, size_t chunksize = 1,
            size_t buffersize = 0) const {
    return MakeStream(function, std::forward<Items>(items), true, chunksize,
                      buffersize);
  }
  template <class F, std::ranges::input_range Items>
  auto ImapUnordered(F function, Items&& items, size_t chunksize = 1,
                     size_t buffersize = 0) const {
    return MakeStream(function, std::forward<Items>(items), false, chunksize,
                      buffersize);
  }

  // The same for items in braces, which a stream copies:
  //
  //   pool.Map(Square, {1, 2, 3});
  //   pool.Starmap(Power, {{2, 3}, {3, 2}});
  template <class F, class T>
  auto Map(F function, std::initializer_list<T> items,
           size_t chunksize = 0) const {
    return RunMap<pool_internal::PassItem>(function, items, chunksize);
  }
  template <class F, class T>
  auto MapAsync(F function, std::initializer_list<T> items,
                size_t chunksize = 0) const {
    return SubmitMap<pool_internal::PassItem>(function, items, chunksize,
                                              Pace::kAllAtOnce);
  }
  template <class F, class T = pool_internal::Parameters<F>>
  auto Starmap(F function, std::initializer_list<T> items,
               size_t chunksize = 0) const {
    CheckTupleLike<T>();
    return RunMap<pool_internal::SpreadItem>(function, items, chunksize);
  }
  template <class F, class T = pool_internal::Parameters<F>>
  auto StarmapAsync(F function, std::initializer_list<T> items,
                    size_t chunksize = 0) const {
    CheckTupleLike<T>();
    return SubmitMap<pool_internal::SpreadItem>(function, items, chunksize,
                                                Pace::kAllAtOnce);
  }
  template <class F, class T>
  auto Imap(F function, std::initializer_list<T> items, size_t chunksize = 1,
            size_t buffersize = 0) const {
    return Imap(function, std::vector<T>(items), chunksize, buffersize);
  }
  template <class F, class T>
  auto ImapUnordered(F function, std::initializer_list<T> items,
                     size_t chunksize = 1, size_t buffersize = 0) const {
    return ImapUnordered(function, std::vector<T>(items), chunksize,
                         buffersize);
  }

 protected:
  PoolCalls() = default;
  explicit PoolCalls(std::shared_ptr<pool_internal::FrontExecutor> executor)
      : executor_(std::move(executor)) {}

  std::shared_ptr<pool_internal::FrontExecutor> executor_;

 private:
  enum class Pace { kAllAtOnce, kAsWorkersGo };

  template <class T>
  static constexpr void CheckTupleLike() {
    static_assert(pool_internal::TupleLike<T>,
                  "mp: the items of a Starmap must be tuples, pairs or arrays");
  }

  template <class F, class... A>
  auto Submit(F function, const A&... arguments) const;
  template <class How, class F, class Items>
  auto RunMap(F function, Items& items, size_t chunksize) const;
  template <class How, class F, class Items>
  auto SubmitMap(
      F function, Items& items, size_t chunksize, Pace pace,
      std::shared_ptr<pool_internal::Progress> progress = nullptr) const;
  template <class F, class Items>
  auto MakeStream(F function, Items&& items, bool ordered, size_t chunksize,
                  size_t buffersize) const;
  template <class Items>
  std::unique_ptr<pool_internal::ProgressBar> StartBar(Items& items) const;
  int MostAhead(size_t chunksize, size_t chunk_bytes) const;
};

// ---- implementation ----

template <class F, class... A>
auto PoolCalls::Submit(F function, const A&... arguments) const {
  using Task = pool_internal::ApplyTask<F, A...>;
  using Value = typename pool_internal::TaskResult<F, A...>::Value;
  auto state = std::make_shared<pool_internal::ResultState<Value>>(executor_);
  const size_t size = Task::InputSize(arguments...);
  const absl::StatusOr<pool_internal::TaskId> id = executor_->Submit(
      pool_internal::CodeOf(&Task::Run, function), size,
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

}  // namespace pool_internal

// Null if there is to be none.
template <class Items>
std::unique_ptr<pool_internal::ProgressBar> PoolCalls::StartBar(
    [[maybe_unused]] Items& items) const {
  const std::string& label = executor_->options().progress;
  if (label.empty()) return nullptr;
  std::optional<size_t> total;
  if constexpr (std::ranges::sized_range<Items>) {
    total = static_cast<size_t>(std::ranges::size(items));
  }
  return pool_internal::ProgressBar::Start(label, total);
}

template <class How, class F, class Items>
auto PoolCalls::RunMap(F function, Items& items, size_t chunksize) const {
  const std::unique_ptr<pool_internal::ProgressBar> bar = StartBar(items);
  return SubmitMap<How>(function, items, chunksize, Pace::kAsWorkersGo,
                        bar != nullptr ? bar->progress() : nullptr)
      .Get();
}

// How many chunks of a Map are submitted ahead: so many that no worker waits,
// and that who submits small ones sleeps rarely, for a wake-up costs as much as
// many of them; but not the whole input, and no more of it than the pool's
// memory for tasks.
inline int PoolCalls::MostAhead(size_t chunksize, size_t chunk_bytes) const {
  constexpr size_t kItems = 1024;
  const size_t small =
      std::min(kItems / chunksize,
               executor_->max_input_size() / std::max<size_t>(1, chunk_bytes));
  return std::max(4 * executor_->workers(), static_cast<int>(small));
}

template <class How, class F, class Items>
auto PoolCalls::SubmitMap(
    F function, Items& items, size_t chunksize, Pace pace,
    std::shared_ptr<pool_internal::Progress> progress) const {
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
      if (progress != nullptr) progress->set_total(count);
    } else {
      // As in Python: an input of unknown length is read first.
      std::vector<std::ranges::range_value_t<Items>> read;
      for (auto&& item : items) {
        read.emplace_back(std::forward<decltype(item)>(item));
      }
      return SubmitMap<How>(function, read, chunksize, pace,
                            std::move(progress));
    }
  }

  auto state = std::make_shared<State>(executor_);
  size_t expected = 0;
  if constexpr (std::ranges::sized_range<Items>) {
    expected = static_cast<size_t>(std::ranges::size(items));
  }
  const auto gathering =
      std::make_shared<Gathering>(state, expected, std::move(progress));
  // Whatever is thrown, the chunks that have been submitted get an end.
  const absl::Cleanup submitted = [&] { gathering->AllSubmitted(); };
  Chunks chunks(function, items, chunksize, executor_->max_input_size());
  const internal::TaskCode code = internal::CodeOf(&Task::Run, function);
  internal::Chunk chunk;
  std::vector<internal::TaskId> ids;
  while (chunks.Next(chunk)) {
    if (pace == Pace::kAsWorkersGo) {
      const int most = MostAhead(chunksize, chunk.input.size());
      if (gathering->under_way() >= most) {
        gathering->Wait(*executor_, most / 2);
      }
    }
    const auto sink = gathering->AddChunk(chunk.count);
    absl::Status status = chunk.error;
    if (status.ok()) {
      const absl::StatusOr<internal::TaskId> id = executor_->Submit(
          code, chunk.input.size(),
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
auto PoolCalls::MakeStream(F function, Items&& items, bool ordered,
                           size_t chunksize, size_t buffersize) const {
  namespace internal = pool_internal;
  using How = internal::PassItem;
  using Range = std::remove_cvref_t<Items>;
  internal::CheckMap<How, F, Range>();
  using Chunks = internal::HeldChunks<How, F, Items>;
  using Item = typename How::template Item<std::ranges::range_value_t<Range>>;
  using Task = internal::StreamTask<How, F, Item>;
  using Value = typename Task::Value;
  chunksize = std::max<size_t>(1, chunksize);
  auto bar = StartBar(items);
  return ResultStream<Value>(std::make_unique<internal::Stream<Value>>(
      executor_,
      internal::StreamPlan{.code = internal::CodeOf(&Task::Run, function),
                           .chunks = std::make_unique<Chunks>(
                               function, std::forward<Items>(items), chunksize,
                               executor_->max_input_size()),
                           .ordered = ordered,
                           .chunksize = chunksize,
                           .buffersize = buffersize,
                           .bar = std::move(bar)}));
}

}  // namespace mp

#endif  // MP_POOL_POOL_CALLS_H_
