#include "mp/testing/kill_stepper.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/testing/child.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp::testing {
namespace {

using ::mp::testing_internal::RunKillSteps;
using ::mp::testing_internal::RunSelf;
using ::mp::testing_internal::SelfRun;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

struct Pair {
  std::atomic<int> first;
  std::atomic<int> second;
};

// The fixture's leak check also shows that no process is left.
class KillStepperTest : public ProcessTest {
 protected:
  void Reset() {
    pair_->first = 0;
    pair_->second = 0;
  }
  // Not atomic: can be torn.
  void SetBoth() {
    pair_->first = 1;
    pair_->second = 1;
  }

  const SharedPage<Pair> pair_;
};

TEST_F(KillStepperTest, SeesEveryStateOfAnUpdate) {
  std::vector<std::string> states;
  int64_t last = 0;
  bool completed = false;
  const KillReport report = KillAtEveryInstruction({
      .prepare = [&] { Reset(); },
      .op = [&] { SetBoth(); },
      .check =
          [&](const KillPoint& point) {
            const std::string state =
                std::to_string(pair_->first) + std::to_string(pair_->second);
            if (point.completed()) {
              EXPECT_EQ(state, "11");
              completed = true;
              return;
            }
            EXPECT_EQ(point.instruction, last + 1);
            EXPECT_FALSE(point.asleep());
            EXPECT_NE(point.address, 0u);
            last = point.instruction;
            if (states.empty() || states.back() != state) {
              states.push_back(state);
            }
          },
  });
  // In the order of the program: nothing is skipped and nothing goes back.
  EXPECT_THAT(states, ElementsAre("00", "10", "11"));
  EXPECT_TRUE(completed);
  EXPECT_TRUE(report.completed);
  EXPECT_EQ(report.deaths, report.instructions);
  EXPECT_EQ(last, report.instructions);
  EXPECT_EQ(report.sleeps, 0);
  EXPECT_EQ(report.diverged, 0);
  // Two stores and what is around them.
  EXPECT_THAT(report.instructions, AllOf(Ge(10), Le(10'000)));
}

#if defined(__x86_64__)
TEST_F(KillStepperTest, CountsEachInstruction) {
  long rounds = 0;
  const KillSteps steps = {
      .op =
          [&] {
            long left = rounds;
            asm volatile("1: dec %0\n jnz 1b" : "+r"(left));
          },
      .check = [](const KillPoint&) {},
  };
  rounds = 7;
  const int64_t seven = KillAtEveryInstruction(steps).instructions;
  rounds = 10;
  EXPECT_EQ(KillAtEveryInstruction(steps).instructions, seven + 2 * 3);
}
#endif

// A loop in the operation must not confuse the way to an instruction: each
// number of rounds is seen in turn, and each for as many instructions.
TEST_F(KillStepperTest, StopsAtTheRightRoundOfALoop) {
  constexpr int kRounds = 20;
  std::vector<int> deaths_in_round(kRounds + 1, 0);
  const KillReport report = KillAtEveryInstruction({
      .prepare = [&] { Reset(); },
      .op =
          [&] {
            for (int i = 0; i < kRounds; ++i) {
              pair_->first.fetch_add(1, std::memory_order_relaxed);
            }
          },
      .check =
          [&, last = 0](const KillPoint&) mutable {
            EXPECT_GE(pair_->first, last);
            last = pair_->first;
            ++deaths_in_round[static_cast<size_t>(last)];
          },
  });
  EXPECT_EQ(report.diverged, 0);
  for (int round = 2; round < kRounds; ++round) {
    EXPECT_EQ(deaths_in_round[static_cast<size_t>(round)], deaths_in_round[1]);
  }
}

#if defined(__x86_64__)
TEST_F(KillStepperTest, StopsInTheMiddleOfAStringInstruction) {
  const SharedPage<std::array<char, 64>> target;
  std::set<int> copied;
  const KillReport report = KillAtEveryInstruction({
      .prepare = [&] { target->fill(0); },
      .op =
          [&] {
            void* to = target->data();
            size_t count = target->size();
            asm volatile("rep stosb"
                         : "+D"(to), "+c"(count)
                         : "a"(1)
                         : "memory");
          },
      .check =
          [&](const KillPoint&) {
            copied.insert(static_cast<int>(strnlen(target->data(), 64)));
          },
  });
  EXPECT_EQ(copied.size(), 65u) << "each number of bytes";
  EXPECT_EQ(report.diverged, 0);
}
#endif

TEST_F(KillStepperTest, RunsEverythingInOrder) {
  const SharedPage<std::atomic<int>> stage;
  KillAtEveryInstruction({
      .prepare = [&] { *stage = 1; },
      .setup =
          [&] {
            // Not stepped, so it may be long.
            for (int i = 0; i < 1'000'000; ++i) asm volatile("");
            EXPECT_EQ(stage->exchange(2), 1);
          },
      .op = [&] { *stage = 3; },
      .check = [&](const KillPoint&) { EXPECT_GE(*stage, 2); },
  });
}

TEST_F(KillStepperTest, Strides) {
  const KillSteps all = {.op = [&] { SetBoth(); },
                         .check = [](const KillPoint&) {}};
  const KillReport every = KillAtEveryInstruction(all);
  std::vector<int64_t> seen;
  KillSteps some = all;
  some.first = 2;
  some.stride = 5;
  some.check = [&](const KillPoint& point) {
    if (!point.completed()) seen.push_back(point.instruction);
  };
  KillAtEveryInstruction(some);
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen[0], 2);
  EXPECT_EQ(seen[1], 7);
  EXPECT_GT(seen.back() + 5, every.instructions);
}

class KillStepperSleepTest : public KillStepperTest {
 protected:
  // Sleeps until the word is not 0.
  void WaitForWord() {
    while (word_->load() == 0) FutexWait(*word_, 0, Deadline::Infinite());
    pair_->first = 1;
  }

  const SharedPage<FutexWord> word_;
};

TEST_F(KillStepperSleepTest, KillsSleepersAndGoesOnAfterThem) {
  int unblocked = 0;
  int64_t sleep_at = 0;
  int64_t after_sleep = 0;
  const KillReport report = KillAtEveryInstruction({
      .prepare =
          [&] {
            Reset();
            *word_ = 0;
          },
      .op = [&] { WaitForWord(); },
      .unblock =
          [&] {
            ++unblocked;
            *word_ = 1;
            EXPECT_EQ(FutexWake(*word_, 1), 1) << "it sleeps, to be sure";
          },
      .check =
          [&](const KillPoint& point) {
            if (point.asleep()) {
              EXPECT_EQ(sleep_at, 0) << "once";
              sleep_at = point.instruction;
              EXPECT_EQ(*word_, 0u);
              EXPECT_EQ(FutexWake(*word_, 1), 0) << "the sleeper is dead";
            } else if (sleep_at == 0 && !point.completed()) {
              EXPECT_EQ(*word_, 0u) << "was not unblocked before it slept";
            } else {
              ++after_sleep;
              EXPECT_EQ(*word_, 1u);
            }
            if (point.completed()) {
              EXPECT_EQ(pair_->first, 1);
            }
          },
  });
  EXPECT_TRUE(report.completed);
  EXPECT_EQ(report.sleeps, 1);
  EXPECT_GT(sleep_at, 0);
  EXPECT_LT(sleep_at, report.instructions);
  // Each instruction once, and one more time asleep.
  EXPECT_EQ(report.deaths, report.instructions + 1);
  // The first run is unblocked too, but not checked.
  EXPECT_EQ(unblocked, after_sleep + 1);
}

TEST_F(KillStepperSleepTest, SeveralSleeps) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const KillReport report = KillAtEveryInstruction({
      .prepare =
          [&] {
            // What a dead child has not read.
            pollfd ready = {.fd = pipe_ends[0], .events = POLLIN, .revents = 0};
            char byte;
            while (poll(&ready, 1, 0) == 1) {
              ASSERT_EQ(read(pipe_ends[0], &byte, 1), 1);
            }
          },
      .op =
          [&] {
            char byte;
            for (int i = 0; i < 2; ++i) {
              if (read(pipe_ends[0], &byte, 1) != 1) abort();
            }
          },
      .unblock = [&] { ASSERT_EQ(write(pipe_ends[1], "x", 1), 1); },
      .check = [](const KillPoint&) {},
  });
  EXPECT_EQ(report.sleeps, 2);
  EXPECT_TRUE(report.completed);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST_F(KillStepperSleepTest, EndsInTheSleepWithoutUnblock) {
  std::optional<KillPoint> last;
  const KillReport report = KillAtEveryInstruction({
      .prepare = [&] { *word_ = 0; },
      .op = [&] { WaitForWord(); },
      .check = [&](const KillPoint& point) { last = point; },
  });
  EXPECT_FALSE(report.completed);
  EXPECT_EQ(report.sleeps, 1);
  EXPECT_EQ(report.deaths, report.instructions);
  ASSERT_TRUE(last.has_value());
  EXPECT_TRUE(last->asleep());
  EXPECT_EQ(last->instruction, report.instructions);
}

TEST_F(KillStepperSleepTest, ShortSleepsAreNotSleeps) {
  const KillReport report = KillAtEveryInstruction({
      .op =
          [] {
            const timespec pause = {.tv_sec = 0, .tv_nsec = 100'000};
            nanosleep(&pause, nullptr);
          },
      .check = [](const KillPoint&) {},
      // Three times as long on this machine, however slow, would be strange.
      .asleep_after = absl::Milliseconds(200),
  });
  EXPECT_TRUE(report.completed);
  EXPECT_EQ(report.sleeps, 0);
}

TEST_F(KillStepperSleepTest, StrandedSleepersAreAnError) {
  EXPECT_THAT(RunKillSteps({
                  .prepare = [&] { *word_ = 0; },
                  .op = [&] { WaitForWord(); },
                  .unblock = [] {},
                  .check = [](const KillPoint&) {},
                  .stranded_after = absl::Milliseconds(50),
              }),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("still asleep 50ms after unblock()")));
}

TEST_F(KillStepperTest, CrashIsAnError) {
  EXPECT_THAT(RunKillSteps({
                  .op = [] { abort(); },
                  .check = [](const KillPoint&) {},
              }),
              StatusIs(absl::StatusCode::kAborted,
                       AllOf(HasSubstr("crashed by signal 6"),
                             HasSubstr("instructions, "))));
}

TEST_F(KillStepperTest, EndOfTheProcessIsAnError) {
  EXPECT_THAT(RunKillSteps({
                  .op = [] { _exit(5); },
                  .check = [](const KillPoint&) {},
              }),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("exit code 5")));
  EXPECT_THAT(RunKillSteps({
                  .op = [] { kill(getpid(), SIGKILL); },
                  .check = [](const KillPoint&) {},
              }),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("signal 9")));
  EXPECT_THAT(RunKillSteps({
                  .setup = [] { _exit(6); },
                  .op = [] {},
                  .check = [](const KillPoint&) {},
              }),
              StatusIs(absl::StatusCode::kAborted,
                       HasSubstr("ended before the operation: exit code 6")));
}

TEST_F(KillStepperTest, EndlessOperationIsAnError) {
  EXPECT_THAT(RunKillSteps({
                  .op =
                      [] {
                        while (true) asm volatile("");
                      },
                  .check = [](const KillPoint&) {},
                  .max_instructions = 500,
              }),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("not completed after 500 instructions")));
}

