// Gathering: where the chunks of a Map end up, to become one result. Internal
// to the pool.

#ifndef MP_POOL_GATHERING_H_
#define MP_POOL_GATHERING_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <deque>
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

  // `expected` items will come; 0 if that is not known. `progress`, unless it
  // is null, gets the items that are done.
  explicit Gathering(std::shared_ptr<ResultState<Value>> result,
                     size_t expected = 0,
                     std::shared_ptr<Progress> progress = nullptr)
      : result_(std::move(result)),
        expected_(expected),
        progress_(std::move(progress)) {}

  // For the next chunk, of `count` items. It must come to an end. Called by one
  // thread, as AllSubmitted() is afterwards.
  std::shared_ptr<TaskSink> AddChunk(size_t count) {
    // Two for one: what is kept of chunks does not grow with their number.
    for (int i = 0; i < 2 && !chunks_.empty() && chunks_.front()->ended();
         ++i) {
      TakeFirst();
    }
    auto sink = std::make_shared<Sink>(this->shared_from_this(), count);
    chunks_.push_back(sink);
    under_way_.fetch_add(1, std::memory_order_relaxed);
    return sink;
  }

  // Of the chunks. Called by that thread.
  int under_way() const {
    return under_way_.load(std::memory_order_relaxed) - 1;
  }

  // Waits until at most `limit` chunks are under way. Called by that thread.
  void Wait(Executor& executor, int limit) {
    limit_.store(limit, std::memory_order_relaxed);
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

    // Acquire: then what follows is complete.
    bool ended() const { return ended_.load(std::memory_order_acquire); }
    absl::Status status;
    std::vector<std::conditional_t<std::is_void_v<V>, std::monostate, V>>
        results;

   private:
    void End() {
      if (gathering_->progress_ != nullptr) gathering_->progress_->Add(count_);
      ended_.store(true, std::memory_order_release);
      gathering_->Ended();
    }

    const std::shared_ptr<Gathering> gathering_;
    const size_t count_;  // of items
    std::atomic<bool> ended_{false};
  };

  void Ended() {
    // Release: who sees the chunk ended sees its results. Acquire: the last one
    // sees those of all.
    const int before = under_way_.fetch_sub(1, std::memory_order_acq_rel);
    if (before == 1) {
      result_->Set(TakeOutcome());
      return;
    }
    // Either this sees the limit, or Wait() sees the new number when it looks
    // before it sleeps: its gate has the other fence.
    FenceBeforeNotifyAfterRmw();
    if (before - 2 <= limit_.load(std::memory_order_relaxed)) {
      completion_.NotifyAfterRmw();
    }
  }

  // What has become of the first chunk, which has ended, goes to the whole; it
  // held this object.
  void TakeFirst() {
    const std::shared_ptr<Sink> chunk = std::move(chunks_.front());
    chunks_.pop_front();
    status_.Update(std::move(chunk->status));
    if constexpr (!std::is_void_v<V>) {
      if (!status_.ok()) {
        results_ = {};
      } else if (results_.empty() && chunk->results.size() >= expected_) {
        results_ = std::move(chunk->results);
      } else {
        if (results_.empty()) results_.reserve(expected_);
        results_.insert(results_.end(),
                        std::make_move_iterator(chunk->results.begin()),
                        std::make_move_iterator(chunk->results.end()));
      }
    }
  }

  typename ResultState<Value>::Outcome TakeOutcome() {
    while (!chunks_.empty()) TakeFirst();
    // The caller's alone: a copy's count is kept in Abseil, where
    // ThreadSanitizer does not see it.
    if constexpr (std::is_void_v<V>) {
      return std::move(status_);
    } else {
      if (!status_.ok()) return std::move(status_);
      return std::move(results_);
    }
  }

  const std::shared_ptr<ResultState<Value>> result_;
  const size_t expected_;
  const std::shared_ptr<Progress> progress_;
  Completion completion_;
  std::atomic<int> under_way_{1};  // chunks, and the one who submits them
  std::atomic<int> limit_{0};      // for how many of them Wait() waits
  // The submitter's until under_way_ is 0. Those of chunks_ come after those
  // whose results are here.
  std::deque<std::shared_ptr<Sink>> chunks_;
  absl::Status status_;
  std::conditional_t<std::is_void_v<V>, std::monostate, Value> results_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_GATHERING_H_
