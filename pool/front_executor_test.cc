#include "mp/pool/front_executor.h"

#include <cstddef>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/pool_stats.h"
#include "mp/pool/task_control.h"
#include "mp/pool/worker_died.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"
#include "mp/shm/platform.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Does what the test says, when it says so.
class ScriptedExecutor final : public Executor {
 public:
  struct Attempt {
    TaskCode code;
    std::string input;
    std::shared_ptr<TaskSink> sink;
    TaskLimits limits;
  };

  absl::StatusOr<TaskId> Submit(const TaskCode& code, size_t size,
                                TaskOutput::Encoder encode,
                                std::shared_ptr<TaskSink> sink,
                                const TaskLimits& limits) override {
    if (!refusal.ok()) return refusal;
    std::vector<std::byte> input(size);
    if (absl::Status encoded = encode(input); !encoded.ok()) return encoded;
    attempts.push_back({code, Text(input), std::move(sink), limits});
    return attempts.size() * 10;
  }
  bool Cancel(TaskId id, CancelMode mode) override {
    cancelled.push_back(id);
    last_mode = mode;
    if (!may_cancel) return false;
    attempts[id / 10 - 1].sink->Fail(TaskCancelledError());
    return true;
  }
  size_t max_input_size() const override { return 100; }
  bool IsOpen() const override { return refusal.ok(); }
  int workers() const override { return 3; }
  absl::Status Resize(int workers) override {
    resized_to = workers;
    return absl::OkStatus();
  }
  PoolStats Stats() const override { return {.waiting = 5}; }
  std::vector<pid_t> pids() const override { return {7}; }
  bool Wait(absl::FunctionRef<bool()> ready, BasicGate<KernelPlatform>& gate,
            Deadline deadline) override {
    return ready() || gate.Sleep(ready, deadline);
  }
  void Post(std::function<void()> callback) override {
    posted.push_back(std::move(callback));
  }
  void Close() override { closed = true; }
  void Terminate() override { terminated = true; }
  absl::Status Join(Deadline) override {
    if (!closed && !terminated) return absl::FailedPreconditionError("open");
    return absl::OkStatus();
  }

  void RunPosted() {
    while (!posted.empty()) {
      const auto callback = std::move(posted.front());
      posted.pop_front();
      callback();
    }
  }
  // The present attempt's worker.
  void Die() { attempts.back().sink->WorkerDied(WorkerDiedError("W", 1, -9)); }

  absl::Status refusal;
  bool may_cancel = true;
  int resized_to = 0;
  bool closed = false;
  bool terminated = false;
  std::vector<Attempt> attempts;
  std::vector<TaskId> cancelled;
  CancelMode last_mode = CancelMode::kUnbegun;
  std::deque<std::function<void()>> posted;
};

class RecordingSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte> bytes) override {
    parts.push_back(Text(bytes));
  }
  void Finish(std::span<const std::byte> bytes) override {
    Part(bytes);
    ++ends;
  }
  void Fail(absl::Status status) override {
    error = std::move(status);
    ++ends;
  }

  std::vector<std::string> parts;
  absl::Status error;
  int ends = 0;
};

class FrontExecutorTest : public mp::testing::ProcessTest {
 protected:
  FrontExecutorTest() {
    EXPECT_THAT(Liveness::Join(), IsOk());
    workers_ = std::make_shared<ScriptedExecutor>();
    front_ = std::make_shared<FrontExecutor>(workers_);
  }
  // A sink that retries keeps its executor, which keeps its attempts here; a
  // real one gives each sink an end and drops it.
  ~FrontExecutorTest() override {
    workers_->attempts.clear();
    workers_->posted.clear();
  }

  // A task with this input.
  static absl::StatusOr<TaskId> Submit(FrontExecutor& front,
                                       std::shared_ptr<TaskSink> sink,
                                       std::string_view input = "input") {
    return front.Submit(
        &Run, input.size(),
        [input](std::span<std::byte> out) {
          memcpy(out.data(), input.data(), input.size());
          return absl::OkStatus();
        },
        std::move(sink));
  }
  static void Run(std::span<const std::byte>, TaskOutput&) {}

  std::shared_ptr<FrontExecutor> Retrying(int retries) const {
    return front_->With({.retries = retries});
  }

