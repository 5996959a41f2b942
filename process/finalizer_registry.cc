#include "mp/process/finalizer_registry.h"

#include <iterator>

namespace mp::process_internal {

FinalizerRegistry::Key FinalizerRegistry::Add(Callback callback,
                                              std::optional<int> priority) {
  const std::lock_guard lock(mutex_);
  const Key key(priority, added_.fetch_add(1) + 1);
  callbacks_.emplace(key, std::move(callback));
  return key;
}

FinalizerRegistry::Callback FinalizerRegistry::Take(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto found = callbacks_.find(key);
  if (found == callbacks_.end()) return nullptr;
  Callback callback = std::move(found->second);
  callbacks_.erase(found);
  return callback;
}

bool FinalizerRegistry::Has(const Key& key) {
  const std::lock_guard lock(mutex_);
  return callbacks_.count(key) > 0;
}

void FinalizerRegistry::Run(std::optional<int> lowest,
                            const std::function<void()>& report) {
  while (true) {
    Callback callback;
    {
      const std::lock_guard lock(mutex_);
      if (callbacks_.empty()) return;
      const auto last = std::prev(callbacks_.end());
      // Those without a priority come after all others.
      const std::optional<int> priority = last->first.first;
      if (!priority.has_value() || priority < lowest) return;
      callback = std::move(last->second);
      callbacks_.erase(last);
    }
    try {
      callback();
    } catch (...) {
      report();
    }
  }
}

}  // namespace mp::process_internal
