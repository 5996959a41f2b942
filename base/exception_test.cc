#include "mp/base/exception.h"

#include <stdexcept>
#include <string>

#include "gtest/gtest.h"

namespace mp {
namespace {

template <class Thrown>
std::string Describe(Thrown thrown) {
  try {
    throw thrown;
  } catch (...) {
    return DescribeCurrentException();
  }
}

TEST(DescribeCurrentExceptionTest, NamesTypeAndMessage) {
  EXPECT_EQ(Describe(std::out_of_range("no such row")),
            "std::out_of_range: no such row");
}

TEST(DescribeCurrentExceptionTest, NamesTheTypeOfWhatIsNoStandardException) {
  EXPECT_EQ(Describe(42), "int");
}

}  // namespace
}  // namespace mp
