// A simulated machine on which the algorithms of the primitives run, unchanged:
// every access to a shared word is a point where another process may go on
// instead, or where this one is killed. A seed chooses, so a run that failed
// can be had again; or all schedules of a short scenario are tried, one after
// the other. (Folly's deterministic schedules are the model.)
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
// The machine has a clock of its own, which deadlines and MonotonicNanos() read
// in the processes: each step takes a microsecond, and when nothing else can go
// on, time passes until the next deadline.
//
// Memory is sequentially consistent: wrong memory orders are not found. A kill
// ends a process at its next access: no destructor runs, and what the body has
// on the heap leaks.

#ifndef MP_TESTING_SIMULATED_MACHINE_H_
#define MP_TESTING_SIMULATED_MACHINE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/testing/fiber.h"

namespace mp::testing {

// The decisions of a run, to be taken otherwise in the next one, until all ways
// have been gone.
class Decisions {
 public:
  // Of so many possibilities, which.
  size_t Choose(size_t of);
  // Begins the next run; false if there is none.
  bool Next();

 private:
  struct Decision {
    size_t chosen;
    size_t of;
  };
  std::vector<Decision> taken_;
  size_t next_ = 0;
};

class SimulatedMachine {
 public:
  explicit SimulatedMachine(uint64_t seed) : random_(seed) {}
  // For RunEverySchedule().
  SimulatedMachine(Decisions& decisions, int preemptions)
      : decisions_(&decisions), preemptions_left_(preemptions) {}

  // The one that runs in this thread, and which of its processes has its turn.
  static SimulatedMachine& Here() {
    MP_CHECK(here_ != nullptr) << "an access outside of Run()";
    return *here_;
  }
  static size_t Self() { return Here().turn_; }
  static Token SelfToken() { return TokenOf(Self()); }
  static constexpr Token TokenOf(size_t process) {
    return static_cast<Token>(process) + kFirstToken;
  }

  // Runs `body(i)` as process i, of so many, all at once, until each has ended
  // or been killed; `kills` of them are, if they live long enough. False if
  // some are stuck: asleep for ever, or busy for ever. Once.
  bool Run(size_t processes, int kills, std::function<void(size_t)> body);

  // Kills `process` when it would take its `step`th step, from 1, if it gets
  // there. Before Run(); may be called for several processes.
  void KillAt(size_t process, int64_t step) { doomed_[process] = step; }

  // How often nothing could go on until the slices of the sleepers ended.
  int slices_ended() const { return slices_ended_; }

  // Decisions of the same seed. Always no and 0 in RunEverySchedule().
  bool Chance(unsigned one_in) { return Random(one_in) == one_in - 1; }
  int64_t Random(unsigned below) {
    return decisions_ != nullptr ? 0 : static_cast<int64_t>(random_() % below);
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
  // Sleeps on `word` until woken, until one of the `watched` dies, or until the
  // deadline.
  void Sleep(const void* word, const WatchList& watched, Deadline deadline);
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
    int64_t until = 0;  // by the machine's clock
    int64_t since = 0;
    int64_t steps = 0;
    std::unique_ptr<Fiber> fiber;
  };

  static constexpr int64_t kStepNanos = 1'000;
  static constexpr size_t kNobody = SIZE_MAX;
  static constexpr int64_t kNever = INT64_MAX;
  // Somebody who makes more looks again and again instead of sleeping.
  static constexpr int64_t kMostSteps = 1'000'000;

  void CountStep(Process& process);
  // Lets others go on until it is the calling process's turn again. If that is
  // killed, does not return.
  void PassTurn();
  void DieIfKilled();
  void End(bool killed);
  void PickNext();
  void KillSomebody();
  void EndSomeTimeout();
  void EndAllSlices();
  void EndStuck();
  void FindReady();
  size_t ChooseReady();

  static thread_local SimulatedMachine* here_;

  std::mt19937_64 random_;
  Decisions* const decisions_ = nullptr;
  int preemptions_left_ = 0;
  std::vector<Process> processes_;
  std::vector<size_t> ready_;
  size_t turn_ = kNobody;
  int kills_left_ = 0;
  std::map<size_t, int64_t> doomed_;  // when
  int64_t now_ = 1'000'000'000;
  int64_t steps_ = 0;
  int64_t sleeps_ = 0;
  int slices_ended_ = 0;
  bool stuck_ = false;
};

// Runs `scenario`, which calls Run() of the machine, once for each step of the
// process `victim`, which is killed there; the others do as the seed says. Ends
// when the victim has survived, or when an assertion has failed. Returns how
// often it died.
int64_t KillAtEveryStep(uint64_t seed, size_t victim,
                        const std::function<void(SimulatedMachine&)>& scenario);

// Runs `scenario`, which calls Run() of the machine, under every schedule in
// which at most `preemptions` times a process has to wait though it could go
// on. (Few of them find most mistakes: M. Musuvathi, S. Qadeer, "Iterative
// context bounding for systematic testing of multithreaded programs", 2007.)
// Ends when an assertion has failed. Returns how many schedules there were.
// With sanitizers, which take a hundred times as long, with one preemption
// less.
int64_t RunEverySchedule(
    int preemptions, const std::function<void(SimulatedMachine&)>& scenario);

// The same, and under each of them kills `victim` at every step of its own.
int64_t KillUnderEverySchedule(
    int preemptions, size_t victim,
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
    machine.Sleep(&word, watched, deadline);
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
