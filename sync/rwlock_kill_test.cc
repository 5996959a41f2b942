// A readers-writer lock's users are killed: at every instruction of each
// operation, and at random in a storm. Whatever happens, the others get the
// lock, writers alone, and are told if a writer died, and only then.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/spin.h"
#include "mp/shm/slab.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_rwlock.h"
#include "mp/sync/kill_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/storm.h"

// Locks are taken here and held by who dies.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillAtEveryInstruction;
using ::mp::testing::KillPoint;
using ::mp::testing::KillReport;
using ::mp::testing::SharedPage;
using ::mp::testing::Storm;
using ::mp::testing::StormReport;
using ::mp::testing::StormWorker;

class RWLockKillTest : public KillTest {
 protected:
  RWLockKillTest() { Renew(); }

  void Renew() { lock_ = ValueOrDie(MakeShared<InPlaceRWLock>()); }

  // As survivors would: one reads, and one writes, who is told what the reader
  // was told.
  AcquireResult UseAsSurvivor() {
    const Deadline generous = Deadline::After(kGenerous);
    const AcquireResult as_reader = lock_->AcquireSharedUntil(generous);
    EXPECT_TRUE(as_reader);
    EXPECT_TRUE(lock_->ReleaseShared());
    EXPECT_EQ(lock_->AcquireUntil(generous), as_reader);
    EXPECT_TRUE(lock_->Release());
    EXPECT_EQ(lock_->AcquireUntil(Deadline::Now()), kAcquired);
    EXPECT_TRUE(lock_->Release());
    EXPECT_TRUE(lock_->readers().empty());
    return as_reader;
  }
  void ExpectNoTrace() { EXPECT_EQ(UseAsSurvivor(), kAcquired); }

  // Leaves a slot in the table, as every process does that has read.
  void ReadOnce() {
    lock_->AcquireShared();
    lock_->ReleaseShared();
  }

  void Quick(const char* what, std::function<void()> setup,
             std::function<void()> op,
             std::function<void(const KillPoint&)> check) {
    Print(what, KillAtEveryInstruction({.prepare = [&] { Renew(); },
                                        .setup = std::move(setup),
                                        .op = std::move(op),
                                        .check = std::move(check),
                                        .first = AnyOf(kStride.quick),
                                        .stride = kStride.quick}));
  }

  std::shared_ptr<InPlaceRWLock> lock_;
};

TEST_F(RWLockKillTest, AcquireByAWriter) {
  Once acquired;
  Quick(
      "writer's acquire", [&] { ReadOnce(); }, [&] { lock_->Acquire(); },
      [&](const KillPoint& point) {
        acquired.Expect(UseAsSurvivor() == kOwnerDied, point);
      });
}

TEST_F(RWLockKillTest, ReleaseByAWriter) {
  Once released;
  Quick(
      "writer's release", [&] { lock_->Acquire(); }, [&] { lock_->Release(); },
      [&](const KillPoint& point) {
        released.Expect(UseAsSurvivor() == kAcquired, point);
      });
}

TEST_F(RWLockKillTest, AcquireByAReader) {
  Quick(
      "reader's acquire", [&] { ReadOnce(); }, [&] { lock_->AcquireShared(); },
      [&](const KillPoint&) { ExpectNoTrace(); });
}

TEST_F(RWLockKillTest, FirstAcquireByAReader) {
  Print("reader's acquire, first",
        KillAtEveryInstruction(
            {.prepare = [&] { Renew(); },
             .op = [&] { lock_->AcquireShared(); },
             .check = [&](const KillPoint&) { ExpectNoTrace(); },
             .first = AnyOf(kStride.sleepers),
             .stride = kStride.sleepers}));
}

TEST_F(RWLockKillTest, ReleaseByAReader) {
  Quick(
      "reader's release", [&] { lock_->AcquireShared(); },
      [&] { lock_->ReleaseShared(); },
      [&](const KillPoint&) { ExpectNoTrace(); });
}

TEST_F(RWLockKillTest, ReadingWhatADeadWriterLeft) {
  Print("reader's acquire, writer dead",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      Renew();
                                      ChildProcess::Start([&] {
                                        lock_->Acquire();
                                      }).ExpectExit(0);
                                    },
                                .op = [&] { lock_->AcquireShared(); },
                                .check =
                                    [&](const KillPoint&) {
                                      EXPECT_EQ(UseAsSurvivor(), kOwnerDied);
                                    },
                                .first = AnyOf(kStride.sleepers),
                                .stride = kStride.sleepers}));
}

