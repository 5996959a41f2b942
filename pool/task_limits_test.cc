// Time limits of tasks, as the executors keep them.

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/process_executor.h"
#include "mp/pool/task_control.h"
#include "mp/pool/thread_executor.h"
#include "mp/pool/worker_died.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kShort = absl::Milliseconds(30);
constexpr absl::Duration kLong = absl::Hours(1);

class RecordingSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte>) override {}
  void Finish(std::span<const std::byte> bytes) override {
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    ++ends;
  }
  void Fail(absl::Status status) override {
    error = std::move(status);
    ++ends;
  }
  void Wait() const {
    while (ends == 0) absl::SleepFor(absl::Milliseconds(1));
  }

  std::string text;
  absl::Status error;
  std::atomic<int> ends{0};
};

void Answer(TaskOutput& output, std::string_view text) {
  output.Finish(text.size(), [text](std::span<std::byte> out) {
    memcpy(out.data(), text.data(), text.size());
    return absl::OkStatus();
  });
}

void AnswerAtOnce(std::span<const std::byte>, TaskOutput& output) {
  Answer(output, "done");
}
void Sleep(std::span<const std::byte>, TaskOutput&) {
  absl::SleepFor(absl::InfiniteDuration());
}
void WorkUntilAskedToStop(std::span<const std::byte>, TaskOutput& output) {
  if (TaskStopRequested()) return Answer(output, "asked too early");
  while (!TaskStopRequested()) absl::SleepFor(absl::Microseconds(100));
  Answer(output, "stopped");
}

std::shared_ptr<RecordingSink> Submit(Executor& executor, TaskFunction function,
                                      const TaskLimits& limits = {}) {
  auto sink = std::make_shared<RecordingSink>();
  EXPECT_THAT(
      executor.Submit(
          function, 0, [](std::span<std::byte>) { return absl::OkStatus(); },
          sink, limits),
      IsOk());
  return sink;
}

void Finish(Executor& executor) {
  executor.Close();
  EXPECT_THAT(executor.Join(Deadline::Infinite()), IsOk());
}

ExecutorOptions Options(int processes) {
  return {.processes = processes,
          .task_capacity_bytes = 4096,
          .result_capacity_bytes = 4096};
}

class TaskLimitsTest : public mp::testing::ProcessTest {
 protected:
  static std::unique_ptr<Executor> Processes(int processes) {
    return *ProcessExecutor::Create(Options(processes));
  }
};

void ExpectHardLimit(const absl::Status& error, absl::Duration limit) {
  EXPECT_THAT(error,
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       AllOf(HasSubstr(absl::FormatDuration(limit)),
                             HasSubstr("PoolWorker-"), HasSubstr("(pid "))));
  EXPECT_FALSE(IsWorkerDied(error));
}

TEST_F(TaskLimitsTest, HardLimitEndsATaskWhateverItDoes) {
  const std::vector<std::pair<const char*, TaskFunction>> tasks = {
      {"sleeps", Sleep},
      {"spins",
       [](std::span<const std::byte>, TaskOutput&) {
         for (std::atomic<bool> go{true}; go;) {
         }
       }},
      {"is stopped",
       [](std::span<const std::byte>, TaskOutput&) { raise(SIGSTOP); }},
      {"blocks signals",
       [](std::span<const std::byte>, TaskOutput&) {
         sigset_t all;
         sigfillset(&all);
         sigprocmask(SIG_BLOCK, &all, nullptr);
         pause();
       }},
      {"puts out parts for ever",
       [](std::span<const std::byte>, TaskOutput& output) {
         for (;;) {
           output.Part(8,
                       [](std::span<std::byte>) { return absl::OkStatus(); });
         }
       }},
  };
  const auto executor = Processes(1);
  for (const auto& [name, task] : tasks) {
    SCOPED_TRACE(name);
    const auto limited = Submit(*executor, task, {.hard = kShort});
    const auto next = Submit(*executor, AnswerAtOnce);
    limited->Wait();
    ExpectHardLimit(limited->error, kShort);
    next->Wait();
    EXPECT_EQ(next->text, "done");
  }
  Finish(*executor);
}

