#include "mp/process/finalizer.h"

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/process/process.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::testing::ElementsAre;
using ::testing::ExitedWithCode;

class FinalizerTest : public mp::testing::ProcessTest {
 protected:
  std::vector<std::string> ran_;
  std::function<void()> Note(const std::string& what) {
    return [this, what] { ran_.push_back(what); };
  }
};

TEST_F(FinalizerTest, RunsWhenItGoesOrIsCalled) {
  {
    const Finalizer gone(Note("gone"));
    EXPECT_TRUE(gone.still_active());
  }
  Finalizer called(Note("called"), 5);
  EXPECT_TRUE(called());
  EXPECT_FALSE(called()) << "once";
  EXPECT_FALSE(called.still_active());
  EXPECT_THAT(ran_, ElementsAre("gone", "called"));
}

TEST_F(FinalizerTest, Cancel) {
  {
    Finalizer cancelled(Note("never"), 1);
    EXPECT_TRUE(cancelled.Cancel());
    EXPECT_FALSE(cancelled.Cancel());
    EXPECT_FALSE(cancelled.still_active());
    EXPECT_FALSE(cancelled());
  }
  EXPECT_TRUE(ran_.empty());
}

TEST_F(FinalizerTest, Moves) {
  Finalizer none;
  EXPECT_FALSE(none.still_active());
  EXPECT_FALSE(none());
  Finalizer a(Note("a"));
  Finalizer b(std::move(a));
  EXPECT_FALSE(a.still_active());
  EXPECT_TRUE(b.still_active());
  b = Finalizer(Note("c"));
  EXPECT_THAT(ran_, ElementsAre("a")) << "what it had before";
  b = Finalizer();
  EXPECT_THAT(ran_, ElementsAre("a", "c"));
}

TEST_F(FinalizerTest, ACopyInAForkedChildDoesNothing) {
  Finalizer mine(Note("mine"), 0);
  Process child([&mine] {
    const bool active = mine.still_active();
    return !active && !mine() && !mine.Cancel() ? 0 : 1;
  });
  ASSERT_OK(child.Start());
  ASSERT_OK(child.Join());
  EXPECT_EQ(child.exitcode(), 0);
  EXPECT_TRUE(mine.still_active());
}

TEST_F(FinalizerTest, ConcurrentUse) {
  std::atomic<int> runs{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&runs, i] {
      for (int k = 0; k < 1'000; ++k) {
        Finalizer finalizer([&runs] { ++runs; }, i);
        if (k % 3 == 0) finalizer();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(runs, 4'000);
}

void Say(const std::string& text) { std::cerr << text << " "; }

// Leaves finalizers behind that only an exit runs, as those of static objects.
void LeaveSome() {
  static auto* const left = new std::vector<Finalizer>;
  const auto leave = [](const std::string& text, std::optional<int> priority) {
    left->emplace_back([text] { Say(text); }, priority);
  };
  leave("first-of-1", 1);
  leave("never", std::nullopt);
  leave("minus", -1);
  leave("ten", 10);
  leave("second-of-1", 1);
  left->emplace_back([] { throw std::runtime_error("oops"); }, 0);
}

using FinalizerDeathTest = FinalizerTest;

TEST_F(FinalizerDeathTest, OrderAtExit) {
  const std::string order =
      "ten second-of-1 first-of-1 .*uncaught in a finalizer.*oops\nchild minus "
      "$";
  const auto live = [](auto leave) {
    LeaveSome();
    static Process child([] {
      absl::SleepFor(absl::Milliseconds(20));
      Say("child");
    });
    MP_CHECK_OK(child.Start());
    leave();
  };
  EXPECT_EXIT(live([] { std::exit(3); }), ExitedWithCode(3), order);
  EXPECT_EXIT(live([] { Exit(4); }), ExitedWithCode(4), order);
  EXPECT_EXIT(live([] { _exit(5); }), ExitedWithCode(5), "^child $");
}

TEST_F(FinalizerDeathTest, AtTheEndOfAChild) {
  const auto in_a_child = [] {
    Process child([] { LeaveSome(); });
    MP_CHECK_OK(child.Start());
    MP_CHECK_OK(child.Join());
    _exit(child.exitcode().value());
  };
  EXPECT_EXIT(in_a_child(), ExitedWithCode(0),
              "ten second-of-1 first-of-1 .*oops\nminus $");
}

}  // namespace
}  // namespace mp
