#include "mp/testing/percentiles.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace mp::testing {
namespace {

TEST(PercentilesTest, AreSamples) {
  const Percentiles three({30, 10, 20});
  EXPECT_EQ(three.count(), 3u);
  EXPECT_EQ(three.at(0), 10);
  EXPECT_EQ(three.at(333), 10);
  EXPECT_EQ(three.at(500), 20);
  EXPECT_EQ(three.at(667), 30);
  EXPECT_EQ(three.at(1000), 30);
  EXPECT_EQ(three.max(), 30);
  EXPECT_EQ(three.mean(), 20);
}

TEST(PercentilesTest, OfTenThousand) {
  std::vector<int64_t> samples(10'000);
  std::iota(samples.rbegin(), samples.rend(), 1);
  const Percentiles percentiles(samples);
  EXPECT_EQ(percentiles.at(500), 5'000);
  EXPECT_EQ(percentiles.at(990), 9'900);
  EXPECT_EQ(percentiles.at(999), 9'990);
  EXPECT_EQ(percentiles.max(), 10'000);
}

TEST(PercentilesTest, OfOne) {
  const Percentiles one({7});
  EXPECT_EQ(one.at(500), 7);
  EXPECT_EQ(one.at(999), 7);
  EXPECT_EQ(one.mean(), 7);
}

}  // namespace
}  // namespace mp::testing
