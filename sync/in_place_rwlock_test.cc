#include "mp/sync/in_place_rwlock.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/sync/in_place_lock.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/simulated_machine.h"

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillAtEveryStep;
using ::mp::testing::KillUnderEverySchedule;
using ::mp::testing::RunEverySchedule;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class InPlaceRWLockTest : public testing::ProcessTest {
 protected:
  // In a mapping of the user's own: zero-filled, nothing constructed.
  InPlaceRWLockTest()
      : memory_(mmap(nullptr, sizeof(InPlaceRWLock), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
        lock_(*static_cast<InPlaceRWLock*>(memory_)) {
    MP_PCHECK(memory_ != MAP_FAILED) << "mmap";
  }
  ~InPlaceRWLockTest() override { munmap(memory_, sizeof(InPlaceRWLock)); }

  void* const memory_;
  InPlaceRWLock& lock_;
};

TEST_F(InPlaceRWLockTest, ZeroFilledMemoryIsAFreeLock) {
  EXPECT_EQ(lock_.writer(), kNoToken);
  EXPECT_THAT(lock_.readers(), IsEmpty());
  EXPECT_FALSE(lock_.Release());
  EXPECT_FALSE(lock_.ReleaseShared());

  EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kAcquired);
  EXPECT_EQ(lock_.writer(), Liveness::Self());
  EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kTimedOut);
  EXPECT_EQ(lock_.AcquireSharedUntil(Deadline::Now()), kTimedOut);
  EXPECT_FALSE(lock_.ReleaseShared());
  EXPECT_TRUE(lock_.Release());
  EXPECT_FALSE(lock_.Release());

  EXPECT_EQ(lock_.AcquireSharedUntil(Deadline::Now()), kAcquired);
  EXPECT_EQ(lock_.AcquireSharedUntil(Deadline::Now()), kAcquired);
  EXPECT_THAT(lock_.readers(), ElementsAre(Liveness::Self()));
  EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kTimedOut);
  EXPECT_FALSE(lock_.Release());
  ChildProcess::Start([&] {
    EXPECT_FALSE(lock_.ReleaseShared()) << "what its parent has";
    EXPECT_TRUE(lock_.try_lock_shared());
    EXPECT_EQ(lock_.readers().size(), 2u);
    lock_.unlock_shared();
    EXPECT_FALSE(lock_.try_lock());
  }).ExpectExit(0);
  EXPECT_TRUE(lock_.ReleaseShared());
  EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kTimedOut);
  EXPECT_TRUE(lock_.ReleaseShared());
  EXPECT_FALSE(lock_.ReleaseShared());
  EXPECT_TRUE(lock_.try_lock());
  lock_.unlock();
}

TEST_F(InPlaceRWLockTest, WorksWithTheStandardGuards) {
  {
    const std::shared_lock hold(lock_);
    EXPECT_THAT(lock_.readers(), ElementsAre(Liveness::Self()));
  }
  {
    const std::scoped_lock hold(lock_);
    EXPECT_THAT(lock_.readers(), IsEmpty());
    EXPECT_EQ(lock_.writer(), Liveness::Self());
  }
  EXPECT_EQ(lock_.writer(), kNoToken);
}

TEST_F(InPlaceRWLockTest, UnlockOfWhatIsNotHeldAborts) {
  EXPECT_DEATH(lock_.unlock(), "does not hold");
  EXPECT_DEATH(lock_.unlock_shared(), "does not read under");
}

TEST_F(InPlaceRWLockTest, ReleasedUnrepairedLooksLikeADeath) {
  lock_.Acquire();
  lock_.ReleaseUnrepaired();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(lock_.AcquireSharedUntil(Deadline::Now()), kOwnerDied);
  }
  EXPECT_EQ(lock_.AcquireUntil(Deadline::Now()), kTimedOut) << "readers inside";
  EXPECT_EQ(lock_.AcquireSharedUntil(Deadline::Now()), kOwnerDied);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(lock_.ReleaseShared());
  EXPECT_EQ(lock_.Acquire(), kOwnerDied);
  EXPECT_TRUE(lock_.Release());
  EXPECT_EQ(lock_.AcquireShared(), kAcquired);
  EXPECT_TRUE(lock_.ReleaseShared());
}

// It would let two in, and lose the news of the death.
TEST_F(InPlaceRWLockTest, AWriterThatWaitsIsNotTheWriterYet) {
  ChildProcess::Start([&] { lock_.Acquire(); }).ExpectExit(0);
  EXPECT_EQ(lock_.AcquireShared(), kOwnerDied);
  std::thread writer([&] {
    EXPECT_EQ(lock_.Acquire(), kOwnerDied);
    EXPECT_TRUE(lock_.Release());
  });
  while (lock_.AcquireSharedUntil(Deadline::Now())) {
    EXPECT_TRUE(lock_.ReleaseShared());
  }
  EXPECT_NE(lock_.writer(), Liveness::Self());
  EXPECT_FALSE(lock_.Release());
  EXPECT_TRUE(lock_.ReleaseShared());
  writer.join();
}

