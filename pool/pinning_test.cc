#include "mp/pool/pinning.h"

#include <sched.h>

#include <limits>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

std::vector<int> UsableProcessors() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<int> usable;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) usable.push_back(i);
  }
  return usable;
}

TEST(PinningTest, PinsTheCallingThreadOnly) {
  const std::vector<int> usable = UsableProcessors();
  EXPECT_THAT(CheckProcessors(usable), IsOk());
  for (const int processor : usable) {
    std::thread([processor] {
      EXPECT_THAT(PinThisThread(processor), IsOk());
      EXPECT_EQ(UsableProcessors(), std::vector<int>{processor});
      EXPECT_EQ(sched_getcpu(), processor);
    }).join();
  }
  EXPECT_EQ(UsableProcessors(), usable);
}

TEST(PinningTest, NamesTheProcessorThatIsNone) {
  EXPECT_THAT(CheckProcessors({}), IsOk());
  for (const int none : {-1, CPU_SETSIZE, std::numeric_limits<int>::max()}) {
    EXPECT_THAT(CheckProcessors(std::vector<int>{UsableProcessors()[0], none}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(std::to_string(none))));
  }
  // There is hardly a machine with that many.
  const auto last = CPU_SETSIZE - 1;
  EXPECT_THAT(CheckProcessors(std::vector<int>{last}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(PinThisThread(last), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("sched_setaffinity")));
}

}  // namespace
}  // namespace mp::pool_internal
