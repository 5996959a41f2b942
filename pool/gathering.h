// Gathering: where the chunks of a Map end up, to become one result. Internal
// to the pool.

#ifndef MP_POOL_GATHERING_H_
#define MP_POOL_GATHERING_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <iterator>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "mp/base/deadline.h"
#include "mp/pool/async_result.h"
#include "mp/pool/completion.h"
#include "mp/pool/executor.h"
#include "mp/pool/progress_bar.h"
#include "mp/pool/task.h"

namespace mp::pool_internal {

// V is what the function returns for an item.
template <class V>
class Gathering final : public std::enable_shared_from_this<Gathering<V>> {
 public:
  // Of all items.
  using Value = std::conditional_t<
      std::is_void_v<V>, void,
      std::vector<std::conditional_t<std::is_void_v<V>, std::monostate, V>>>;

  // `progress`, unless it is null, gets the items that are done.
  explicit Gathering(std::shared_ptr<ResultState<Value>> result,
                     std::shared_ptr<Progress> progress = nullptr)
      : result_(std::move(result)), progress_(std::move(progress)) {}

  // For the next chunk, of `count` items. It must come to an end. Called by one
  // thread, as AllSubmitted() is afterwards.
  std::shared_ptr<TaskSink> AddChunk(size_t count) {
    auto sink = std::make_shared<Sink>(this->shared_from_this(), count);
    chunks_.push_back(sink);
    count_ += count;
    under_way_.fetch_add(1, std::memory_order_relaxed);
    return sink;
  }

  // Waits until at most `limit` chunks are under way.
  void Wait(Executor& executor, int limit) {
    const auto ready = [this, limit] {
      return under_way_.load(std::memory_order_acquire) - 1 <= limit;
    };
    completion_.Wait(executor, ready, Deadline::Infinite());
  }

  // There are no more chunks. When all have ended, the result is ready: the
  // results of all items in their order, or the error of the first chunk that
  // has one.
  void AllSubmitted() { Ended(); }

 private:
  class Sink final : public TaskSink {
   public:
    Sink(std::shared_ptr<Gathering> gathering, size_t count)
        : gathering_(std::move(gathering)), count_(count) {}

    void Part(std::span<const std::byte> bytes) override {
      if constexpr (!std::is_void_v<V>) {
        status.Update(ReadResults(bytes, results));
      }
    }
    void Finish(std::span<const std::byte> bytes) override {
      Part(bytes);
      End();
    }
    void Fail(absl::Status error) override {
      status = std::move(error);
      End();
    }

    absl::Status status;
    std::vector<std::conditional_t<std::is_void_v<V>, std::monostate, V>>
        results;

   private:
    void End() {
      if (gathering_->progress_ != nullptr) gathering_->progress_->Add(count_);
      gathering_->Ended();
    }

    const std::shared_ptr<Gathering> gathering_;
    const size_t count_;  // of items
  };

  void Ended() {
    // Release: who sees the chunk ended sees its results. Acquire: the last one
    // sees those of all.
    const bool last = under_way_.fetch_sub(1, std::memory_order_acq_rel) == 1;
    if (last) {
      result_->Set(TakeOutcome());
    } else {
      completion_.NotifyAfterRmw();
    }
  }

  typename ResultState<Value>::Outcome TakeOutcome() {
    // The sinks hold this object.
    const auto chunks = std::exchange(chunks_, {});
    absl::Status status;
    for (const auto& chunk : chunks) status.Update(std::move(chunk->status));
    if constexpr (std::is_void_v<V>) {
      return status;
    } else {
      if (!status.ok()) return status;
      if (chunks.size() == 1) return std::move(chunks[0]->results);
      Value results;
      results.reserve(count_);
      for (const auto& chunk : chunks) {
        results.insert(results.end(),
                       std::make_move_iterator(chunk->results.begin()),
                       std::make_move_iterator(chunk->results.end()));
        chunk->results = {};
      }
      return results;
    }
  }

  const std::shared_ptr<ResultState<Value>> result_;
  const std::shared_ptr<Progress> progress_;
  Completion completion_;
  std::atomic<int> under_way_{1};  // chunks, and the one who submits them
  // The submitter's until under_way_ is 0.
  std::vector<std::shared_ptr<Sink>> chunks_;
  size_t count_ = 0;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_GATHERING_H_
