// SIGKILL at every instruction of Wait(), and of what makes it end.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/spin.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/wait.h"
#include "mp/shm/park.h"
#include "mp/sync/event.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::ExitStatus;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::SharedPage;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kNow = absl::ZeroDuration();

// Strides. Built for speed (-c opt), a Wait() has 2,500 instructions, or 8,500
// with a thread, and each of them gets its turn; otherwise eight times as many.
#ifdef NDEBUG
constexpr int64_t kAlone = 1;
constexpr int64_t kWithThread = 1;
#else
constexpr int64_t kAlone = 13;
constexpr int64_t kWithThread = 61;
#endif

// One of each.
struct World {
  Queue<int> queue{QueueOptions{.capacity_bytes = 4096}};
  Event event;
  std::pair<Connection<int>, Connection<int>> pipe = Pipe<int>(false);

  Connection<int>& receiver() { return pipe.first; }
  Connection<int>& sender() { return pipe.second; }
  // Everything that a dead waiter had its hands on works, also for those who
  // sleep on it.
  void ExpectWorks() {
    const std::vector<Waitable> all = {queue, event, receiver()};
    ASSERT_THAT(Wait(all, kNow), IsOkAndHolds(IsEmpty()));
    auto waiter = ChildProcess::Start([&] {
      for (const size_t i : {0, 1, 2}) {
        // Looks only once a slice, so it would not do so in time.
        ParkSlices::SetFirstForTest(3600'000'000'000);
        ASSERT_THAT(Wait(all), IsOkAndHolds(ElementsAre(i)));
        if (i == 1) {
          event.Clear();
        } else {
          ASSERT_OK(i == 0 ? queue.GetNowait() : receiver().Recv(kNow));
        }
      }
    });
    ASSERT_OK(queue.Put(1, kStranded));
    AwaitSurvivor([&] { return queue.Empty(); });
    event.Set();
    AwaitSurvivor([&] { return !event.IsSet(); });
    ASSERT_OK(sender().Send(3, kStranded));
    EXPECT_EQ(waiter.Wait(kStranded), ExitStatus::Code(0)) << "stranded";
  }
};

// ---- The victim waits, and is killed on its way to sleep, asleep and after.

class WaitKillTest : public MessageKillTest {
 protected:
  using Objects = std::function<std::vector<Waitable>(World&)>;

  // In the victim: the kill stepper finds it asleep in its first slice, however
  // long the way there takes. It does not spin before, which has tens of
  // thousands of instructions, only looks, and looks again. Nor does it look
  // for functions in shared libraries.
  void SetUpVictim(const Objects& objects) {
    SetAvailableProcessorsForTest(1);
    Wait(objects(spare_), absl::Milliseconds(2)).IgnoreError();
    ParkSlices::SetFirstForTest(3600'000'000'000);
  }

  // The wake-up for the first item goes to the victim. Another process sleeps
  // behind it, which is to get that item nevertheless.
  void KillWokenByPut(const Objects& objects, int64_t stride) {
    std::optional<World> world;
    std::optional<ChildProcess> getter;
    Run({.prepare =
             [&] {
               // What the counting run has left.
               if (getter.has_value()) getter->ExpectExit();
               getter.reset();
               world.emplace();
             },
         .setup = [&] { SetUpVictim(objects); },
         .op = [&] { Wait(objects(*world)).IgnoreError(); },
         .unblock =
             [&] {
               // On a busy machine it may sleep again, until its own thread has
               // ended.
               if (getter.has_value()) return;
               getter.emplace(ChildProcess::Start(
                   [&] { EXPECT_THAT(world->queue.Get(), IsOkAndHolds(1)); }));
               ASSERT_TRUE(getter->WaitUntilAsleep());
               ASSERT_OK(world->queue.Put(1));
               ASSERT_OK(world->queue.Put(2));
             },
         .check =
             [&](const KillPoint&) {
               if (getter.has_value()) {
                 EXPECT_EQ(getter->Wait(kStranded), ExitStatus::Code(0))
                     << "stranded";
                 getter.reset();
                 EXPECT_THAT(Wait({world->queue}, kStranded),
                             IsOkAndHolds(ElementsAre(0)));
                 EXPECT_THAT(world->queue.GetNowait(), IsOkAndHolds(2));
               }
               world->ExpectWorks();
             },
         .stride = stride});
  }

  void KillWokenBySend(const Objects& objects, bool used, int64_t stride) {
    std::optional<World> world;
    bool sent = false;
    Run({.prepare =
             [&] {
               world.emplace();
               sent = false;
               if (!used) return;
               // Leaves the socket readable, so that the victim has to lower
               // the signal.
               ASSERT_OK(world->sender().Send(0));
               ASSERT_OK(world->receiver().Recv());
             },
         .setup = [&] { SetUpVictim(objects); },
         .op = [&] { Wait(objects(*world)).IgnoreError(); },
         .unblock =
             [&] {
               if (sent) return;  // see above
               ASSERT_OK(world->sender().Send(1));
               sent = true;
             },
         .check =
             [&](const KillPoint&) {
               if (sent) {
                 EXPECT_THAT(Wait({world->receiver()}, kStranded),
                             IsOkAndHolds(ElementsAre(0)));
                 EXPECT_THAT(world->receiver().Recv(kStranded),
                             IsOkAndHolds(1));
               }
               world->ExpectWorks();
             },
         .stride = stride});
  }

 private:
  World spare_;
};

std::vector<Waitable> QueueAndEvent(World& world) {
  return {world.queue, world.event};
}
std::vector<Waitable> OnlyConnection(World& world) {
  return {world.receiver()};
}
std::vector<Waitable> All(World& world) {
  return {world.queue, world.receiver(), world.event};
}

TEST_F(WaitKillTest, QueueAndEvent) { KillWokenByPut(QueueAndEvent, kAlone); }

TEST_F(WaitKillTest, Connection) {
  KillWokenBySend(OnlyConnection, false, kAlone);
}

TEST_F(WaitKillTest, ConnectionWhoseSocketIsReadable) {
  KillWokenBySend(OnlyConnection, true, kAlone);
}

// With a thread.
TEST_F(WaitKillTest, AllKindsWokenByPut) { KillWokenByPut(All, kWithThread); }

TEST_F(WaitKillTest, AllKindsWokenBySend) {
  KillWokenBySend(All, true, kWithThread);
}

// ---- The victim makes something ready; another process waits.

class WaitKillNotifierTest : public WaitKillTest {
 protected:
  static constexpr int kVictims = 1'000'000;

