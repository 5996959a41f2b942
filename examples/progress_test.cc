#include "mp/examples/progress.h"

#include <chrono>
#include <sstream>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mp::examples {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(ProgressTest, FormatsBytes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1500), "1.5 kB");
  EXPECT_EQ(FormatBytes(12.34e6), "12.3 MB");
  EXPECT_EQ(FormatBytes(5e9), "5.0 GB");
  EXPECT_EQ(FormatBytes(5e15), "5000.0 TB");
}

TEST(ProgressTest, FormatsText) {
  EXPECT_EQ(ProgressText(100'000'000, 400'000'000, 2),
            " 25%  100.0 MB of 400.0 MB  50.0 MB/s  0:06 left");
  EXPECT_EQ(ProgressText(1'000, 1'000'000, 1),
            "  0%  1.0 kB of 1.0 MB  1.0 kB/s  16:39 left");
  EXPECT_EQ(ProgressText(400, 400, 4), "100%  400 B of 400 B  100 B/s");
}

TEST(ProgressTest, NothingDoneOrNothingToDo) {
  EXPECT_EQ(ProgressText(0, 400, 0), "  0%  0 B of 400 B  0 B/s");
  EXPECT_EQ(ProgressText(0, 0, 1), "100%  0 B of 0 B  0 B/s");
  // A file has grown since it was found.
  EXPECT_THAT(ProgressText(500, 400, 1), StartsWith("100%"));
}

void WaitMillis(int millis) {
  std::this_thread::sleep_for(std::chrono::milliseconds(millis));
}

TEST(ProgressTest, Bar) {
  std::ostringstream out;
  {
    Progress progress(out, Progress::Style::kBar, 1000);
    WaitMillis(120);
    progress.Add(500);
    EXPECT_THAT(out.str(),
                StartsWith("[############............]  50%  500 B"));
    EXPECT_THAT(out.str(), Not(HasSubstr("\n")));
    progress.Message("careful");
    // The bar is wiped out first.
    EXPECT_THAT(out.str(), EndsWith(" \rcareful\n"));
    WaitMillis(120);
    progress.Add(500);
    EXPECT_THAT(out.str(), HasSubstr("[########################] 100%"));
  }
  EXPECT_THAT(out.str(), EndsWith(" \r"));
}

TEST(ProgressTest, Lines) {
  std::ostringstream out;
  {
    Progress progress(out, Progress::Style::kLines, 1000);
    WaitMillis(1020);
    progress.Add(250);
    progress.Message("careful");
  }
  EXPECT_THAT(out.str(), StartsWith(" 25%  250 B of 1.0 kB"));
  EXPECT_THAT(out.str(), EndsWith(" left\ncareful\n"));
  EXPECT_THAT(out.str(), Not(HasSubstr("\r")));
}

}  // namespace
}  // namespace mp::examples
