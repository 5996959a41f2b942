#include "mp/base/check.h"

#include <errno.h>
#include <signal.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace mp {
namespace {

TEST(CheckTest, TrueConditionDoesNotEvaluateTheMessage) {
  int evaluated = 0;
  const auto text = [&evaluated] {
    ++evaluated;
    return "text";
  };
  MP_CHECK(1 + 1 == 2) << text();
  MP_PCHECK(1 + 1 == 2) << text();
  MP_CHECK_OK(absl::OkStatus());
  EXPECT_EQ(evaluated, 0);
}

TEST(CheckTest, EvaluatesTheConditionOnce) {
  int evaluated = 0;
  MP_CHECK(++evaluated > 0);
  EXPECT_EQ(evaluated, 1);
  MP_CHECK_OK((++evaluated, absl::OkStatus()));
  EXPECT_EQ(evaluated, 2);
}

TEST(CheckTest, IsOneStatement) {
  // An `else` after a check must not attach to something inside the macro.
  bool reached = false;
  if (reached)
    MP_CHECK(false) << "not reached";
  else
    reached = true;
  EXPECT_TRUE(reached);
}

TEST(CheckDeathTest, NamesPlaceConditionAndMessage) {
  const int index = 7;
  EXPECT_DEATH(MP_CHECK(index < 5)
                   << "index " << index << " of " << std::string("5"),
               "check_test\\.cc:[0-9]+: check failed in process [0-9]+: "
               "index < 5 index 7 of 5");
}

TEST(CheckDeathTest, AbortsWithoutAMessage) {
  EXPECT_EXIT(MP_CHECK(2 < 1), ::testing::KilledBySignal(SIGABRT), "2 < 1");
}

TEST(CheckDeathTest, PcheckAddsErrnoOfTheFailure) {
  // The arguments of the message may change errno; the failure's is shown.
  const auto clobber = [] {
    errno = EBADF;
    return "call";
  };
  EXPECT_DEATH(
      {
        errno = EMFILE;
        MP_PCHECK(errno == 0) << clobber();
      },
      "errno == 0 call: Too many open files \\(EMFILE, errno 24\\)");
}

TEST(CheckDeathTest, CheckOkPrintsTheStatus) {
  EXPECT_DEATH(MP_CHECK_OK(absl::DataLossError("torn header")),
               "DATA_LOSS: torn header");
}

TEST(ValueOrDieTest, IsTheValue) {
  EXPECT_EQ(*ValueOrDie<std::unique_ptr<int>>(std::make_unique<int>(3)), 3);
}

TEST(ValueOrDieDeathTest, PrintsTheStatus) {
  EXPECT_DEATH(ValueOrDie<int>(absl::ResourceExhaustedError("memfd_create")),
               "RESOURCE_EXHAUSTED: memfd_create");
}

}  // namespace
}  // namespace mp
