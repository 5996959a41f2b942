// The program as its user sees it.

#include <signal.h>

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

constexpr char kAllWords[] = "--top=1000000000";

// What the header of word_counts.h and of text_files.h says, in a shell. Files
// do not always end with a line break.
constexpr char kShell[] = R"(
find "$1" -type f -exec sh -c '
  for file; do
    head -c 8192 "$file" | LC_ALL=C grep -qaP "\x00" || { cat "$file"; echo; }
  done' sh {} + |
LC_ALL=C tr -cs A-Za-z '\n' | LC_ALL=C tr A-Z a-z | grep . |
LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2,2
)";

class WordcountTest : public FilesTest {
 protected:
  static ProgramRun Wordcount(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "examples/wordcount");
    return RunProgram(arguments);
  }
};

// Without the lines after the words.
std::vector<std::string> WordLines(const std::string& output) {
  std::vector<std::string> lines = SplitLines(output);
  while (!lines.empty() && lines.back()[0] != ' ') lines.pop_back();
  return lines;
}

TEST_F(WordcountTest, EqualsTheShellOnARealTree) {
  const std::string tree = RealTree();
  const ProgramRun shell = RunProgram({"sh", "-c", kShell, "sh", tree});
  ASSERT_EQ(shell.status, ExitStatus::Code(0)) << shell.errors;
  const ProgramRun ours = Wordcount({kAllWords, "--processes=3", tree});
  EXPECT_EQ(ours.status, ExitStatus::Code(0));
  const std::vector<std::string> expected = SplitLines(shell.output);
  EXPECT_THAT(expected, SizeIs(Gt(1000U))) << "a poor tree: " << tree;
  EXPECT_TRUE(WordLines(ours.output) == expected)
      << tree << "\n"
      << ours.output.substr(0, 200) << "\ninstead of\n"
      << shell.output.substr(0, 200);
}

TEST_F(WordcountTest, AKilledWorkerChangesNothing) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) {
    text += absl::StrCat(
        "word", std::string(1, static_cast<char>('a' + i % 26)), " ", i, "\n");
  }
  std::vector<std::string> command = {"examples/wordcount", "--processes=2"};
  command.insert(command.end(), 24, Write("text", text));

  const ProgramRun quiet = RunProgram(command);
  // Until one was hit while it ran a task, but less and less often: on a slow
  // machine a worker needs time to get that far.
  int calls = 0;
  int next_kill = 1;
  const ProgramRun killed =
      RunProgram(command, [&](pid_t pid, const std::string& errors) {
        if (errors.find("warning: ") != errors.npos) return;
        if (++calls < next_kill) return;
        next_kill = calls * 3 / 2 + 1;
        const auto workers = testing::Descendants(pid);
        if (!workers.empty()) kill(workers.front().pid, SIGKILL);
      });
  EXPECT_EQ(killed.status, ExitStatus::Code(0)) << killed.errors;
  EXPECT_THAT(killed.errors, HasSubstr("killed by SIGKILL"));
  EXPECT_THAT(killed.errors, HasSubstr("are counted again"));
  EXPECT_EQ(WordLines(killed.output), WordLines(quiet.output));
  EXPECT_THAT(WordLines(quiet.output), SizeIs(10));
}

TEST_F(WordcountTest, PrintsWhatItFound) {
  Write("a", "one two two THREE three three");
  Write("b", "three");
  const ProgramRun run =
      Wordcount({"--compare", "--processes=2", "--top=2", Path("")});
  EXPECT_EQ(run.status, ExitStatus::Code(0));
  EXPECT_EQ(run.errors, "");
  EXPECT_THAT(SplitLines(run.output),
              ElementsAre("      4 three", "      2 two",
                          "2 files, 34 bytes, 7 words, 3 different; 0 skipped",
                          MatchesRegex("finding the files: [0-9.]+ s"),
                          MatchesRegex("pool of 2: [0-9.]+ s, [0-9.]+ .?B/s"),
                          MatchesRegex("one process: [0-9.]+ s, [0-9.]+ .?B/s"),
                          MatchesRegex("speed-up [0-9.]+, results identical")));
}

TEST_F(WordcountTest, ReportsWhatItSkips) {
  const std::string text = Write("text", "one");
  const std::string binary = Write("binary", std::string("t\0wo", 4));
  // A regular file that nobody can read from its begin, not even root.
  const std::string unreadable = "/proc/self/mem";
  const ProgramRun run = Wordcount({text, binary, unreadable, Path("missing")});
  EXPECT_EQ(run.status, ExitStatus::Code(0));
  EXPECT_THAT(run.output,
              HasSubstr("1 files, 3 bytes, 1 words, 1 different; 3 skipped"));
  EXPECT_THAT(SplitLines(run.errors),
              ElementsAre("skipped: /proc/self/mem: cannot read: "
                          "Input/output error",
                          "skipped: " + binary + ": binary",
                          "skipped: " + Path("missing") +
                              ": No such file or directory"));
}

TEST_F(WordcountTest, NamesTheFirstSkippedFilesOrAll) {
  std::vector<std::string> all;
  for (int i = 0; i < 9; ++i) {
    all.push_back("skipped: " + Write(absl::StrCat(i), std::string(9, '\0')) +
                  ": binary");
  }
  std::vector<std::string> some(all.begin(), all.begin() + 5);
  some.push_back("skipped: 4 more; --verbose names them");
  EXPECT_EQ(SplitLines(Wordcount({Path("")}).errors), some);
  EXPECT_EQ(SplitLines(Wordcount({"--verbose", Path("")}).errors), all);
}

TEST_F(WordcountTest, Misuse) {
  const ProgramRun none = Wordcount({});
  EXPECT_EQ(none.status, ExitStatus::Code(2));
  EXPECT_THAT(none.errors, HasSubstr("usage: wordcount "));
  const ProgramRun negative = Wordcount({"--processes=-1", Path("")});
  EXPECT_EQ(negative.status, ExitStatus::Code(1));
  EXPECT_THAT(negative.errors, HasSubstr("wordcount: INVALID_ARGUMENT"));
}

}  // namespace
}  // namespace mp::examples