TEST_F(InPlaceRWLockTest, OnlyTheWriterReleasesUnrepaired) {
  EXPECT_DEATH(lock_.ReleaseUnrepaired(), "not the writer");
  lock_.AcquireShared();
  EXPECT_DEATH(lock_.ReleaseUnrepaired(), "not the writer");
}

// ---- The algorithm on a simulated machine.

// Two slots for readers: fewer than there are processes. Made on the heap: with
// AddressSanitizer, GCC 12 does not align variables to cache lines.
using SimulatedRWLock = BasicInPlaceRWLock<SimulatedPlatform, 2>;

// What must be true of everybody who holds a lock, kept beside it.
class Referee {
 public:
  explicit Referee(SimulatedMachine& machine) : machine_(machine) {}

  // Around all that a writer does with the lock.
  void Come(size_t self) { writers_.insert(self); }
  void Go(size_t self) { writers_.erase(self); }

  void BeginWrite(size_t self, AcquireResult result) {
    EXPECT_NE(result, kTimedOut);
    for (const size_t reader : readers_) {
      EXPECT_TRUE(machine_.WasKilled(reader)) << "beside a reader";
    }
    readers_.clear();
    Begin(self, result);
    unrepaired_ = false;
    writer_ = self;
  }
  void EndWrite() { writer_.reset(); }
  void LeaveUnrepaired() {
    unrepaired_ = true;
    writer_.reset();
  }

  void BeginRead(size_t self, AcquireResult result) {
    EXPECT_NE(result, kTimedOut);
    Begin(self, result);
    readers_.insert(self);
    most_readers_ = std::max(most_readers_, readers_.size());
  }
  void EndRead(size_t self) { readers_.erase(self); }

  size_t most_readers() const { return most_readers_; }
  int writer_deaths() const { return writer_deaths_; }
  // How often somebody was told of a death that this has not seen: of a writer
  // that had not yet begun or had ended.
  int told_more() const { return told_more_; }

 private:
  void Begin(size_t self, AcquireResult result) {
    if (writer_.has_value() && writer_ != self) {
      EXPECT_TRUE(machine_.WasKilled(*writer_)) << "beside a writer";
      writer_.reset();
      unrepaired_ = true;
      ++writer_deaths_;
    }
    if (unrepaired_) {
      EXPECT_EQ(result, kOwnerDied);
    } else if (result == kOwnerDied) {
      ++told_more_;
      EXPECT_TRUE(std::any_of(
          writers_.begin(), writers_.end(),
          [this](size_t writer) { return machine_.WasKilled(writer); }))
          << "told of a death that was none";
    }
  }

  SimulatedMachine& machine_;
  std::optional<size_t> writer_;
  std::set<size_t> readers_;
  std::set<size_t> writers_;
  bool unrepaired_ = false;
  size_t most_readers_ = 0;
  int writer_deaths_ = 0;
  int told_more_ = 0;
};

void Write(SimulatedMachine& machine, SimulatedRWLock& lock, Referee& referee,
           size_t self) {
  referee.Come(self);
  referee.BeginWrite(self, lock.Acquire());
  for (int n = 0; n < 3; ++n) machine.Step();  // may die here
  referee.EndWrite();
  EXPECT_TRUE(lock.Release());
  referee.Go(self);
}

void Read(SimulatedMachine& machine, SimulatedRWLock& lock, Referee& referee,
          size_t self) {
  referee.BeginRead(self, lock.AcquireShared());
  for (int n = 0; n < 3; ++n) machine.Step();
  referee.EndRead(self);
  EXPECT_TRUE(lock.ReleaseShared());
}

struct Outcome {
  int slices_ended = 0;
  size_t most_readers = 0;
  int writer_deaths = 0;
  int timeouts = 0;
};

