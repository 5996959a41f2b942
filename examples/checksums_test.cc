// The program as its user sees it, beside the system's sha256sum.

#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/files_test_util.h"
#include "mp/examples/program_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/proc_info.h"

namespace mp::examples {
namespace {

using ::mp::testing::ExitStatus;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::SizeIs;

namespace fs = std::filesystem;

constexpr char kShell[] = R"(
find "$1" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
)";
constexpr char kAbc[] =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kNothing[] =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class ChecksumsTest : public FilesTest {
 protected:
  static ProgramRun Checksums(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "examples/checksums");
    return RunProgram(arguments);
  }

  // The files of a folder as the system prints them.
  static std::string SystemsLines(const std::string& folder) {
    const ProgramRun shell = RunProgram({"sh", "-c", kShell, "sh", folder});
    EXPECT_EQ(shell.status, ExitStatus::Code(0)) << shell.errors;
    return shell.output;
  }
};

TEST_F(ChecksumsTest, EqualsTheSystemsToolOnARealTree) {
  const std::string tree = RealTree();
  const ProgramRun ours = Checksums({"--processes=3", tree});
  EXPECT_EQ(ours.status, ExitStatus::Code(0));
  EXPECT_EQ(ours.errors, "");
  EXPECT_THAT(SplitLines(ours.output), SizeIs(Gt(40U)))
      << "a poor tree: " << tree;
  EXPECT_TRUE(ours.output == SystemsLines(tree)) << tree << "\n"
                                                 << ours.output.substr(0, 200);
}

// Names that are not text, or that would break a line.
TEST_F(ChecksumsTest, TheSystemsToolTakesStrangeNames) {
  for (const char* name : {" a ", "*b", "c\nc", "d\\d", "e\re", "\xff\xfe", "ä",
                           "-f", "g/\\n/h"}) {
    Write(name, name);
  }
  const ProgramRun ours = Checksums({"--compare", Path("")});
  EXPECT_EQ(ours.status, ExitStatus::Code(0)) << ours.errors;
  EXPECT_THAT(SplitLines(ours.output), SizeIs(9));
  EXPECT_THAT(ours.errors, HasSubstr("results identical"));
}

TEST_F(ChecksumsTest, LargeFilesAndEmptyOnes) {
  Write("tree/0", "");
  Write("tree/b/large", std::string(5'000'000, 'x'));
  Write("tree/a/large", std::string(3'000'001, 'y'));
  fs::create_symlink(Path("tree/0"), Path("tree/link"));
  ASSERT_EQ(mkfifo(Path("tree/pipe").c_str(), 0600), 0);
  const ProgramRun ours = Checksums({Path("tree")});
  EXPECT_EQ(ours.status, ExitStatus::Code(0)) << ours.errors;
  EXPECT_EQ(ours.output, SystemsLines(Path("tree")));
  EXPECT_THAT(SplitLines(ours.output), SizeIs(3));
}

TEST_F(ChecksumsTest, ReportsWhatItCannotReadAndDoesTheRest) {
  const std::string a = Write("a", "abc");
  const std::string b = Write("b", "");
  // A regular file that nobody can read from its begin, not even root.
  const std::string unreadable = "/proc/self/mem";
  const ProgramRun run = Checksums({b, Path("missing"), unreadable, a});
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(SplitLines(run.output),
              ElementsAre(absl::StrCat(kAbc, "  ", a),
                          absl::StrCat(kNothing, "  ", b)));
  EXPECT_THAT(
      SplitLines(run.errors),
      ElementsAre(
          "checksums: " + Path("missing") + ": No such file or directory",
          "checksums: /proc/self/mem: cannot read: Input/output error"));
}

TEST_F(ChecksumsTest, ComparesWithTheSystemsTool) {
  const std::string a = Write("a", "abc");
  const ProgramRun run = Checksums({"--compare", "--processes=2", a});
  EXPECT_EQ(run.status, ExitStatus::Code(0));
  EXPECT_EQ(run.output, absl::StrCat(kAbc, "  ", a, "\n"));
  EXPECT_THAT(SplitLines(run.errors),
              ElementsAre(MatchesRegex("pool of 2: [0-9.]+ s, .*B/s"),
                          MatchesRegex("one process: [0-9.]+ s, .*B/s"),
                          MatchesRegex("sha256sum: [0-9.]+ s, .*B/s"),
                          MatchesRegex("speed-up [0-9.]+, results identical")));
}

TEST_F(ChecksumsTest, SaysIfTheSystemsToolDisagrees) {
  const std::string tool = Write("bin/sha256sum", "#!/bin/sh\necho no\nexit 1");
  fs::permissions(tool, fs::perms::owner_all);
  const ProgramRun run =
      RunProgram({"env", "PATH=" + Path("bin"), "examples/checksums",
                  "--compare", Write("a", "abc")});
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(run.errors, HasSubstr("\nno\n"));
  EXPECT_THAT(run.errors, HasSubstr("results DIFFERENT"));

  fs::remove(tool);
  const ProgramRun none =
      RunProgram({"env", "PATH=" + Path("bin"), "examples/checksums",
                  "--compare", Write("a", "abc")});
  EXPECT_EQ(none.status, ExitStatus::Code(1));
  EXPECT_THAT(none.errors, HasSubstr("checksums: sha256sum: No such file"));
}

TEST_F(ChecksumsTest, AKilledWorkerChangesNothing) {
  for (int i = 0; i < 40; ++i) {
    Write(absl::StrCat("tree/", i), std::string(4'000'000, 'x'));
  }
  // Until one was hit while it read a file, but less and less often: on a slow
  // machine a worker needs time to get that far.
  bool hit = false;
  while (!hit) {
    int calls = 0;
    int next_kill = 1;
    const ProgramRun killed =
        RunProgram({"examples/checksums", "--processes=2", Path("tree")},
                   [&](pid_t pid, const std::string& errors) {
                     hit = errors.find("warning: ") != errors.npos;
                     if (hit || ++calls < next_kill) return;
                     next_kill = calls * 3 / 2 + 1;
                     const auto workers = testing::Descendants(pid);
                     if (!workers.empty()) kill(workers.front().pid, SIGKILL);
                   });
    EXPECT_EQ(killed.status, ExitStatus::Code(0)) << killed.errors;
    EXPECT_EQ(killed.output, SystemsLines(Path("tree")));
    if (hit) {
      EXPECT_THAT(killed.errors, HasSubstr("killed by SIGKILL"));
      EXPECT_THAT(killed.errors, HasSubstr("is read again"));
    }
  }
}

TEST_F(ChecksumsTest, AnOutputThatIsFull) {
  const std::string a = Write("a", "abc");
  const ProgramRun run =
      RunProgram({"sh", "-c", "examples/checksums \"$1\" >/dev/full", "sh", a});
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_EQ(run.errors, "checksums: standard output: cannot write\n");
}

TEST_F(ChecksumsTest, Misuse) {
  const ProgramRun none = Checksums({});
  EXPECT_EQ(none.status, ExitStatus::Code(2));
  EXPECT_THAT(none.errors, HasSubstr("usage: checksums "));
  const ProgramRun negative = Checksums({"--processes=-1", Path("")});
  EXPECT_EQ(negative.status, ExitStatus::Code(1));
  EXPECT_THAT(negative.errors, HasSubstr("checksums: INVALID_ARGUMENT"));
}

}  // namespace
}  // namespace mp::examples