TEST_F(KillStepperTest, FailedAssertionInTheOperationIsAnError) {
  EXPECT_THAT(RunKillSteps({
                  .op = [] { EXPECT_TRUE(false) << "on purpose"; },
                  .check = [](const KillPoint&) {},
              }),
              StatusIs(absl::StatusCode::kAborted,
                       HasSubstr("an assertion failed in the operation")));
}

TEST_F(KillStepperTest, SignalsOfTheOperationAreItsOwn) {
  static std::atomic<int> handled;
  const KillReport report = KillAtEveryInstruction({
      .prepare = [&] { Reset(); },
      .setup = [] { signal(SIGUSR1, [](int) { handled = 1; }); },
      .op =
          [&] {
            raise(SIGUSR1);
            pair_->first = handled.load();
          },
      .check =
          [&](const KillPoint& point) {
            if (point.completed()) {
              EXPECT_EQ(pair_->first, 1);
            }
          },
  });
  EXPECT_TRUE(report.completed);
  EXPECT_EQ(handled, 0) << "not in this process";
}

TEST_F(KillStepperTest, RefusedTraceIsAnError) {
  // In a child, because nobody may be traced by two.
  auto child = ChildProcess::Start([&] {
    EXPECT_THAT(RunKillSteps({
                    .setup =
                        [] {
                          // The parent is the tracer already.
                          ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
                        },
                    .op = [] {},
                    .check = [](const KillPoint&) {},
                }),
                StatusIs(absl::StatusCode::kPermissionDenied,
                         HasSubstr("may not trace its children")));
  });
  child.ExpectExit();
}

