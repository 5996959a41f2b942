#include "mp/sync/event.h"

#include <signal.h>

#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { Event(); }
};

class EventTest : private WarmUp, public testing::ProcessTest {};

TEST_F(EventTest, SetAndClear) {
  Event event;
  EXPECT_FALSE(event.IsSet());
  event.Set();
  EXPECT_TRUE(event.IsSet());
  event.Set();
  EXPECT_TRUE(event.IsSet());
  event.Clear();
  EXPECT_FALSE(event.IsSet());
  event.Clear();
  EXPECT_FALSE(event.IsSet());
  event.Set();
  EXPECT_TRUE(event.IsSet());
}

TEST_F(EventTest, Timeouts) {
  Event event;
  EXPECT_FALSE(event.Wait(absl::ZeroDuration()));
  EXPECT_FALSE(event.Wait(-absl::InfiniteDuration()));
  const absl::Time begin = absl::Now();
  EXPECT_FALSE(event.Wait(absl::Milliseconds(30)));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(29));
  event.Set();
  EXPECT_TRUE(event.Wait(absl::ZeroDuration()));
  EXPECT_TRUE(event.Wait(absl::Seconds(1)));
  EXPECT_TRUE(event.Wait());
  EXPECT_TRUE(event.IsSet()) << "waiting takes nothing";
  event.Clear();
  EXPECT_FALSE(event.Wait(absl::ZeroDuration()));
}

TEST_F(EventTest, AChildSetsIt) {
  Event event;
  auto child = ChildProcess::Start([&] {
    absl::SleepFor(absl::Milliseconds(20));
    event.Set();
  });
  EXPECT_TRUE(event.Wait());
  child.ExpectExit(0);
  EXPECT_TRUE(event.IsSet());
}

TEST_F(EventTest, SetLetsAllGo) {
  Event event;
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 8; ++i) {
    waiters.push_back(ChildProcess::Start([&] { EXPECT_TRUE(event.Wait()); }));
  }
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  event.Set();
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
}

// In Python they would be told that it is not set.
TEST_F(EventTest, WhoWaitsGoesOnThoughItIsClearedAtOnce) {
  Event event;
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.push_back(
        ChildProcess::Start([&] { EXPECT_TRUE(event.Wait(absl::Hours(1))); }));
  }
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  event.Set();
  event.Clear();
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
  EXPECT_FALSE(event.Wait(absl::ZeroDuration()));
}

TEST_F(EventTest, WaitersMayDie) {
  Event event;
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.push_back(ChildProcess::Start([&] { EXPECT_TRUE(event.Wait()); }));
  }
  for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
  for (size_t i = 0; i < waiters.size(); i += 2) {
    waiters[i].Kill();
    waiters[i].ExpectSignal(SIGKILL);
  }
  event.Set();
  for (size_t i = 1; i < waiters.size(); i += 2) waiters[i].ExpectExit(0);
}

TEST_F(EventTest, ThreadsWaitToo) {
  Event event;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_TRUE(event.Wait()); });
  }
  event.Set();
  for (std::thread& thread : threads) thread.join();
}

// Each change is seen by the other before the next one is made.
TEST_F(EventTest, PingPong) {
  constexpr int kTimes = 20'000;
  Event there;
  Event back;
  auto child = ChildProcess::Start([&] {
    for (int i = 0; i < kTimes; ++i) {
      EXPECT_TRUE(there.Wait());
      there.Clear();
      back.Set();
    }
  });
  for (int i = 0; i < kTimes; ++i) {
    there.Set();
    EXPECT_TRUE(back.Wait());
    back.Clear();
  }
  child.ExpectExit(0);
}

TEST_F(EventTest, WhatWasBeforeSetIsSeenAfterWait) {
  constexpr int kTimes = 10'000;
  struct Box {
    int value = 0;  // not atomic: the events order it
  };
  SharedPage<Box> box;
  Event full;
  Event empty;
  auto child = ChildProcess::Start([&] {
    for (int i = 1; i <= kTimes; ++i) {
      full.Wait();
      full.Clear();
      ASSERT_EQ(box->value, i);
      empty.Set();
    }
  });
  for (int i = 1; i <= kTimes; ++i) {
    box->value = i;
    full.Set();
    empty.Wait();
    empty.Clear();
  }
  child.ExpectExit(0);
}

Event* handler_event = nullptr;

TEST_F(EventTest, SignalHandlersMaySet) {
  Event event;
  handler_event = &event;
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_handler = [](int) { handler_event->Set(); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  auto child = ChildProcess::Start([&] {
    EXPECT_TRUE(event.Wait());
    EXPECT_TRUE(event.IsSet());
  });
  ASSERT_TRUE(child.WaitUntilAsleep());
  kill(child.pid(), SIGUSR1);  // interrupts the very wait
  child.ExpectExit(0);
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
}

TEST_F(EventTest, CopiesMeanTheSameEvent) {
  Event event;
  const Event other;
  Event copy = event;
  EXPECT_EQ(copy, event);
  EXPECT_NE(copy, other);
  event.Set();
  EXPECT_TRUE(copy.IsSet());
  EXPECT_FALSE(other.IsSet());
  const Event moved = std::move(copy);
  EXPECT_TRUE(moved.IsSet());
}

TEST_F(EventTest, ToString) {
  Event event;
  EXPECT_EQ(event.ToString(), "Event(unset)");
  event.Set();
  EXPECT_EQ(event.ToString(), "Event(set)");
}

TEST_F(EventTest, Create) {
  ASSERT_OK_AND_ASSIGN(Event event, Event::Create());
  EXPECT_FALSE(event.IsSet());
}

}  // namespace
}  // namespace mp
