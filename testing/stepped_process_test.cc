#include "mp/testing/stepped_process.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp::testing {
namespace {

using Event = SteppedProcess::Event;

class SteppedProcessTest : public ProcessTest {};

TEST_F(SteppedProcessTest, StandsStillBetweenSteps) {
  SharedPage<std::atomic<int>> count(0);
  auto child = ChildProcess::Start([&] {
    for (;;) ++*count;
  });
  while (*count == 0) absl::SleepFor(absl::Microseconds(100));
  ASSERT_OK_AND_ASSIGN(SteppedProcess process,
                       SteppedProcess::Stop(child.pid()));
  const int stopped = *count;
  absl::SleepFor(absl::Milliseconds(2));
  EXPECT_EQ(*count, stopped);
  // No more than one instruction in several counts.
  constexpr int kSteps = 1000;
  for (int i = 0; i < kSteps; ++i) ASSERT_EQ(process.Step(), Event::kStopped);
  EXPECT_EQ(process.instructions(), kSteps);
  EXPECT_GT(*count, stopped);
  EXPECT_LE(*count, stopped + kSteps / 2);
  const int killed = *count;
  process.Kill();
  child.ExpectSignal(SIGKILL);
  EXPECT_EQ(*count, killed);
  EXPECT_EQ(process.point().instruction, kSteps);
  EXPECT_NE(process.point().address, 0u);
  EXPECT_FALSE(process.point().asleep());
}

TEST_F(SteppedProcessTest, GoesIntoTheSleepThatItWasStoppedInAndOut) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  SharedPage<std::atomic<bool>> woken(false);
  auto child = ChildProcess::Start([&] {
    char byte;
    if (read(ends[0], &byte, 1) == 1) *woken = true;
    pollfd never = {.fd = ends[0], .events = POLLIN, .revents = 0};
    poll(&never, 1, -1);
  });
  ASSERT_TRUE(child.WaitUntilAsleep());
  ASSERT_OK_AND_ASSIGN(SteppedProcess process,
                       SteppedProcess::Stop(child.pid()));
  EXPECT_EQ(process.Step(), Event::kAsleep);
  EXPECT_EQ(process.Await(), Event::kAsleep);
  EXPECT_TRUE(process.point().asleep());
  ASSERT_EQ(write(ends[1], "x", 1), 1);
  EXPECT_EQ(process.Await(absl::Seconds(10)), Event::kStopped);
  EXPECT_FALSE(*woken);
  Event event = Event::kStopped;
  while (event == Event::kStopped) event = process.Step();
  EXPECT_EQ(event, Event::kAsleep) << "in poll()";
  EXPECT_TRUE(*woken);
  process.Kill();
  child.ExpectSignal(SIGKILL);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(SteppedProcessTest, LeavesTheEndToWhoStartedIt) {
  SharedPage<std::atomic<bool>> go(false);
  auto child = ChildProcess::Start([&] {
    while (!*go) {
    }
    _exit(3);
  });
  ASSERT_OK_AND_ASSIGN(SteppedProcess process,
                       SteppedProcess::Stop(child.pid()));
  *go = true;
  Event event = Event::kStopped;
  while (event == Event::kStopped) event = process.Step();
  EXPECT_EQ(event, Event::kEnded);
  child.ExpectExit(3);
  EXPECT_FALSE(SteppedProcess::Stop(child.pid()).ok());
}

TEST_F(SteppedProcessTest, DeliversSignals) {
  SharedPage<std::atomic<bool>> begun(false);
  static SharedPage<std::atomic<int>>* seen;
  SharedPage<std::atomic<int>> seen_page(0);
  seen = &seen_page;
  auto child = ChildProcess::Start([&] {
    signal(SIGUSR1, [](int number) { **seen = number; });
    *begun = true;
    while (**seen == 0) {
    }
    _exit(0);
  });
  while (!*begun) absl::SleepFor(absl::Microseconds(100));
  ASSERT_OK_AND_ASSIGN(SteppedProcess process,
                       SteppedProcess::Stop(child.pid()));
  kill(child.pid(), SIGUSR1);
  Event event = Event::kStopped;
  while (event == Event::kStopped) event = process.Step();
  EXPECT_EQ(event, Event::kEnded);
  EXPECT_EQ(*seen_page, SIGUSR1);
  child.ExpectExit(0);
}

TEST_F(SteppedProcessTest, IsKilledWhenItIsDropped) {
  auto child = ChildProcess::Start([] { pause(); });
  { ASSERT_OK(SteppedProcess::Stop(child.pid())); }
  child.ExpectSignal(SIGKILL);
}

}  // namespace
}  // namespace mp::testing