TEST_F(RWLockKillTest, WritingPastADeadReader) {
  Once acquired;
  Print("writer's acquire, reader dead",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      Renew();
                                      ChildProcess::Start([&] {
                                        lock_->AcquireShared();
                                      }).ExpectExit(0);
                                    },
                                .op = [&] { lock_->Acquire(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      acquired.Expect(
                                          UseAsSurvivor() == kOwnerDied, point);
                                    },
                                .first = AnyOf(kStride.slow),
                                .stride = kStride.slow}));
}

// The last reader leaves, or dies, and a writer sleeps.
TEST_F(RWLockKillTest, ReleaseByAReaderWithASleeper) {
  SharedPage<std::atomic<bool>> reads;
  std::optional<ChildProcess> writer;
  Print("reader's release, a writer asleep",
        KillAtEveryInstruction(
            {.prepare =
                 [&] {
                   // Also before the first run, which is not checked.
                   if (writer) writer->ExpectExit(0);
                   Renew();
                   *reads = false;
                   writer.emplace(ChildProcess::Start([&] {
                     while (!*reads) CpuRelax();
                     EXPECT_EQ(lock_->AcquireUntil(Deadline::After(kGenerous)),
                               kAcquired);
                     EXPECT_TRUE(lock_->Release());
                   }));
                 },
             .setup =
                 [&] {
                   lock_->AcquireShared();
                   *reads = true;
                   writer->WaitUntilAsleep();
                 },
             .op = [&] { lock_->ReleaseShared(); },
             .check =
                 [&](const KillPoint&) {
                   writer->ExpectExit(0);
                   writer.reset();
                   ExpectNoTrace();
                 },
             .first = AnyOf(kStride.slow),
             .stride = kStride.slow}));
  writer.reset();
}

// Who waits is killed: for readers, or for a writer. A reader that has waited
// for as long lives on.
TEST_F(RWLockKillTest, AcquiresThatWait) {
  for (const bool writes : {true, false}) {
    bool released = false;
    const auto release = [&] {
      if (std::exchange(released, true)) return;
      EXPECT_TRUE(writes ? lock_->ReleaseShared() : lock_->Release());
    };
    int died_writing = 0;
    const KillReport report = KillAtEveryInstruction(
        {.prepare =
             [&] {
               Renew();
               EXPECT_TRUE(writes ? lock_->AcquireShared() : lock_->Acquire());
               released = false;
             },
         .setup = SpinUnlessInstrumented,
         .op = [&] { writes ? lock_->Acquire() : lock_->AcquireShared(); },
         .unblock = release,
         .check =
             [&](const KillPoint& point) {
               release();
               const AcquireResult result = UseAsSurvivor();
               died_writing += result == kOwnerDied ? 1 : 0;
               if (point.completed()) {
                 EXPECT_EQ(result, writes ? kOwnerDied : kAcquired);
               }
             },
         .first = AnyOf(kStride.sleepers),
         .stride = kStride.sleepers,
         .asleep_after = kAsleepAfter});
    Print(writes ? "writer's acquire, read" : "reader's acquire, held", report);
    EXPECT_GT(report.sleeps, 0);
    EXPECT_EQ(died_writing > 0, writes);
  }
}

// The same, and a reader waits behind the writer.
TEST_F(RWLockKillTest, AcquireThatWaitsBesideASleeper) {
  std::optional<ChildProcess> sleeper;
  bool released = false;
  const auto release = [&] {
    if (!std::exchange(released, true)) {
      EXPECT_TRUE(lock_->ReleaseShared());
    }
    if (sleeper) sleeper->ExpectExit(0);
    sleeper.reset();
  };
  Print("writer's acquire and release, read, a reader asleep",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      Renew();
                                      lock_->AcquireShared();
                                      released = false;
                                    },
                                .setup = SpinUnlessInstrumented,
                                .op =
                                    [&] {
                                      lock_->Acquire();
                                      lock_->Release();
                                    },
                                .unblock =
                                    [&] {
                                      if (released) return;
                                      sleeper.emplace(ChildProcess::Start([&] {
                                        EXPECT_TRUE(lock_->AcquireSharedUntil(
                                            Deadline::After(kGenerous)));
                                        EXPECT_TRUE(lock_->ReleaseShared());
                                      }));
                                      EXPECT_TRUE(sleeper->WaitUntilAsleep());
                                      EXPECT_TRUE(lock_->ReleaseShared());
                                      released = true;
                                    },
                                .check =
                                    [&](const KillPoint&) {
                                      release();
                                      UseAsSurvivor();
                                    },
                                .first = AnyOf(kStride.sleepers),
                                .stride = kStride.sleepers,
                                .asleep_after = kAsleepAfter}));
}

