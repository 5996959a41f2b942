#include "mp/pool/progress_bar.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/result_stream.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

// ---- the line ----

std::string Line(size_t done, std::optional<size_t> total, double seconds,
                 size_t columns = 79, bool ended = false) {
  Progress progress(total);
  progress.Add(done);
  return ProgressLine("Hashing", progress, seconds, ended, columns);
}

TEST(ProgressLineTest, SaysHowManyHowFastAndHowLongStill) {
  EXPECT_EQ(Line(450, 1000, 5), "Hashing:  45% [" + std::string(16, '#') +
                                    std::string(21, '.') +
                                    "] "
                                    "450/1000, 90/s, 0:06 left");
  EXPECT_EQ(Line(450, 1000, 5, 200),
            "Hashing:  45% [##################......................] "
            "450/1000, 90/s, 0:06 left")
      << "no wider than forty";
}

TEST(ProgressLineTest, AtTheBeginningThereIsNoRate) {
  EXPECT_EQ(Line(0, 8, 0, 40), "Hashing:   0% [....................] 0/8");
  EXPECT_EQ(Line(0, 8, 3, 40), "Hashing:   0% [....................] 0/8");
}

TEST(ProgressLineTest, AtTheEndItSaysHowLongItTook) {
  EXPECT_EQ(Line(8, 8, 4, 52, true),
            "Hashing: 100% [#####################] 8/8, 2/s, 0:04");
  EXPECT_THAT(Line(999, 1000, 3700, 200, true), StartsWith("Hashing:  99% ["));
  EXPECT_THAT(Line(999, 1000, 3700, 200, true), EndsWith("0.27/s, 1:01:40"));
  EXPECT_EQ(Line(0, 0, 0, 20, true), "Hashing: 100% 0/0");
}

