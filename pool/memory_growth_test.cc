#include "mp/pool/memory_growth.h"

#include <cstddef>
#include <cstring>
#include <memory>

#include "gtest/gtest.h"

namespace mp::pool_internal {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

std::unique_ptr<char[]> Touched(size_t bytes) {
  auto memory = std::make_unique<char[]>(bytes);
  memset(memory.get(), 1, bytes);
  return memory;
}

TEST(MemoryGrowthTest, CountsFromTheBeginning) {
  const auto before = Touched(64 * kMiB);
  const MemoryGrowth growth(64 * kMiB);
  EXPECT_FALSE(growth.IsTooMuch());
  const auto some = Touched(kMiB);  // a sanitizer takes several times that
  EXPECT_FALSE(growth.IsTooMuch());
  const auto much = Touched(128 * kMiB);
  EXPECT_TRUE(growth.IsTooMuch());
}

TEST(MemoryGrowthTest, WithoutALimitNothingIsTooMuch) {
  const MemoryGrowth growth(0);
  const auto much = Touched(64 * kMiB);
  EXPECT_FALSE(growth.IsTooMuch());
}

}  // namespace
}  // namespace mp::pool_internal
