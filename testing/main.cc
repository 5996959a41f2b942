// GoogleTest's main() for programs whose processes are also started afresh. The
// test programs that only fork have @googletest//:gtest_main.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/process/process.h"

int main(int argc, char** argv) {
  mp::Init(&argc, &argv);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
