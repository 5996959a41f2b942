// Value: one object in shared memory, with a lock.
//
//   mp::Value<int> counter(0);          // before the fork
//   mp::Process worker([counter]() mutable {
//     counter.Update([](int& count) { ++count; });
//   });
//
// A Value is a handle: small, cheap to copy, and every copy means the same
// object and lock, in this process and in the children that inherit it or get
// it as an argument. Each takes 64 bytes of anonymous shared memory, the object
// more if it is larger; they go when the last process drops its last handle. A
// moved-from handle may only be assigned to or destroyed.
//
// What types there can be is said in mp/shm/raw_value.h; what happens when
// somebody dies, in mp/sync/synchronized.h. Get() and Set() do not tell of a
// death: use Access(), or set_repair().
//
// A counter alone is quicker without a lock: RawValue<std::atomic<int>>.
//
// Differs from Python's: `v.value += 1`, which loses updates there, cannot be
// written; a Value without a lock is a RawValue.

#ifndef MP_SYNC_VALUE_H_
#define MP_SYNC_VALUE_H_

#include <utility>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/shm/handle.h"
#include "mp/shm/raw_value.h"
#include "mp/sync/rlock.h"
#include "mp/sync/synchronized.h"

namespace mp {

// `L` is RLock or Lock.
template <class T, class L = RLock>
class Value : public Synchronized<RawValue<T>, L> {
 public:
  // A copy of `initial`, with a lock of its own. Aborts with a message if there
  // is no memory or descriptor for it; Create() reports that instead.
  explicit Value(T initial = T()) : Value(ValueOrDie(Create(initial))) {}
  static absl::StatusOr<Value> Create(T initial = T()) {
    absl::StatusOr<L> lock = L::Create();
    if (!lock.ok()) return lock.status();
    return Create(std::move(initial), *std::move(lock));
  }
  // With a lock that others may use, too.
  Value(T initial, L lock)
      : Value(ValueOrDie(Create(std::move(initial), std::move(lock)))) {}
  static absl::StatusOr<Value> Create(T initial, L lock) {
    absl::StatusOr<RawValue<T>> object =
        RawValue<T>::Create(std::move(initial));
    if (!object.ok()) return object.status();
    return Value(*std::move(object), std::move(lock));
  }

  // Each waits until nobody else has access. With a timeout: Access().
  T Get() { return *this->Access(); }
  void Set(T value) { *this->Access() = std::move(value); }

 private:
  friend struct HandleAccess;
  Value(RawValue<T> object, L lock)
      : Synchronized<RawValue<T>, L>(std::move(object), std::move(lock)) {}
};

}  // namespace mp

#endif  // MP_SYNC_VALUE_H_
