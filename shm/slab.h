// Small objects in shared memory.
//
//   absl::StatusOr<std::shared_ptr<State>> state = MakeShared<State>(args...);
//   absl::StatusOr<std::shared_ptr<int[]>> ints = MakeSharedArray<int>(1000);
//
// An object is carved from a slab, a segment that many objects share, so a
// million of them need hundreds of descriptors and mappings, not a million. A
// slab's memory is not reused piecewise: the slab is unmapped when the process
// has dropped its last object in it, and freed when every process has. The
// objects' destructors never run, which the type must allow.
//
// A forked child keeps the objects it inherited and carves its own from slabs
// of its own. Safe to call from several threads.

#ifndef MP_SHM_SLAB_H_
#define MP_SHM_SLAB_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "mp/shm/segment.h"

namespace mp {

namespace shm_internal {

template <class T>
inline constexpr bool kMeansAnAddress =
    std::is_pointer_v<T> || std::is_reference_v<T>;
template <class C, class Traits>
inline constexpr bool kMeansAnAddress<std::basic_string_view<C, Traits>> = true;
template <class T, size_t kExtent>
inline constexpr bool kMeansAnAddress<std::span<T, kExtent>> = true;

// Such an atomic has its lock in the memory of one process.
template <class T>
inline constexpr bool kIsAtomicWithLock = false;
template <class T>
inline constexpr bool kIsAtomicWithLock<std::atomic<T>> =
    !std::atomic<T>::is_always_lock_free;

}  // namespace shm_internal

// Types that may live in shared memory. Another process maps them at another
// address and may die holding them, so: no virtual functions, no destructor
// that matters, a layout that both compilers agree on; atomics without a lock;
// not std::mutex and the like, which are for one process. What is inside a
// structure cannot be detected; do not put any of these there.
template <class T>
concept SafeInSharedMemory =
    std::is_standard_layout_v<T> && std::is_trivially_destructible_v<T> &&
    !shm_internal::kMeansAnAddress<T> &&
    !shm_internal::kIsAtomicWithLock<T> && !requires {
  typename T::native_handle_type;
};

namespace shm_internal {

// Zero-filled memory, aligned to a cache line so that objects do not share one.
absl::StatusOr<std::shared_ptr<std::byte>> AllocateShared(size_t size);
// For so many of a size after a header. InvalidArgument if that is more than an
// address can be.
absl::StatusOr<std::shared_ptr<std::byte>> AllocateShared(size_t header,
                                                          size_t count,
                                                          size_t size);

inline constexpr size_t kSlabAlignment = 64;
// Of the segments that shared objects lie in.
inline constexpr uint64_t kSlabLayout =
    LayoutFingerprint("slab", 1, kSlabAlignment);

template <class T>
constexpr void RequireSafe() {
  static_assert(SafeInSharedMemory<T>,
                "mp: this type cannot live in shared memory: it needs a "
                "standard layout and a trivial destructor, and must be no "
                "pointer, view, std::mutex or atomic with a lock");
  static_assert(alignof(T) <= kSlabAlignment,
                "mp: shared objects are aligned to 64 bytes at most");
}

}  // namespace shm_internal

// A T in shared memory, visible to this process and the children it forks,
// followed by an array of `count` zero-filled Es; the T must know how many.
// Errors name the system call: no memory or descriptor for a new slab.
template <class T, class E, class... Args>
absl::StatusOr<std::shared_ptr<T>> MakeSharedWithArray(size_t count,
                                                       Args&&... args) {
  shm_internal::RequireSafe<T>();
  shm_internal::RequireSafe<E>();
  static_assert(sizeof(T) % alignof(E) == 0,
                "mp: the array begins where the object ends");
  absl::StatusOr<std::shared_ptr<std::byte>> memory =
      shm_internal::AllocateShared(sizeof(T), count, sizeof(E));
  if (!memory.ok()) return memory.status();
  T* const object = new (memory->get()) T(std::forward<Args>(args)...);
  new (memory->get() + sizeof(T)) E[count]();
  return std::shared_ptr<T>(*std::move(memory), object);
}

// So many Ts in a row: zeros, or where T has a constructor, what that makes.
template <class T>
absl::StatusOr<std::shared_ptr<T[]>> MakeSharedArray(size_t count) {
  shm_internal::RequireSafe<T>();
  absl::StatusOr<std::shared_ptr<std::byte>> memory =
      shm_internal::AllocateShared(0, count, sizeof(T));
  if (!memory.ok()) return memory.status();
  T* const first = reinterpret_cast<T*>(memory->get());
  // Zeros need not be written a second time: there may be gigabytes of them.
  if constexpr (!std::is_trivially_default_constructible_v<T>) {
    std::uninitialized_value_construct_n(first, count);
  }
  return std::shared_ptr<T[]>(*std::move(memory), first);
}

// The same without an array.
template <class T, class... Args>
absl::StatusOr<std::shared_ptr<T>> MakeShared(Args&&... args) {
  return MakeSharedWithArray<T, std::byte>(0, std::forward<Args>(args)...);
}

}  // namespace mp

#endif  // MP_SHM_SLAB_H_
