#include "mp/pool/process_executor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/pool/completion.h"
#include "mp/pool/executor.h"
#include "mp/pool/initializer.h"
#include "mp/pool/worker_died.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOk;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class ProcessExecutorTest : public mp::testing::ProcessTest {};

// Sleepers do not look around by themselves: a wake-up that is missing hangs.
class PatientProcessExecutorTest : public ProcessExecutorTest {
 protected:
  PatientProcessExecutorTest() {
    ParkSlices::SetFirstForTest(3600'000'000'000);
  }
  ~PatientProcessExecutorTest() override { ParkSlices::SetFirstForTest(0); }
};

// Keeps what a task came to. Counts its ends: there must be one.
class RecordingSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    ++parts;
    completion_.Notify();
  }
  void Finish(std::span<const std::byte> bytes) override {
    Part(bytes);
    End();
  }
  void Fail(absl::Status status) override {
    error = std::move(status);
    End();
  }

  bool Wait(Executor& executor, Deadline deadline = Deadline::Infinite()) {
    return completion_.Wait(
        executor, [this] { return ends > 0; }, deadline);
  }
  void WaitForPart(Executor& executor) {
    completion_.Wait(
        executor, [this] { return parts > 0; }, Deadline::Infinite());
  }

  std::string text;
  absl::Status error;
  std::atomic<int> parts{0};  // and the last one of Finish
  std::atomic<int> ends{0};

 private:
  void End() {
    ++ends;
    completion_.Notify();
  }

  Completion completion_;
};

void Put(TaskOutput& output, bool last, std::string_view text) {
  const auto encode = [text](std::span<std::byte> out) {
    memcpy(out.data(), text.data(), text.size());
    return absl::OkStatus();
  };
  last ? output.Finish(text.size(), encode) : output.Part(text.size(), encode);
}

std::string_view Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::StatusOr<std::unique_ptr<Executor>> Create(int processes,
                                                 size_t capacity = size_t{64}
                                                                   << 10) {
  return ProcessExecutor::Create({.processes = processes,
                                  .task_capacity_bytes = capacity,
                                  .result_capacity_bytes = capacity});
}

std::shared_ptr<RecordingSink> Submit(Executor& executor, TaskFunction function,
                                      std::string_view input) {
  auto sink = std::make_shared<RecordingSink>();
  EXPECT_THAT(executor.Submit(
                  function, input.size(),
                  [input](std::span<std::byte> out) {
                    memcpy(out.data(), input.data(), input.size());
                    return absl::OkStatus();
                  },
                  sink),
              IsOk());
  return sink;
}

void Finish(Executor& executor) {
  executor.Close();
  EXPECT_THAT(executor.Join(Deadline::Infinite()), IsOk());
}

TEST_F(ProcessExecutorTest, PartsArriveInOrderThenTheEnd) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  const auto sink = Submit(
      *executor,
      [](std::span<const std::byte> input, TaskOutput& output) {
        for (const char c : Text(input)) Put(output, false, {&c, 1});
        Put(output, true, "!");
      },
      "parts");
  Finish(*executor);
  EXPECT_EQ(sink->text, "parts!");
  EXPECT_EQ(sink->ends, 1);
}

TEST_F(ProcessExecutorTest, WaitDeliversItself) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  for (int i = 0; i < 1000; ++i) {
    const auto sink = Submit(
        *executor,
        [](std::span<const std::byte> input, TaskOutput& output) {
          Put(output, true, Text(input));
        },
        "x");
    ASSERT_TRUE(sink->Wait(*executor));
    EXPECT_EQ(sink->text, "x");
  }
}

// Longer than anybody spins, for most of them.
void SleepAndEcho(std::span<const std::byte> input, TaskOutput& output) {
  absl::SleepFor(absl::Microseconds(std::stoi(std::string(Text(input)))));
  Put(output, true, Text(input));
}

// One of them sleeps where results arrive, and delivers those of the others;
// which one, changes all the time.
TEST_F(PatientProcessExecutorTest, ThreadsThatWaitAtOnceAllGetTheirs) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(2));
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&executor, thread] {
      for (int i = 0; i < 300; ++i) {
        const std::string micros = std::to_string((i + 1) * (thread + 7) % 200);
        const auto sink = Submit(*executor, SleepAndEcho, micros);
        // Also those that do not wait to the end.
        if (i % 3 == 0) {
          sink->Wait(*executor, Deadline::After(absl::Microseconds(i)));
        }
        ASSERT_TRUE(sink->Wait(*executor));
        EXPECT_EQ(sink->text, micros);
      }
    });
  }
}

