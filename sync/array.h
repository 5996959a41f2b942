// Array: a fixed number of objects in shared memory, with a lock.
//
//   mp::Array<double> samples(1000);    // before the fork
//   mp::Process worker([samples]() mutable {
//     auto access = samples.Access();   // holds the lock
//     for (double& sample : access) sample *= 2;
//   });
//
// An Array is a handle: small, cheap to copy, and every copy means the same
// elements and lock, in this process and in the children that inherit it or get
// it as an argument. The lock takes 64 bytes of anonymous shared memory, the
// elements what they need; they go when the last process drops its last handle.
// A moved-from handle may only be assigned to or destroyed.
//
// What types there can be is said in mp/shm/raw_value.h; what happens when
// somebody dies, in mp/sync/synchronized.h. Get() and Set() do not tell of a
// death: use Access(), or set_repair().
//
// Differs from Python's: any type that is safe in shared memory; with access,
// slices are std::span, which copies nothing; no negative indices; an Array
// without a lock is a RawArray.

#ifndef MP_SYNC_ARRAY_H_
#define MP_SYNC_ARRAY_H_

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/shm/handle.h"
#include "mp/shm/raw_array.h"
#include "mp/sync/rlock.h"
#include "mp/sync/synchronized.h"

namespace mp {

// `L` is RLock or Lock.
template <class T, class L = RLock>
class Array : public Synchronized<RawArray<T>, L> {
 public:
  // So many elements, all zero or as their constructor makes them, or copies of
  // others; with a lock of its own, or one that others may use, too. Aborts
  // with a message if there is no memory or descriptor for it; Create() reports
  // that instead.
  explicit Array(size_t size) : Array(ValueOrDie(Create(size))) {}
  explicit Array(std::span<const T> values)
      : Array(ValueOrDie(Create(values))) {}
  explicit Array(std::initializer_list<T> values)
      : Array(std::span<const T>(values)) {}
  Array(size_t size, L lock)
      : Array(ValueOrDie(Create(size, std::move(lock)))) {}
  Array(std::span<const T> values, L lock)
      : Array(ValueOrDie(Create(values, std::move(lock)))) {}

  static absl::StatusOr<Array> Create(size_t size) {
    return With(RawArray<T>::Create(size), L::Create());
  }
  static absl::StatusOr<Array> Create(std::span<const T> values) {
    return With(RawArray<T>::Create(values), L::Create());
  }
  static absl::StatusOr<Array> Create(size_t size, L lock) {
    return With(RawArray<T>::Create(size), std::move(lock));
  }
  static absl::StatusOr<Array> Create(std::span<const T> values, L lock) {
    return With(RawArray<T>::Create(values), std::move(lock));
  }

  size_t size() const { return this->get_obj().size(); }

  // Each waits until nobody else has access. With a timeout: Access(). They
  // abort with a message if there are no such elements.
  T Get(size_t index) { return this->Access()[index]; }
  void Set(size_t index, T value) { this->Access()[index] = std::move(value); }
  // Copies of `count` elements from `first` on.
  std::vector<T> GetSlice(size_t first, size_t count) {
    const std::span<T> slice = Slice(first, count);
    const auto access = this->Access();
    return {slice.begin(), slice.end()};
  }
  void SetSlice(size_t first, std::span<const T> values) {
    const std::span<T> slice = Slice(first, values.size());
    const auto access = this->Access();
    std::copy(values.begin(), values.end(), slice.begin());
  }

 private:
  friend struct HandleAccess;
  Array(RawArray<T> elements, L lock)
      : Synchronized<RawArray<T>, L>(std::move(elements), std::move(lock)) {}

  static absl::StatusOr<Array> With(absl::StatusOr<RawArray<T>> elements,
                                    absl::StatusOr<L> lock) {
    if (!elements.ok()) return elements.status();
    if (!lock.ok()) return lock.status();
    return Array(*std::move(elements), *std::move(lock));
  }

  std::span<T> Slice(size_t first, size_t count) const {
    MP_CHECK(first <= size() && count <= size() - first)
        << count << " elements from " << first << " of an array of " << size();
    return this->get_obj().span().subspan(first, count);
  }
};

}  // namespace mp

#endif  // MP_SYNC_ARRAY_H_
