// Spinning: the pause instruction and whether spinning can help at all.

#ifndef MP_BASE_SPIN_H_
#define MP_BASE_SPIN_H_

namespace mp {

// Tells the processor that this is a spin loop. 10 to 60 ns on current x86, a
// few ns on AArch64.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // `yield` does nothing on most cores
#endif
}

// Processors this process may run on (its affinity mask), at least 1. Counted
// once a process; a forked child keeps the count.
int AvailableProcessors();

// For a benchmark or test, in this process and those it forks from now on: 1
// forbids spinning, 0 counts anew.
void SetAvailableProcessorsForTest(int count);

}  // namespace mp

#endif  // MP_BASE_SPIN_H_
