// ResultStream: the results of Imap() and ImapUnordered(), one after the other.
//
//   for (absl::StatusOr<int>& square : pool.Imap(Square, numbers)) {
//     if (square.ok()) std::cout << *square << "\n";
//   }
//
//   mp::ResultStream<int> squares = pool.ImapUnordered(Square, numbers);
//   while (true) {
//     absl::StatusOr<int> square = squares.Next(absl::Seconds(1));
//     if (squares.Done()) break;
//     ...
//   }
//
// Each item has one outcome: what the function made of it, or why it could not.
// An error is that item's alone, and the stream goes on. If a worker dies, the
// items of its chunk whose results have not come have its death as their error
// (mp/pool/worker_died.h).
//
// Reading ahead. The stream reads its input itself, in the thread that calls
// it: the further ahead of the outcomes handed out the more often there was
// none to hand out, but no more than its buffer size, in items, nor much more
// than the pool's memory for tasks, in bytes; results count as well, each as
// large as those before were on average. So memory stays flat, however long the
// input is, even if it has no end; and what waits to be handed out is bounded
// as well. By default the buffer is for 1,024 items, or four chunks for each
// worker if that is more; give a larger one if for Imap() a few items take much
// longer than the others. Workers go on through what has been read when nobody
// calls the stream, not further. While there is an outcome to hand out, Next()
// reads one chunk at most: an input that blocks delays outcomes by that much,
// whatever the timeout.
//
// The input is held like by a view: a range that has a name is referred to, and
// must outlive the stream; a temporary one is moved into it. What the input
// throws comes out of the stream, in the place of the item for Imap(), last for
// ImapUnordered(); then the stream is at its end.
//
// Move-only. For one thread at a time. Dropping a stream is allowed at any
// time: its tasks that have not begun are taken back, as by
// AsyncResult::Cancel(), and the results of the others are dropped. Close the
// pool when the stream has been read: what has not been submitted by then is
// refused, for which the stream has one FailedPrecondition at its end. It may
// outlive the pool, whose end fails what is under way with Cancelled. Not to be
// used in a forked child.
//
// Differs from Python's: there a thread reads the whole input ahead, and
// results pile up; an error within a chunk takes the rest of the chunk with it
// and ends the stream; Next() has a timeout for chunks of one item only.

#ifndef MP_POOL_RESULT_STREAM_H_
#define MP_POOL_RESULT_STREAM_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <deque>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/pool/chunks.h"
#include "mp/pool/completion.h"
#include "mp/pool/executor.h"
#include "mp/pool/progress_bar.h"
#include "mp/pool/task.h"

namespace mp {

class PoolCalls;

namespace pool_internal {

// What a stream is to do.
struct StreamPlan {
  TaskCode code;  // StreamTask::Run
  std::unique_ptr<ChunkSource> chunks;
  bool ordered;
  size_t chunksize;
  size_t buffersize;                 // in items; 0 for a default
  std::unique_ptr<ProgressBar> bar;  // or null
};

// Where the tasks of a stream end. Outlives the stream while some are under
// way. Who delivers pushes what has ended on a list, with one atomic operation;
// the stream takes the list as a whole.
template <class T>
class StreamInbox final {
 public:
  using Outcome =
      std::conditional_t<std::is_void_v<T>, absl::Status, absl::StatusOr<T>>;

  // A task under way, then its outcomes. Used again and again.
  class Slot final : public TaskSink {
   public:
    explicit Slot(StreamInbox* inbox) : inbox_(*inbox) {}

    void set_task(TaskId task) { task_ = task; }
    std::optional<TaskId> task() const { return task_; }

    void Begin(size_t count, size_t bytes) {
      task_.reset();
      count_ = count;
      bytes_ = bytes;
      result_bytes_ = 0;
      next_ = 0;
      outcomes_.clear();
      ended_ = false;
    }
    size_t bytes() const { return bytes_; }
    // Of the result, when it has ended.
    size_t result_bytes() const { return result_bytes_; }

