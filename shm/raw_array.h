// RawArray: a fixed number of objects in shared memory, without a lock.
//
//   mp::RawArray<double> samples(1'000'000);   // before the fork
//   mp::Process worker([samples] {
//     for (double& sample : samples.span().first(1000)) sample = 0.5;
//   });
//
// A RawArray is a handle: small, cheap to copy, and every copy means the same
// objects, in this process and in the children that inherit it or get it as an
// argument. They lie in a row in anonymous shared memory, aligned to 64 bytes,
// that goes when the last process drops its last handle. A moved-from handle
// may only be assigned to or destroyed.
//
// What is said of types, atomics and deaths in mp/shm/raw_value.h holds here.
// With a lock: mp::Array (mp/sync/array.h).
//
// Differs from Python's: slices are std::span, which copies nothing; the type
// of the elements may be any that is safe in shared memory.

#ifndef MP_SHM_RAW_ARRAY_H_
#define MP_SHM_RAW_ARRAY_H_

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <tuple>
#include <utility>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/shm/handle.h"
#include "mp/shm/segment.h"
#include "mp/shm/slab.h"

namespace mp {

template <class T>
class RawArray {
 public:
  using Object = std::span<T>;

  // So many elements, all zero, or as their constructor makes them; or copies
  // of those of another array. Aborts with a message if there is no memory or
  // descriptor for it; Create() reports that instead.
  explicit RawArray(size_t size) : RawArray(ValueOrDie(Create(size))) {}
  explicit RawArray(std::span<const T> values)
      : RawArray(ValueOrDie(Create(values))) {}
  explicit RawArray(std::initializer_list<T> values)
      : RawArray(std::span<const T>(values)) {}

  static absl::StatusOr<RawArray> Create(size_t size) {
    absl::StatusOr<std::shared_ptr<T[]>> elements = MakeSharedArray<T>(size);
    if (!elements.ok()) return elements.status();
    return RawArray(*std::move(elements), size);
  }
  static absl::StatusOr<RawArray> Create(std::span<const T> values) {
    absl::StatusOr<RawArray> array = Create(values.size());
    if (array.ok()) std::copy(values.begin(), values.end(), array->begin());
    return array;
  }

  size_t size() const { return size_; }
  // Aborts with a message if `index` is not below size().
  T& operator[](size_t index) const {
    MP_CHECK(index < size_)
        << "element " << index << " of an array of " << size_;
    return elements_[index];
  }

  // All elements. For a slice: span().subspan(first, count).
  std::span<T> span() const { return {elements_.get(), size_}; }
  std::span<T> operator*() const { return span(); }
  T* begin() const { return elements_.get(); }
  T* end() const { return elements_.get() + size_; }

  // Whether both are handles of the same array.
  friend bool operator==(const RawArray& a, const RawArray& b) {
    return a.elements_ == b.elements_;
  }

 private:
  friend struct HandleAccess;
  RawArray(std::shared_ptr<T[]> elements, size_t size)
      : elements_(std::move(elements)), size_(size) {}
  auto parts() const {
    return std::tuple(std::shared_ptr<T>(elements_, elements_.get()), size_);
  }
  RawArray(std::shared_ptr<T> first, size_t size)
      : RawArray(std::shared_ptr<T[]>(first, first.get()),
                 Fits(first, size) ? size : 0) {}
  // Whether so many lie in the segment: the number has come in a message.
  static bool Fits(const std::shared_ptr<T>& first, size_t size) {
    const std::shared_ptr<Segment> segment = Segment::Of(first);
    if (segment == nullptr) return false;
    const auto* const end =
        reinterpret_cast<const T*>(segment->data() + segment->size());
    return size <= static_cast<size_t>(end - first.get());
  }

  std::shared_ptr<T[]> elements_;
  size_t size_;
};

}  // namespace mp

#endif  // MP_SHM_RAW_ARRAY_H_
