// How much of the machine's processors the control group leaves to a process.

#ifndef MP_PROCESS_CPU_QUOTA_H_
#define MP_PROCESS_CPU_QUOTA_H_

#include <string>

namespace mp::process_internal {

// Processors, rounded up; INT_MAX if there is no limit or nobody tells. Looks
// at the group of this process and at all above it, of version 1 or 2. Under
// `root` for tests.
int CpuQuota(const std::string& root = "");

}  // namespace mp::process_internal

#endif  // MP_PROCESS_CPU_QUOTA_H_