TEST(ProgressLineTest, OfAnUnknownNumberThereIsNoBar) {
  EXPECT_EQ(Line(123'456, std::nullopt, 10), "Hashing: 123456, 12346/s, 0:10");
  EXPECT_EQ(Line(0, std::nullopt, 1), "Hashing: 0, 0:01");
}

TEST(ProgressLineTest, RatesOfAllSizes) {
  EXPECT_THAT(Line(1, 2, 1000), HasSubstr(", 0.001/s, 16:40 left"));
  EXPECT_THAT(Line(2'000'000, std::nullopt, 4), HasSubstr(", 500k/s"));
  EXPECT_THAT(Line(2'000'000'000, std::nullopt, 4), HasSubstr(", 500M/s"));
  // Longer than anybody waits.
  EXPECT_THAT(Line(1, SIZE_MAX - 1, 1e6, 200), HasSubstr(" left"));
}

TEST(ProgressLineTest, FitsNarrowTerminals) {
  for (size_t columns = 0; columns < 100; ++columns) {
    EXPECT_LE(Line(450, 1000, 5, columns).size(), columns);
  }
  EXPECT_EQ(Line(450, 1000, 5, 45), "Hashing:  45% 450/1000, 90/s, 0:06 left");
  EXPECT_EQ(Line(450, 1000, 5, 30), "Hashing:  45% 450/1000, 90/s");
  EXPECT_EQ(Line(450, 1000, 5, 25), "Hashing:  45% 450/1000");
  EXPECT_EQ(Line(450, 1000, 5, 20), "Hashing:  45% 450/10");
  // Characters, not bytes.
  const Progress progress;
  EXPECT_EQ(ProgressLine("é日é", progress, 0, false, 2), "é日");
  EXPECT_EQ(ProgressLine("é日é", progress, 0, false, 1), "é");
}

// ---- on a terminal ----

// While it lives, standard error is a terminal, of which it reads what is
// written.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) {
    ours_.reset(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    MP_PCHECK(ours_) << "posix_openpt";
    MP_PCHECK(grantpt(ours_.get()) == 0) << "grantpt";
    MP_PCHECK(unlockpt(ours_.get()) == 0) << "unlockpt";
    char name[100];
    MP_CHECK(ptsname_r(ours_.get(), name, sizeof(name)) == 0);
    theirs_.reset(open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    MP_PCHECK(theirs_) << name;
    SetColumns(columns);
    saved_.reset(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    MP_PCHECK(dup2(theirs_.get(), STDERR_FILENO) == STDERR_FILENO) << "dup2";
    reader_ = std::thread([this] { Read(); });
  }
  ~Terminal() { Close(); }

  void SetColumns(unsigned short columns) {
    const winsize size = {
        .ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    MP_PCHECK(ioctl(ours_.get(), TIOCSWINSZ, &size) == 0) << "TIOCSWINSZ";
  }

  // Waits until that has been written.
  void WaitFor(std::string_view text) {
    for (;; absl::SleepFor(absl::Milliseconds(1))) {
      const std::lock_guard lock(mutex_);
      if (text_.find(text) != std::string::npos) return;
    }
  }

  // All that was written. Nobody else may have the terminal any more.
  std::string Text() {
    Close();
    return text_;
  }
  // The same as the states of its lines.
  std::vector<std::string> Lines() {
    std::vector<std::string> lines;
    std::string line;
    std::istringstream in(Text());
    while (std::getline(in, line, '\r')) {
      if (!line.empty() && line != "\n") lines.push_back(line);
    }
    return lines;
  }

 private:
  void Read() {
    char buffer[1000];
    ssize_t size = 0;
    while ((size = read(ours_.get(), buffer, sizeof(buffer))) > 0) {
      const std::lock_guard lock(mutex_);
      text_.append(buffer, static_cast<size_t>(size));
    }
  }
  void Close() {
    if (!reader_.joinable()) return;
    MP_PCHECK(dup2(saved_.get(), STDERR_FILENO) == STDERR_FILENO) << "dup2";
    saved_.reset();
    theirs_.reset();
    reader_.join();
  }

  UniqueFd ours_, theirs_, saved_;
  std::thread reader_;
  std::mutex mutex_;
  std::string text_;
};

class ProgressBarTest : public AnyWorkersTest {
 protected:
  // While it lives, its workers have the terminal, too.
  Pool MakePool() const { return Pool(With({.processes = 2})); }
};

INSTANTIATE_TEST_SUITE_P(Workers, ProgressBarTest, AnyWorkers(), WorkersName);

// The line at the end stays, and the cursor is below it.
constexpr char kAll200[] =
    "Squares: 100% \\[#+\\] 200/200, [0-9.]+k?/s, 0:0[0-9] *";

TEST_P(ProgressBarTest, MapShowsHowFarItIs) {
  Terminal terminal(80);
  EXPECT_THAT(
      MakePool().With({.progress = "Squares"}).Map(Square, Numbers(200), 5),
      IsOkAndHolds(Squares(200)));
  EXPECT_THAT(terminal.Text(), EndsWith("\r\n"));
  const std::vector<std::string> lines = terminal.Lines();
  EXPECT_THAT(lines, Each(SizeIs(Le(79u))));
  EXPECT_THAT(lines.front(), MatchesRegex("Squares: +[0-9]+% .* [0-9]+/200.*"));
  EXPECT_THAT(lines.back(), MatchesRegex(kAll200));
}

TEST_P(ProgressBarTest, StarmapAndStreamsToo) {
  const std::vector<std::pair<int, int>> pairs(200, {2, 3});
  for (const int call : {0, 1, 2}) {
    Terminal terminal(80);
    {
      Pool pool = MakePool();
      PoolCalls calls = pool.With({.progress = "Squares"});
      if (call == 0) {
        EXPECT_THAT(calls.Starmap([](int a, int b) { return a * b; }, pairs),
                    IsOkAndHolds(Each(6)));
      } else {
        int count = 0;
        auto stream = call == 1 ? calls.Imap(Square, Numbers(200), 3)
                                : calls.ImapUnordered(Square, Numbers(200));
        for (const auto& each : stream) count += each.ok();
        EXPECT_EQ(count, 200);
        // The stream is still there, its bar is not.
        EXPECT_NE(ProgressBar::Start("next", 1), nullptr);
      }
    }
    EXPECT_THAT(terminal.Lines(), ::testing::Contains(MatchesRegex(kAll200)));
  }
}

TEST_P(ProgressBarTest, ItemsThatFailAreDoneAsWell) {
  Terminal terminal(80);
  EXPECT_THAT(MakePool()
                  .With({.progress = "Squares"})
                  .Map(
                      [](int n) -> absl::StatusOr<int> {
                        if (n % 3 == 0) return absl::NotFoundError("three");
                        return n;
                      },
                      Numbers(200), 1),
              StatusIs(absl::StatusCode::kNotFound, _));
  EXPECT_THAT(terminal.Lines().back(), MatchesRegex(kAll200));
}

TEST_P(ProgressBarTest, OfRangesOfUnknownLength) {
  const auto numbers = [] {
    return GeneratedRange([](int n) { return n; }, 200);
  };
  {
    Terminal terminal(80);
    EXPECT_THAT(MakePool().With({.progress = "Squares"}).Map(Square, numbers()),
                IsOkAndHolds(Squares(200)));
    EXPECT_THAT(terminal.Lines().back(), MatchesRegex(kAll200))
        << "it was read first";
  }
  Terminal terminal(80);
  {
    Pool pool = MakePool();
    for (auto& each :
         pool.With({.progress = "Squares"}).Imap(Square, numbers())) {
      EXPECT_THAT(each, IsOk());
    }
  }
  EXPECT_THAT(terminal.Lines().back(),
              MatchesRegex("Squares: 200, [0-9.]+k?/s, 0:0[0-9] *"));
}

TEST_P(ProgressBarTest, AnExceptionOfTheRangeEndsTheLine) {
  const auto broken = [] {
    return GeneratedRange([](int n) {
      if (n == 50) throw std::runtime_error("fifty");
      return n;
    });
  };
  for (const bool stream : {false, true}) {
    Terminal terminal(80);
    {
      Pool pool = MakePool();
      PoolCalls calls = pool.With({.progress = "Squares"});
      if (stream) {
        auto results = calls.Imap(Square, broken());
        EXPECT_THROW(while (!results.Done()) results.Next().IgnoreError(),
                     std::runtime_error);
      } else {
        EXPECT_THROW(calls.Map(Square, broken(), 1).IgnoreError(),
                     std::runtime_error);
      }
      EXPECT_NE(ProgressBar::Start("next", 1), nullptr) << "it is free again";
    }
    const std::string text = terminal.Text();
    EXPECT_THAT(text, StartsWith("\rSquares: "));
    EXPECT_THAT(text, AllOf(HasSubstr("\r\n\rnext"), EndsWith("\r\n")));
  }
}

TEST_P(ProgressBarTest, StreamThatIsDroppedEndsTheLine) {
  Terminal terminal(80);
  {
    Pool pool = MakePool();
    auto stream = pool.With({.progress = "Squares"}).Imap(Square, Integers());
    EXPECT_THAT(stream.Next(), IsOkAndHolds(0));
  }
  EXPECT_THAT(terminal.Text(),
              AllOf(StartsWith("\rSquares: "), EndsWith("\r\n")));
}

TEST_P(ProgressBarTest, NothingIsWrittenWhereThereIsNoTerminal) {
  auto [reader, writer] = mp::testing::MakePipe();
  const UniqueFd saved(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
  ASSERT_EQ(dup2(writer.get(), STDERR_FILENO), STDERR_FILENO);
  writer.reset();
  EXPECT_THAT(
      MakePool().With({.progress = "Squares"}).Map(Square, Numbers(100)),
      IsOkAndHolds(Squares(100)));
  ASSERT_EQ(dup2(saved.get(), STDERR_FILENO), STDERR_FILENO);
  EXPECT_EQ(mp::testing::ReadAll(reader.get()), "");
}

TEST_P(ProgressBarTest, NeitherWithoutTheOptionNorWhereNobodyWaits) {
  Terminal terminal(80);
  {
    Pool pool = MakePool();
    EXPECT_THAT(pool.Map(Square, Numbers(10)), IsOkAndHolds(Squares(10)));
    PoolCalls calls = pool.With({.progress = "Squares"});
    EXPECT_THAT(calls.Apply(Square, 3), IsOkAndHolds(9));
    EXPECT_THAT(calls.MapAsync(Square, Numbers(10)).Get(),
                IsOkAndHolds(Squares(10)));
  }
  EXPECT_EQ(terminal.Text(), "");
}

class OneProgressBarTest : public mp::testing::ProcessTest {};

TEST_F(OneProgressBarTest, OnlyTheFirstOfSeveralIsShown) {
  Terminal terminal(80);
  {
    const auto first = ProgressBar::Start("first", 1);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(ProgressBar::Start("second", 1), nullptr);
  }
  EXPECT_THAT(terminal.Text(), Not(HasSubstr("second")));
}

TEST_F(OneProgressBarTest, FollowsTheWidthAndWipesWhatWasThere) {
  Terminal terminal(60);
  {
    const auto bar = ProgressBar::Start("a\nlabel", 10);
    ASSERT_NE(bar, nullptr);
    terminal.WaitFor("0/10");
    terminal.SetColumns(30);
    bar->progress()->Add(5);
    terminal.WaitFor("5/10");  // while the bar lives
    bar->progress()->Add(1);
  }
  const std::vector<std::string> lines = terminal.Lines();
  EXPECT_EQ(lines.front(), "a label:   0% [" + std::string(38, '.') + "] 0/10");
  EXPECT_THAT(lines.back(), MatchesRegex("a label:  60% 6/10, [0-9.]+/s *"));
}

// Whoever counts may do so later.
TEST_F(OneProgressBarTest, CountOutlivesTheBar) {
  std::shared_ptr<Progress> progress;
  Terminal terminal(80);
  progress = ProgressBar::Start("short", 10)->progress();
  progress->Add(3);
  EXPECT_EQ(progress->done(), 3u);
  EXPECT_THAT(terminal.Lines().back(), HasSubstr("0/10"));
}

// By Ctrl-S.
TEST_F(OneProgressBarTest, StoppedTerminalStopsNobody) {
  Terminal terminal(80);
  ASSERT_EQ(tcflow(STDERR_FILENO, TCOOFF), 0);
  ProgressBar::Start("stopped", 10)->progress()->Add(3);
  ASSERT_EQ(tcflow(STDERR_FILENO, TCOON), 0);
  EXPECT_NE(ProgressBar::Start("goes on", 10), nullptr);
  EXPECT_THAT(terminal.Lines().back(), HasSubstr("goes on"));
}

}  // namespace
}  // namespace mp::pool_internal
