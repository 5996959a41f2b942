#include "mp/ipc/task_accounts.h"

#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/ipc/ring.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;

class TaskAccountsTest : public testing::ProcessTest {
 protected:
  void Take(uint32_t number) {
    ASSERT_OK(accounts_.BeginTake(number));
    accounts_.EndTake();
  }
  absl::Status Join() { return accounts_.Join(ring_, Deadline::Now()); }

  Ring ring_ = Ring::Create({.name = "test"}).value();
  TaskAccounts accounts_ = TaskAccounts::Create().value();
};

TEST_F(TaskAccountsTest, IntentAloneCountsNothing) {
  ASSERT_OK(accounts_.BeginTake(ring_.gotten()));  // still the next one
  EXPECT_OK(Join());
  EXPECT_THAT(accounts_.Done(ring_),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(TaskAccountsTest, NumbersWrap) {
  constexpr uint32_t kLast = std::numeric_limits<uint32_t>::max();
  // The last one as if 2^32 records later.
  for (const uint32_t number : {kLast, 0u, 1u, 1u}) Take(number);
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kDeadlineExceeded));
    EXPECT_OK(accounts_.Done(ring_));
  }
  EXPECT_OK(Join());
}

// Who has nothing unfinished needs no account.
TEST_F(TaskAccountsTest, AccountsAreUsedAgain) {
  for (size_t i = 0; i < TaskAccounts::kMaxAccounts + 10; ++i) {
    auto child = ChildProcess::Start([&] {
      Take(7);
      ASSERT_OK(accounts_.Done(ring_));
    });
    child.ExpectExit();
  }
  EXPECT_OK(Join());
}

TEST_F(TaskAccountsTest, NoAccountIsLeft) {
  for (size_t i = 0; i < TaskAccounts::kMaxAccounts; ++i) {
    auto child = ChildProcess::Start([&] { Take(7); });
    child.ExpectExit();
  }
  EXPECT_THAT(accounts_.BeginTake(8),
              StatusIs(absl::StatusCode::kResourceExhausted));
  // Writes off what the dead have.
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kAborted));
  EXPECT_OK(accounts_.BeginTake(8));
}

}  // namespace
}  // namespace mp::ipc_internal
