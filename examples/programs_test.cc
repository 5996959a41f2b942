#include "mp/examples/programs.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/program_test_util.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"

namespace mp::examples {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;
using ::testing::UnorderedElementsAreArray;

class ProgramsTest : public testing::ProcessTest {
 protected:
  // What "examples/<name>" prints; it must succeed and not complain.
  static std::vector<std::string> OutputOf(const std::string& name) {
    const ProgramRun run = RunProgram({"examples/" + name});
    EXPECT_EQ(run.status, testing::ExitStatus::Code(0));
    EXPECT_EQ(run.errors, "");
    return SplitLines(run.output);
  }
};

using Lines = std::vector<std::string>;

// The lines between two others.
Lines Between(const Lines& lines, const std::string& first,
              const std::string& last) {
  const auto from = std::find(lines.begin(), lines.end(), first);
  const auto to = std::find(from, lines.end(), last);
  EXPECT_NE(to, lines.end())
      << "no \"" << last << "\" after \"" << first << "\"";
  return from == lines.end() ? Lines() : Lines(from + 1, to);
}

// Five lines of one worker, then five of the other, whoever came first.
void ExpectLockLines(const Lines& lines) {
  Lines one_first(10, "worker1");
  std::fill(one_first.begin() + 5, one_first.end(), "worker2");
  const Lines two_first(one_first.rbegin(), one_first.rend());
  EXPECT_THAT(lines, AnyOf(one_first, two_first));
}

// Four tasks, each of which starts before it ends, three at a time at most.
void ExpectThreeAtOnce(const Lines& lines) {
  std::map<std::string, int> seen;
  int running = 0;
  for (const std::string& line : lines) {
    ++seen[line];
    if (line.starts_with("start: ")) {
      EXPECT_LE(++running, 3) << line;
    } else if (line.starts_with("end: ")) {
      EXPECT_TRUE(seen.contains("start: " + line.substr(5))) << line;
      --running;
    }
  }
  EXPECT_EQ(running, 0);
  std::map<std::string, int> expected = {{"main: goes on", 1},
                                         {"main: no more tasks", 1}};
  for (const char* message : {"hello 0", "hello 1", "hello 2", "hello 3"}) {
    expected[std::string("start: ") + message] = 1;
    expected[std::string("end: ") + message] = 1;
  }
  EXPECT_EQ(seen, expected);
}

TEST_F(ProgramsTest, LinesUnderALockAreNotInterleaved) {
  Lines lines = OutputOf("lock");
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back(), "over");
  lines.pop_back();
  ExpectLockLines(lines);
}

TEST_F(ProgramsTest, ASemaphoreLetsInThreeOfFour) {
  Lines lines = OutputOf("semaphore");
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back(), "over");
  lines.pop_back();
  int inside = 0;
  for (const std::string& line : lines) {
    EXPECT_LE(inside += line.ends_with("acquire") ? 1 : -1, 3) << line;
  }
  EXPECT_EQ(inside, 0);
  Lines expected;
  for (const char* name :
       {"Process-1", "Process-2", "Process-3", "Process-4"}) {
    expected.push_back(std::string(name) + " acquire");
    expected.push_back(std::string(name) + " release");
  }
  EXPECT_THAT(lines, UnorderedElementsAreArray(expected));
}

TEST_F(ProgramsTest, OneWaitsForTheEventAndOneGivesUp) {
  const Lines lines = OutputOf("event");
  EXPECT_THAT(
      lines, UnorderedElementsAre("patient: waits", "impatient: waits",
                                  "impatient: gives up", "main: sets the event",
                                  "patient: Event(set)", "over"));
  ASSERT_GE(lines.size(), 3u);
  // "patient: waits" may come at any time before its next line.
  Lines rest = lines;
  std::erase(rest, "patient: waits");
  EXPECT_THAT(
      rest, ElementsAre("impatient: waits", "impatient: gives up",
                        "main: sets the event", "patient: Event(set)", "over"));
}

TEST_F(ProgramsTest, FullAndEmptyQueuesAreHandled) {
  EXPECT_THAT(
      OutputOf("queue"),
      ElementsAre("writer: put 1", "writer: put 2", "writer: no room for 3",
                  "reader: got 1", "reader: got 2",
                  "reader: the queue is empty", "over"));
}

TEST_F(ProgramsTest, NumbersGoThroughPipes) {
  EXPECT_THAT(OutputOf("pipe"),
              ElementsAre("both ways:", "received 0", "received 1",
                          "received 2", "end of file", "one way:", "received 0",
                          "received 1", "received 2", "end of file"));
}

TEST_F(ProgramsTest, PoolRunsThreeTasksAtOnceOrOneByOne) {
  const Lines lines = OutputOf("pool");
  ExpectThreeAtOnce(Between(lines, "with ApplyAsync:", "all done"));
  const auto second = std::find(lines.begin(), lines.end(), "with Apply:");
  EXPECT_THAT(Lines(second, lines.end()),
              ElementsAre("with Apply:", "start: hello 0", "end: hello 0",
                          "start: hello 1", "end: hello 1", "start: hello 2",
                          "end: hello 2", "start: hello 3", "end: hello 3",
                          "main: goes on", "main: no more tasks", "all done"));
}

TEST_F(ProgramsTest, FirstProgram) {
  EXPECT_THAT(OutputOf("first_program"), ElementsAre("1", "4", "9", "16"));
}

TEST_F(ProgramsTest, TourShowsThatNobodyHangs) {
  const ProgramRun run = RunProgram({"examples/tour"});
  EXPECT_EQ(run.status, testing::ExitStatus::Code(0));
  EXPECT_EQ(run.errors, "");
  for (int i = 1; i <= 5; ++i) {
    EXPECT_THAT(run.output, HasSubstr("== " + std::to_string(i) + " of 5: "));
  }
  EXPECT_THAT(run.output, HasSubstr(" ms later; the holder died\n"));
  EXPECT_THAT(run.output, HasSubstr("reader: the queue is empty\n"));
  EXPECT_THAT(run.output, HasSubstr("the square of 2: 4\n"));
  EXPECT_THAT(run.output, HasSubstr("the square of 3: worker died: "));
  EXPECT_THAT(run.output, HasSubstr("killed by SIGKILL"));
  EXPECT_THAT(run.output, HasSubstr("the square of 5: 25\n"));
}

TEST_F(ProgramsTest, OrDieEndsTheProcess) {
  testing::ChildProcess::Start([] { OrDie(absl::OkStatus()); }).ExpectExit(0);
  testing::ChildProcess::Start([] {
    OrDie(absl::InternalError("on purpose"));
  }).ExpectExit(EXIT_FAILURE);
}

}  // namespace
}  // namespace mp::examples