    void Part(std::span<const std::byte> bytes) override {
      result_bytes_ += bytes.size();
      if (!error_.ok()) return;  // what comes now belongs elsewhere
      error_ = ReadResults(bytes, outcomes_);
    }
    void Finish(std::span<const std::byte> bytes) override {
      Part(bytes);
      if (outcomes_.size() < count_) {
        error_.Update(absl::DataLossError("a result without an outcome"));
      }
      End();
    }
    void Fail(absl::Status error) override {
      error_ = std::move(error);
      End();
    }

    // Whether TakeEnded() has said so.
    bool ended() const { return ended_; }
    // REQUIRES: it has ended.
    bool HasNext() const { return next_ < outcomes_.size(); }
    Outcome TakeNext() { return std::move(outcomes_[next_++]); }

   private:
    void End() {
      while (outcomes_.size() < count_) outcomes_.emplace_back(error_);
      error_ = absl::OkStatus();
      if (inbox_.progress_ != nullptr) inbox_.progress_->Add(count_);
      inbox_.Ended(*this);
    }

    friend StreamInbox;
    StreamInbox& inbox_;
    std::optional<TaskId> task_;  // once it is submitted; the stream's
    size_t count_ = 0;
    size_t bytes_ = 0;
    size_t result_bytes_ = 0;
    size_t next_ = 0;
    absl::Status error_;
    std::vector<Outcome> outcomes_;
    bool ended_ = true;             // the stream's
    Slot* ended_before_ = nullptr;  // the next one on the list
  };

  // `progress`, unless it is null, gets the items that are done.
  explicit StreamInbox(std::shared_ptr<Progress> progress)
      : progress_(std::move(progress)) {}

  std::deque<Slot>& slots() { return slots_; }
  Slot& AddSlot() { return slots_.emplace_back(this); }
  // For an executor: keeps all slots.
  static std::shared_ptr<TaskSink> SinkOf(
      const std::shared_ptr<StreamInbox>& inbox, Slot& slot) {
    return std::shared_ptr<TaskSink>(inbox, &slot);
  }

  // Whether TakeEnded() would find some.
  bool HasEnded() const {
    return last_ended_.load(std::memory_order_relaxed) != nullptr;
  }
  // Appends the slots that have ended and were not taken, in the order in which
  // they did.
  void TakeEnded(std::vector<Slot*>& slots) {
    const auto old_size = static_cast<std::ptrdiff_t>(slots.size());
    // Acquire: who takes the slot sees its outcomes.
    for (Slot* slot = last_ended_.exchange(nullptr, std::memory_order_acquire);
         slot != nullptr; slot = slot->ended_before_) {
      slot->ended_ = true;
      slots.push_back(slot);
    }
    std::reverse(slots.begin() + old_size, slots.end());
  }

  template <class Ready>
  bool Wait(Executor& executor, Ready ready, Deadline deadline) {
    return completion_.Wait(executor, ready, deadline);
  }

 private:
  void Ended(Slot& slot) {
    Slot* last = last_ended_.load(std::memory_order_relaxed);
    do {
      slot.ended_before_ = last;
      // Release: see TakeEnded(). From then on the slot may be in use again.
    } while (!last_ended_.compare_exchange_weak(
        last, &slot, std::memory_order_release, std::memory_order_relaxed));
    completion_.NotifyAfterRmw();
  }

  const std::shared_ptr<Progress> progress_;
  std::deque<Slot> slots_;  // the stream's, but for what they hold
  Completion completion_;
  std::atomic<Slot*> last_ended_{nullptr};
};

template <class T>
class Stream {
 public:
  using Inbox = StreamInbox<T>;
  using Slot = typename Inbox::Slot;
  using Outcome = typename Inbox::Outcome;

  Stream(std::shared_ptr<Executor> executor, StreamPlan plan)
      : executor_(std::move(executor)),
        plan_(std::move(plan)),
        workers_(static_cast<size_t>(executor_->workers())),
        most_bytes_(static_cast<double>(executor_->max_input_size())),
        max_window_(MaxWindow(*executor_, plan_)),
        window_(std::min(max_window_, FirstWindow(*executor_))) {
    Refill();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (under_way_ == 0) return;
    // Those that have ended are no longer known.
    for (Slot& slot : inbox_->slots()) {
      if (slot.task().has_value()) executor_->Cancel(*slot.task());
    }
  }

