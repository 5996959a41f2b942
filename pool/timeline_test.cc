#include "mp/pool/timeline.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <typeinfo>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/pool/executor.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {

int TimelineTestFunction(int x) { return x; }

namespace {

using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

TaskCode CodeOfNumber(uint64_t function, const char* type = nullptr) {
  return TaskCode(nullptr, function, type);
}

class TimelineTest : public ::testing::Test {
 protected:
  TimelineTest() { SetThreadClockForTest(&now_); }
  ~TimelineTest() override {
    SetThreadClockForTest(nullptr);
    remove(path_.c_str());
  }

  std::unique_ptr<Timeline> Make() {
    absl::StatusOr<std::unique_ptr<Timeline>> timeline =
        Timeline::Create(path_);
    EXPECT_TRUE(timeline.ok()) << timeline.status();
    return *std::move(timeline);
  }
  // With this process's number as P.
  std::string Contents() const {
    std::ostringstream text;
    text << std::ifstream(path_).rdbuf();
    return absl::StrReplaceAll(text.str(),
                               {{absl::StrCat(":", getpid(), ","), ":P,"}});
  }

  int64_t now_ = 5'000'001'000;
  const std::string path_ =
      absl::StrCat(::testing::TempDir(), "/timeline_test.", getpid());
};

TEST_F(TimelineTest, WritesTheTraceEventFormat) {
  const auto timeline = Make();
  timeline->StartWorker(0, "PoolWorker-1", 4711);
  timeline->AddTask(0, {.code = CodeOfNumber(0x1),
                        .submitted = 5'000'001'000,
                        .begin = 5'000'002'500,
                        .end = 5'000'012'501,
                        .outcome = "done"});
  timeline->CountWaiting(7);
  now_ += 20'000;
  timeline->EndWorker(0, "died");
  timeline->Finish();
  EXPECT_EQ(
      Contents(),
      "[\n"
      R"({"ph":"M","name":"process_name","pid":P,"args":{"name":"mp::Pool"}},)"
      "\n"
      R"({"ph":"M","name":"thread_name","pid":P,"tid":1,"ts":5000001.000,)"
      R"("args":{"name":"worker 1"}},)"
      "\n"
      R"({"ph":"B","name":"PoolWorker-1","pid":P,"tid":1,"ts":5000001.000,)"
      R"("args":{"pid":4711}},)"
      "\n"
      R"({"ph":"X","name":"0x1","pid":P,"tid":1,"ts":5000002.500,)"
      R"("dur":10.001,"args":{"waited_us":1.500,"outcome":"done"}},)"
      "\n"
      R"({"ph":"C","name":"tasks waiting","pid":P,"tid":1,"ts":5000001.000,)"
      R"("args":{"tasks":7}},)"
      "\n"
      R"({"ph":"E","name":"","pid":P,"tid":1,"ts":5000021.000,)"
      R"("args":{"end":"died"}})"
      "\n]\n");
}

TEST_F(TimelineTest, QuotesWhatJsonDoesNotTake) {
  const auto timeline = Make();
  timeline->StartWorker(0, "a\"b\\c\n", 1);
  timeline->Finish();
  EXPECT_THAT(Contents(), HasSubstr(R"("name":"a\"b\\c\u000a")"));
}

TEST_F(TimelineTest, EndsWorkersThatHaveNotEnded) {
  const auto timeline = Make();
  timeline->StartWorker(0, "PoolWorker-1", 1);
  timeline->StartWorker(1, "PoolWorker-2", 2);
  timeline->EndWorker(0, "left");
  timeline->EndWorker(0, "left again");
  timeline->Finish();
  const std::string contents = Contents();
  EXPECT_THAT(contents, HasSubstr(R"({"ph":"E","name":"","pid":P,"tid":2,)"));
  EXPECT_THAT(contents, ::testing::Not(HasSubstr("again")));
}

TEST_F(TimelineTest, CountsNoMoreOftenThanPeopleCanSee) {
  const auto timeline = Make();
  timeline->CountWaiting(41);
  timeline->CountWaiting(42);
  now_ += 1'000'000;
  timeline->CountWaiting(43);
  timeline->Finish();
  const std::string contents = Contents();
  EXPECT_THAT(contents, HasSubstr(R"("tasks":41)"));
  EXPECT_THAT(contents, ::testing::Not(HasSubstr(R"("tasks":42)")));
  EXPECT_THAT(contents, HasSubstr(R"("tasks":43)"));
}

// As if the program had been killed.
TEST_F(TimelineTest, WithoutItsEndTheFileHasWhatIsOlderThanAMoment) {
  {
    const auto timeline = Make();
    timeline->StartWorker(0, "old", 1);
    now_ += 200'000'000;
    timeline->StartWorker(1, "due", 1);
    timeline->StartWorker(2, "new", 1);
  }
  const std::string contents = Contents();
  EXPECT_THAT(contents, HasSubstr("old"));
  EXPECT_THAT(contents, HasSubstr("due"));
  EXPECT_THAT(contents, ::testing::Not(HasSubstr("new")));
}

TEST_F(TimelineTest, SaysWhyThereIsNoFile) {
  EXPECT_THAT(Timeline::Create("/nowhere/trace.json").status(),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("open(/nowhere/trace.json)")));
}

TEST_F(TimelineTest, SaysOnceWhereItEndsIfTheDiskIsFull) {
  absl::StatusOr<std::unique_ptr<Timeline>> timeline =
      Timeline::Create("/dev/full");
  ASSERT_TRUE(timeline.ok());
  ::testing::internal::CaptureStderr();
  (*timeline)->StartWorker(0, "PoolWorker-1", 1);
  now_ += 200'000'000;
  (*timeline)->CountWaiting(1);
  now_ += 200'000'000;
  (*timeline)->CountWaiting(1);
  (*timeline)->Finish();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::AllOf(
                  ::testing::StartsWith("mp::Pool: the timeline ends here: "),
                  HasSubstr("write"), ::testing::EndsWith("\n")));
}

TEST(DisplayNameTest, IsTheNameOfTheFunction) {
  EXPECT_EQ(DisplayName(CodeOfNumber(
                reinterpret_cast<uintptr_t>(&TimelineTestFunction))),
            "mp::pool_internal::TimelineTestFunction");
}

// Not a lambda, which each compiler names in its own way.
struct Callable {};

TEST(DisplayNameTest, IsTheTypeOfWhatIsNoFunction) {
  EXPECT_THAT(DisplayName(CodeOfNumber(0, typeid(Callable).name())),
              HasSubstr("Callable"));
  EXPECT_EQ(DisplayName(CodeOfNumber(0)), "task");
}

}  // namespace
}  // namespace mp::pool_internal