// Fails at the state between the two stores.
TEST_F(KillStepperTest, DISABLED_FindsTheTornState) {
  KillAtEveryInstruction({
      .prepare = [&] { Reset(); },
      .op = [&] { SetBoth(); },
      .check =
          [&](const KillPoint&) { EXPECT_EQ(pair_->first, pair_->second); },
  });
}

TEST_F(KillStepperTest, FailureNamesInstructionAndFunction) {
  const SelfRun run = RunSelf("KillStepperTest.DISABLED_FindsTheTornState");
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(
      run.output,
      AllOf(HasSubstr("the check failed for a child killed after "),
            HasSubstr(" instructions, in "), HasSubstr("kill_stepper_test")));
}

// ---- A process that is found.

class KillStepperFoundTest : public KillStepperTest {
 protected:
  struct State {
    std::atomic<int> begun{0};
    std::atomic<int> done{0};
  };

  // A process that counts the bytes it is sent.
  void Prepare(bool ends) {
    if (victim_.has_value()) victim_->Wait();  // that was not checked
    pipe_ = MakePipe();
    state_->begun = 0;
    state_->done = 0;
    victim_ = ChildProcess::Start([this, ends] {
      char byte;
      while (read(pipe_.reader.get(), &byte, 1) == 1) {
        ++state_->begun;
        ++state_->done;
        if (ends) break;
      }
    });
    ASSERT_TRUE(victim_->WaitUntilAsleep());
  }

