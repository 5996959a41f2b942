// The program as its user sees it.

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/files_test_util.h"
#include "mp/examples/mandelbrot_set.h"
#include "mp/examples/picture.h"
#include "mp/examples/program_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/status_matchers.h"

namespace mp::examples {
namespace {

using ::mp::testing::ExitStatus;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

namespace fs = std::filesystem;

class MandelbrotTest : public FilesTest {
 protected:
  static ProgramRun Mandelbrot(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "examples/mandelbrot");
    return RunProgram(arguments);
  }
};

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(MandelbrotTest, ThePictureIsInTheFile) {
  const View view = {.width = 200,
                     .height = 150,
                     .center_x = -0.743,
                     .center_y = 0.126,
                     .extent = 0.02,
                     .iterations = 700};
  const std::string path = Path("a.png");
  const ProgramRun run = Mandelbrot(
      {"--processes=2", "--width=200", "--height=150", "--center_x=-0.743",
       "--center_y=0.126", "--extent=0.02", "--iterations=700", path});
  EXPECT_EQ(run.status, ExitStatus::Code(0)) << run.errors;
  EXPECT_EQ(run.errors, "");
  EXPECT_THAT(SplitLines(run.output),
              ElementsAre(path + ": 200 x 150 pixels",
                          MatchesRegex("pool of 2: [0-9.]+ s")));
  ASSERT_OK_AND_ASSIGN(const Picture picture, ReadPng(path));
  ASSERT_OK_AND_ASSIGN(const Picture expected, RenderHere(view));
  EXPECT_TRUE(picture == expected);
}

TEST_F(MandelbrotTest, TheFileDoesNotDependOnTheWorkers) {
  for (const char* processes : {"1", "2", "5"}) {
    const ProgramRun run =
        Mandelbrot({absl::StrCat("--processes=", processes), "--width=96",
                    "--height=54", Path(processes)});
    ASSERT_EQ(run.status, ExitStatus::Code(0)) << run.errors;
  }
  EXPECT_TRUE(Bytes(Path("1")) == Bytes(Path("2")));
  EXPECT_TRUE(Bytes(Path("1")) == Bytes(Path("5")));
}

TEST_F(MandelbrotTest, ComparesWithOneProcess) {
  const ProgramRun run = Mandelbrot({"--compare", "--processes=2", "--width=96",
                                     "--height=54", Path("a.png")});
  EXPECT_EQ(run.status, ExitStatus::Code(0)) << run.errors;
  EXPECT_THAT(SplitLines(run.output),
              ElementsAre(Path("a.png") + ": 96 x 54 pixels",
                          MatchesRegex("pool of 2: [0-9.]+ s"),
                          MatchesRegex("one process: [0-9.]+ s"),
                          MatchesRegex("speed-up .*, pictures identical")));
}

TEST_F(MandelbrotTest, Misuse) {
  EXPECT_EQ(Mandelbrot({}).status, ExitStatus::Code(2));
  EXPECT_EQ(Mandelbrot({"a", "b"}).status, ExitStatus::Code(2));
  const ProgramRun wide = Mandelbrot({"--width=0", Path("a.png")});
  EXPECT_EQ(wide.status, ExitStatus::Code(1));
  EXPECT_THAT(wide.errors, HasSubstr("mandelbrot: INVALID_ARGUMENT: "));
  const ProgramRun nowhere =
      Mandelbrot({"--width=2", "--height=2", Path("missing/a.png")});
  EXPECT_EQ(nowhere.status, ExitStatus::Code(1));
  EXPECT_THAT(nowhere.errors, HasSubstr("mandelbrot: NOT_FOUND: open "));
  EXPECT_FALSE(fs::exists(Path("a.png")));
}

}  // namespace
}  // namespace mp::examples
