// The fixture for tests that start processes or use shared memory.
//
//   class LockTest : public mp::testing::ProcessTest {};
//   TEST_F(LockTest, ...) { ... }
//
// Every test is bounded by the watchdog and followed by the leak check; what is
// left behind fails it. There is deliberately no way to allow a leak in a test;
// what the library keeps for the life of a process is listed in
// mp/testing/leak_check.h.

#ifndef MP_TESTING_PROCESS_TEST_H_
#define MP_TESTING_PROCESS_TEST_H_

#include "gtest/gtest.h"
#include "mp/testing/leak_check.h"
#include "mp/testing/watchdog.h"

namespace mp::testing {

// Works with the ordinary main of GoogleTest. The leak check runs when the
// fixture is destroyed, after the members of derived fixtures have gone and
// whatever they do in SetUp and TearDown.
class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest();
  ~ProcessTest() override;

 private:
  Watchdog watchdog_;
  LeakCheck leak_check_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_PROCESS_TEST_H_
