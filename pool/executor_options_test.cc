#include "mp/pool/executor_options.h"

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ExecutorOptionsTest, ErrorsSayWhatToDo) {
  EXPECT_THAT(InputTooLargeError(50, 40),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("50"), HasSubstr("40"),
                             HasSubstr("PoolOptions::task_capacity_bytes"))));
  EXPECT_THAT(ResultTooLargeError(50, 40),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("50"), HasSubstr("40"),
                             HasSubstr("PoolOptions::result_capacity_bytes"))));
  EXPECT_THAT(ForkedPoolError(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                          HasSubstr("make one here")));
  EXPECT_THAT(InitializerError(absl::StatusCode::kNotFound, "gone"),
              StatusIs(absl::StatusCode::kNotFound,
                       "the pool's initializer failed: gone"));
}

TEST(ExecutorOptionsTest, DeepCopyIsTheSame) {
  absl::Status status = absl::NotFoundError("gone");
  status.SetPayload("where", absl::Cord("here"));
  EXPECT_EQ(DeepCopy(status), status);
  EXPECT_EQ(DeepCopy(absl::OkStatus()), absl::OkStatus());
}

}  // namespace
}  // namespace mp::pool_internal
