#include "mp/pool/thread_executor.h"

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
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
#include "mp/process/process.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::_;

class ThreadExecutorTest : public mp::testing::ProcessTest {};

// Counts the ends of a task: there must be one.
class CountingSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte>) override { ++parts; }
  void Finish(std::span<const std::byte>) override { ++ends; }
  void Fail(absl::Status status) override {
    error = std::move(status);
    ++ends;
  }

  int parts = 0;
  absl::Status error;
  std::atomic<int> ends{0};
};

absl::Status NoBytes(std::span<std::byte>) { return absl::OkStatus(); }

absl::StatusOr<std::unique_ptr<Executor>> Create(int processes,
                                                 size_t capacity = 4096) {
  return ThreadExecutor::Create({.processes = processes,
                                 .task_capacity_bytes = capacity,
                                 .result_capacity_bytes = capacity});
}

std::shared_ptr<CountingSink> Submit(Executor& executor,
                                     TaskFunction function) {
  auto sink = std::make_shared<CountingSink>();
  EXPECT_THAT(executor.Submit(function, 0, NoBytes, sink), IsOk());
  return sink;
}

// Same errors as the executor with processes, for the same sizes.
TEST_F(ThreadExecutorTest, HasTheLimitsOfTheOtherExecutor) {
  for (const size_t capacity : {0, 1, 4096, 5000, 1 << 20}) {
    const ExecutorOptions options = {.processes = 1,
                                     .task_capacity_bytes = capacity,
                                     .result_capacity_bytes = capacity};
    const auto threads = ThreadExecutor::Create(options);
    const auto processes = ProcessExecutor::Create(options);
    ASSERT_EQ(threads.status(), processes.status()) << capacity;
    if (!threads.ok()) continue;
    EXPECT_EQ((*threads)->max_input_size(), (*processes)->max_input_size());
    static std::atomic<size_t> max_result;
    const auto task = [](std::span<const std::byte>, TaskOutput& output) {
      max_result = output.max_size();
      output.Finish(output.max_size() + 1, NoBytes);
    };
    const auto in_thread = Submit(**threads, task);
    const auto in_process = Submit(**processes, task);
    for (Executor* executor : {static_cast<Executor*>(threads->get()),
                               static_cast<Executor*>(processes->get())}) {
      executor->Close();
      EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
    }
    EXPECT_EQ(in_thread->error, in_process->error);
    EXPECT_THAT(in_thread->error,
                StatusIs(absl::StatusCode::kResourceExhausted, _));
  }
}

std::atomic<bool> go{false};
std::atomic<int> running{0};

void WaitToGo(std::span<const std::byte>, TaskOutput& output) {
  ++running;
  while (!go) absl::SleepFor(absl::Milliseconds(1));
  output.Part(0, NoBytes);
  output.Finish(0, NoBytes);
}

TEST_F(ThreadExecutorTest, TerminateFailsAtOnceAndJoinWaitsForWhatRuns) {
  go = false;
  running = 0;
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(2));
  std::vector<std::shared_ptr<CountingSink>> sinks;
  for (int i = 0; i < 10; ++i) sinks.push_back(Submit(*executor, WaitToGo));
  while (running < 2) absl::SleepFor(absl::Milliseconds(1));
  executor->Terminate();
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->ends, 1);
    EXPECT_THAT(sink->error, StatusIs(absl::StatusCode::kCancelled, _));
  }
  EXPECT_THAT(executor->Join(Deadline::After(absl::Milliseconds(20))),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  go = true;
  EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
  EXPECT_EQ(running, 2);
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->ends, 1) << "what came later is dropped";
    EXPECT_EQ(sink->parts, 0);
  }
}

TEST_F(ThreadExecutorTest, EveryTaskEndsOnceWhenThreadsSubmitAndOneTerminates) {
  for (int round = 0; round < 20; ++round) {
    ASSERT_OK_AND_ASSIGN(const auto executor, Create(3));
    std::vector<std::vector<std::shared_ptr<CountingSink>>> sinks(4);
    std::vector<std::thread> threads;
    for (auto& mine : sinks) {
      threads.emplace_back([&mine, &executor] {
        for (int i = 0; i < 500; ++i) {
          auto sink = std::make_shared<CountingSink>();
          const absl::StatusOr<TaskId> status = executor->Submit(
              [](std::span<const std::byte>, TaskOutput& output) {
                output.Finish(0, NoBytes);
              },
              0, NoBytes, sink);
          if (status.ok()) mine.push_back(std::move(sink));
        }
      });
    }
    absl::SleepFor(absl::Microseconds(100 * round));
    executor->Terminate();
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
    for (const auto& mine : sinks) {
      for (const auto& sink : mine) ASSERT_EQ(sink->ends, 1);
    }
  }
}

TEST_F(ThreadExecutorTest, TerminateAsksTasksThatRunToStop) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  static std::atomic<bool> begun;
  begun = false;
  const auto sink =
      Submit(*executor, [](std::span<const std::byte>, TaskOutput& output) {
        begun = true;
        while (!TaskStopRequested()) absl::SleepFor(absl::Milliseconds(1));
        output.Finish(0, NoBytes);
      });
  while (!begun) absl::SleepFor(absl::Milliseconds(1));
  executor->Terminate();
  EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
  EXPECT_EQ(sink->ends, 1);
}

TEST_F(ThreadExecutorTest, CallbacksPostedAtTheEndAreRun) {
  for (int round = 0; round < 100; ++round) {
    ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
    std::atomic<int> calls{0};
    std::thread poster([&] {
      for (int i = 0; i < 10; ++i) executor->Post([&calls] { ++calls; });
    });
    executor->Close();
    EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
    poster.join();
    EXPECT_EQ(calls, 10);
  }
}

TEST_F(ThreadExecutorTest, ForkedCopyDoesNothing) {
  ASSERT_OK_AND_ASSIGN(auto executor, Create(2));
  Process child([&executor] {
    const auto refused =
        executor->Submit([](std::span<const std::byte>, TaskOutput&) {}, 0,
                         NoBytes, std::make_shared<CountingSink>());
    if (!absl::IsFailedPrecondition(refused.status())) return 1;
    if (!absl::IsFailedPrecondition(executor->Join(Deadline::Now()))) return 2;
    executor.reset();
    return 0;
  });
  ASSERT_THAT(child.Start(), IsOk());
  ASSERT_THAT(child.Join(), IsOk());
  EXPECT_EQ(child.exitcode(), 0);
}

}  // namespace
}  // namespace mp::pool_internal
