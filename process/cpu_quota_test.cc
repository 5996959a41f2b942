#include "mp/process/cpu_quota.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/testing/process_test.h"

namespace mp::process_internal {
namespace {

constexpr int kNoLimit = std::numeric_limits<int>::max();

// A machine made of files.
class CpuQuotaTest : public mp::testing::ProcessTest {
 protected:
  CpuQuotaTest() {
    std::string name = std::filesystem::temp_directory_path() / "mpXXXXXX";
    MP_PCHECK(mkdtemp(name.data()) != nullptr) << "mkdtemp";
    root_ = name;
  }
  ~CpuQuotaTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  int Quota() const { return CpuQuota(root_); }

 private:
  std::string root_;
};

TEST_F(CpuQuotaTest, OfThisMachine) { EXPECT_GE(CpuQuota(), 1); }

TEST_F(CpuQuotaTest, NoGroups) { EXPECT_EQ(Quota(), kNoLimit); }

TEST_F(CpuQuotaTest, Version2) {
  Write("/proc/self/cgroup", "0::/a/b");
  EXPECT_EQ(Quota(), kNoLimit);
  Write("/sys/fs/cgroup/a/b/cpu.max", "max 100000");
  EXPECT_EQ(Quota(), kNoLimit);
  Write("/sys/fs/cgroup/a/b/cpu.max", "400000 100000");
  EXPECT_EQ(Quota(), 4);
  Write("/sys/fs/cgroup/a/cpu.max", "150000 100000");
  EXPECT_EQ(Quota(), 2) << "rounded up, of the group above";
  Write("/sys/fs/cgroup/cpu.max", "1000 100000");
  EXPECT_EQ(Quota(), 1);
}

// As a container sees it: the group's path is not there, its files are at the
// top.
TEST_F(CpuQuotaTest, InAContainer) {
  Write("/proc/self/cgroup", "0::/docker/12ab");
  Write("/sys/fs/cgroup/cpu.max", "300000 100000");
  EXPECT_EQ(Quota(), 3);
}

TEST_F(CpuQuotaTest, Version1) {
  Write("/proc/self/cgroup", "12:memory:/x\n4:cpu,cpuacct:/a\n0::/user.slice");
  Write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1");
  Write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000");
  EXPECT_EQ(Quota(), kNoLimit);
  Write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "250000");
  EXPECT_EQ(Quota(), 3);
}

TEST_F(CpuQuotaTest, Nonsense) {
  Write("/proc/self/cgroup", "nonsense\n0:\n0::");
  EXPECT_EQ(Quota(), kNoLimit);
  Write("/proc/self/cgroup", "0::/a");
  for (const char* const text : {"", "x y", "0 100000", "100000 0", "5"}) {
    Write("/sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(Quota(), kNoLimit) << text;
  }
}

}  // namespace
}  // namespace mp::process_internal
