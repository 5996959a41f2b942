// Synchronized: an object in shared memory and the lock that protects it. What
// mp::Value and mp::Array have in common, and a means to give an object that is
// shared already (mp/shm/raw_value.h, mp/shm/raw_array.h) a lock.
//
//   mp::Synchronized locked(raw, lock);
//   if (auto access = locked.Access(absl::Seconds(1))) *access = 3;
//
// A Synchronized is a handle: small, cheap to copy, and every copy means the
// same object and the same lock. Several may share a lock.
//
// Who holds access and dies leaves the object half changed: the next access
// gets it, and owner_died() tells. Whoever does not look at that, as Update()
// cannot, sets a repair callback, which runs first. If several objects share a
// lock, whoever acquires it next through any of them is told, once, and cannot
// know which of them the dead one was changing.
//
// The lock is an RLock unless you choose a Lock, so the thread that has access
// may call everything here meanwhile. For waiters, time-outs, memory ordering,
// threads and fork see the lock.
//
// Differs from Python's synchronized(): no access goes past the lock unless you
// ask for get_obj().

#ifndef MP_SYNC_SYNCHRONIZED_H_
#define MP_SYNC_SYNCHRONIZED_H_

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/rlock.h"

namespace mp {

// `Raw` is a RawValue or a RawArray.
template <class Raw, class L = RLock>
class Synchronized {
 public:
  // Holds the lock as long as it lives, in the thread that made it, and gives
  // access to the object. Must not outlive what it came from.
  class [[nodiscard]] Guard {
   public:
    Guard(Guard&& other) noexcept
        : lock_(std::exchange(other.lock_, nullptr)),
          object_(other.object_),
          result_(other.result_) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      if (lock_ != nullptr) lock_->unlock();
    }

    // False if it did not get the lock in time.
    explicit operator bool() const { return lock_ != nullptr; }
    // Whether the process that last had access died with it.
    bool owner_died() const { return result_ == kOwnerDied; }

    // What follows aborts with a message if it did not.

    // Of a value: the object. Of an array: a span of all elements.
    typename Raw::Object operator*() const& { return *object(); }
    typename Raw::Object operator*()
        const&& requires std::is_reference_v<typename Raw::Object> {
      return *object();
    }
    // The span would be there still when the guard, and the lock, are gone.
    typename Raw::Object operator*() const&& requires(
        !std::is_reference_v<typename Raw::Object>) = delete;
    // Of a value.
    auto operator->() const { return object().operator->(); }
    // Of an array. Aborts with a message if there is no such element.
    auto& operator[](size_t index) const { return object()[index]; }
    auto begin() const { return object().begin(); }
    auto end() const { return object().end(); }

   private:
    friend class Synchronized;
    Guard(L& lock, const Raw& object, AcquireResult result)
        : lock_(result == kTimedOut ? nullptr : &lock),
          object_(&object),
          result_(result) {}

    const Raw& object() const {
      MP_CHECK(lock_ != nullptr) << "access that was not granted in time";
      return *object_;
    }

    L* lock_;  // null if not held
    const Raw* object_;
    AcquireResult result_;
  };

  Synchronized(Raw object, L lock)
      : object_(std::move(object)), lock_(std::move(lock)) {}

  // Waits until nobody else has access.
  Guard Access() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return Guard(lock_, object_, lock_.Acquire());
  }
  // As Access(), but gives up after `timeout`: then the guard is false.
  Guard Access(absl::Duration timeout) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return Guard(lock_, object_, lock_.Acquire(timeout));
  }

  // Waits until nobody else has access and calls `function` with the object, of
  // an array with a span; returns what it returns.
  template <class Function>
  decltype(auto) Update(Function&& function) {
    const Guard access = Access();
    return std::forward<Function>(function)(*access);
  }

  // `repair` is called with the object before an access through this handle, or
  // a later copy of it, finds that the process that had access died. See
  // Lock::set_repair().
  template <class Function>
  void set_repair(Function repair) {
    lock_.set_repair([object = object_, repair = std::move(repair)]() mutable {
      repair(*object);
    });
  }

  // The lock, to hold it over several calls.
  L& get_lock() { return lock_; }
  // The object, past the lock.
  const Raw& get_obj() const { return object_; }

  // The parts of a Value or an Array: mp/shm/handle.h.
  auto parts() const { return std::tuple(object_, lock_); }

  // Whether both are handles of the same object.
  friend bool operator==(const Synchronized& a, const Synchronized& b) {
    return a.object_ == b.object_;
  }

 private:
  Raw object_;
  L lock_;
};

}  // namespace mp

#endif  // MP_SYNC_SYNCHRONIZED_H_