TEST_F(RWLockKillTest, AcquiresThatTimeOut) {
  for (const bool writes : {true, false}) {
    Print(
        writes ? "writer's acquire, timed out" : "reader's acquire, timed out",
        KillAtEveryInstruction(
            {.prepare =
                 [&] {
                   Renew();
                   EXPECT_TRUE(writes ? lock_->AcquireShared()
                                      : lock_->Acquire());
                 },
             .op =
                 [&] {
                   const Deadline soon = Deadline::After(absl::Nanoseconds(1));
                   (void)(writes ? lock_->AcquireUntil(soon)
                                 : lock_->AcquireSharedUntil(soon));
                 },
             .check =
                 [&](const KillPoint&) {
                   EXPECT_TRUE(writes ? lock_->ReleaseShared()
                                      : lock_->Release());
                   ExpectNoTrace();
                 },
             .first = AnyOf(kStride.sleepers),
             .stride = kStride.sleepers}));
  }
}

// A writer that dies between the two leaves them different. Readers must never
// see that without having been told.
TEST_F(RWLockKillTest, Storm) {
  struct State {
    std::atomic<int64_t> first{0};
    std::atomic<int64_t> second{0};
    std::atomic<int64_t> writes{0};
    std::atomic<int64_t> reads{0};
    std::atomic<int64_t> writer_deaths{0};
    std::atomic<int64_t> torn{0};
    std::atomic<int64_t> readers_told{0};
  };
  SharedPage<State> state;
  const auto work = [](int rounds) {
    for (int i = 0; i < rounds; ++i) CpuRelax();
  };
  const auto write = [&] {
    const AcquireResult result = lock_->Acquire();
    if (result == kOwnerDied) {
      ++state->writer_deaths;
      if (state->first != state->second) ++state->torn;
      state->second.store(state->first.load());
    }
    EXPECT_EQ(state->first.load(), state->second.load()) << "not alone";
    state->first.store(state->first.load() + 1);
    work(50);
    state->second.store(state->second.load() + 1);
    ++state->writes;
    EXPECT_TRUE(lock_->Release());
  };
  const auto read = [&](AcquireResult result) {
    if (result == kOwnerDied) {
      ++state->readers_told;
    } else {
      const int64_t first = state->first;
      work(50);
      EXPECT_EQ(state->second.load(), first);
    }
    ++state->reads;
    EXPECT_TRUE(lock_->ReleaseShared());
  };
  Storm storm({.kills = 300, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("writer", 2, [&](StormWorker&) { write(); });
  storm.AddRole("reader", 3,
                [&](StormWorker&) { read(lock_->AcquireShared()); });
  storm.AddRole("impatient", 2, [&](StormWorker&) {
    const Deadline soon = Deadline::After(absl::Microseconds(300));
    const AcquireResult result = lock_->AcquireSharedUntil(soon);
    if (result) read(result);
    if (lock_->AcquireUntil(Deadline::After(absl::Microseconds(300)))) {
      lock_->ReleaseUnrepaired();
    }
  });
  const StormReport report = storm.Run();
  printf(
      "%d kills: %lld reads, %lld writes, %lld times a writer had died, %lld "
      "of "
      "them in the middle, %lld readers told\n",
      report.kills, static_cast<long long>(state->reads.load()),
      static_cast<long long>(state->writes.load()),
      static_cast<long long>(state->writer_deaths.load()),
      static_cast<long long>(state->torn.load()),
      static_cast<long long>(state->readers_told.load()));
  EXPECT_EQ(report.kills, storm.kills());
  EXPECT_GT(state->reads, 0);
  EXPECT_GT(state->writer_deaths, 0);
  EXPECT_GT(state->torn, 0) << "nobody died in the middle";
  EXPECT_TRUE(lock_->AcquireUntil(Deadline::After(kGenerous)));
  EXPECT_TRUE(lock_->Release());
  ExpectNoTrace();
}

}  // namespace
}  // namespace mp