Outcome Simulate(uint64_t seed, int kills, bool with_timeouts) {
  const auto on_heap = std::make_unique<SimulatedRWLock>();
  SimulatedRWLock& lock = *on_heap;
  SimulatedMachine machine(seed);
  Referee referee(machine);
  Outcome outcome;
  const auto body = [&](size_t self) {
    for (int i = 0; i < 3; ++i) {
      const bool writes = machine.Chance(3);
      if (with_timeouts && machine.Chance(2)) {
        // Will have passed by when it has slept, but perhaps not before.
        const Deadline soon =
            Deadline::AtNanos(MonotonicNanos() + machine.Random(300'000));
        if (writes) referee.Come(self);
        const AcquireResult result =
            writes ? lock.AcquireUntil(soon) : lock.AcquireSharedUntil(soon);
        if (result == kTimedOut) {
          ++outcome.timeouts;
        } else if (writes) {
          referee.BeginWrite(self, result);
          machine.Step();
          referee.LeaveUnrepaired();
          lock.ReleaseUnrepaired();
        } else {
          referee.BeginRead(self, result);
          machine.Step();
          referee.EndRead(self);
          EXPECT_TRUE(lock.ReleaseShared());
        }
        referee.Go(self);
      } else if (writes) {
        Write(machine, lock, referee, self);
      } else {
        Read(machine, lock, referee, self);
      }
    }
  };
  EXPECT_TRUE(machine.Run(/*processes=*/4, kills, body)) << "stuck";
  if (kills == 0) {
    EXPECT_EQ(referee.told_more(), 0);
  }
  outcome.slices_ended = machine.slices_ended();
  outcome.most_readers = referee.most_readers();
  outcome.writer_deaths = referee.writer_deaths();
  return outcome;
}

TEST(InPlaceRWLockInterleavingsTest, WithoutDeathsNobodyNeedsTheEndOfASlice) {
  size_t most_readers = 0;
  int timeouts = 0;
  for (uint64_t seed = 0; seed < 3'000; ++seed) {
    const Outcome outcome =
        Simulate(seed, /*kills=*/0, /*with_timeouts=*/seed % 2 == 0);
    ASSERT_EQ(outcome.slices_ended, 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    most_readers = std::max(most_readers, outcome.most_readers);
    timeouts += outcome.timeouts;
  }
  EXPECT_EQ(most_readers, SimulatedRWLock::kMaxReaders);
  EXPECT_GT(timeouts, 0);
}

TEST(InPlaceRWLockInterleavingsTest, DeathsStrandNobody) {
  int writer_deaths = 0;
  for (uint64_t seed = 0; seed < 4'500; ++seed) {
    const Outcome outcome =
        Simulate(seed, /*kills=*/1 + static_cast<int>(seed % 3),
                 /*with_timeouts=*/seed % 2 == 0);
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    writer_deaths += outcome.writer_deaths;
  }
  EXPECT_GT(writer_deaths, 0);
}

// Process 0 dies at every step of its own, beside a reader and a writer.
void KillTheFirst(bool writes) {
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    deaths +=
        KillAtEveryStep(seed, /*victim=*/0, [&](SimulatedMachine& machine) {
          const auto on_heap = std::make_unique<SimulatedRWLock>();
          SimulatedRWLock& lock = *on_heap;
          Referee referee(machine);
          EXPECT_TRUE(machine.Run(/*processes=*/3, /*kills=*/0,
                                  [&](size_t self) {
                                    for (int i = 0; i < 2; ++i) {
                                      if (self == 2 || (self == 0 && writes)) {
                                        Write(machine, lock, referee, self);
                                      } else {
                                        Read(machine, lock, referee, self);
                                      }
                                    }
                                  }))
              << "stuck";
          if (!writes) {
            // A reader leaves no trace, wherever it dies.
            EXPECT_EQ(referee.told_more(), 0);
          }
        });
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
  EXPECT_GT(deaths, 100);
}

TEST(InPlaceRWLockInterleavingsTest, AReaderThatDiesAnywhereLeavesNoTrace) {
  KillTheFirst(/*writes=*/false);
}

// Not the end of its slice wakes the writer.
TEST(InPlaceRWLockInterleavingsTest, TheDeathOfAReaderWakesTheWriter) {
  int deaths_beside_a_sleeper = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    KillAtEveryStep(seed, /*victim=*/0, [&](SimulatedMachine& machine) {
      const auto on_heap = std::make_unique<SimulatedRWLock>();
      SimulatedRWLock& lock = *on_heap;
      bool slept = false;
      bool written = false;
      EXPECT_TRUE(machine.Run(/*processes=*/2, /*kills=*/0, [&](size_t self) {
        if (self == 0) {
          EXPECT_EQ(lock.AcquireShared(), kAcquired);
          while (!written && !machine.IsAsleep(1)) machine.Step();
          slept = !written;
          machine.Step();  // may die here
          slept = false;
          EXPECT_TRUE(lock.ReleaseShared());
        } else {
          EXPECT_EQ(lock.Acquire(), kAcquired);
          written = true;
          EXPECT_TRUE(lock.Release());
        }
      })) << "stuck";
      EXPECT_EQ(machine.slices_ended(), 0);
      deaths_beside_a_sleeper += slept ? 1 : 0;
    });
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
  EXPECT_GT(deaths_beside_a_sleeper, 0);
}

TEST(InPlaceRWLockInterleavingsTest, AWriterThatDiesAnywhereIsNoticed) {
  KillTheFirst(/*writes=*/true);
}

// Two readers and a writer. Says how many schedules there were.
TEST(InPlaceRWLockInterleavingsTest, EverySchedule) {
  size_t victim = SIZE_MAX;
  const auto scenario = [&victim](SimulatedMachine& machine) {
    const auto on_heap = std::make_unique<SimulatedRWLock>();
    SimulatedRWLock& lock = *on_heap;
    Referee referee(machine);
    EXPECT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        Write(machine, lock, referee, self);
      } else {
        Read(machine, lock, referee, self);
      }
    })) << "stuck";
    if (victim != 0) {
      EXPECT_EQ(referee.told_more(), 0) << "told of a reader's death";
    }
    if (victim == SIZE_MAX) {
      EXPECT_EQ(machine.slices_ended(), 0);
    }
  };
  const int64_t alive = RunEverySchedule(/*preemptions=*/2, scenario);
  int64_t deaths = 0;
  for (victim = 0; victim < 2; ++victim) {
    deaths += KillUnderEverySchedule(/*preemptions=*/1, victim, scenario);
  }
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
