// How much memory a process has gained since some moment. Internal to workers.

#ifndef MP_POOL_MEMORY_GROWTH_H_
#define MP_POOL_MEMORY_GROWTH_H_

#include <cstddef>
#include <cstdint>

#include "mp/base/unique_fd.h"

namespace mp::pool_internal {

// Of the resident set, so that what a fork has from its parent does not count.
class MemoryGrowth {
 public:
  // From now on. With a limit of 0, nothing is too much and nothing is looked
  // at.
  explicit MemoryGrowth(size_t limit_bytes);

  bool IsTooMuch() const {
    return limit_bytes_ != 0 && ResidentBytes() > at_first_ + limit_bytes_;
  }

 private:
  // 0 if that cannot be said.
  uint64_t ResidentBytes() const;

  const size_t limit_bytes_;
  UniqueFd statm_;
  uint64_t at_first_ = 0;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_MEMORY_GROWTH_H_
