// Linux futexes on memory shared between processes.
//
// The calls here are the only ones in the library that sleep on shared memory.
// Primitives do not call them directly; they go through mp/shm/park.h, which
// adds what makes a sleep survive the death of other processes.

#ifndef MP_BASE_FUTEX_H_
#define MP_BASE_FUTEX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "mp/base/deadline.h"

namespace mp {

using FutexWord = std::atomic<uint32_t>;
static_assert(sizeof(FutexWord) == 4 && FutexWord::is_always_lock_free);

// Sleeps while `word` holds `expected`, until a wake-up, the deadline, or a
// signal handler has run. Returns false if the deadline passed and true
// otherwise; true says nothing about the word: callers look again.
//
// The kernel compares and falls asleep atomically, with a full barrier before
// the comparison, so a waker that first changes the word and then calls
// FutexWake is never missed.
bool FutexWait(const FutexWord& word, uint32_t expected, Deadline deadline);

// A word to sleep on, and what it must hold for that.
struct FutexExpectation {
  const FutexWord* word;
  uint32_t expected;
};

// How many words the kernel accepts.
inline constexpr size_t kMaxFutexes = 128;

// As FutexWait, but ends when any of `words`, one to kMaxFutexes, holds
// something else or is woken. On kernels before 5.16 (or with futex_waitv
// switched off) only the first word ends the sleep: callers bound it with the
// deadline.
bool FutexWaitAny(std::span<const FutexExpectation> words, Deadline deadline);

// Wakes up to `count` sleepers on `word`, in this and other processes. Returns
// how many were woken.
int FutexWake(const FutexWord& word, int count);

inline constexpr int kWakeAll = INT32_MAX;

// Whether FutexWaitAny really waits for all words. Tests switch it off to
// run the fallback.
bool HaveFutexWaitv();
void SetFutexWaitvForTest(bool enabled);

}  // namespace mp

#endif  // MP_BASE_FUTEX_H_
