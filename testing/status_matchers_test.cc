#include "mp/testing/status_matchers.h"

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"

namespace mp::testing {
namespace {

using ::testing::_;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<int> Seven() { return 7; }
absl::StatusOr<int> NoInt() { return absl::NotFoundError("no such int"); }

TEST(StatusMatchersTest, IsOkLooksAtStatusAndStatusOr) {
  EXPECT_THAT(absl::OkStatus(), IsOk());
  EXPECT_THAT(absl::InternalError("x"), Not(IsOk()));
  EXPECT_THAT(Seven(), IsOk());
  EXPECT_THAT(NoInt(), Not(IsOk()));
}

TEST(StatusMatchersTest, IsOkAndHoldsTakesValuesAndMatchers) {
  EXPECT_THAT(Seven(), IsOkAndHolds(7));
  EXPECT_THAT(Seven(), IsOkAndHolds(Gt(6)));
  EXPECT_THAT(Seven(), Not(IsOkAndHolds(8)));
  EXPECT_THAT(NoInt(), Not(IsOkAndHolds(_)));
  EXPECT_THAT(absl::StatusOr<std::string>("text"), IsOkAndHolds("text"));
}

TEST(StatusMatchersTest, StatusIsComparesCodeAndMessage) {
  EXPECT_THAT(NoInt(), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(NoInt(), StatusIs(absl::StatusCode::kNotFound, "no such int"));
  EXPECT_THAT(NoInt(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("such")));
  EXPECT_THAT(NoInt(), Not(StatusIs(absl::StatusCode::kInternal)));
  EXPECT_THAT(NoInt(), Not(StatusIs(absl::StatusCode::kNotFound, "other")));
  EXPECT_THAT(absl::OkStatus(), StatusIs(absl::StatusCode::kOk));
}

TEST(StatusMatchersTest, AssignsTheValue) {
  ASSERT_OK_AND_ASSIGN(const int seven, Seven());
  EXPECT_EQ(seven, 7);
  int again = 0;
  ASSERT_OK_AND_ASSIGN(again, Seven());
  EXPECT_EQ(again, 7);
}

TEST(StatusMatchersTest, AssignsMoveOnlyValues) {
  absl::StatusOr<std::unique_ptr<int>> pointer = std::make_unique<int>(3);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<int> three, std::move(pointer));
  EXPECT_EQ(*three, 3);
}

TEST(StatusMatchersTest, AssignsToDeclarationsWithCommas) {
  absl::StatusOr<std::pair<int, int>> both = std::make_pair(1, 2);
  ASSERT_OK_AND_ASSIGN((const auto [one, two]), both);
  EXPECT_EQ(one, 1);
  EXPECT_EQ(two, 2);
  absl::StatusOr<std::map<int, int>> made = std::map<int, int>{{1, 2}};
  ASSERT_OK_AND_ASSIGN((const std::map<int, int> map), made);
  EXPECT_EQ(map.at(1), 2);
}

TEST(StatusMatchersTest, FailuresShowTheStatus) {
  EXPECT_NONFATAL_FAILURE(EXPECT_OK(NoInt()), "NOT_FOUND: no such int");
  EXPECT_NONFATAL_FAILURE(EXPECT_THAT(NoInt(), IsOkAndHolds(1)),
                          "NOT_FOUND: no such int");
  EXPECT_NONFATAL_FAILURE(EXPECT_THAT(Seven(), IsOkAndHolds(1)), "holds 7");
  EXPECT_FATAL_FAILURE(ASSERT_OK(NoInt()), "NOT_FOUND: no such int");
  EXPECT_FATAL_FAILURE(
      {
        ASSERT_OK_AND_ASSIGN(const int none, NoInt());
        (void)none;
      },
      "NOT_FOUND: no such int");
}

}  // namespace
}  // namespace mp::testing