void Pause(std::span<const std::byte>, TaskOutput&) { pause(); }

TEST_F(ProcessExecutorTest, WaitEndsAtItsDeadline) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  const auto sink = Submit(*executor, Pause, "");
  const auto wait = [&] {
    EXPECT_FALSE(
        sink->Wait(*executor, Deadline::After(absl::Milliseconds(20))));
  };
  wait();
  const std::jthread at_the_same_time(wait);
  wait();
}

// Nothing comes from a worker that could wake them.
TEST_F(PatientProcessExecutorTest, WaitEndsWhenItsTaskIsCancelled) {
  for (const bool first : {true, false}) {
    ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
    Submit(*executor, Pause, "");
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    std::vector<TaskId> tasks;
    std::vector<std::jthread> threads;
    for (int i = 0; i < 2; ++i) {
      sinks.push_back(std::make_shared<RecordingSink>());
      ASSERT_OK_AND_ASSIGN(
          const TaskId task,
          executor->Submit(
              Pause, 0, [](std::span<std::byte>) { return absl::OkStatus(); },
              sinks.back()));
      tasks.push_back(task);
      threads.emplace_back([&executor, sink = sinks.back()] {
        EXPECT_TRUE(sink->Wait(*executor));
      });
      absl::SleepFor(absl::Milliseconds(20));  // most likely it sleeps by then
    }
    EXPECT_TRUE(executor->Cancel(tasks[first ? 0 : 1]));
    threads[first ? 0 : 1].join();
    EXPECT_TRUE(executor->Cancel(tasks[first ? 1 : 0]));
    threads[first ? 1 : 0].join();
  }
}

// A worker that puts part after part is always quicker than this.
class SlowSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte>) override {
    absl::SleepFor(absl::Microseconds(100));
    ++parts;
  }
  void Finish(std::span<const std::byte>) override { ++ends; }
  void Fail(absl::Status) override { ++ends; }

  std::atomic<int> parts{0};
  std::atomic<int> ends{0};
};

TEST_F(ProcessExecutorTest, ResultsWithoutEndLeaveTimeForOthers) {
  static SharedPage<std::atomic<bool>>* stop;
  SharedPage<std::atomic<bool>> stop_page(false);
  stop = &stop_page;
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1, 4 << 10));
  const auto sink = std::make_shared<SlowSink>();
  ASSERT_THAT(
      executor->Submit(
          [](std::span<const std::byte>, TaskOutput& output) {
            while (!**stop) Put(output, false, "part");
            Put(output, true, "");
          },
          0, [](std::span<std::byte>) { return absl::OkStatus(); }, sink),
      IsOk());
  while (sink->parts == 0) absl::SleepFor(absl::Milliseconds(1));
  // Who waits for another one, delivers them, but not beyond its deadline.
  const auto next = Submit(
      *executor,
      [](std::span<const std::byte>, TaskOutput& output) {
        Put(output, true, "");
      },
      "");
  for (const auto deadline : {absl::Milliseconds(1), absl::Milliseconds(20)}) {
    EXPECT_FALSE(next->Wait(*executor, Deadline::After(deadline)));
  }
  // Callbacks have their turn.
  executor->Post([] { **stop = true; });
  Finish(*executor);
  EXPECT_EQ(sink->ends, 1);
}

// Overwrites what this process sees of the ring's records.
void OverwriteRecords(std::string_view ring) {
  std::ifstream maps("/proc/self/maps");
  bool first = true;  // the ring's own state
  for (std::string line; std::getline(maps, line);) {
    if (line.find(ring) == std::string::npos) continue;
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    std::istringstream(line) >> std::hex >> begin >> dash >> end;
    if (first) begin += static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    first = false;
    if (begin < end) memset(reinterpret_cast<void*>(begin), 0xff, end - begin);
  }
}

