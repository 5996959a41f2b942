#include "mp/ipc/simple_queue.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/attachments_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;

class SimpleQueueTest : public testing::ProcessTest {};

// CPython: test_empty, test_get, test_put of TestSimpleQueue.
TEST_F(SimpleQueueTest, BetweenProcesses) {
  SimpleQueue<std::string> there;
  SimpleQueue<std::string> back;
  EXPECT_TRUE(there.Empty());
  auto child = ChildProcess::Start([&] {
    for (int i = 0; i < 100; ++i) {
      ASSERT_OK(back.Put(there.Get().value() + "!"));
    }
  });
  for (int i = 0; i < 100; ++i) {
    ASSERT_OK(there.Put(std::to_string(i)));
    ASSERT_THAT(back.Get(), IsOkAndHolds(std::to_string(i) + "!"));
  }
  child.ExpectExit();
  ASSERT_OK(there.Put("left"));
  EXPECT_FALSE(there.Empty());
}

// CPython: test_close of TestSimpleQueue.
TEST_F(SimpleQueueTest, Close) {
  SimpleQueue<int> queue;
  ASSERT_OK(queue.Put(1));
  queue.Close();
  queue.Close();
  EXPECT_THAT(queue.Put(2), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(1));
  EXPECT_THAT(queue.Get(), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST_F(SimpleQueueTest, Travels) {
  SimpleQueue<int> queue = SimpleQueue<int>::Create().value();
  const auto message = Pack(queue);
  ASSERT_OK(message);
  auto other = Unpack<SimpleQueue<int>>(*message);
  ASSERT_OK(other);
  ASSERT_OK(other->Put(5));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(5));
  EXPECT_EQ(queue, SimpleQueue<int>(queue));
  EXPECT_NE(queue, SimpleQueue<int>());
}

}  // namespace
}  // namespace mp