  std::shared_ptr<ScriptedExecutor> workers_;
  std::shared_ptr<FrontExecutor> front_;
  const std::shared_ptr<RecordingSink> sink_ =
      std::make_shared<RecordingSink>();
};

TEST_F(FrontExecutorTest, PassesOnWhatItDoesNotDoItself) {
  ASSERT_THAT(Submit(*front_, sink_), mp::testing::IsOkAndHolds(10u));
  EXPECT_EQ(workers_->attempts[0].sink, sink_) << "nothing in between";
  EXPECT_EQ(workers_->attempts[0].limits.hard, absl::InfiniteDuration());
  EXPECT_FALSE((workers_->may_cancel = false, front_->Cancel(10)));
  EXPECT_THAT(workers_->cancelled, ElementsAre(10));
  EXPECT_EQ(front_->max_input_size(), 100u);
  EXPECT_EQ(front_->workers(), 3);
  EXPECT_THAT(front_->pids(), ElementsAre(7));
  EXPECT_TRUE(front_->IsOpen());
  front_->Terminate();
  EXPECT_TRUE(workers_->terminated);
  EXPECT_THAT(front_->Join(Deadline::Infinite()), IsOk());
}

TEST_F(FrontExecutorTest, GivesTasksTheirLimits) {
  const TaskOptions options = {.timeout = absl::Seconds(3),
                               .soft_timeout = absl::Seconds(2)};
  ASSERT_THAT(Submit(*front_->With(options), sink_), IsOk());
  EXPECT_EQ(workers_->attempts[0].limits.hard, absl::Seconds(3));
  EXPECT_EQ(workers_->attempts[0].limits.soft, absl::Seconds(2));
  // Not with those of what it is made from; and each attempt.
  TaskOptions retrying = options;
  retrying.timeout = absl::Seconds(9);
  retrying.retries = 1;
  ASSERT_THAT(Submit(*front_->With(options)->With(retrying), sink_), IsOk());
  workers_->Die();
  workers_->RunPosted();
  ASSERT_THAT(workers_->attempts, SizeIs(3));
  for (const size_t i : {1, 2}) {
    EXPECT_EQ(workers_->attempts[i].limits.hard, absl::Seconds(9));
    EXPECT_EQ(workers_->attempts[i].limits.soft, absl::Seconds(2));
  }
  workers_->attempts[2].sink->Finish({});
  EXPECT_EQ(sink_->ends, 1);
}

TEST_F(FrontExecutorTest, TaskIsSubmittedAgainWhenItsWorkerHasDied) {
  ASSERT_THAT(Submit(*Retrying(2), sink_), IsOk());
  workers_->attempts[0].sink->Part(Bytes("lost"));
  workers_->Die();
  EXPECT_THAT(workers_->attempts, SizeIs(1)) << "a sink submits nothing";
  workers_->RunPosted();
  ASSERT_THAT(workers_->attempts, SizeIs(2));
  EXPECT_EQ(workers_->attempts[1].input, "input");
  EXPECT_EQ(workers_->attempts[1].code.run, &Run);
  workers_->attempts[1].sink->Part(Bytes("a"));
  workers_->attempts[1].sink->Part(Bytes("b"));
  EXPECT_THAT(sink_->parts, IsEmpty()) << "it may still be lost";
  workers_->attempts[1].sink->Finish(Bytes("c"));
  EXPECT_THAT(sink_->parts, ElementsAre("a", "b", "c"));
  EXPECT_THAT(sink_->error, IsOk());
  EXPECT_EQ(sink_->ends, 1);
}

TEST_F(FrontExecutorTest, LastAttemptHasItsPartsAndSaysHowManyThereWere) {
  ASSERT_THAT(Submit(*Retrying(2), sink_), IsOk());
  for (const char* part : {"one", "two"}) {
    workers_->attempts.back().sink->Part(Bytes(part));
    workers_->Die();
    EXPECT_EQ(sink_->ends, 0);
    workers_->RunPosted();
  }
  ASSERT_THAT(workers_->attempts, SizeIs(3));
  workers_->attempts.back().sink->Part(Bytes("three"));
  workers_->Die();
  workers_->RunPosted();
  EXPECT_THAT(workers_->attempts, SizeIs(3));
  EXPECT_THAT(sink_->parts, ElementsAre("three"));
  EXPECT_EQ(sink_->ends, 1);
  EXPECT_TRUE(IsWorkerDied(sink_->error));
  EXPECT_THAT(sink_->error,
              StatusIs(absl::StatusCode::kAborted,
                       AllOf(HasSubstr("was killed by SIGKILL"),
                             HasSubstr("the last of 3 attempts"))));
}

