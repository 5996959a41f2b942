// A simulated machine on which the algorithms of the primitives run, unchanged:
// every access to a shared word is a point where another process may go on
// instead, or where this one is killed. A seed chooses, so a run that failed
// can be had again. (Folly's deterministic schedules are the model.)
//
//   SimulatedMachine machine(seed);
//   BasicInPlaceLock<SimulatedPlatform> lock;
//   const bool ended = machine.Run(/*processes=*/4, /*kills=*/1, [&](size_t i)
//   {
//     lock.Acquire();
//     machine.Step();  // may die here
//     lock.Release();
//   });
//   EXPECT_TRUE(ended) << seed;
//
// Sleepers sleep until somebody wakes them, or the process they watch dies.
// Only when everybody sleeps do the slices of mp/shm/park.h end: an algorithm
// that loses no wake-up has none of these in a run without kills.
//
// Memory is sequentially consistent: wrong memory orders are not found. The
// processes are threads of which one runs at a time. A kill is a jump out of
// the body at the next access: as in a process that is killed, no destructor
// runs, and what the body has on the heap leaks. Deadlines read the real clock,
// so runs with timeouts do not always repeat.

#ifndef MP_TESTING_SIMULATED_MACHINE_H_
#define MP_TESTING_SIMULATED_MACHINE_H_

#include <setjmp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"

namespace mp::testing {

class SimulatedMachine {
 public:
  explicit SimulatedMachine(uint64_t seed) : random_(seed) {}

  // The one that the calling thread belongs to, and which process it is.
  static SimulatedMachine& Here() { return *here_; }
  static size_t Self() { return self_; }
  static Token SelfToken() { return TokenOf(self_); }
  static constexpr Token TokenOf(size_t process) {
    return static_cast<Token>(process) + kFirstToken;
  }

  // Runs `body(i)` as process i, of so many, all at once, until each has ended
  // or been killed; `kills` of them are, if they live long enough. False if
  // some are stuck. Once.
  bool Run(size_t processes, int kills, std::function<void(size_t)> body);

  // Kills `process` when it would take its `step`th step, from 1, if it gets
  // there. Before Run(); may be called for several processes.
  void KillAt(size_t process, int64_t step) { doomed_[process] = step; }

  // How often nothing could go on until the slices of the sleepers ended.
  int slices_ended() const { return slices_ended_; }

  // Decisions of the same seed.
  bool Chance(unsigned one_in) { return random_() % one_in == 0; }
  int64_t Random(unsigned below) {
    return static_cast<int64_t>(random_() % below);
  }

  bool IsDead(Token token) const;
  bool IsAsleep(size_t process) const {
    return processes_[process].state == State::kAsleep;
  }

  bool WasKilled(size_t process) const {
    return processes_[process].state == State::kDead;
  }

  // A point where anything may happen. Called by the process whose turn it is.
  void Step();
  // Sleeps on `word` until woken or until one of the `watched` dies; if
  // `timed`, some time or other it wakes up by itself.
  void Sleep(const void* word, const WatchList& watched, bool timed);
  // Wakes up to `count` who sleep on `word`, the first to sleep first.
  int Wake(const void* word, int count);

 private:
  static constexpr Token kFirstToken = 100;

  enum class State { kReady, kAsleep, kDead, kDone };
  struct Process {
    State state = State::kReady;
    bool to_be_killed = false;
    const void* word = nullptr;
    WatchList watched;
    bool timed = false;
    int64_t since = 0;
    int64_t steps = 0;
    std::condition_variable has_turn;
  };

  void CountStep(Process& process);
  // Until it is the calling process's turn. If that is killed, the call
  // releases the lock and does not return.
  void AwaitTurn(std::unique_lock<std::mutex>& lock);
  void RunProcess(const std::function<void(size_t)>& body);
  void End(bool killed);
  void PickNext();
  void KillSomebody();
  void EndSomeTimeout();
  void EndAllSlices();
  std::vector<size_t> Ready() const;

  static thread_local SimulatedMachine* here_;
  static thread_local size_t self_;
  static thread_local jmp_buf end_;  // where a killed process jumps to

  std::mutex mutex_;
  std::mt19937_64 random_;
  std::deque<Process> processes_;
  size_t turn_ = SIZE_MAX;
  int kills_left_ = 0;
  std::map<size_t, int64_t> doomed_;  // when
  int64_t clock_ = 0;
  int slices_ended_ = 0;
  bool stuck_ = false;
};

// Runs `scenario`, which calls Run() of the machine, once for each step of the
// process `victim`, which is killed there; the others do as the seed says. Ends
// when the victim has survived, or when an assertion has failed. Returns how
// often it died.
int64_t KillAtEveryStep(uint64_t seed, size_t victim,
                        const std::function<void(SimulatedMachine&)>& scenario);

template <class T>
class SimulatedAtomic {
 public:
  constexpr explicit SimulatedAtomic(T value = T()) : value_(value) {}

  T load(std::memory_order) const {
    Step();
    return value_;
  }
  void store(T value, std::memory_order) {
    Step();
    value_ = value;
  }
  T exchange(T value, std::memory_order) {
    Step();
    return std::exchange(value_, value);
  }
  T fetch_or(T bits, std::memory_order) {
    Step();
    return std::exchange(value_, value_ | bits);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order,
                               std::memory_order = {}) {
    Step();
    if (value_ != expected) {
      expected = value_;
      return false;
    }
    value_ = desired;
    return true;
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order order,
                             std::memory_order = {}) {
    if (SimulatedMachine::Here().Chance(8)) {  // fails for no reason
      expected = load(order);
      return false;
    }
    return compare_exchange_strong(expected, desired, order);
  }

  // The value, by no step of any process.
  T peek() const { return value_; }

 private:
  static void Step() { SimulatedMachine::Here().Step(); }

  T value_;
};

// See mp/shm/platform.h.
struct SimulatedPlatform {
  template <class T>
  using Atomic = SimulatedAtomic<T>;

  static Token Self() { return SimulatedMachine::SelfToken(); }
  static uint64_t SelfThread() { return uint64_t{Self()} << 32 | 1; }
  static bool IsDead(Token token) {
    SimulatedMachine::Here().Step();
    return SimulatedMachine::Here().IsDead(token);
  }
  static ParkResult Park(const Atomic<uint32_t>& word, uint32_t expected,
                         const WatchList& watched, Deadline deadline,
                         ParkSlices&) {
    SimulatedMachine& machine = SimulatedMachine::Here();
    machine.Step();
    // The kernel compares all words and goes to sleep in one step.
    const auto tokens = watched.tokens();
    if (word.peek() != expected ||
        std::any_of(tokens.begin(), tokens.end(),
                    [&](Token token) { return machine.IsDead(token); })) {
      return ParkResult::kRetry;
    }
    machine.Sleep(&word, watched, !deadline.infinite());
    return deadline.Expired() ? ParkResult::kTimedOut : ParkResult::kRetry;
  }
  static int Unpark(const Atomic<uint32_t>& word, int count) {
    SimulatedMachine::Here().Step();
    return SimulatedMachine::Here().Wake(&word, count);
  }
  static void Relax() {}
  static bool MaySpin() { return SimulatedMachine::Here().Chance(2); }
};

}  // namespace mp::testing

#endif  // MP_TESTING_SIMULATED_MACHINE_H_
