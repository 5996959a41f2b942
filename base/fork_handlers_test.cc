#include "mp/base/fork_handlers.h"

#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"

namespace mp {
namespace {

// What ran, in this process.
std::string& Log() {
  static auto* const log = new std::string;
  return *log;
}

template <char kName>
ForkHandlers Logging() {
  return {.before = [] { Log() += std::string("b") + kName + " "; },
          .in_parent = [] { Log() += std::string("p") + kName + " "; },
          .in_child = [] { Log() += std::string("c") + kName + " "; }};
}

class ForkHandlersTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    AddForkHandlers(Logging<'1'>());
    AddForkHandlers({});
    AddForkHandlers(Logging<'2'>());
  }
  ForkHandlersTest() { Log().clear(); }
};

TEST_F(ForkHandlersTest, RunAroundFork) {
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) _exit(Log() == "b2 b1 c1 c2 " ? 0 : 1);
  EXPECT_EQ(Log(), "b2 b1 p1 p2 ");
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST_F(ForkHandlersTest, CanBeRunAroundSomethingElse) {
  RunBeforeFork();
  EXPECT_EQ(Log(), "b2 b1 ");
  Log().clear();
  RunInParentAfterFork();
  EXPECT_EQ(Log(), "p1 p2 ");
  Log().clear();
  RunInChildAfterFork();
  EXPECT_EQ(Log(), "c1 c2 ");
}

}  // namespace
}  // namespace mp