TEST_F(ProcessExecutorTest, OverwrittenMemoryEndsTheProgramWithAMessage) {
  EXPECT_DEATH(
      {
        auto executor = Create(1, 16 << 10);
        (*executor)
            ->Submit(
                [](std::span<const std::byte>, TaskOutput& output) {
                  // More than the sink gets in the meantime.
                  for (int i = 0; i < 300; ++i) Put(output, false, "part");
                  OverwriteRecords("pool-results");
                  pause();
                },
                0, [](std::span<std::byte>) { return absl::OkStatus(); },
                std::make_shared<SlowSink>())
            .IgnoreError();
        absl::SleepFor(absl::InfiniteDuration());
      },
      "memory was overwritten");
}

TEST_F(ProcessExecutorTest, EncoderThatFailsSubmitsNothing) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  auto sink = std::make_shared<RecordingSink>();
  const auto run = [](std::span<const std::byte>, TaskOutput& output) {
    Put(output, true, "");
  };
  EXPECT_THAT(
      executor->Submit(
          run, 3,
          [](std::span<std::byte>) { return absl::DataLossError("no"); }, sink),
      StatusIs(absl::StatusCode::kDataLoss, "no"));
  const auto next = Submit(*executor, run, "");
  Finish(*executor);
  EXPECT_EQ(sink->ends, 0);
  EXPECT_EQ(next->ends, 1);
}

TEST_F(ProcessExecutorTest, EncoderOfAResultThatFailsFailsTheTask) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  const auto sink = Submit(
      *executor,
      [](std::span<const std::byte>, TaskOutput& output) {
        output.Finish(
            1, [](std::span<std::byte>) { return absl::DataLossError("no"); });
      },
      "");
  Finish(*executor);
  EXPECT_THAT(sink->error, StatusIs(absl::StatusCode::kDataLoss, "no"));
}

TEST_F(ProcessExecutorTest, DeathAfterSomePartsIsTheEnd) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(2));
  const auto sink = Submit(
      *executor,
      [](std::span<const std::byte>, TaskOutput& output) {
        Put(output, false, "half");
        raise(SIGKILL);
      },
      "");
  Finish(*executor);
  EXPECT_EQ(sink->text, "half");
  EXPECT_EQ(sink->ends, 1);
  EXPECT_TRUE(IsWorkerDied(sink->error)) << sink->error;
}

TEST_F(ProcessExecutorTest, DeathAfterTheEndIsNoError) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  const auto sink = Submit(
      *executor,
      [](std::span<const std::byte>, TaskOutput& output) {
        Put(output, true, "done");
        raise(SIGKILL);
      },
      "");
  Finish(*executor);
  EXPECT_EQ(sink->text, "done");
  EXPECT_EQ(sink->ends, 1);
  EXPECT_THAT(sink->error, IsOk());
}

TEST_F(ProcessExecutorTest, EveryTaskEndsOnceWhateverDies) {
  // A small ring, so that most tasks wait in the backlog.
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(3, 4096));
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 2000; ++i) {
    sinks.push_back(Submit(
        *executor,
        [](std::span<const std::byte> input, TaskOutput& output) {
          if (Text(input) == "7") raise(SIGKILL);
          Put(output, true, Text(input));
        },
        std::to_string(i % 50)));
  }
  Finish(*executor);
  for (int i = 0; i < 2000; ++i) {
    const RecordingSink& sink = *sinks[static_cast<size_t>(i)];
    ASSERT_EQ(sink.ends, 1) << i;
    if (i % 50 == 7) {
      ASSERT_TRUE(IsWorkerDied(sink.error)) << i << sink.error;
    } else {
      ASSERT_EQ(sink.text, std::to_string(i % 50)) << sink.error;
    }
  }
}

TEST_F(ProcessExecutorTest, TerminateEndsEveryTaskOnce) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(2, 4096));
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 500; ++i) {
    sinks.push_back(Submit(
        *executor, [](std::span<const std::byte>, TaskOutput&) { pause(); },
        "x"));
  }
  executor->Terminate();
  EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->ends, 1);
    EXPECT_THAT(sink->error, StatusIs(absl::StatusCode::kCancelled, _));
  }
  EXPECT_THAT(executor->pids(), SizeIs(0));
}

TEST_F(ProcessExecutorTest, TerminateCancelsTasksThatRun) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1));
  const auto sink = Submit(
      *executor,
      [](std::span<const std::byte>, TaskOutput& output) {
        Put(output, false, "begun");
        pause();
      },
      "");
  sink->WaitForPart(*executor);
  executor->Terminate();
  EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
  EXPECT_EQ(sink->ends, 1);
  EXPECT_THAT(sink->error, StatusIs(absl::StatusCode::kCancelled, _));
}

