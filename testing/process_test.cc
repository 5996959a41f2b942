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

// Read by ThreadSanitizer's run-time library, if the program has it. It cannot
// see the reference count of an absl::Status in the distribution's Abseil,
// which is not instrumented, and takes the last thread's deletion for a race
// with what other threads read before they let go.
// Weak: a program may have its own.
extern "C" __attribute__((weak)) const char* __tsan_default_suppressions() {
  return "race:absl::*Status::Unref\n";
}
