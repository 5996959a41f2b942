#include "mp/ipc/joinable_queue.h"

#include <signal.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/attachments_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::StartsWith;

class JoinableQueueTest : public testing::ProcessTest {
 protected:
  static auto Unfinished() {
    return StatusIs(absl::StatusCode::kDeadlineExceeded);
  }
  static auto TooOften() {
    return StatusIs(absl::StatusCode::kFailedPrecondition);
  }
  static auto Lost(int items) {
    return StatusIs(absl::StatusCode::kAborted,
                    StartsWith(std::to_string(items) + " items were lost"));
  }
};

TEST_F(JoinableQueueTest, CountsWhatIsUnfinished) {
  JoinableQueue<int> queue;
  EXPECT_OK(queue.Join());
  EXPECT_OK(queue.Join(absl::ZeroDuration()));
  EXPECT_THAT(queue.TaskDone(), TooOften());
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(queue.Put(i));
    EXPECT_THAT(queue.Join(absl::ZeroDuration()), Unfinished());
  }
  EXPECT_THAT(queue.TaskDone(), TooOften());
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(queue.Join(absl::Milliseconds(1)), Unfinished());
    EXPECT_THAT(queue.GetNowait(), IsOkAndHolds(i));
  }
  EXPECT_THAT(queue.GetNowait(), StatusIs(absl::StatusCode::kUnavailable));
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(queue.Join(absl::ZeroDuration()), Unfinished());
    EXPECT_OK(queue.TaskDone());
  }
  EXPECT_OK(queue.Join());
  EXPECT_THAT(queue.TaskDone(), TooOften());
}

TEST_F(JoinableQueueTest, OtherwiseAQueue) {
  JoinableQueue<int> queue(/*maxsize=*/2);
  EXPECT_TRUE(queue.Empty());
  ASSERT_OK(queue.Put(1));
  ASSERT_OK(queue.PutNowait(2));
  EXPECT_TRUE(queue.Full());
  EXPECT_EQ(queue.qsize(), 2u);
  EXPECT_THAT(queue.PutNowait(3),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(queue.Put(3, absl::Milliseconds(1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  queue.Close();
  EXPECT_TRUE(queue.closed());
  EXPECT_THAT(queue.Put(3), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(1));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(2));
  EXPECT_THAT(queue.Get(), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_OK(queue.TaskDone());
  EXPECT_OK(queue.TaskDone());
  EXPECT_OK(queue.Join());
}

// CPython: test_task_done of _TestQueue.
TEST_F(JoinableQueueTest, JoinWaitsForFourWorkers) {
  JoinableQueue<int> queue;
  const SharedPage<std::atomic<int>> done;
  std::vector<ChildProcess> workers;
  for (int i = 0; i < 4; ++i) {
    workers.push_back(ChildProcess::Start([&] {
      for (;;) {
        const absl::StatusOr<int> item = queue.Get();
        ASSERT_OK(item);
        if (*item < 0) break;
        ++*done;
        ASSERT_OK(queue.TaskDone());
      }
      ASSERT_OK(queue.TaskDone());
    }));
  }
  for (int round = 1; round <= 100; ++round) {
    for (int i = 0; i < 10; ++i) ASSERT_OK(queue.Put(i));
    ASSERT_OK(queue.Join());
    ASSERT_EQ(*done, 10 * round);
  }
  for (int i = 0; i < 4; ++i) ASSERT_OK(queue.Put(-1));
  for (ChildProcess& worker : workers) worker.ExpectExit();
  EXPECT_OK(queue.Join());
}

TEST_F(JoinableQueueTest, ThreadsShareTheAccountOfTheirProcess) {
  JoinableQueue<int> queue;
  for (int i = 0; i < 1000; ++i) ASSERT_OK(queue.Put(i));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&queue] {
      while (queue.GetNowait().ok()) EXPECT_OK(queue.TaskDone());
    });
  }
  EXPECT_OK(queue.Join());
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(queue.TaskDone(), TooOften());
}

TEST_F(JoinableQueueTest, ChildrenHaveAccountsOfTheirOwn) {
  JoinableQueue<int> queue;
  ASSERT_OK(queue.Put(1));
  ASSERT_OK(queue.Get());
  auto child = ChildProcess::Start(
      [&queue] { EXPECT_THAT(queue.TaskDone(), TooOften()); });
  child.ExpectExit();
  EXPECT_THAT(queue.Join(absl::ZeroDuration()), Unfinished());
  EXPECT_OK(queue.TaskDone());
  EXPECT_OK(queue.Join());
}

// ---- Deaths.

TEST_F(JoinableQueueTest, JoinTellsWhatWasLost) {
  JoinableQueue<int> queue;
  for (int i = 0; i < 5; ++i) ASSERT_OK(queue.Put(i));
  auto worker = ChildProcess::Start([&queue] {
    for (int i = 0; i < 4; ++i) ASSERT_OK(queue.Get());
    ASSERT_OK(queue.TaskDone());
    queue.Join().IgnoreError();  // until it is killed
  });
  ASSERT_TRUE(worker.WaitUntilAsleep());
  EXPECT_THAT(queue.Join(absl::Milliseconds(1)), Unfinished());
  worker.Kill();
  worker.ExpectSignal(SIGKILL);
  EXPECT_THAT(queue.Join(absl::ZeroDuration()), Unfinished());
  EXPECT_THAT(queue.Get(), IsOkAndHolds(4));
  EXPECT_OK(queue.TaskDone());
  EXPECT_THAT(queue.Join(), Lost(3));
  EXPECT_OK(queue.Join());  // said once
}

TEST_F(JoinableQueueTest, DeathWakesWhoJoins) {
  JoinableQueue<int> queue;
  ASSERT_OK(queue.Put(1));
  auto worker = ChildProcess::Start([&queue] {
    ASSERT_OK(queue.Get());
    queue.Join().IgnoreError();
  });
  ASSERT_TRUE(worker.WaitUntilAsleep());
  auto joiner =
      ChildProcess::Start([&queue] { EXPECT_THAT(queue.Join(), Lost(1)); });
  ASSERT_TRUE(joiner.WaitUntilAsleep());
  worker.Kill();
  worker.ExpectSignal(SIGKILL);
  joiner.ExpectExit();
  EXPECT_THAT(queue.Join(), Lost(1));  // said to each process
}

TEST_F(JoinableQueueTest, WorkersThatEndWithoutTaskDone) {
  JoinableQueue<int> queue;
  for (int i = 0; i < 20; ++i) {
    ASSERT_OK(queue.Put(i));
    auto worker = ChildProcess::Start([&queue] { ASSERT_OK(queue.Get()); });
    worker.ExpectExit();
  }
  EXPECT_THAT(queue.Join(), Lost(20));
}

TEST_F(JoinableQueueTest, Travels) {
  JoinableQueue<std::string> queue;
  const auto message = Pack(queue);
  ASSERT_OK(message);
  auto other = Unpack<JoinableQueue<std::string>>(*message);
  ASSERT_OK(other);
  ASSERT_OK(other->Put("x"));
  EXPECT_THAT(queue.Get(), IsOkAndHolds("x"));
  EXPECT_THAT(other->Join(absl::ZeroDuration()), Unfinished());
  EXPECT_OK(queue.TaskDone());
  EXPECT_OK(other->Join());
  EXPECT_EQ(queue, JoinableQueue<std::string>(queue));
}

}  // namespace
}  // namespace mp