TEST_F(ProcessExecutorTest, InputLargerThanTheRingIsRefused) {
  ASSERT_OK_AND_ASSIGN(const auto executor, Create(1, 4096));
  EXPECT_THAT(
      executor->Submit([](std::span<const std::byte>, TaskOutput&) {},
                       executor->max_input_size() + 1,
                       [](std::span<std::byte>) { return absl::OkStatus(); },
                       std::make_shared<RecordingSink>()),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("task_capacity_bytes")));
}

// ---- what the system refuses ----

TEST_F(ProcessExecutorTest, WithoutMemoryForATaskItsSubmissionFails) {
  auto child = ChildProcess::Start([] {
    ASSERT_OK_AND_ASSIGN(
        const auto executor,
        ProcessExecutor::Create({.processes = 1,
                                 .task_capacity_bytes = size_t{1} << 20,
                                 .result_capacity_bytes = size_t{1} << 20}));
    mp::testing::FailSystemCall(SYS_fallocate, ENOSPC);
    const auto echo = [](std::span<const std::byte> input, TaskOutput& output) {
      Put(output, true, Text(input));
    };
    const std::string large(200'000, 'x');
    EXPECT_THAT(
        executor->Submit(echo, large.size(),
                         [](std::span<std::byte>) { return absl::OkStatus(); },
                         std::make_shared<RecordingSink>(), {}),
        StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("fallocate")));
    const auto small = Submit(*executor, echo, "small");
    executor->Close();
    EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
    EXPECT_EQ(small->text, "small");
  });
  child.ExpectExit(0);
}

