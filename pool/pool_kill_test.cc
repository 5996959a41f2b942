// SIGKILL at every instruction of what a worker does: takes a task, runs it,
// answers, and leaves.
//
// One pool for all deaths of a test, but where it is closed. Its workers are
// real ones: the victim is stopped where it waits, led to the instruction and
// killed there, and the pool has to find out by itself. After each death its
// task has one outcome, what another worker does at the time is not harmed, and
// the next task is done.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/spin.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/shm/park.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::SharedPage;
using ::mp::testing::SleepingIn;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Nothing may take that long, on whatever machine: what does has been stranded.
constexpr absl::Duration kStranded = absl::Seconds(20);

// How many instructions from one death to the next. All of them where the whole
// program is built for speed; otherwise there are ten times as many, of which a
// sample does. A multiple of it for what takes many more instructions.
#if defined(__OPTIMIZE__) && defined(NDEBUG)
constexpr int64_t kStride = 1;
#else
constexpr int64_t kStride = 41;
#endif

constexpr int kAll = 1 << 30;

// What tests tell tasks, and the other way round.
struct Page {
  // Of Hold(), which returns when `released` is that far.
  std::atomic<pid_t> holder{0};
  std::atomic<int> held{0};
  std::atomic<int> released{0};
  // The same of Spin().
  std::atomic<int> spinning{0};
  std::atomic<int> spun{0};
  std::atomic<pid_t> spinner{0};
  // How many starts of workers the initializer is to keep until then.
  std::atomic<int> started{0};
  std::atomic<pid_t> starter{0};
  std::atomic<int> may_start{kAll};
};
Page* page = nullptr;

// What a task gives back: that it was done, and by whom.
using Done = std::pair<int, pid_t>;

Done Work(int n, const std::string& text) {
  return {n + static_cast<int>(text.size()), getpid()};
}

int Hold(int ticket) {
  page->holder = getpid();
  page->held = ticket;
  while (page->released < ticket) absl::SleepFor(absl::Microseconds(200));
  return ticket;
}

Done Spin(int ticket) {
  page->spinner = getpid();
  page->spinning = ticket;
  while (page->spun < ticket) CpuRelax();
  return {ticket, getpid()};
}

std::string Text(int n) {
  return std::string(1000, static_cast<char>('a' + n % 26));
}

void Initialize() {
  // The worker's way must not depend on the time: it neither spins nor, before
  // that is certain to be a sleep, wakes up by itself. (It does later: the last
  // victim may have been about to spin, and sleepers are left alone then.)
  SetAvailableProcessorsForTest(1);
  ParkSlices::SetFirstForTest(250'000'000);
  if (const int n = ++page->started; n > page->may_start) {
    page->starter = getpid();
    while (n > page->may_start) CpuRelax();
  }
}

template <class Condition>
void Await(const char* what, Condition condition) {
  const absl::Time stranded = absl::Now() + kStranded;
  while (!condition()) {
    ASSERT_LT(absl::Now(), stranded) << what;
    absl::SleepFor(absl::Microseconds(50));
  }
}

class PoolKillTest : public testing::ProcessTest {
 protected:
  PoolKillTest() { page = page_.get(); }

  // `steps.prepare` makes all ready, whatever is left of a run that was not
  // checked, and sets victim_.
  void Run(testing::KillSteps steps) {
    steps.victim = [this] { return victim_; };
    steps.stride *= kStride;
    steps.stranded_after = kStranded;
    const testing::KillReport report = testing::KillAtEveryInstruction(steps);
    printf(
        "%d instructions, %d deaths, %d sleeps, %d diverged; died with the "
        "task: %d, after its result: %d, before it had it: %d\n",
        static_cast<int>(report.instructions), static_cast<int>(report.deaths),
        static_cast<int>(report.sleeps), static_cast<int>(report.diverged),
        died_, by_victim_, by_others_);
    EXPECT_TRUE(report.completed);
    EXPECT_GT(died_, 0);
    EXPECT_GT(by_victim_, 0);
  }

  // That victims of `pool` have died. Its workers come back.
  void Finish(Pool& pool) {
    Await("a worker is not replaced",
          [&] { return pool.pids().size() == size_t(pool.processes()); });
    pool.Close();
    EXPECT_THAT(pool.Join(kStranded), IsOk());
  }

  // Gives one of the two workers something to do until EndHold(). The other one
  // is the next victim; it waits for a task.
  void HoldOther(Pool& pool) {
    if (held_.has_value()) EndHold();  // that run was not checked
    ++round_;
    held_ = pool.ApplyAsync(Hold, round_);
    Await("the other worker", [&] { return page->held == round_; });
    AwaitIdleVictim(pool, page->holder);
  }
  void EndHold() {
    page->released = round_;
    EXPECT_THAT(held_->Get(kStranded), IsOkAndHolds(round_));
    held_.reset();
  }