  // Waits until there is an outcome, or the end.
  bool Wait(Deadline deadline) {
    if (current_ != nullptr) return true;
    Refill();
    if (!HasEnded() && under_way_ == window_ && window_ < max_window_) {
      window_ = std::min(max_window_, 2 * window_);
      Refill();
    }
    if (HasEnded() || under_way_ == 0) return true;
    return inbox_->Wait(
        *executor_, [this] { return HasEnded(); }, deadline);
  }

  // After Wait(). Nothing at the end.
  std::optional<Outcome> Take() {
    Slot* const slot = Current();
    if (slot != nullptr) {
      std::optional<Outcome> outcome(slot->TakeNext());
      if (!slot->HasNext()) Recycle();
      return outcome;
    }
    plan_.bar.reset();
    if (exception_ != nullptr) {
      std::rethrow_exception(std::exchange(exception_, nullptr));
    }
    if (!refused_.ok()) return std::exchange(refused_, absl::OkStatus());
    return std::nullopt;
  }

 private:
  // Tasks under way at a time. Where they are small, results should come in
  // batches: waking a process costs as much as many of them.
  static size_t MaxWindow(const Executor& executor, const StreamPlan& plan) {
    if (plan.buffersize != 0) {
      return std::max<size_t>(1, plan.buffersize / plan.chunksize);
    }
    constexpr size_t kItems = 1024;
    return std::max(kItems / plan.chunksize,
                    4 * static_cast<size_t>(executor.workers()));
  }

  // Before the size of a result is known.
  static size_t FirstWindow(const Executor& executor) {
    return 4 * static_cast<size_t>(executor.workers());
  }

  // The slot whose outcomes are handed out, if there is one.
  Slot* Current() {
    if (current_ != nullptr || !HasEnded()) return current_;
    if (plan_.ordered) {
      current_ = in_order_.front();
      in_order_.pop_front();
    } else {
      current_ = ended_[next_ended_++];
    }
    return current_;
  }

  // Whether Current() would find one.
  bool HasEnded() {
    if (current_ != nullptr || NextHasEnded()) return true;
    if (!inbox_->HasEnded()) return false;
    ended_.clear();
    next_ended_ = 0;
    inbox_->TakeEnded(ended_);
    return NextHasEnded();
  }
  bool NextHasEnded() const {
    return plan_.ordered ? !in_order_.empty() && in_order_.front()->ended()
                         : next_ended_ < ended_.size();
  }

  void Recycle() {
    bytes_ -= current_->bytes();
    const auto size = static_cast<double>(current_->result_bytes());
    if (result_bytes_ < 0) {
      result_bytes_ = size;
    } else {
      result_bytes_ += (size - result_bytes_) / 16;  // sizes may change
    }
    --under_way_;
    free_.push_back(std::exchange(current_, nullptr));
  }

  // Submits tasks as far as the window is open, but one only if there is
  // something to hand out.
  void Refill() {
    while (!input_ended_ && under_way_ < window_ &&
           (under_way_ <= workers_ ||
            static_cast<double>(bytes_) + static_cast<double>(under_way_) *
                                              std::max(0.0, result_bytes_) <
                most_bytes_)) {
      SubmitNext();
      if (HasEnded()) return;
    }
  }

  void SubmitNext() {
    try {
      if (!plan_.chunks->Next(chunk_)) {
        input_ended_ = true;
        return;
      }
    } catch (...) {
      input_ended_ = true;
      exception_ = std::current_exception();
      return;
    }
    if (free_.empty()) free_.push_back(&inbox_->AddSlot());
    Slot& slot = *free_.back();
    slot.Begin(chunk_.count, chunk_.input.size());
    absl::Status status = chunk_.error;
    if (status.ok()) {
      const absl::StatusOr<TaskId> id = executor_->Submit(
          plan_.code, chunk_.input.size(),
          [this](std::span<std::byte> out) {
            std::copy(chunk_.input.begin(), chunk_.input.end(), out.begin());
            return absl::OkStatus();
          },
          Inbox::SinkOf(inbox_, slot));
      if (id.ok()) slot.set_task(*id);
      status = id.status();
      if (!status.ok() && !executor_->IsOpen()) {
        input_ended_ = true;
        refused_ = std::move(status);
        return;
      }
    }
    free_.pop_back();
    ++under_way_;
    bytes_ += slot.bytes();
    if (plan_.ordered) in_order_.push_back(&slot);
    if (!status.ok()) slot.Fail(std::move(status));
  }

