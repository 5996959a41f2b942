// RawValue: one object in shared memory, without a lock.
//
//   mp::RawValue<std::atomic<int>> hits(0);   // before the fork
//   mp::Process worker([hits] { hits->fetch_add(1); });
//
// A RawValue is a handle: small, cheap to copy, and every copy means the same
// object, in this process and in the children that inherit it or get it as an
// argument. The object lives in anonymous shared memory, rounded up to 64
// bytes, that goes when the last process drops its last handle. Its destructor
// never runs, which the type must allow (SafeInSharedMemory, mp/shm/slab.h);
// what it points to would be another process's.
//
// std::atomic works between processes if it is lock-free, which is checked, and
// is the quickest thing to share: its memory orders mean between processes what
// they mean between threads. A process that dies leaves an atomic as one of its
// operations left it. For everything else use mp::Value (mp/sync/value.h),
// which has a lock, or take care yourself that nobody reads what another
// writes.
//
// A moved-from handle may only be assigned to or destroyed.
//
// Differs from Python's: any type that is safe in shared memory; atomics.

#ifndef MP_SHM_RAW_VALUE_H_
#define MP_SHM_RAW_VALUE_H_

#include <concepts>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/shm/handle.h"
#include "mp/shm/slab.h"

namespace mp {

template <class T>
class RawValue {
 public:
  using Object = T&;

  // T(args...), or zero. Aborts with a message if there is no memory or
  // descriptor for it; Create() reports that instead.
  template <class... Args>
  requires std::constructible_from<T, Args...>
  explicit RawValue(Args&&... args)
      : RawValue(ValueOrDie(Create(std::forward<Args>(args)...))) {}

  template <class... Args>
  static absl::StatusOr<RawValue> Create(Args&&... args) {
    absl::StatusOr<std::shared_ptr<T>> object =
        MakeShared<T>(std::forward<Args>(args)...);
    if (!object.ok()) return object.status();
    return RawValue(FromObject(), *std::move(object));
  }

  T& operator*() const { return *object_; }
  T* operator->() const { return object_.get(); }

  // Whether both are handles of the same object.
  friend bool operator==(const RawValue& a, const RawValue& b) {
    return a.object_ == b.object_;
  }

 private:
  struct FromObject {};
  friend struct HandleAccess;
  RawValue(FromObject, std::shared_ptr<T> object)
      : object_(std::move(object)) {}
  auto parts() const { return std::tuple(FromObject(), object_); }

  std::shared_ptr<T> object_;
};

template <class T>
RawValue(T) -> RawValue<T>;

}  // namespace mp

#endif  // MP_SHM_RAW_VALUE_H_