  // One waiter survives all deaths: after each it gets what the victim had put
  // or sent, if that is there, and then the parent's.
  void KillSender(const std::function<void(World&, int)>& send) {
    World world;
    const SharedPage<Log> log;
    auto waiter = ChildProcess::Start([&] {
      for (;;) {
        ASSERT_OK_AND_ASSIGN(const std::vector<size_t> ready,
                             Wait({world.queue, world.receiver()}));
        for (const size_t i : ready) {
          const absl::StatusOr<int> item =
              i == 0 ? world.queue.GetNowait() : world.receiver().Recv(kNow);
          if (absl::IsOutOfRange(item.status())) return;  // closed
          ASSERT_OK(item);
          log->Add(*item);
        }
      }
    });
    int next = 0;
    int seen = 0;
    Outcomes outcomes;
    Run({.prepare =
             [&] {
               AwaitSurvivor([&] {
                 return Wait({world.queue, world.receiver()}, kNow)->empty();
               });
               ASSERT_TRUE(waiter.WaitUntilAsleep());
               seen = log->count;
             },
         .op = [&] { send(world, kVictims + next); },
         .check =
             [&](const KillPoint& point) {
               send(world, next);
               log->Await(seen + 1);
               const bool sent = log->items[seen] == kVictims + next;
               outcomes.Saw(sent, point);
               if (sent) log->Await(++seen + 1);
               EXPECT_EQ(log->items[seen], next);
               ++seen;
               ++next;
             }});
    world.queue.Close();
    waiter.ExpectExit();
    EXPECT_EQ(log->count, seen);
  }
};

TEST_F(WaitKillNotifierTest, Put) {
  KillSender([](World& world, int item) {
    world.queue.Put(item, kStranded).IgnoreError();
  });
}

TEST_F(WaitKillNotifierTest, Send) {
  KillSender([](World& world, int item) {
    world.sender().Send(item, kStranded).IgnoreError();
  });
}

TEST_F(WaitKillNotifierTest, Set) {
  World world;
  const SharedPage<Log> log;
  auto waiter = ChildProcess::Start([&] {
    for (;;) {
      ASSERT_OK_AND_ASSIGN(const std::vector<size_t> ready,
                           Wait({world.queue, world.event, world.receiver()}));
      if (ready.front() == 0) return;
      world.event.Clear();
      log->Add(1);
    }
  });
  Run({.prepare = [&] { ASSERT_TRUE(waiter.WaitUntilAsleep()); },
       .op = [&] { world.event.Set(); },
       .check =
           [&](const KillPoint&) {
             // Without help, if it is set.
             AwaitSurvivor([&] { return !world.event.IsSet(); });
             const int seen = log->count;
             world.event.Set();
             log->Await(seen + 1);
           }});
  world.queue.Close();
  waiter.ExpectExit();
}

// After what the victim has sent comes the end of the file.
TEST_F(WaitKillNotifierTest, EndOfFileAfterSend) {
  Outcomes outcomes;
  const SharedPage<Log> log;
  std::optional<World> world;
  std::optional<ChildProcess> survivor;
  Run({.prepare =
           [&] {
             world.emplace();
             log->count = 0;
             survivor.emplace(ChildProcess::Start([&] {
               world->sender().Close();
               for (;;) {
                 ASSERT_THAT(Wait({world->queue, world->receiver()}),
                             IsOkAndHolds(ElementsAre(1)));
                 const absl::StatusOr<int> message =
                     world->receiver().Recv(kNow);
                 if (absl::IsOutOfRange(message.status())) return;
                 ASSERT_OK(message);
                 log->Add(*message);
               }
             }));
             ASSERT_TRUE(survivor->WaitUntilAsleep());
           },
       .op = [&] { world->sender().Send(1).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             world->sender().Close();
             survivor->ExpectExit();
             outcomes.Saw(log->count == 1, point);
           },
       .stride = 7});
  survivor.reset();
}

}  // namespace
}  // namespace mp
