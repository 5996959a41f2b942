// What a worker that crashes leaves behind for the error of its task: the
// signal, and a symbolised stack. Internal to the executor of processes.
//
// The worker writes it in a signal handler, into shared memory, and then dies
// by the same signal as it would have done otherwise. What was written before
// something goes wrong there is kept.

#ifndef MP_POOL_LAST_WORDS_H_
#define MP_POOL_LAST_WORDS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace mp::pool_internal {

// In shared memory, one for each worker.
class LastWords {
 public:
  // For signal handlers; what does not fit is dropped.
  void Append(const char* text);
  void AppendHex(uint64_t number);

  // When the worker is dead, in the pool's process.
  std::string Read() const;
  // Before another writes here.
  void Clear() { size_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr size_t kMaxSize = 4080;

  std::atomic<uint32_t> size_{0};
  std::atomic<char> text_[kMaxSize];
};

// In a worker, for the rest of its life: handles the signals that a process
// brings upon itself (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP,
// SIGSYS), each unless it has a handler already or is ignored: the program's
// own handlers, and those of sanitizers, stay. Such a signal that another
// process sends ends the worker without a word, and so it does in a process
// that the worker has forked.
//
// The calling thread gets a stack for the handler, so that it can speak of the
// overflow of its own; other threads cannot.
void SpeakBeforeDying(std::shared_ptr<LastWords> words);

}  // namespace mp::pool_internal

#endif  // MP_POOL_LAST_WORDS_H_
