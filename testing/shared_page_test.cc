#include "mp/testing/shared_page.h"

#include <atomic>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/leak_check.h"
#include "mp/testing/process_test.h"

namespace mp::testing {
namespace {

using ::testing::IsEmpty;

class SharedPageTest : public ProcessTest {};

TEST_F(SharedPageTest, IsSharedWithChildren) {
  const SharedPage<std::atomic<int>> count(40);
  auto child = ChildProcess::Start([&] { *count += 2; });
  child.ExpectExit();
  EXPECT_EQ(count->load(), 42);
}

TEST_F(SharedPageTest, IsZeroByDefault) {
  struct Plain {
    int number;
    char text[100'000];
  };
  const SharedPage<Plain> page;
  EXPECT_EQ(page->number, 0);
  EXPECT_EQ(page->text[99'999], '\0');
}

TEST_F(SharedPageTest, IsUnmappedAndDestroyedByItsMaker) {
  struct Counted {
    explicit Counted(int* count) : destroyed(count) {}
    ~Counted() { ++*destroyed; }
    int* destroyed;
  };
  int destroyed = 0;
  const LeakCheck leaks;
  {
    const SharedPage<Counted> page(&destroyed);
    EXPECT_THAT(leaks.Compare(absl::ZeroDuration()), ::testing::SizeIs(1));
  }
  EXPECT_EQ(destroyed, 1);
  EXPECT_THAT(leaks.Compare(), IsEmpty());
}

}  // namespace
}  // namespace mp::testing
