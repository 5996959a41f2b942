#include "mp/sync/in_place_lock.h"

#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/segment.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

// Locks are taken in one process and released in another here.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;

struct Account {
  InPlaceLock lock;
  int64_t balance;
};
static_assert(std::is_standard_layout_v<Account>);
static_assert(sizeof(Account) == 16);

// An account in a mapping of the user's own: zero-filled, nothing constructed.
class InPlaceLockTest : public testing::ProcessTest {
 protected:
  InPlaceLockTest() {
    void* const memory = mmap(nullptr, sizeof(Account), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MP_PCHECK(memory != MAP_FAILED) << "mmap";
    account_ = static_cast<Account*>(memory);
  }
  ~InPlaceLockTest() override { munmap(account_, sizeof(Account)); }

  // A child dies with the lock.
  void LeaveItHeld() {
    ChildProcess::Start([this] { account_->lock.Acquire(); }).ExpectExit(0);
  }

  Account* account_;
};

TEST_F(InPlaceLockTest, ZeroFilledMemoryIsAFreeLock) {
  InPlaceLock& lock = account_->lock;
  EXPECT_FALSE(lock.IsHeld());
  EXPECT_EQ(lock.owner(), kNoToken);
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_TRUE(lock.IsHeld());
  EXPECT_EQ(lock.owner(), Liveness::Self());
  EXPECT_FALSE(lock.TryAcquire());
  EXPECT_TRUE(lock.Release());
  EXPECT_FALSE(lock.Release());
  EXPECT_EQ(lock.owner(), kNoToken);
  // Free again means zero: nothing stays in the word.
  uint32_t word;
  std::memcpy(&word, &lock, sizeof(word));
  EXPECT_EQ(word, 0u);
}

TEST_F(InPlaceLockTest, WorksInASegmentAndBetweenProcesses) {
  ASSERT_OK_AND_ASSIGN(
      const std::shared_ptr<Segment> segment,
      Segment::Create({.name = "account", .layout = 1, .size = 1 << 12}));
  auto* const account = reinterpret_cast<Account*>(segment->data());
  constexpr int kProcesses = 3;
  constexpr int kTimes = 20'000;
  std::vector<ChildProcess> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([account] {
      for (int n = 0; n < kTimes; ++n) {
        const std::lock_guard<InPlaceLock> hold(account->lock);
        ++account->balance;
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(account->balance, kProcesses * kTimes);
}

TEST_F(InPlaceLockTest, Deadlines) {
  InPlaceLock& lock = account_->lock;
  EXPECT_EQ(lock.AcquireUntil(Deadline::Now()), kAcquired);
  EXPECT_EQ(lock.AcquireUntil(Deadline::Now()), kTimedOut);
  const int64_t begin = MonotonicNanos();
  EXPECT_EQ(lock.AcquireUntil(Deadline::After(absl::Milliseconds(15))),
            kTimedOut);
  EXPECT_GE(MonotonicNanos() - begin, 15'000'000);
  EXPECT_EQ(lock.AcquireUntil(Deadline::AtNanos(begin)), kTimedOut);  // past
  EXPECT_TRUE(lock.Release());
  EXPECT_EQ(lock.AcquireUntil(Deadline::Infinite()), kAcquired);
  EXPECT_TRUE(lock.Release());
}

TEST_F(InPlaceLockTest, TryAcquireDoesNotTakeOverAndAnExpiredDeadlineDoes) {
  LeaveItHeld();
  InPlaceLock& lock = account_->lock;
  EXPECT_FALSE(lock.TryAcquire());
  EXPECT_EQ(lock.AcquireUntil(Deadline::Now()), kOwnerDied);
  EXPECT_TRUE(lock.Release());
}

TEST_F(InPlaceLockTest, TryLockTakesOver) {
  LeaveItHeld();
  InPlaceLock& lock = account_->lock;
  EXPECT_TRUE(lock.try_lock());
  EXPECT_FALSE(lock.try_lock());
  lock.unlock();
}

TEST_F(InPlaceLockTest, ReleasedUnrepairedLooksLikeADeath) {
  InPlaceLock& lock = account_->lock;
  lock.Acquire();
  auto waiter = ChildProcess::Start([&] {
    EXPECT_EQ(lock.Acquire(), kOwnerDied);
    EXPECT_TRUE(lock.Release());
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  lock.ReleaseUnrepaired();
  waiter.ExpectExit(0);
  EXPECT_FALSE(lock.IsHeld());
  // Nobody waits: the next one is told.
  lock.Acquire();
  lock.ReleaseUnrepaired();
  EXPECT_TRUE(lock.IsHeld());
  EXPECT_EQ(lock.Acquire(), kOwnerDied);
  EXPECT_TRUE(lock.Release());
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_TRUE(lock.Release());
}

TEST_F(InPlaceLockTest, UnlockOfAFreeLockAborts) {
  EXPECT_DEATH(account_->lock.unlock(), "nobody alive holds");
}

// ---- Interleavings
//
// The lock's algorithm on a simulated machine: every access to a shared word is
// a point where another process may go on instead, or where this one is killed.
// Seeds choose. Sleepers sleep until they are woken: in a run without kills
// nobody may depend on the end of a slice.

struct Killed {};

class Machine {
 public:
  explicit Machine(uint64_t seed) : random_(seed) {}

  // The one that the calling thread belongs to.
  static thread_local Machine* here;
  static thread_local size_t self;

  // Runs `bodies` to their end. False if some are stuck.
  template <class Body>
  bool Run(size_t processes, int kills, Body body) {
    processes_.resize(processes);
    kills_left_ = kills;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < processes; ++i) {
      threads.emplace_back([this, i, &body] {
        here = this;
        self = i;
        try {
          AwaitTurn();
          body(i);
          End(/*killed=*/false);
        } catch (const Killed&) {
          End(/*killed=*/true);
        }
      });
    }
    {
      std::unique_lock<std::mutex> lock(mutex_);
      PickNext();
    }
    for (std::thread& thread : threads) thread.join();
    return !stuck_;
  }

  bool stuck() const { return stuck_; }
  int slices_ended() const { return slices_ended_; }
  bool Chance(unsigned one_in) { return random_() % one_in == 0; }
  int64_t Random(unsigned below) {
    return static_cast<int64_t>(random_() % below);
  }

  bool IsDead(Token token) const {
    if (token == kDeadToken) return true;
    return processes_[token - kFirstToken].state == State::kDead;
  }

  // A point where anything may happen.
  void Step() {
    std::unique_lock<std::mutex> lock(mutex_);
    PickNext();
    AwaitTurn(lock);
  }

  // Sleeps on `word` until woken or until `owner` dies; if `timed`, some time
  // or other it wakes up by itself.
  void Sleep(const void* word, Token owner, bool timed) {
    std::unique_lock<std::mutex> lock(mutex_);
    Process& process = processes_[self];
    process.state = State::kAsleep;
    process.word = word;
    process.owner = owner;
    process.timed = timed;
    process.since = ++clock_;
    PickNext();
    AwaitTurn(lock);
  }

  int Wake(const void* word, int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    int woken = 0;
    while (woken < count) {
      Process* first = nullptr;
      for (Process& process : processes_) {
        if (process.state == State::kAsleep && process.word == word &&
            (first == nullptr || process.since < first->since)) {
          first = &process;
        }
      }
      if (first == nullptr) break;
      first->state = State::kReady;
      ++woken;
    }
    return woken;
  }

  static constexpr Token kFirstToken = 100;

 private:
  enum class State { kReady, kAsleep, kDead, kDone };
  struct Process {
    State state = State::kReady;
    bool to_be_killed = false;
    const void* word = nullptr;
    Token owner = kNoToken;
    bool timed = false;
    int64_t since = 0;
  };

  void AwaitTurn() {
    std::unique_lock<std::mutex> lock(mutex_);
    AwaitTurn(lock);
  }
  void AwaitTurn(std::unique_lock<std::mutex>& lock) {
    changed_.wait(lock, [this] { return turn_ == self; });
    if (processes_[self].to_be_killed) throw Killed();
  }

  void End(bool killed) {
    std::unique_lock<std::mutex> lock(mutex_);
    processes_[self].state = killed ? State::kDead : State::kDone;
    // The kernel wakes who sleeps on its life, one after the other.
    for (Process& process : processes_) {
      if (killed && process.state == State::kAsleep &&
          process.owner == self + kFirstToken) {
        process.state = State::kReady;
      }
    }
    PickNext();
  }

  // Lets some process go on, and now and then kills one that could, or sleeps.
  void PickNext() {
    if (kills_left_ > 0 && Chance(40)) {
      Process& victim = processes_[random_() % processes_.size()];
      if (victim.state == State::kReady || victim.state == State::kAsleep) {
        victim.to_be_killed = true;
        victim.state = State::kReady;
        --kills_left_;
      }
    }
    std::vector<size_t> ready = Ready();
    if (ready.empty() || Chance(20)) {
      for (Process& process : processes_) {
        if (process.state == State::kAsleep && process.timed) {
          process.state = State::kReady;
          break;
        }
      }
      ready = Ready();
    }
    if (ready.empty()) {
      // Everybody sleeps. Slices end.
      bool any = false;
      for (Process& process : processes_) {
        if (process.state != State::kAsleep) continue;
        process.state = State::kReady;
        any = true;
      }
      if (!any) return;  // the end
      if (++slices_ended_ > 1000) {
        stuck_ = true;
        for (Process& process : processes_) process.to_be_killed = true;
      }
      ready = Ready();
    }
    turn_ = ready[random_() % ready.size()];
    changed_.notify_all();
  }
  std::vector<size_t> Ready() const {
    std::vector<size_t> ready;
    for (size_t i = 0; i < processes_.size(); ++i) {
      if (processes_[i].state == State::kReady) ready.push_back(i);
    }
    return ready;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::mt19937_64 random_;
  std::vector<Process> processes_;
  size_t turn_ = SIZE_MAX;
  int kills_left_ = 0;
  int64_t clock_ = 0;
  int slices_ended_ = 0;
  bool stuck_ = false;
};
thread_local Machine* Machine::here = nullptr;
thread_local size_t Machine::self = 0;

// Sequentially consistent, as one thread runs at a time.
template <class T>
class SimulatedAtomic {
 public:
  constexpr explicit SimulatedAtomic(T value = T()) : value_(value) {}

  T load(std::memory_order) const {
    Machine::here->Step();
    return value_;
  }
  void store(T value, std::memory_order) {
    Machine::here->Step();
    value_ = value;
  }
  T exchange(T value, std::memory_order) {
    Machine::here->Step();
    return std::exchange(value_, value);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order,
                               std::memory_order = {}) {
    Machine::here->Step();
    if (value_ != expected) {
      expected = value_;
      return false;
    }
    value_ = desired;
    return true;
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order order,
                             std::memory_order = {}) {
    if (Machine::here->Chance(8)) {  // fails for no reason
      expected = load(order);
      return false;
    }
    return compare_exchange_strong(expected, desired, order);
  }
  T peek() const { return value_; }

 private:
  T value_;
};

struct SimulatedPlatform {
  template <class T>
  using Atomic = SimulatedAtomic<T>;

  static Token Self() {
    return static_cast<Token>(Machine::self) + Machine::kFirstToken;
  }
  static bool IsDead(Token token) {
    Machine::here->Step();
    return Machine::here->IsDead(token);
  }
  static ParkResult Park(const Atomic<uint32_t>& word, uint32_t expected,
                         Token owner, Deadline deadline, ParkSlices&) {
    Machine::here->Step();
    // The kernel compares both words and goes to sleep in one step.
    if (word.peek() != expected || Machine::here->IsDead(owner)) {
      return ParkResult::kRetry;
    }
    Machine::here->Sleep(&word, owner, !deadline.infinite());
    return deadline.Expired() ? ParkResult::kTimedOut : ParkResult::kRetry;
  }
  static int Unpark(const Atomic<uint32_t>& word, int count) {
    Machine::here->Step();
    return Machine::here->Wake(&word, count);
  }
  static void Relax() {}
  static bool MaySpin() { return Machine::here->Chance(2); }
};

struct Outcome {
  bool stuck = false;
  int slices_ended = 0;
  int owner_deaths = 0;
  int timeouts = 0;
};

// Some processes use one lock; `kills` of them are killed.
Outcome Simulate(uint64_t seed, int kills, bool with_timeouts) {
  constexpr size_t kProcesses = 4;
  BasicInPlaceLock<SimulatedPlatform> lock;
  Outcome outcome;
  std::optional<size_t> holder;
  bool half_done = false;  // a holder died and nobody has been told yet
  int between = 0;         // holders that died in Acquire or Release
  Machine machine(seed);
  machine.Run(kProcesses, kills, [&](size_t self) {
    for (int i = 0; i < 3; ++i) {
      AcquireResult result;
      if (with_timeouts && machine.Chance(2)) {
        // Will have passed by when it has slept, but perhaps not before.
        result = lock.AcquireUntil(
            Deadline::AtNanos(MonotonicNanos() + machine.Random(300'000)));
      } else {
        result = lock.Acquire();
      }
      if (!result) {
        ++outcome.timeouts;
        continue;
      }
      if (holder.has_value()) {
        EXPECT_TRUE(
            machine.IsDead(static_cast<Token>(*holder) + Machine::kFirstToken))
            << "two holders";
        half_done = true;
      }
      if (half_done) {
        EXPECT_EQ(result, kOwnerDied);
      } else if (result == kOwnerDied) {
        ++between;
      }
      half_done = false;
      if (result == kOwnerDied) ++outcome.owner_deaths;
      holder = self;
      for (int n = 0; n < 3; ++n) machine.Step();  // may die here
      EXPECT_EQ(holder, self);
      if (machine.Chance(10)) {
        half_done = true;
        holder.reset();
        lock.ReleaseUnrepaired();
      } else {
        holder.reset();
        if (!lock.Release()) ADD_FAILURE() << "was not held";
      }
    }
  });
  EXPECT_LE(between, kills);
  outcome.stuck = machine.stuck();
  outcome.slices_ended = machine.slices_ended();
  return outcome;
}

TEST(InPlaceLockInterleavingsTest, WithoutDeathsNobodyNeedsTheEndOfASlice) {
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const Outcome outcome = Simulate(seed, /*kills=*/0, /*timeouts=*/false);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_EQ(outcome.slices_ended, 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

TEST(InPlaceLockInterleavingsTest, TimeoutsStrandNobody) {
  int timeouts = 0;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const Outcome outcome = Simulate(seed, /*kills=*/0, /*timeouts=*/true);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_EQ(outcome.slices_ended, 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    timeouts += outcome.timeouts;
  }
  EXPECT_GT(timeouts, 0);
}

TEST(InPlaceLockInterleavingsTest, DeathsStrandNobody) {
  int owner_deaths = 0;
  int healed = 0;
  for (uint64_t seed = 0; seed < 1'200; ++seed) {
    const Outcome outcome =
        Simulate(seed, /*kills=*/1 + static_cast<int>(seed % 3),
                 /*timeouts=*/seed % 2 == 0);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    owner_deaths += outcome.owner_deaths;
    healed += outcome.slices_ended > 0 ? 1 : 0;
  }
  EXPECT_GT(owner_deaths, 0);
  // Some of the deaths took a wake-up with them, and the slices mended it.
  EXPECT_GT(healed, 0);
}

}  // namespace
}  // namespace mp
