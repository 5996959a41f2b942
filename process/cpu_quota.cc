#include "mp/process/cpu_quota.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"

namespace mp::process_internal {
namespace {

constexpr int kNoLimit = std::numeric_limits<int>::max();

int Processors(int64_t quota, int64_t period) {
  if (quota <= 0 || period <= 0) return kNoLimit;
  return static_cast<int>(
      std::clamp<int64_t>((quota + period - 1) / period, 1, kNoLimit));
}

// Version 2, in one file: "max 100000" or "150000 100000".
int LimitOf2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  int64_t quota, period;
  return file >> quota >> period ? Processors(quota, period) : kNoLimit;
}

// Version 1, in two files; -1 is no limit.
int LimitOf1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us");
  std::ifstream period_file(directory + "/cpu.cfs_period_us");
  int64_t quota, period;
  return quota_file >> quota && period_file >> period
             ? Processors(quota, period)
             : kNoLimit;
}

// The least of a group's and of all groups' above it.
int Least(const std::string& mount, std::string group,
          int (*limit)(const std::string&)) {
  int least = limit(mount);
  while (group.size() > 1) {
    least = std::min(least, limit(mount + group));
    group.resize(group.rfind('/'));
  }
  return least;
}

}  // namespace

int CpuQuota(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  const std::string mount = root + "/sys/fs/cgroup";
  int least = kNoLimit;
  // "0::/user.slice" (version 2), "4:cpu,cpuacct:/docker/12ab" (version 1).
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> fields =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3 || fields[2].empty() || fields[2][0] != '/') {
      continue;
    }
    if (fields[1].empty()) {
      least = std::min(least, Least(mount, fields[2], LimitOf2));
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    if (std::count(controllers.begin(), controllers.end(), "cpu") > 0) {
      for (const char* const name : {"/cpu", "/cpu,cpuacct"}) {
        least = std::min(least, Least(mount + name, fields[2], LimitOf1));
      }
    }
  }
  return least;
}

}  // namespace mp::process_internal
