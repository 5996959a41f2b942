// The liveness table: who owns a shared object, and whether that process lives.
//
// A lock must say who holds it in the few bits that one atomic operation can
// write, and others must be able to tell, for certain and without asking a
// daemon, that the holder has died. Every process of a family (a program and
// its forked children) therefore has a slot in one table in shared memory and
// names itself by a Token: slot number and generation in 30 bits.
//
// In its slot a process holds, for as long as it lives, a robust mutex. When
// the process ends in whatever way, exec included, the kernel itself marks the
// mutex and wakes who sleeps on it: that word is the death certificate. (The
// list of robust mutexes belongs to the C library; we only lock one.) Since the
// kernel certifies threads, not processes, a marked word is confirmed with what
// the kernel tells about the process before anybody acts on it. No heartbeats:
// a stopped or slow process is alive. All processes of a family must be in one
// PID namespace; one that is forked into another cannot use shared objects.
//
// A forked child takes a slot of its own before fork() returns in it. A child
// made by a raw clone() or _Fork() does not, and must not use shared objects.

#ifndef MP_SHM_LIVENESS_H_
#define MP_SHM_LIVENESS_H_

#include <linux/futex.h>
#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/futex.h"
#include "mp/base/unique_fd.h"

namespace mp {

// Names a process in shared memory. Never 0; below kTokenLimit, so that the
// bits above are free for the word it is stored in. A token is reused only
// after its slot has passed on 2^18 times, which takes 2^30 process starts
// unless the family keeps most slots occupied.
using Token = uint32_t;
inline constexpr Token kNoToken = 0;
inline constexpr Token kTokenLimit = Token{1} << 30;
inline constexpr Token kTokenMask = kTokenLimit - 1;
// A token of nobody, dead from the start.
inline constexpr Token kDeadToken = 1;

// Live processes that one family can have.
inline constexpr int kMaxLiveProcesses = 4095;

namespace shm_internal {

// A process's place in the table. Who holds `life` owns it. All other fields
// are written by the holder alone. `token` is 0 while they change, so a reader
// that sees the same token before and after has read one process's fields.
struct alignas(64) LivenessSlot {
  static constexpr uint32_t kCount = kMaxLiveProcesses + 1;

  pthread_mutex_t life;  // robust; held as long as the process lives
  std::atomic<Token> token;
  std::atomic<uint32_t> generation;
  std::atomic<pid_t> pid;
  // The thread that holds `life` or held it last. If it is the first thread of
  // the process, only its end or exec takes the certificate away.
  std::atomic<pid_t> holder;
  std::atomic<int64_t> alive_at_nanos;

  // The C library keeps the holder's thread id in the first word, with the
  // bits that the kernel's robust-futex ABI gives it.
  FutexWord& life_word() {
    static_assert(offsetof(pthread_mutex_t, __data.__lock) == 0);
    return *reinterpret_cast<FutexWord*>(&life);
  }
  const FutexWord& life_word() const {
    return const_cast<LivenessSlot*>(this)->life_word();
  }
  // Whether a thread holds `life` that says `word`. If not, it may still be
  // that only the thread has ended.
  static bool Certifies(uint32_t word) {
    return (word & FUTEX_TID_MASK) != 0 && (word & FUTEX_OWNER_DIED) == 0;
  }
};

}  // namespace shm_internal

class Liveness {
 public:
  // Makes sure that the table exists and this process is in it. Called when a
  // shared object is created, so that later calls cannot fail. Errors: no
  // memory or descriptor for the table, or kMaxLiveProcesses reached
  // (ResourceExhausted); another PID namespace (FailedPrecondition).
  static absl::Status Join();

  // The token of the calling process: one load. Joins the table first if need
  // be, and aborts if that fails.
  static Token Self() {
    const Token token = self_.load(std::memory_order_relaxed);
    if (ABSL_PREDICT_TRUE(token != kNoToken)) return token;
    return JoinOrDie();
  }

  // For starting a program that shall belong to the family without being forked
  // from it: the descriptor of the table, which is made if need be and remains
  // the library's.
  static absl::StatusOr<int> TableFd();
  // In that program: makes the table its own. Call before there are other
  // threads. Shared objects made before, as by the constructors of static
  // objects, remain this process's and its children's; none may be held now.
  static absl::Status Adopt(UniqueFd table);

  // Names the calling thread among all threads of the family, dead and alive:
  // one load. Token of the process in the upper half, a count of its threads in
  // the lower; never 0. A forked child's thread is another one than the thread
  // that forked.
  static uint64_t SelfThread() {
    const uint64_t thread = self_thread_;
    if (ABSL_PREDICT_TRUE(thread != 0)) return thread;
    return NameThread();
  }

  // Whether the process named by `token` is proven dead. Cheap (three loads)
  // while it lives; a few system calls to confirm a death. Everything that the
  // dead process wrote before it stored its token anywhere is visible after.
  static bool IsDead(Token token) {
    // `token` was read from some word: the slot must not be older than that.
    std::atomic_thread_fence(std::memory_order_acquire);
    const Slot* const slots = slots_.load(std::memory_order_acquire);
    if (ABSL_PREDICT_TRUE(slots != nullptr)) {
      const Slot& slot = slots[token % Slot::kCount];
      if (ABSL_PREDICT_TRUE(
              slot.token.load(std::memory_order_acquire) == token &&
              Slot::Certifies(
                  slot.life_word().load(std::memory_order_acquire)))) {
        return false;
      }
    }
    return IsDeadSlow(token);
  }

  // The pid behind `token`, 0 if its slot has passed on to another process.
  static pid_t Pid(Token token);

  // For sleeping until a process dies. Returns the process's life word armed
  // so that the kernel wakes sleepers when the process dies, and sets
  // `expected` to what it holds until then. The kernel wakes one sleeper: who
  // finds the word changed must wake the others. Null if the kernel has no
  // certificate to give now: then only repeated IsDead() will tell.
  static const FutexWord* Watch(Token token, uint32_t* expected);

  // If the thread that held this process's certificate has ended, takes it over
  // for the calling thread. Cheap otherwise. Called before sleeping.
  static void Rehome();

 private:
  using Slot = shm_internal::LivenessSlot;

  static Token JoinOrDie();
  static uint64_t NameThread();
  static Slot& SlotOf(Token token);
  static bool IsDeadSlow(Token token);

  static inline std::atomic<Token> self_{kNoToken};
  static inline std::atomic<Slot*> slots_{nullptr};  // those of the table
  static inline constinit thread_local uint64_t self_thread_ = 0;
  friend struct LivenessInternals;
};

}  // namespace mp

#endif  // MP_SHM_LIVENESS_H_
