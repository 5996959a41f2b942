#include "mp/testing/fuzz_input.h"

#include <cstddef>
#include <cstdint>

#include "gtest/gtest.h"

namespace mp::testing {
namespace {

TEST(FuzzInputTest, TakesFromTheFront) {
  const uint8_t data[] = {0x04, 0x03, 0x02, 0x01, 7, 1, 8, 9, 10};
  FuzzInput input(data, sizeof(data));
  const uint32_t number = input.Take<uint32_t>();
  EXPECT_TRUE(number == 0x01020304 || number == 0x04030201);
  EXPECT_EQ(input.Below(5), 2u);
  EXPECT_TRUE(input.Bool());
  const auto bytes = input.Bytes(2);
  ASSERT_EQ(bytes.size(), 2u);
  EXPECT_EQ(bytes[1], std::byte{9});
  EXPECT_FALSE(input.empty());
  EXPECT_EQ(input.Rest().size(), 1u);
  EXPECT_TRUE(input.empty());
}

TEST(FuzzInputTest, IsZeroAfterTheEnd) {
  const uint8_t data[] = {0, 0, 0x12};
  FuzzInput input(data, sizeof(data));
  EXPECT_NE(input.Take<uint32_t>(), 0u);
  EXPECT_EQ(input.Take<uint64_t>(), 0u);
  EXPECT_EQ(input.Below(256), 0u);
  EXPECT_TRUE(input.Bytes(3).empty());
  EXPECT_TRUE(FuzzInput(nullptr, 0).Rest().empty());
}

}  // namespace
}  // namespace mp::testing
