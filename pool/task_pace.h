// TaskPace: how quickly the workers of a pool go through tasks, and so whether
// a thread that waits for results had better leave its processor to them.
//
// Who waits for results of short tasks and is woken for each, or spins, takes
// a processor away from workers that could use it. If many more tasks wait than
// the workers do in the meantime, it can as well nap until a number of results
// has gathered: nobody runs out of work. Internal to the pool.

#ifndef MP_POOL_TASK_PACE_H_
#define MP_POOL_TASK_PACE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace mp::pool_internal {

// All calls are safe from any thread. It is a guess; races on it do not matter.
class TaskPace {
 public:
  // The limits of a nap, in nanoseconds.
  static constexpr int64_t kShortest = 100'000;
  static constexpr int64_t kLongest = 1'000'000;

  // So many tasks were taken during a time in which some waited all along. If
  // none was, a task takes at least so long.
  void Learn(int64_t nanos, uint32_t taken) {
    nanos = std::min(nanos, 1000 * kLongest);  // the process was stopped
    const int64_t before = nanos_per_task_.load(std::memory_order_relaxed);
    nanos_per_task_.store(taken != 0 ? std::max<int64_t>(nanos / taken, 1)
                                     : std::max(before, nanos),
                          std::memory_order_relaxed);
  }
  // Workers had to wait for tasks, so that nobody can tell.
  void Forget() { nanos_per_task_.store(0, std::memory_order_relaxed); }

  // So large were results that had gathered. Of one alone it learns nothing.
  void LearnSize(size_t bytes, uint32_t results) {
    if (results < 2) return;
    bytes_per_result_.store(bytes / results, std::memory_order_relaxed);
  }

  // Whether Nap() is more than 0 for some number of tasks.
  bool known() const {
    return nanos_per_task_.load(std::memory_order_relaxed) != 0;
  }

  // For how many nanoseconds to nap while so many tasks wait, and results may
  // take so many bytes until then; 0: not at all.
  int64_t Nap(uint32_t waiting, size_t room_bytes) const {
    const int64_t each = nanos_per_task_.load(std::memory_order_relaxed);
    if (each == 0) return 0;
    const size_t size = bytes_per_result_.load(std::memory_order_relaxed);
    const auto room =
        static_cast<int64_t>(room_bytes / std::max<size_t>(size, 1));
    // What the workers have to do if all results have room.
    const int64_t work = std::min<int64_t>(waiting, room) * each;
    const int64_t nap = std::clamp(kResults * each, kShortest, kLongest);
    return nap >= kFewest * each && work >= kMargin * nap ? nap : 0;
  }

 private:
  // A nap costs some microseconds: it is to be for so many results, at the
  // least for so few, within the limits.
  static constexpr int64_t kResults = 16;
  static constexpr int64_t kFewest = 4;
  // Of work beyond the nap: it may last longer, tasks may become shorter.
  static constexpr int64_t kMargin = 2;

  std::atomic<int64_t> nanos_per_task_{0};  // 0: not known
  std::atomic<size_t> bytes_per_result_{0};
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_TASK_PACE_H_