  const std::shared_ptr<Executor> executor_;
  StreamPlan plan_;
  const size_t workers_;
  const double most_bytes_;
  const size_t max_window_;
  size_t window_;  // how many tasks are under way at most
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>(
      plan_.bar != nullptr ? plan_.bar->progress() : nullptr);
  Chunk chunk_;

  size_t under_way_ = 0;      // slots that are not free
  size_t bytes_ = 0;          // of their inputs
  double result_bytes_ = -1;  // of one, on average; -1: none has come
  std::vector<Slot*> free_;
  std::deque<Slot*> in_order_;  // if ordered, as submitted
  // Those that were taken last; if not ordered, from next_ended_ on.
  std::vector<Slot*> ended_;
  size_t next_ended_ = 0;
  Slot* current_ = nullptr;

  bool input_ended_ = false;
  std::exception_ptr exception_;  // the input's
  absl::Status refused_;          // the pool takes no more
};

}  // namespace pool_internal

// T is what the function returns for an item.
template <class T>
class ResultStream {
 public:
  // absl::StatusOr<T>, or absl::Status if T is void.
  using Outcome = typename pool_internal::Stream<T>::Outcome;

  class Iterator;

  ResultStream(ResultStream&&) noexcept = default;
  ResultStream& operator=(ResultStream&&) noexcept = default;

  // Waits for the next outcome and hands it out. Errors besides the item's own:
  //   OutOfRange        the stream is at its end: Done() is true
  //   DeadlineExceeded  not there after `timeout`; call again later
  // As a task may have these errors, too, use Wait() and Done() if it matters.
  Outcome Next(absl::Duration timeout = absl::InfiniteDuration()) {
    if (!Wait(timeout)) {
      return absl::DeadlineExceededError("the next result is not ready");
    }
    std::optional<Outcome> next = stream_->Take();
    done_ = !next.has_value();
    if (done_) return absl::OutOfRangeError("the stream has ended");
    return *std::move(next);
  }

  // Waits until Next() will not wait. False if that is not so after `timeout`.
  bool Wait(absl::Duration timeout = absl::InfiniteDuration()) {
    return done_ || stream_->Wait(Deadline::After(timeout));
  }

  // Whether Next() has found the end.
  bool Done() const { return done_; }

  // An input range of Outcome&: each is the stream's until the next increment.
  // begin() waits for the first outcome that has not been handed out.
  Iterator begin() {
    Iterator iterator(this);
    ++iterator;
    return iterator;
  }
  std::default_sentinel_t end() const { return std::default_sentinel; }

 private:
  friend class PoolCalls;

  explicit ResultStream(std::unique_ptr<pool_internal::Stream<T>> stream)
      : stream_(std::move(stream)) {}

  std::unique_ptr<pool_internal::Stream<T>> stream_;
  std::optional<Outcome> outcome_;  // the iterators'
  bool done_ = false;
};

template <class T>
class ResultStream<T>::Iterator {
 public:
  using iterator_concept = std::input_iterator_tag;
  using value_type = Outcome;
  using difference_type = std::ptrdiff_t;

  Iterator() = default;

  Outcome& operator*() const { return *stream_->outcome_; }
  Outcome* operator->() const { return &*stream_->outcome_; }
  Iterator& operator++() {
    stream_->Wait();
    stream_->outcome_ = stream_->stream_->Take();
    stream_->done_ = !stream_->outcome_.has_value();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const Iterator& iterator, std::default_sentinel_t) {
    return iterator.stream_->Done();
  }

 private:
  friend class ResultStream;
  explicit Iterator(ResultStream* stream) : stream_(stream) {}

  ResultStream* stream_ = nullptr;
};

}  // namespace mp

#endif  // MP_POOL_RESULT_STREAM_H_