  // The worker that is neither `other` nor the last victim, when it waits.
  void AwaitIdleVictim(Pool& pool, pid_t other) {
    const pid_t last = std::exchange(victim_, 0);
    std::string before;
    Await("a worker", [&] {
      for (const pid_t pid : pool.pids()) {
        if (pid != other && pid != last) victim_ = pid;
      }
      // Twice in the same call, with the same arguments.
      const std::string now = victim_ != 0 ? SleepingIn(victim_) : "";
      return !now.empty() && std::exchange(before, now) == now;
    });
  }

  // What became of the victim's task, which was to return `value`.
  void ExpectOneOutcome(const AsyncResult<Done>& result, int value,
                        const KillPoint& point) {
    const absl::StatusOr<Done> done = result.Get(kStranded);
    if (!done.ok()) {
      ++died_;
      EXPECT_TRUE(IsWorkerDied(done.status())) << done.status();
      EXPECT_THAT(
          std::string(done.status().message()),
          HasSubstr(absl::StrCat("(pid ", victim_, ") was killed by SIGKILL")));
      EXPECT_FALSE(point.completed());
      return;
    }
    EXPECT_EQ(done->first, value);
    ++(done->second == victim_ ? by_victim_ : by_others_);
    if (point.completed()) {
      EXPECT_EQ(done->second, victim_);
    }
  }

  // That others are there, and do the next task.
  void ExpectWorks(Pool& pool) {
    AsyncResult<Done> next = pool.ApplyAsync(Work, round_, "next");
    ASSERT_TRUE(next.Wait(kStranded)) << "the next task is stranded";
    const absl::StatusOr<Done> done = next.Get();
    ASSERT_THAT(done.status(), IsOk());
    EXPECT_EQ(done->first, round_ + 4);
    EXPECT_NE(done->second, victim_);
  }

  int round_ = 0;
  pid_t victim_ = 0;
  std::optional<AsyncResult<int>> held_;
  int died_ = 0;       // and their task with them
  int by_victim_ = 0;  // died when they had done it
  int by_others_ = 0;  // died before they had taken it

 private:
  const SharedPage<Page> page_;
};

TEST_F(PoolKillTest, FromOneSleepToTheNext) {
  Pool pool({.processes = 2, .initializer = Initializer(Initialize)});
  std::optional<AsyncResult<Done>> result;
  Run({.prepare = [&] { HoldOther(pool); },
       .op = [&] { result = pool.ApplyAsync(Work, round_, "text"); },
       .check =
           [&](const KillPoint& point) {
             ExpectOneOutcome(*result, round_ + 4, point);
             ExpectWorks(pool);
             EndHold();
           },
       .done = [&] { return result->Ready(); }});
  EXPECT_GT(by_others_, 0);
  Finish(pool);
}

// It has a task, and those that follow are there: one that was cancelled, one
// behind it, and one that waits for room in the ring, which it has to tell.
TEST_F(PoolKillTest, FromTaskToTask) {
  Pool pool({.processes = 2,
             .task_capacity_bytes = 4096,
             .initializer = Initializer(Initialize)});
  const std::string text(2500, 'x');
  std::optional<AsyncResult<Done>> first;
  std::optional<AsyncResult<Done>> cancelled;
  std::optional<AsyncResult<Done>> second;
  std::optional<AsyncResult<Done>> third;
  Run({.prepare =
           [&] {
             HoldOther(pool);
             first = pool.ApplyAsync(Spin, round_);
             Await("the victim", [&] { return page->spinning == round_; });
             EXPECT_EQ(page->spinner, victim_);
             cancelled = pool.ApplyAsync(Work, round_, "no");
             second = pool.ApplyAsync(Work, round_, text);
             third = pool.ApplyAsync(Work, -round_, text);
             EXPECT_TRUE(cancelled->Cancel());
           },
       .op = [&] { page->spun = round_; },
       .check =
           [&](const KillPoint& point) {
             const int died = died_;
             ExpectOneOutcome(*first, round_, point);
             ExpectOneOutcome(*second, round_ + 2500, point);
             ExpectOneOutcome(*third, -round_ + 2500, point);
             EXPECT_LE(died_, died + 1) << "more than it can have had";
             EXPECT_THAT(cancelled->Get(),
                         StatusIs(absl::StatusCode::kCancelled));
             ExpectWorks(pool);
             EndHold();
           },
       .done = [&] { return second->Ready() && third->Ready(); },
       .stride = 5});
  EXPECT_GT(by_others_, 0);
  Finish(pool);
}

// From its initializer on, to a task that waits already.
TEST_F(PoolKillTest, FromItsStart) {
  Pool pool({.processes = 2, .initializer = Initializer(Initialize)});
  std::optional<AsyncResult<Done>> result;
  Run({.prepare =
           [&] {
             page->may_start = kAll;
             HoldOther(pool);
             // The one that takes the place of that one.
             page->starter = 0;
             page->may_start = page->started.load();
             kill(victim_, SIGKILL);
             result = pool.ApplyAsync(Work, round_, "text");
             Await("a new worker", [&] { return page->starter != 0; });
             victim_ = page->starter;
           },
       .op = [&] { page->may_start = kAll; },
       .check =
           [&](const KillPoint& point) {
             ExpectOneOutcome(*result, round_ + 4, point);
             ExpectWorks(pool);
             EndHold();
           },
       .done = [&] { return result->Ready(); },
       .stride = 2});
  EXPECT_GT(by_others_, 0);
  Finish(pool);
}