TEST_F(TaskLimitsTest, HardLimitHarmsNobodyElse) {
  const auto executor = Processes(2);
  std::vector<std::shared_ptr<RecordingSink>> limited;
  std::vector<std::shared_ptr<RecordingSink>> others;
  for (int i = 0; i < 20; ++i) {
    limited.push_back(Submit(*executor, Sleep, {.hard = kShort}));
    for (int j = 0; j < 50; ++j) {
      others.push_back(Submit(*executor, AnswerAtOnce));
    }
  }
  Finish(*executor);
  for (const auto& each : limited) ExpectHardLimit(each->error, kShort);
  for (const auto& each : others) {
    ASSERT_EQ(each->ends, 1);
    ASSERT_EQ(each->text, "done") << each->error;
  }
}

TEST_F(TaskLimitsTest, LimitsGoWithTheirTask) {
  const auto executor = Processes(1);
  const auto sleep_long = [](std::span<const std::byte>, TaskOutput& output) {
    absl::SleepFor(2 * kShort);
    Answer(output, TaskStopRequested() ? "asked" : "not asked");
  };
  const auto within =
      Submit(*executor, AnswerAtOnce, {.soft = kShort, .hard = kShort});
  const auto without = Submit(*executor, sleep_long);
  const auto with_more =
      Submit(*executor, sleep_long, {.soft = kLong, .hard = kLong});
  const auto with_both =
      Submit(*executor, sleep_long, {.soft = kShort, .hard = kLong});
  const auto beyond_the_clock =
      Submit(*executor, sleep_long,
             {.soft = absl::Hours(1e9), .hard = absl::Hours(24.0 * 365 * 292)});
  Finish(*executor);
  EXPECT_EQ(within->text, "done") << within->error;
  EXPECT_EQ(without->text, "not asked") << without->error;
  EXPECT_EQ(with_more->text, "not asked") << with_more->error;
  EXPECT_EQ(with_both->text, "asked") << with_both->error;
  EXPECT_EQ(beyond_the_clock->text, "not asked") << beyond_the_clock->error;
}

TEST_F(TaskLimitsTest, OtherDeathsOfATaskWithALimitAreWorkerDied) {
  const auto executor = Processes(1);
  const auto die = [](std::span<const std::byte>, TaskOutput&) {
    raise(SIGKILL);
  };
  const auto crash = [](std::span<const std::byte>, TaskOutput&) { _exit(3); };
  const auto killed = Submit(*executor, die, {.hard = kLong});
  const auto exited = Submit(*executor, crash, {.hard = kLong});
  const auto within = Submit(*executor, AnswerAtOnce, {.hard = kShort});
  const auto later =
      Submit(*executor, [](std::span<const std::byte>, TaskOutput&) {
        absl::SleepFor(2 * kShort);
        raise(SIGKILL);
      });
  Finish(*executor);
  EXPECT_TRUE(IsWorkerDied(killed->error)) << killed->error;
  EXPECT_TRUE(IsWorkerDied(exited->error)) << exited->error;
  EXPECT_EQ(within->text, "done") << within->error;
  EXPECT_TRUE(IsWorkerDied(later->error))
      << "a limit that was not its own: " << later->error;
}

// More tasks than the ring holds.
TEST_F(TaskLimitsTest, TasksThatWaitForRoomKeepTheirLimits) {
  const auto executor = Processes(2);
  std::vector<std::shared_ptr<RecordingSink>> tasks;
  for (int i = 0; i < 500; ++i) {
    tasks.push_back(Submit(*executor, WorkUntilAskedToStop,
                           {.soft = absl::Microseconds(200)}));
  }
  const auto limited = Submit(*executor, Sleep, {.hard = kShort});
  Finish(*executor);
  for (const auto& each : tasks) ASSERT_EQ(each->text, "stopped");
  ExpectHardLimit(limited->error, kShort);
}