TEST_F(FrontExecutorTest, OtherErrorsAreFinal) {
  ASSERT_THAT(Submit(*Retrying(5), sink_), IsOk());
  workers_->attempts[0].sink->Fail(absl::AbortedError("by itself"));
  EXPECT_THAT(sink_->error, StatusIs(absl::StatusCode::kAborted, "by itself"));
  EXPECT_THAT(workers_->posted, IsEmpty());
}

TEST_F(FrontExecutorTest, CancelReachesThePresentAttempt) {
  const auto front = Retrying(9);
  ASSERT_OK_AND_ASSIGN(const TaskId id, Submit(*front, sink_));
  workers_->Die();
  workers_->RunPosted();
  workers_->may_cancel = false;
  EXPECT_FALSE(front->Cancel(id));
  EXPECT_THAT(workers_->cancelled, ElementsAre(20)) << "the second attempt";
  EXPECT_EQ(sink_->ends, 0);
  workers_->may_cancel = true;
  EXPECT_TRUE(front->Cancel(id));
  EXPECT_THAT(sink_->error, StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_EQ(sink_->ends, 1);
  EXPECT_FALSE(front->Cancel(id)) << "it has ended";
  EXPECT_FALSE(front->Cancel(id + 1)) << "there is none";
}

TEST_F(FrontExecutorTest, TaskThatIsAskedToStopIsNotRetried) {
  const auto front = Retrying(9);
  ASSERT_OK_AND_ASSIGN(const TaskId id, Submit(*front, sink_));
  workers_->may_cancel = false;
  EXPECT_FALSE(front->Cancel(id));
  workers_->Die();
  workers_->RunPosted();
  ASSERT_THAT(workers_->attempts, SizeIs(2)) << "nobody has asked";
  EXPECT_FALSE(front->Cancel(id, CancelMode::kAskToStop));
  EXPECT_EQ(workers_->last_mode, CancelMode::kAskToStop);
  workers_->Die();
  workers_->RunPosted();
  EXPECT_THAT(workers_->attempts, SizeIs(2));
  EXPECT_TRUE(IsWorkerDied(sink_->error));
}

TEST_F(FrontExecutorTest, CancelBetweenTwoAttempts) {
  const auto front = Retrying(9);
  ASSERT_OK_AND_ASSIGN(const TaskId id, Submit(*front, sink_));
  workers_->Die();
  EXPECT_TRUE(front->Cancel(id));
  EXPECT_THAT(sink_->error, StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_FALSE(front->Cancel(id));
  workers_->RunPosted();
  EXPECT_THAT(workers_->attempts, SizeIs(1));
  EXPECT_EQ(sink_->ends, 1);
}

TEST_F(FrontExecutorTest, CloseLetsTasksBeRetried) {
  const auto front = Retrying(2);
  ASSERT_THAT(Submit(*front, sink_), IsOk());
  front_->Close();
  EXPECT_FALSE(workers_->closed);
  for (FrontExecutor* each : {front_.get(), front.get()}) {
    EXPECT_FALSE(each->IsOpen());
    EXPECT_THAT(
        Submit(*each, std::make_shared<RecordingSink>()),
        StatusIs(absl::StatusCode::kFailedPrecondition, "the pool is closed"));
    EXPECT_THAT(each->Join(Deadline::Now()),
                StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  workers_->Die();
  workers_->RunPosted();
  EXPECT_FALSE(workers_->closed);
  ASSERT_THAT(workers_->attempts, SizeIs(2));
  workers_->attempts[1].sink->Finish(Bytes("done"));
  EXPECT_THAT(sink_->parts, ElementsAre("done"));
  EXPECT_FALSE(workers_->closed) << "a sink closes nothing";
  workers_->RunPosted();
  EXPECT_TRUE(workers_->closed);
  EXPECT_THAT(front_->Join(Deadline::Now()), IsOk());
}

TEST_F(FrontExecutorTest, JoinClosesWhenTheLastRetriedTaskHasEnded) {
  ASSERT_THAT(Submit(*Retrying(1), sink_), IsOk());
  front_->Close();
  workers_->attempts[0].sink->Finish({});
  EXPECT_THAT(front_->Join(Deadline::Infinite()), IsOk());
  EXPECT_TRUE(workers_->closed);
}

TEST_F(FrontExecutorTest, CloseWithoutSuchTasksIsAtOnce) {
  const auto front = Retrying(1);
  ASSERT_THAT(Submit(*front, sink_), IsOk());
  workers_->attempts[0].sink->Finish({});
  // Those that are refused do not count, whatever the reason.
  EXPECT_THAT(
      front->Submit(
          &Run, 1,
          [](std::span<std::byte>) { return absl::DataLossError("x"); }, sink_),
      StatusIs(absl::StatusCode::kDataLoss, "x"));
  EXPECT_THAT(Submit(*front, sink_, std::string(101, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("task_capacity_bytes")));
  workers_->refusal = absl::InternalError("no");
  EXPECT_THAT(Submit(*front, sink_), StatusIs(absl::StatusCode::kInternal, _));
  workers_->refusal = absl::OkStatus();
  EXPECT_EQ(sink_->ends, 1);
  EXPECT_THAT(front_->Join(Deadline::Infinite()),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  front_->Close();
  EXPECT_TRUE(workers_->closed);
}

TEST_F(FrontExecutorTest, TerminatedBetweenTwoAttempts) {
  ASSERT_THAT(Submit(*Retrying(5), sink_), IsOk());
  workers_->Die();
  front_->Terminate();
  workers_->refusal = PoolClosedError();
  workers_->RunPosted();
  EXPECT_THAT(sink_->error, StatusIs(absl::StatusCode::kCancelled,
                                     "the pool was terminated"));
  EXPECT_EQ(sink_->ends, 1);
}

TEST_F(FrontExecutorTest, PoolThatFailsBetweenTwoAttemptsSaysWhy) {
  ASSERT_THAT(Submit(*Retrying(5), sink_), IsOk());
  workers_->Die();
  front_->Close();
  workers_->refusal = absl::NotFoundError("initializer");
  EXPECT_THAT(Submit(*front_, std::make_shared<RecordingSink>()),
              StatusIs(absl::StatusCode::kNotFound, "initializer"));
  workers_->RunPosted();
  EXPECT_THAT(sink_->error,
              StatusIs(absl::StatusCode::kNotFound, "initializer"));
}

TEST_F(FrontExecutorTest, NegativeRetriesAreReported) {
  EXPECT_THAT(
      Submit(*Retrying(-1), sink_),
      StatusIs(absl::StatusCode::kInvalidArgument, "a task with -1 retries"));
}

TEST_F(FrontExecutorTest, NothingIsKeptWhenTheTaskHasEnded) {
  auto front = Retrying(1);
  const std::weak_ptr<FrontExecutor> watch = front;
  auto sink = std::make_shared<RecordingSink>();
  const std::weak_ptr<RecordingSink> sink_watch = sink;
  ASSERT_THAT(Submit(*front, std::move(sink)), IsOk());
  front.reset();
  workers_->Die();
  workers_->RunPosted();
  EXPECT_FALSE(watch.expired());
  EXPECT_FALSE(sink_watch.expired());
  workers_->attempts[1].sink->Finish({});
  EXPECT_TRUE(sink_watch.expired());
  workers_->attempts.clear();
  EXPECT_TRUE(watch.expired());
}

// Whatever another thread held when it was forked.
TEST_F(FrontExecutorTest, IsOfNoUseInAForkedChild) {
  const auto front = Retrying(1);
  ASSERT_OK_AND_ASSIGN(const TaskId id, Submit(*front, sink_));
  auto child = ChildProcess::Start([&] {
    EXPECT_THAT(Submit(*front, sink_),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr("another process")));
    EXPECT_FALSE(front->Cancel(id));
    front->Close();
    EXPECT_FALSE(workers_->closed);
    EXPECT_EQ(sink_->ends, 0);
  });
  child.ExpectExit(0);
  EXPECT_TRUE(front_->IsOpen());
  workers_->attempts[0].sink->Finish({});
}

}  // namespace
}  // namespace mp::pool_internal
