#include "mp/testing/gang.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp::testing {
namespace {

class GangTest : public ProcessTest {};

struct Counters {
  std::atomic<int64_t> operations[3] = {};
  std::atomic<pid_t> pids[3] = {};
};

TEST_F(GangTest, EveryMemberDoesEveryRoundInAProcessOfItsOwn) {
  SharedPage<Counters> counters;
  Gang gang(3, [&](int member, int64_t operations) {
    counters->operations[member] += operations;
    counters->pids[member] = getpid();
  });
  EXPECT_GE(gang.Run(5), 0);
  EXPECT_GE(gang.Run(7), 0);
  for (int member = 0; member < 3; ++member) {
    EXPECT_EQ(counters->operations[member], 12);
    EXPECT_NE(counters->pids[member], getpid());
  }
  EXPECT_NE(counters->pids[0], counters->pids[1]);
}

TEST_F(GangTest, TimesTheWork) {
  Gang gang(2, [](int, int64_t operations) {
    absl::SleepFor(absl::Microseconds(operations));
  });
  EXPECT_GE(gang.Run(20'000), 0.02);
}

TEST_F(GangTest, MembersLeaveAsTheyAreTold) {
  SharedPage<Counters> counters;
  {
    Gang gang(
        2, [&](int member, int64_t) { counters->pids[member] = getpid(); },
        [&] {
          for (int member = 0; member < 2; ++member) {
            if (counters->pids[member] == getpid()) {
              ++counters->operations[member];
            }
          }
        });
    gang.Run(1);
    EXPECT_EQ(counters->operations[0], 0);
    EXPECT_EQ(counters->operations[1], 0);
  }
  EXPECT_EQ(counters->operations[0], 1);
  EXPECT_EQ(counters->operations[1], 1);
}

TEST_F(GangTest, DeadMemberAborts) {
  EXPECT_DEATH(
      {
        Gang gang(2, [](int member, int64_t) {
          if (member == 1) _exit(0);
        });
        gang.Run(1);
      },
      "a member of the gang died");
}

}  // namespace
}  // namespace mp::testing
