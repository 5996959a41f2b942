// A barrier's parties are killed: at every instruction of waiting, and at
// random in a storm. Whatever happens, the others pass or learn that the
// barrier is broken.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/slab.h"
#include "mp/sync/barrier.h"
#include "mp/sync/barrier_state.h"
#include "mp/sync/kill_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/storm.h"

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

class BarrierKillTest : public KillTest {
 protected:
  BarrierKillTest() { Reset(); }

  // A new barrier for two. Its state: all of that is compiled here, as it is
  // for users.
  void Reset() {
    barrier_ = ValueOrDie(
        MakeSharedWithArray<BarrierState, BarrierState::Entry>(2, 2u));
  }

  static int WaitAt(BarrierState& barrier, Deadline deadline) {
    using Action = void (*)();
    return barrier.Wait(static_cast<const Action*>(nullptr), deadline);
  }
  int Wait(Deadline deadline = Deadline::After(kGenerous)) {
    return WaitAt(*barrier_, deadline);
  }

  ChildProcess StartParty() {
    *result_ = kBarrierTimedOut;
    auto party = ChildProcess::Start([&] { *result_ = Wait(); });
    return party;
  }

  // After a reset, two pass.
  void ExpectWell() {
    barrier_->Reset();
    auto party = StartParty();
    EXPECT_GE(Wait(), 0);
    party.ExpectExit(0);
    EXPECT_GE(*result_, 0);
    EXPECT_EQ(barrier_->waiting(), 0u);
    EXPECT_FALSE(barrier_->broken());
  }

  std::shared_ptr<BarrierState> barrier_;
  SharedPage<std::atomic<int>> result_;
};

// The last one to come dies. The other one passes, or is told.
TEST_F(BarrierKillTest, WaitOfTheLastParty) {
  std::optional<ChildProcess> party;
  const auto end_party = [&] {
    if (party) party->ExpectExit(0);
    party.reset();
  };
  int passed = 0;
  int broken = 0;
  Print("wait, the last one",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      end_party();  // of the first run
                                      Reset();
                                      party.emplace(StartParty());
                                      EXPECT_TRUE(party->WaitUntilAsleep());
                                    },
                                .op = [&] { Wait(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      // In its place, if it has not come, or
                                      // for the next round.
                                      const int mine = Wait(Deadline::Now());
                                      end_party();
                                      ++(*result_ >= 0 ? passed : broken);
                                      if (mine >= 0 || point.completed()) {
                                        EXPECT_GE(*result_, 0);
                                      }
                                      EXPECT_NE(*result_, kBarrierTimedOut);
                                      ExpectWell();
                                    },
                                .first = AnyOf(kStride.sleepers),
                                .stride = kStride.sleepers}));
  EXPECT_GT(passed, 0);
  EXPECT_GT(broken, 0);
}

// The first one dies: before, while and after it waits.
TEST_F(BarrierKillTest, WaitOfTheFirstParty) {
  const KillReport report =
      KillAtEveryInstruction({.prepare = [&] { Reset(); },
                              .setup = SpinUnlessInstrumented,
                              .op = [&] { Wait(); },
                              .unblock = [&] { EXPECT_EQ(Wait(), 1); },
                              .check = [&](const KillPoint&) { ExpectWell(); },
                              .first = AnyOf(kStride.slow),
                              .stride = kStride.slow,
                              .asleep_after = kAsleepAfter});
  Print("wait, the first one", report);
  EXPECT_GT(report.sleeps, 0);
}

TEST_F(BarrierKillTest, WaitThatTimesOut) {
  Print(
      "wait, timed out",
      KillAtEveryInstruction({.prepare = [&] { Reset(); },
                              .op = [&] { Wait(Deadline::Now()); },
                              .check = [&](const KillPoint&) { ExpectWell(); },
                              .first = AnyOf(kStride.quick),
                              .stride = kStride.quick}));
}

// Whoever meets a broken barrier mends it. A victim's replacement comes in its
// place.
TEST_F(BarrierKillTest, Storm) {
  Barrier barrier(3);
  SharedPage<std::atomic<int>> broken;
  Storm storm({.kills = 1'000, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("party", 3, [&](StormWorker&) {
    const absl::Status status = barrier.Wait().status();
    if (status.ok()) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    ++*broken;
    barrier.Reset();
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, storm.kills());
  EXPECT_GT(*broken, 0);
}

}  // namespace
}  // namespace mp
