#include "mp/base/futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mp/base/check.h"

// Not in the C library's headers of older systems.
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

namespace mp {
namespace {

// The kernel's struct futex_waitv, absent from headers before 5.16.
struct WaitvEntry {
  uint64_t value;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};
constexpr uint32_t kFutex32 = 2;  // FUTEX_32: a 32-bit, process-shared word

enum class Support { kUnknown, kYes, kNo };
std::atomic<Support> waitv_state{Support::kUnknown};

uint32_t* Address(const FutexWord& word) {
  return reinterpret_cast<uint32_t*>(const_cast<FutexWord*>(&word));
}

long Waitv(const WaitvEntry* entries, unsigned count, const timespec* until) {
  return syscall(SYS_futex_waitv, entries, count, 0u, until, CLOCK_MONOTONIC);
}

// True unless the wait ended because its deadline passed. Any other error but
// the expected ones is a broken address or argument.
bool NotTimedOut(long result, const char* call) {
  if (result >= 0) return true;
  if (errno == ETIMEDOUT) return false;
  MP_PCHECK(errno == EAGAIN || errno == EINTR) << call;
  return true;
}

}  // namespace

bool FutexWait(const FutexWord& word, uint32_t expected, Deadline deadline) {
  timespec until;
  if (!deadline.infinite()) until = deadline.ToTimespec();
  // WAIT_BITSET takes an absolute monotonic timeout, WAIT only a relative one.
  return NotTimedOut(syscall(SYS_futex, Address(word), FUTEX_WAIT_BITSET,
                             expected, deadline.infinite() ? nullptr : &until,
                             nullptr, FUTEX_BITSET_MATCH_ANY),
                     "futex(FUTEX_WAIT_BITSET)");
}

bool FutexWaitAny(std::span<const FutexExpectation> words, Deadline deadline) {
  MP_CHECK(!words.empty() && words.size() <= kMaxFutexes) << words.size();
  if (words.size() == 1 || !HaveFutexWaitv()) {
    return FutexWait(*words[0].word, words[0].expected, deadline);
  }
  WaitvEntry entries[kMaxFutexes];
  for (size_t i = 0; i < words.size(); ++i) {
    entries[i] = {words[i].expected,
                  reinterpret_cast<uintptr_t>(Address(*words[i].word)),
                  kFutex32, 0};
  }
  timespec until;
  if (!deadline.infinite()) until = deadline.ToTimespec();
  return NotTimedOut(Waitv(entries, static_cast<unsigned>(words.size()),
                           deadline.infinite() ? nullptr : &until),
                     "futex_waitv");
}

int FutexWake(const FutexWord& word, int count) {
  const long woken =
      syscall(SYS_futex, Address(word), FUTEX_WAKE, count, nullptr, nullptr, 0);
  MP_PCHECK(woken >= 0) << "futex(FUTEX_WAKE)";
  return static_cast<int>(woken);
}

bool HaveFutexWaitv() {
  Support state = waitv_state.load(std::memory_order_relaxed);
  if (state == Support::kUnknown) {
    // No entries is an invalid argument to a kernel that has the call. A
    // sandbox that refuses the call answers EPERM.
    Waitv(nullptr, 0, nullptr);
    state = errno == EINVAL ? Support::kYes : Support::kNo;
    waitv_state.store(state, std::memory_order_relaxed);
  }
  return state == Support::kYes;
}

void SetFutexWaitvForTest(bool enabled) {
  waitv_state.store(enabled ? Support::kUnknown : Support::kNo,
                    std::memory_order_relaxed);
}

}  // namespace mp
