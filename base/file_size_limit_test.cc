#include "mp/base/file_size_limit.h"

#include <sys/resource.h>

#include <cstddef>
#include <limits>

#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;

class FileSizeLimitTest : public testing::ProcessTest {};

TEST_F(FileSizeLimitTest, IsWhatTheProcessHas) {
  ChildProcess child = ChildProcess::Start([] {
    const rlimit little = {.rlim_cur = 12345, .rlim_max = RLIM_INFINITY};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
    EXPECT_EQ(FileSizeLimit(), 12345u);
    const rlimit none = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
    EXPECT_EQ(FileSizeLimit(), std::numeric_limits<size_t>::max());
  });
  child.ExpectExit();
}

}  // namespace
}  // namespace mp