// Who waits leaves it to the pool's own thread to look for memory now and then.
TEST_F(ProcessExecutorTest, WithoutMemoryForATaskItsWaiterSleeps) {
  auto child = ChildProcess::Start([] {
    static SharedPage<std::atomic<bool>>* go_on;
    SharedPage<std::atomic<bool>> go_on_page(false);
    go_on = &go_on_page;
    ASSERT_OK_AND_ASSIGN(
        const auto executor,
        ProcessExecutor::Create({.processes = 1,
                                 .task_capacity_bytes = size_t{1} << 20,
                                 .result_capacity_bytes = size_t{1} << 20}));
    const auto hold = [](std::span<const std::byte>, TaskOutput& output) {
      while (!**go_on) absl::SleepFor(absl::Milliseconds(1));
      Put(output, true, "");
    };
    const auto first = Submit(*executor, hold, "");
    Submit(*executor, hold, std::string(500'000, 'x'));
    // There is room when the one before has gone, but no memory by then.
    const auto last = Submit(*executor, hold, std::string(600'000, 'x'));
    mp::testing::FailSystemCall(SYS_fallocate, ENOSPC);
    **go_on = true;
    ASSERT_TRUE(first->Wait(*executor));
    EXPECT_FALSE(
        last->Wait(*executor, Deadline::After(absl::Milliseconds(500))));
    rusage usage;
    ASSERT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
    EXPECT_LT(absl::DurationFromTimeval(usage.ru_utime) +
                  absl::DurationFromTimeval(usage.ru_stime),
              absl::Milliseconds(200));
    executor->Terminate();
    EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
    EXPECT_THAT(last->error, StatusIs(absl::StatusCode::kCancelled));
  });
  child.ExpectExit(0);
}

// Its worker cannot put it, and must not give up.
TEST_F(ProcessExecutorTest, WithoutMemoryForAResultItWaits) {
  auto child = ChildProcess::Start([] {
    const auto no_more_memory = [] {
      mp::testing::FailSystemCall(SYS_fallocate, ENOSPC);
    };
    ASSERT_OK_AND_ASSIGN(
        const auto executor,
        ProcessExecutor::Create({.processes = 1,
                                 .task_capacity_bytes = size_t{1} << 20,
                                 .result_capacity_bytes = size_t{1} << 20,
                                 .initializer = Initializer(no_more_memory)}));
    const auto echo = [](std::span<const std::byte> input, TaskOutput& output) {
      Put(output, true, Text(input));
    };
    const auto large = Submit(*executor, echo, std::string(200'000, 'x'));
    absl::SleepFor(absl::Milliseconds(50));
    EXPECT_EQ(executor->pids().size(), 1u);
    executor->Terminate();
    EXPECT_THAT(executor->Join(Deadline::Infinite()), IsOk());
    EXPECT_THAT(large->error, StatusIs(absl::StatusCode::kCancelled));
  });
  child.ExpectExit(0);
}

TEST_F(ProcessExecutorTest, InputThatAWorkerHasNoMemoryForFailsItsTaskOnly) {
  if (mp::testing::kSanitized) {
    GTEST_SKIP() << "sanitizers do without limits of memory";
  }
  const auto leave_little = [] {
    // Not RLIMIT_AS: the C library may have reserved addresses.
    long pages[6] = {};  // the last one is of data
    std::ifstream statm("/proc/self/statm");
    for (long& each : pages) statm >> each;
    const auto most = static_cast<rlim_t>(pages[5] * sysconf(_SC_PAGESIZE)) +
                      (rlim_t{4} << 20);
    const rlimit limit = {.rlim_cur = most, .rlim_max = most};
    return setrlimit(RLIMIT_DATA, &limit) == 0
               ? absl::OkStatus()
               : ErrnoStatus(errno, "setrlimit");
  };
  ASSERT_OK_AND_ASSIGN(
      const auto executor,
      ProcessExecutor::Create({.processes = 1,
                               .task_capacity_bytes = size_t{16} << 20,
                               .result_capacity_bytes = size_t{64} << 10,
                               .initializer = Initializer(leave_little)}));
  const std::vector<pid_t> pids = executor->pids();
  const auto echo = [](std::span<const std::byte> input, TaskOutput& output) {
    Put(output, true, Text(input));
  };
  const auto large = Submit(*executor, echo, std::string(10 << 20, 'x'));
  const auto small = Submit(*executor, echo, "small");
  ASSERT_TRUE(small->Wait(*executor));
  EXPECT_THAT(large->error,
              StatusIs(absl::StatusCode::kUnknown, HasSubstr("bad_alloc")));
  EXPECT_EQ(small->text, "small");
  EXPECT_EQ(executor->pids(), pids);
}

// How many descriptors this process has.
rlim_t CountDescriptors() {
  rlim_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

// Whether this process has children that have not been reaped.
bool HasChildren() { return waitpid(-1, nullptr, WNOHANG) >= 0; }

TEST_F(ProcessExecutorTest, TooFewDescriptorsAreAnErrorThatLeavesNothing) {
  auto child = ChildProcess::Start([] {
    ASSERT_THAT(Create(2), IsOk());  // what is made once and kept
    const rlim_t before = CountDescriptors();
    rlimit limit;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    std::set<std::string> calls;
    bool created = false;
    for (rlim_t n = 0; !created && n < 100; ++n) {
      const rlimit few = {.rlim_cur = n, .rlim_max = limit.rlim_max};
      // Only for the call: UBSan needs descriptors, too.
      ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
      auto executor = Create(2);
      ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
      created = executor.ok();
      if (created) continue;
      const std::string error(executor.status().message());
      EXPECT_THAT(error, HasSubstr("EMFILE"));
      calls.insert(error.substr(0, error.find(':')));
      EXPECT_EQ(CountDescriptors(), before) << n << " " << error;
      EXPECT_FALSE(HasChildren()) << n << " " << error;
    }
    EXPECT_TRUE(created);
    EXPECT_THAT(calls, SizeIs(Gt(2))) << ::testing::PrintToString(calls);
    EXPECT_THAT(calls, Contains(HasSubstr("eventfd")));
  });
  child.ExpectExit(0);
}

TEST_F(ProcessExecutorTest, NoThreadIsAnErrorThatLeavesNothing) {
  auto child = ChildProcess::Start([] {
    ASSERT_THAT(Create(2), IsOk());
    const rlim_t before = CountDescriptors();
    // Threads are made with it, processes are not.
    mp::testing::FailSystemCall(SYS_clone3, EAGAIN);
    EXPECT_THAT(Create(2), StatusIs(absl::StatusCode::kUnavailable,
                                    AllOf(HasSubstr("pthread_create"),
                                          HasSubstr("EAGAIN"))));
    EXPECT_EQ(CountDescriptors(), before);
    EXPECT_FALSE(HasChildren());
  });
  child.ExpectExit(0);
}

}  // namespace
}  // namespace mp::pool_internal
