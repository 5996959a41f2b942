#include "mp/pool/memory_growth.h"

#include <fcntl.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>

namespace mp::pool_internal {

MemoryGrowth::MemoryGrowth(size_t limit_bytes) : limit_bytes_(limit_bytes) {
  if (limit_bytes_ == 0) return;
  statm_.reset(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  at_first_ = ResidentBytes();
}

uint64_t MemoryGrowth::ResidentBytes() const {
  char text[128];
  const ssize_t length = pread(statm_.get(), text, sizeof(text) - 1, 0);
  if (length <= 0) return 0;
  text[length] = '\0';
  // "size resident shared ...", in pages: see proc(5).
  uint64_t pages = 0;
  if (sscanf(text, "%*u %" SCNu64, &pages) != 1) return 0;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace mp::pool_internal
