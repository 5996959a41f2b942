// ProgressBar: a line on the terminal that says how far a map has come.
// Internal to the pool; mp/pool/task_options.h says what it looks like.

#ifndef MP_POOL_PROGRESS_BAR_H_
#define MP_POOL_PROGRESS_BAR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "mp/base/deadline.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"

namespace mp::pool_internal {

// What is counted, by any threads.
class Progress {
 public:
  explicit Progress(std::optional<size_t> total = std::nullopt) {
    if (total.has_value()) set_total(*total);
  }

  void Add(size_t items) { done_.fetch_add(items, std::memory_order_relaxed); }
  void set_total(size_t items) {
    total_.store(items, std::memory_order_relaxed);
  }
  size_t done() const { return done_.load(std::memory_order_relaxed); }
  std::optional<size_t> total() const {
    const size_t total = total_.load(std::memory_order_relaxed);
    return total == kUnknown ? std::nullopt : std::optional(total);
  }

 private:
  static constexpr size_t kUnknown = SIZE_MAX;

  std::atomic<size_t> done_{0};
  std::atomic<size_t> total_{kUnknown};
};

// The line, of at most `columns`: what has no room is left out. After `seconds`
// of work, which is over if `ended`.
std::string ProgressLine(std::string_view label, const Progress& progress,
                         double seconds, bool ended, size_t columns);

// Draws from a thread of its own, so that neither a slow terminal nor one that
// is stopped stops results.
class ProgressBar {
 public:
  // Null if `label` is empty, if standard error is no terminal, if there is a
  // bar on it already, or if there cannot be another thread.
  static std::unique_ptr<ProgressBar> Start(std::string_view label,
                                            std::optional<size_t> total);

  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  // Draws the last state and ends the line.
  ~ProgressBar();

  // Who counts may do so when the bar has gone.
  const std::shared_ptr<Progress>& progress() const { return progress_; }

 private:
  ProgressBar(std::string_view label, std::optional<size_t> total);

  void Run();
  void Draw(bool ended);

  const std::string label_;
  const std::shared_ptr<Progress> progress_;
  const int64_t start_nanos_ = MonotonicNanos();
  std::string drawn_;  // what is on the terminal
  std::atomic<bool> ending_{false};
  BasicGate<KernelPlatform> gate_;
  std::thread thread_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_PROGRESS_BAR_H_