  SharedPage<State> state_;
  PipeEnds pipe_;
  std::optional<ChildProcess> victim_;
};

TEST_F(KillStepperFoundTest, FromOneSleepToTheNext) {
  std::set<std::pair<int, int>> seen;
  const KillReport report = KillAtEveryInstruction(
      {.prepare = [&] { Prepare(/*ends=*/false); },
       .op = [&] { ASSERT_EQ(write(pipe_.writer.get(), "x", 1), 1); },
       .check =
           [&](const KillPoint& point) {
             victim_->ExpectSignal(SIGKILL);
             victim_.reset();
             seen.emplace(state_->begun, state_->done);
             if (point.completed()) {
               EXPECT_EQ(state_->done, 1);
             }
           },
       .victim = [&] { return victim_->pid(); },
       .done = [&] { return state_->done == 1; }});
  EXPECT_TRUE(report.completed);
  EXPECT_EQ(report.diverged, 0);
  EXPECT_GE(report.instructions, 10);
  EXPECT_EQ(report.deaths, report.instructions);
  EXPECT_THAT(seen, ElementsAre(::testing::Pair(0, 0), ::testing::Pair(1, 0),
                                ::testing::Pair(1, 1)));
}

TEST_F(KillStepperFoundTest, UntilItEnds) {
  const KillReport report = KillAtEveryInstruction(
      {.prepare = [&] { Prepare(/*ends=*/true); },
       .op = [&] { ASSERT_EQ(write(pipe_.writer.get(), "x", 1), 1); },
       .check =
           [&](const KillPoint& point) {
             if (point.completed()) {
               victim_->ExpectExit(0);
             } else {
               victim_->ExpectSignal(SIGKILL);
             }
             victim_.reset();
           },
       .victim = [&] { return victim_->pid(); },
       .done = [&] { return state_->done == 1; },
       .stride = 101});
  EXPECT_TRUE(report.completed);
  EXPECT_GT(report.deaths, 0);
}

TEST_F(KillStepperFoundTest, SleepsBeforeItIsDone) {
  int deaths_asleep = 0;
  const KillReport report = KillAtEveryInstruction(
      {.prepare = [&] { Prepare(/*ends=*/false); },
       .op = [&] { ASSERT_EQ(write(pipe_.writer.get(), "x", 1), 1); },
       .unblock =
           [&] {
             if (state_->done == 1) {
               ASSERT_EQ(write(pipe_.writer.get(), "y", 1), 1);
             }
           },
       .check =
           [&](const KillPoint& point) {
             victim_->ExpectSignal(SIGKILL);
             victim_.reset();
             if (point.completed()) {
               EXPECT_EQ(state_->done, 2);
             }
             deaths_asleep += point.asleep() ? 1 : 0;
           },
       .victim = [&] { return victim_->pid(); },
       .done = [&] { return state_->done == 2; }});
  EXPECT_TRUE(report.completed);
  EXPECT_EQ(report.sleeps, 1);
  EXPECT_EQ(deaths_asleep, 1);
}

TEST_F(KillStepperFoundTest, OneThatHasNotDoneItIsAnError) {
  const absl::StatusOr<KillReport> report = testing_internal::RunKillSteps(
      {.prepare = [&] { Prepare(/*ends=*/false); },
       .check = [](const KillPoint&) {},
       .victim = [&] { return victim_->pid(); },
       .done = [] { return false; },
       .stranded_after = absl::Milliseconds(20)});
  EXPECT_THAT(report.status(), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                        HasSubstr("is not done")));
}

TEST_F(KillStepperFoundTest, OneThatCannotBeTracedIsAnError) {
  EXPECT_THAT(testing_internal::RunKillSteps({.check = [](const KillPoint&) {},
                                              .victim = [] { return getpid(); },
                                              .done = [] { return true; }})
                  .status()
                  .message(),
              HasSubstr("ptrace(PTRACE_SEIZE)"));
}

}  // namespace
}  // namespace mp::testing