// The results come in parts, for which there is no room before the pool's
// process has taken those before: it is kept from that until the victim sleeps.
TEST_F(PoolKillTest, WithResultsThatHaveNoRoom) {
  constexpr int kItems = 5;
  std::atomic<int> stopped = 0;  // the pool's thread, by its callback
  std::atomic<int> resumed = 0;
  Pool pool({.processes = 2,
             .result_capacity_bytes = 4096,
             .initializer = Initializer(Initialize)});
  std::vector<int> items;
  for (int i = 0; i < kItems; ++i) items.push_back(i);
  std::optional<ResultStream<std::string>> stream;
  Run({.prepare =
           [&] {
             resumed = round_;
             HoldOther(pool);
             pool.ApplyAsync(Work, 1, "")
                 .OnDone([&, round = round_](const absl::StatusOr<Done>&) {
                   stopped = round;
                   while (resumed < round) {
                     absl::SleepFor(absl::Microseconds(50));
                   }
                 });
             Await("the callback", [&] { return stopped == round_; });
             victim_ = 0;
             AwaitIdleVictim(pool, page->holder);
           },
       .op = [&] { stream = pool.Imap(Text, items, kItems); },
       .unblock = [&] { resumed = round_; },
       .check =
           [&](const KillPoint& point) {
             resumed = round_;
             bool died = false;
             for (int i = 0; i < kItems; ++i) {
               ASSERT_TRUE(stream->Wait(kStranded)) << "stranded";
               const absl::StatusOr<std::string> text = stream->Next();
               if (text.ok()) {
                 EXPECT_EQ(*text, Text(i));
                 EXPECT_FALSE(died);
               } else {
                 EXPECT_TRUE(IsWorkerDied(text.status())) << text.status();
                 EXPECT_FALSE(point.completed());
                 died = true;
               }
             }
             ++(died ? died_ : by_victim_);
             EXPECT_THAT(stream->Next(),
                         StatusIs(absl::StatusCode::kOutOfRange));
             ExpectWorks(pool);
             EndHold();
           },
       // Only then: it delivers, too.
       .done =
           [&] {
             return resumed == round_ && stream->Wait(absl::ZeroDuration());
           },
       .stride = 7});
  resumed = round_;
  Finish(pool);
}

TEST_F(PoolKillTest, WithAnException) {
  Pool pool({.processes = 2, .initializer = Initializer(Initialize)});
  std::optional<AsyncResult<int>> result;
  const auto fail = [](int n) -> int {
    throw std::out_of_range(std::to_string(n));
  };
  Run({.prepare = [&] { HoldOther(pool); },
       .op = [&] { result = pool.ApplyAsync(fail, round_); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_TRUE(result->Wait(kStranded)) << "stranded";
             const absl::Status error = result->Get().status();
             if (IsWorkerDied(error)) {
               EXPECT_FALSE(point.completed());
               ++died_;
             } else {
               EXPECT_THAT(
                   error,
                   StatusIs(absl::StatusCode::kUnknown,
                            HasSubstr(absl::StrCat("out_of_range: ", round_))));
               ++by_victim_;
             }
             ExpectWorks(pool);
             EndHold();
           },
       .done = [&] { return result->Ready(); },
       .stride = 61});
  Finish(pool);
}

// One that leaves after its task.
TEST_F(PoolKillTest, UntilItHasLeft) {
  Pool pool({.processes = 2,
             .initializer = Initializer([] {
               Initialize();
               return std::string("state");
             }),
             .maxtasksperchild = 1});
  std::optional<AsyncResult<Done>> result;
  Run({.prepare = [&] { HoldOther(pool); },
       .op = [&] { result = pool.ApplyAsync(Work, round_, "text"); },
       .check =
           [&](const KillPoint& point) {
             ExpectOneOutcome(*result, round_ + 4, point);
             ExpectWorks(pool);
             EndHold();
           },
       .done = [&] { return result->Ready(); },
       .stride = 3});
  EXPECT_GT(by_others_, 0);
  Finish(pool);
}

// The only worker of a pool that is closed: its last task, and the end.
TEST_F(PoolKillTest, UntilAClosedPoolEnds) {
  std::optional<Pool> pool;
  std::optional<AsyncResult<Done>> result;
  Run({.prepare =
           [&] {
             ++round_;
             pool.emplace(PoolOptions{.processes = 1,
                                      .initializer = Initializer(Initialize)});
             AwaitIdleVictim(*pool, 0);
           },
       .op =
           [&] {
             result = pool->ApplyAsync(Work, round_, "text");
             pool->Close();
           },
       .check =
           [&](const KillPoint& point) {
             EXPECT_THAT(pool->Join(kStranded), IsOk());
             EXPECT_THAT(pool->pids(), SizeIs(0));
             ASSERT_TRUE(result->Ready());
             ExpectOneOutcome(*result, round_ + 4, point);
           },
       .done = [&] { return result->Ready(); },
       .stride = 5});
  EXPECT_GT(by_others_, 0);
}

}  // namespace
}  // namespace mp
