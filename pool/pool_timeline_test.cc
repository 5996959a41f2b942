// PoolOptions::timeline.

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/timeline.h"
#include "mp/pool/worker_died.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::AnyWorkers;
using ::mp::pool_internal::AnyWorkersTest;
using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::pool_internal::WorkersName;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

struct Event {
  std::string phase;
  std::string name;
  int track = 0;
  double at = 0;  // microseconds
  double duration = 0;
  std::string outcome = {};
};

// Checks the frame of the file as well.
std::vector<Event> EventsIn(const std::string& path) {
  static const auto* const form = new std::regex(
      R"re(\{"ph":"(.)","name":"([^"]*)","pid":\d+)re"
      R"re((?:,"tid":(\d+),"ts":(\d+\.\d{3}))?(?:,"dur":(\d+\.\d{3}))?)re"
      R"re(,"args":\{(.*)\}\},?)re");
  static const auto* const outcome =
      new std::regex(R"re(.*"outcome":"([^"]*)".*)re");
  std::ifstream file(path);
  std::vector<Event> events;
  std::string line;
  EXPECT_TRUE(std::getline(file, line) && line == "[");
  while (std::getline(file, line) && line != "]") {
    std::smatch parts;
    EXPECT_TRUE(std::regex_match(line, parts, *form)) << line;
    if (parts.empty()) continue;
    Event event = {.phase = parts[1], .name = parts[2]};
    if (parts[3].matched) event.track = std::stoi(parts[3]);
    if (parts[4].matched) event.at = std::stod(parts[4]);
    if (parts[5].matched) event.duration = std::stod(parts[5]);
    const std::string args = parts[6];
    if (std::regex_match(args, parts, *outcome)) event.outcome = parts[1];
    events.push_back(std::move(event));
  }
  EXPECT_EQ(line, "]");
  EXPECT_FALSE(std::getline(file, line));
  return events;
}

class PoolTimelineTest : public AnyWorkersTest {
 public:
  static void SetUpTestSuite() {
    // Abseil keeps a descriptor of the program once it has looked for a name.
    pool_internal::DisplayName(
        {nullptr, reinterpret_cast<uintptr_t>(&Square), nullptr});
  }

 protected:
  PoolTimelineTest() { remove(path_.c_str()); }
  ~PoolTimelineTest() override { remove(path_.c_str()); }

  const std::string path_ =
      absl::StrCat(::testing::TempDir(), "/pool_timeline_test.", getpid());
};
INSTANTIATE_TEST_SUITE_P(Workers, PoolTimelineTest, AnyWorkers(), WorkersName);

int Throw(int) { throw std::runtime_error("thrown"); }
// Not a lambda, which each compiler names in its own way.
struct One {
  int operator()() const { return 1; }
};
int Nap(int millis) {
  absl::SleepFor(absl::Milliseconds(millis));
  return millis;
}

TEST_P(PoolTimelineTest, HasEveryTaskInItsWorkersLife) {
  {
    Pool pool(With({.processes = 2, .timeline = path_}));
    EXPECT_THAT(pool.Map(Square, Numbers(500), 1), IsOkAndHolds(Squares(500)));
    EXPECT_THAT(pool.Apply(Nap, 20), IsOkAndHolds(20));
    EXPECT_FALSE(pool.Apply(Throw, 1).ok());
    EXPECT_THAT(pool.Apply(One()), IsOkAndHolds(1));
    pool.Close();
    EXPECT_THAT(pool.Join(), IsOk());
  }
  std::map<std::string, int> count;  // of each function and outcome
  std::map<int, std::vector<double>> begins;
  std::map<int, std::vector<double>> ends;
  const std::vector<Event> events = EventsIn(path_);
  for (const Event& event : events) {
    if (event.phase == "B") begins[event.track].push_back(event.at);
    if (event.phase == "E") ends[event.track].push_back(event.at);
    if (event.phase != "X") continue;
    const size_t name = event.name.rfind("::") + 2;
    ++count[absl::StrCat(event.name.substr(name), " ", event.outcome)];
    if (event.name.ends_with("Nap")) {
      EXPECT_GE(event.duration, 20'000);
    }
  }
  EXPECT_EQ(count["Square done"], 500);
  EXPECT_EQ(count["Nap done"], 1);
  EXPECT_EQ(count["Throw failed"] + count["Throw done"], 1);
  EXPECT_EQ(count["One done"], 1);
  EXPECT_EQ(begins.size(), 2u);
  for (const auto& [track, starts] : begins) {
    ASSERT_EQ(starts.size(), 1u);
    ASSERT_EQ(ends[track].size(), 1u);
    double free_since = 0;
    for (const Event& event : events) {
      if (event.phase != "X" || event.track != track) continue;
      EXPECT_GE(event.at, starts[0]);
      EXPECT_LE(event.at + event.duration, ends[track][0]);
      // One after the other.
      EXPECT_GE(event.at, free_since - 0.002);
      free_since = event.at + event.duration;
    }
  }
}

TEST_P(PoolTimelineTest, IsRefusedWhereNoFileCanBe) {
  EXPECT_THAT(Pool::Create(With({.timeline = "/nowhere/at/all"})).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("open")));
}

using PoolTimelineDeathTest = PoolTimelineTest;
INSTANTIATE_TEST_SUITE_P(Workers, PoolTimelineDeathTest,
                         ::testing::Values(PoolWorkers::kProcesses),
                         WorkersName);

int Die(int) {
  kill(getpid(), SIGKILL);
  return 0;
}

TEST_P(PoolTimelineDeathTest, HasWhoDiedAndItsTask) {
  {
    Pool pool({.processes = 1, .timeline = path_});
    EXPECT_TRUE(IsWorkerDied(pool.Apply(Die, 1).status()));
    EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
    auto hangs = pool.ApplyAsync(Nap, 1'000'000);
  }
  int workers = 0;
  int died = 0;
  for (const Event& event : EventsIn(path_)) {
    if (event.phase == "B") ++workers;
    if (event.outcome == "worker died") {
      ++died;
      EXPECT_THAT(event.name, HasSubstr("Die"));
    }
  }
  EXPECT_EQ(workers, 2);
  EXPECT_EQ(died, 1);
}

}  // namespace
}  // namespace mp
