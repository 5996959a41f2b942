#include "mp/base/spin.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace mp {
namespace {

TEST(SpinTest, CountsTheAffinityMask) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_EQ(AvailableProcessors(), CPU_COUNT(&set));
  EXPECT_GE(AvailableProcessors(), 1);
}

TEST(SpinTest, CountIsTakenOnceAndInherited) {
  const int count = AvailableProcessors();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) _exit(2);
    _exit(AvailableProcessors() == count ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(SpinTest, CountCanBeSetAndTakenAnew) {
  const int count = AvailableProcessors();
  SetAvailableProcessorsForTest(count + 1);
  EXPECT_EQ(AvailableProcessors(), count + 1);
  SetAvailableProcessorsForTest(0);
  EXPECT_EQ(AvailableProcessors(), count);
}

TEST(SpinTest, CpuRelaxReturns) {
  for (int i = 0; i < 1000; ++i) CpuRelax();
}

}  // namespace
}  // namespace mp
