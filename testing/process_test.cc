#include "mp/testing/process_test.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace mp::testing {
namespace {

std::string TestName() {
  const ::testing::TestInfo* const test =
      ::testing::UnitTest::GetInstance()->current_test_info();
  return absl::StrCat("test ", test->test_suite_name(), ".", test->name());
}

}  // namespace

ProcessTest::ProcessTest() : watchdog_(TestName()) {}

ProcessTest::~ProcessTest() {
  for (const std::string& difference : leak_check_.Compare()) {
    ADD_FAILURE() << "left behind by the test: " << difference;
  }
}

}  // namespace mp::testing
