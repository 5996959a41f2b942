// An event's users are killed: at every instruction of each operation, and at
// random in a storm. Whatever happens, the event works, and who waits goes on.

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/sync/event.h"
#include "mp/sync/kill_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillAtEveryInstruction;
using ::mp::testing::KillPoint;
using ::mp::testing::Storm;
using ::mp::testing::StormReport;
using ::mp::testing::StormWorker;

class EventKillTest : public KillTest {
 protected:
  EventKillTest() { event_.emplace(); }

  void ExpectWell() {
    event_->Clear();
    EXPECT_FALSE(event_->IsSet());
    EXPECT_FALSE(event_->Wait(absl::ZeroDuration()));
    event_->Set();
    EXPECT_TRUE(event_->Wait(absl::ZeroDuration()));
  }

  // A child that waits for the event, once it is asleep.
  ChildProcess StartSleeper() {
    auto sleeper =
        ChildProcess::Start([&] { EXPECT_TRUE(event_->Wait(kGenerous)); });
    EXPECT_TRUE(sleeper.WaitUntilAsleep());
    return sleeper;
  }

  std::optional<Event> event_;
};

TEST_F(EventKillTest, SetWithoutSleepers) {
  Once set;
  Print("set, nobody asleep",
        KillAtEveryInstruction({.prepare = [&] { event_.emplace(); },
                                .op = [&] { event_->Set(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      set.Expect(event_->IsSet(), point);
                                      ExpectWell();
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

// If it was set, the sleepers go on without anybody's help.
TEST_F(EventKillTest, SetWithSleepers) {
  std::optional<ChildProcess> sleepers[2];
  Once set;
  const auto end_sleepers = [&] {
    for (std::optional<ChildProcess>& sleeper : sleepers) {
      if (sleeper) sleeper->ExpectExit(0);
      sleeper.reset();
    }
  };
  Print("set, two asleep",
        KillAtEveryInstruction(
            {.prepare =
                 [&] {
                   end_sleepers();  // of the first run, which is not checked
                   event_.emplace();
                   for (auto& sleeper : sleepers) {
                     sleeper.emplace(StartSleeper());
                   }
                 },
             .op = [&] { event_->Set(); },
             .check =
                 [&](const KillPoint& point) {
                   set.Expect(event_->IsSet(), point);
                   if (!event_->IsSet()) event_->Set();
                   end_sleepers();
                   ExpectWell();
                 },
             .first = AnyOf(kStride.sleepers),
             .stride = kStride.sleepers}));
}

TEST_F(EventKillTest, Clear) {
  Once cleared;
  Print("clear", KillAtEveryInstruction({.prepare =
                                             [&] {
                                               event_.emplace();
                                               event_->Set();
                                             },
                                         .op = [&] { event_->Clear(); },
                                         .check =
                                             [&](const KillPoint& point) {
                                               cleared.Expect(!event_->IsSet(),
                                                              point);
                                               ExpectWell();
                                             },
                                         .first = AnyOf(kStride.quick),
                                         .stride = kStride.quick}));
}

// Killed while it spins, sleeps, or has just been woken.
TEST_F(EventKillTest, Wait) {
  Print("wait", KillAtEveryInstruction({.prepare = [&] { event_.emplace(); },
                                        .setup = SpinUnlessInstrumented,
                                        .op = [&] { event_->Wait(); },
                                        .unblock = [&] { event_->Set(); },
                                        .check =
                                            [&](const KillPoint& point) {
                                              if (point.completed()) {
                                                EXPECT_TRUE(event_->IsSet());
                                              }
                                              ExpectWell();
                                            },
                                        .first = AnyOf(kStride.slow),
                                        .stride = kStride.slow,
                                        .asleep_after = kAsleepAfter}));
}

// Another one sleeps beside it, and goes on without anybody's help whether the
// victim dies asleep or woken.
TEST_F(EventKillTest, WaitBesideASleeper) {
  std::optional<ChildProcess> sleeper;
  const auto end_sleeper = [&] {
    if (sleeper) sleeper->ExpectExit(0);
    sleeper.reset();
  };
  const int64_t stride = 8 * kStride.sleepers;  // it sleeps long
  Print("wait beside a sleeper",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      end_sleeper();
                                      event_.emplace();
                                      sleeper.emplace(StartSleeper());
                                    },
                                .setup = SpinUnlessInstrumented,
                                .op = [&] { event_->Wait(); },
                                .unblock = [&] { event_->Set(); },
                                .check =
                                    [&](const KillPoint&) {
                                      event_->Set();
                                      end_sleeper();
                                      ExpectWell();
                                    },
                                .first = AnyOf(stride),
                                .stride = stride,
                                .asleep_after = kAsleepAfter}));
}

// Two hand a turn to and fro through two events, and set a third that others
// wait for and clear. Who replaces a victim takes the turn it may have had.
TEST_F(EventKillTest, Storm) {
  Event turns[2];
  Event all;
  Storm storm({.kills = 2'000, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("player", 2, [&](StormWorker& self) {
    Event& mine = turns[self.number()];
    Event& theirs = turns[1 - self.number()];
    // Not both may wait: a victim took a turn with it.
    if (mine.Wait(absl::Milliseconds(5))) mine.Clear();
    theirs.Set();
    all.Set();
  });
  storm.AddRole("waiter", 3, [&](StormWorker&) {
    EXPECT_TRUE(all.Wait());
    all.Clear();
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, storm.kills());
}

}  // namespace
}  // namespace mp