// The exit code of a child that somebody else has reaped says nothing.
TEST_F(TaskLimitsTest, HardLimitIsToldWhereChildrenAreIgnored) {
  auto child = ChildProcess::Start([] {
    signal(SIGCHLD, SIG_IGN);
    const auto executor = Processes(1);
    const auto late = Submit(*executor, Sleep, {.hard = kShort});
    Finish(*executor);
    EXPECT_THAT(late->error, StatusIs(absl::StatusCode::kDeadlineExceeded));
  });
  child.ExpectExit(0);
}

TEST_F(TaskLimitsTest, SoftLimitAsksToStop) {
  const auto processes = Processes(1);
  const std::unique_ptr<Executor> threads = *ThreadExecutor::Create(Options(1));
  for (Executor* const executor : {processes.get(), threads.get()}) {
    const auto stopped =
        Submit(*executor, WorkUntilAskedToStop, {.soft = kShort});
    const auto next =
        Submit(*executor, [](std::span<const std::byte>, TaskOutput& output) {
          Answer(output, TaskStopRequested() ? "asked" : "not asked");
        });
    Finish(*executor);
    EXPECT_EQ(stopped->text, "stopped") << stopped->error;
    EXPECT_EQ(next->text, "not asked") << next->error;
  }
}

TEST_F(TaskLimitsTest, ThreadsAreOnlyAskedToStop) {
  const std::unique_ptr<Executor> threads = *ThreadExecutor::Create(Options(1));
  const auto stopped =
      Submit(*threads, WorkUntilAskedToStop, {.soft = kLong, .hard = kShort});
  Finish(*threads);
  EXPECT_EQ(stopped->text, "stopped") << stopped->error;
}

TEST_F(TaskLimitsTest, LimitsAreMoreThanZero) {
  const auto processes = Processes(1);
  const std::unique_ptr<Executor> threads = *ThreadExecutor::Create(Options(1));
  for (Executor* const executor : {processes.get(), threads.get()}) {
    for (const TaskLimits& limits : {TaskLimits{.soft = absl::ZeroDuration()},
                                     TaskLimits{.hard = absl::ZeroDuration()},
                                     TaskLimits{.hard = -absl::Seconds(1)}}) {
      EXPECT_THAT(executor->Submit(
                      AnswerAtOnce, 0,
                      [](std::span<std::byte>) { return absl::OkStatus(); },
                      std::make_shared<RecordingSink>(), limits),
                  StatusIs(absl::StatusCode::kInvalidArgument,
                           HasSubstr("must be more than zero")));
    }
  }
}

TEST_F(TaskLimitsTest, LimitBeyondTheClockNeverComes) {
  const auto executor = Processes(1);
  const auto task =
      Submit(*executor, AnswerAtOnce, {.hard = absl::Hours(24.0 * 365 * 292)});
  Finish(*executor);
  EXPECT_EQ(task->text, "done") << task->error;
}

TEST_F(TaskLimitsTest, WithoutATimerTheTaskFailsAndOthersDoNot) {
  auto child = ChildProcess::Start([] {
    mp::testing::FailSystemCall(SYS_timer_create, EAGAIN);
    const auto executor = Processes(1);
    const auto limited = Submit(*executor, AnswerAtOnce,
                                {.soft = absl::Nanoseconds(1), .hard = kLong});
    const auto next =
        Submit(*executor, [](std::span<const std::byte>, TaskOutput& output) {
          Answer(output, TaskStopRequested() ? "asked" : "done");
        });
    Finish(*executor);
    EXPECT_THAT(limited->error.message(), HasSubstr("timer_create"));
    EXPECT_EQ(next->text, "done") << next->error;
  });
  child.ExpectExit(0);
}

}  // namespace
}  // namespace mp::pool_internal
