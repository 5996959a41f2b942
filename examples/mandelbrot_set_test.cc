#include "mp/examples/mandelbrot_set.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/picture.h"
#include "mp/examples/worker_test_util.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::examples {
namespace {

using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

class RenderTest : public testing::ProcessTest {
 public:
  static void SetUpTestSuite() {
    // Abseil keeps a descriptor of the program once it has looked for a name.
    EXPECT_TRUE(RenderInPool({.width = 1, .height = 1},
                             {.processes = 1, .timeline = "/dev/null"})
                    .ok());
  }
};

const std::vector<uint8_t> kBlack = {0, 0, 0};

std::vector<uint8_t> PixelAt(const Picture& picture, int x, int y) {
  const auto pixel =
      picture.pixels.begin() + kPixelBytes * (y * picture.width + x);
  return {pixel, pixel + kPixelBytes};
}

TEST(EscapeTimeTest, MembersNeverEscape) {
  for (const auto& [x, y] : {std::pair(0.0, 0.0),
                             {-1.0, 0.0},
                             {-2.0, 0.0},
                             {0.25, 0.0},
                             {0.0, 1.0},  // goes round between two points
                             {-0.125, 0.75}}) {
    EXPECT_LT(EscapeTime(x, y, 10'000), 0) << x << " " << y;
  }
}

TEST(EscapeTimeTest, OthersDo) {
  for (const auto& [x, y] : {std::pair(0.26, 0.0),
                             {-2.01, 0.0},
                             {1.0, 0.0},
                             {0.5, 0.5},
                             {0.0, -1.1},
                             {3.0, 4.0}}) {
    EXPECT_GE(EscapeTime(x, y, 10'000), 0) << x << " " << y;
  }
  // 0, 1, 2, 5, 26: the fourth is far away.
  EXPECT_GT(EscapeTime(1, 0, 100), 3);
  EXPECT_LE(EscapeTime(1, 0, 100), 4);
  EXPECT_LT(EscapeTime(1, 0, 3), 0) << "has survived three";
}

// There is no jump where one more iteration is needed.
TEST(EscapeTimeTest, ChangesSmoothly) {
  double last = EscapeTime(1, 0, 1000);
  for (double x = 1; x > 0.3; x -= 0.0001) {
    const double time = EscapeTime(x, 0, 1000);
    EXPECT_GT(time, last - 0.005) << x;
    EXPECT_LT(time, last + 0.05) << x;
    last = time;
  }
}

TEST(CheckViewTest, NamesWhatIsWrong) {
  EXPECT_OK(CheckView({}));
  View view;
  view.width = 0;
  EXPECT_THAT(CheckView(view), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("not 0 x 1080")));
  view = {};
  view.height = kMaxPictureSide + 1;
  EXPECT_THAT(CheckView(view), StatusIs(absl::StatusCode::kInvalidArgument));
  view = {};
  view.iterations = 0;
  EXPECT_THAT(CheckView(view), StatusIs(absl::StatusCode::kInvalidArgument));
  for (const double extent :
       {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
        std::numeric_limits<double>::infinity()}) {
    view = {};
    view.extent = extent;
    EXPECT_THAT(CheckView(view), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(RenderTest, ShowsTheSet) {
  // A pixel is 0.05 wide, and one is in the middle.
  const View view = {.width = 81,
                     .height = 61,
                     .center_x = 0,
                     .extent = 81 * 0.05,
                     .iterations = 1000};
  ASSERT_OK_AND_ASSIGN(const Picture picture,
                       RenderInPool(view, {.processes = 2}));
  ASSERT_EQ(picture.width, 81);
  ASSERT_EQ(picture.height, 61);
  EXPECT_EQ(PixelAt(picture, 40, 30), kBlack) << "0";
  EXPECT_EQ(PixelAt(picture, 20, 30), kBlack) << "-1";
  EXPECT_NE(PixelAt(picture, 60, 30), kBlack) << "1";
  EXPECT_EQ(PixelAt(picture, 38, 15), kBlack) << "-0.1 + 0.75i";
  EXPECT_NE(PixelAt(picture, 50, 10), kBlack) << "0.5 + i";
  EXPECT_NE(PixelAt(picture, 0, 0), kBlack);

  // Its area is known to be about 1.5066.
  int members = 0;
  for (int y = 0; y < picture.height; ++y) {
    for (int x = 0; x < picture.width; ++x) {
      members += PixelAt(picture, x, y) == kBlack;
    }
  }
  EXPECT_NEAR(members * 0.05 * 0.05, 1.5, 0.1);

  // What is below the real axis mirrors what is above.
  for (int y = 0; y < picture.height; ++y) {
    EXPECT_EQ(RenderRow(view, y), RenderRow(view, picture.height - 1 - y)) << y;
  }
}

TEST_F(RenderTest, ThePictureDoesNotDependOnTheWorkers) {
  const View view = {.width = 160, .height = 121, .iterations = 2000};
  ASSERT_OK_AND_ASSIGN(const Picture expected, RenderHere(view));
  for (const int processes : {1, 2, 5}) {
    int rows = 0;
    ASSERT_OK_AND_ASSIGN(
        const Picture picture,
        RenderInPool(view, {.processes = processes,
                            .on_progress = [&](int n) { rows += n; }}));
    EXPECT_TRUE(picture == expected) << processes;
    EXPECT_EQ(rows, view.height);
  }
}

// Each row as long as a row can be.
TEST_F(RenderTest, TheWidestPicture) {
  const View view = {.width = kMaxPictureSide, .height = 30, .iterations = 2};
  ASSERT_OK_AND_ASSIGN(const Picture picture, RenderInPool(view));
  ASSERT_OK_AND_ASSIGN(const Picture expected, RenderHere(view));
  EXPECT_TRUE(picture == expected);
}

TEST_F(RenderTest, KilledWorkersChangeNothing) {
  const View view = {.width = 300, .height = 200, .iterations = 5000};
  ASSERT_OK_AND_ASSIGN(const Picture expected, RenderHere(view));
  RenderOptions options;
  options.processes = 2;
  options.timeline =
      absl::StrCat(::testing::TempDir(), "/mandelbrot_set_test.", getpid());
  const absl::Cleanup remove = [&] { ::remove(options.timeline.c_str()); };
  options.on_progress = [](int) { KillFirstWorker(); };
  // Whether a worker is in a task when it is killed is up to chance.
  std::string timeline;
  while (timeline.find("worker died") == timeline.npos) {
    ASSERT_OK_AND_ASSIGN(const Picture picture, RenderInPool(view, options));
    ASSERT_TRUE(picture == expected);
    std::ostringstream text;
    text << std::ifstream(options.timeline).rdbuf();
    timeline = text.str();
  }
  EXPECT_THAT(timeline, HasSubstr("was killed by SIGKILL"));
}

TEST_F(RenderTest, GivesUpIfEveryWorkerDies) {
  // A row takes seconds.
  const View view = {
      .width = 4000, .height = 2, .extent = 0.1, .iterations = 5'000'000};
  std::atomic<bool> done = false;
  std::thread killer([&] {
    // Long enough, in the end, for a worker to begin a row on a slow machine.
    for (absl::Duration pause = absl::Milliseconds(5); !done; pause *= 1.05) {
      absl::SleepFor(pause);
      KillFirstWorker();
    }
  });
  const absl::StatusOr<Picture> picture = RenderInPool(view, {.processes = 1});
  done = true;
  killer.join();
  EXPECT_THAT(picture, StatusIs(absl::StatusCode::kAborted));
}

TEST_F(RenderTest, Misuse) {
  EXPECT_THAT(RenderInPool({.width = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(RenderHere({.width = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(RenderInPool({}, {.processes = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace mp::examples
