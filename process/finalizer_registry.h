// The finalizers of one process. Internal; users have mp::Finalizer.

#ifndef MP_PROCESS_FINALIZER_REGISTRY_H_
#define MP_PROCESS_FINALIZER_REGISTRY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

namespace mp::process_internal {

// Thread-safe. Callbacks run without its lock.
class FinalizerRegistry {
 public:
  using Callback = std::function<void()>;
  // The priority, then the order of creation.
  using Key = std::pair<std::optional<int>, uint64_t>;

  Key Add(Callback callback, std::optional<int> priority);
  // The callback, which is not here any more. Empty if it was not.
  Callback Take(const Key& key);
  bool Has(const Key& key);

  // Whether there has ever been one. A process that has none is to pay nothing
  // at its end.
  bool used() const { return added_.load(std::memory_order_relaxed) > 0; }

  // Runs those of at least this priority, in the order of an exit, until there
  // is none, and hands what they throw to `report`, as the current exception.
  void Run(std::optional<int> lowest, const std::function<void()>& report);

 private:
  std::mutex mutex_;
  std::atomic<uint64_t> added_{0};
  std::map<Key, Callback> callbacks_;
};

}  // namespace mp::process_internal

#endif  // MP_PROCESS_FINALIZER_REGISTRY_H_
