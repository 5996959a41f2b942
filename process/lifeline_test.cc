#include "mp/process/lifeline.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"

namespace mp::process_internal {
namespace {

// In these tests the parent is a child, which can die.
class LifelineTest : public mp::testing::ProcessTest {
 protected:
  LifelineTest() {
    testing::PipeEnds ends = testing::MakePipe();
    reader_ = std::move(ends.reader);
    writer_ = std::move(ends.writer);
  }

  // Runs `parent` in a process that is killed when it comes to its end.
  template <typename Parent>
  void RunAndKill(Parent parent) {
    const pid_t pid = fork();
    MP_PCHECK(pid >= 0) << "fork";
    if (pid == 0) {
      parent();
      raise(SIGKILL);
    }
    int status = 0;
    MP_PCHECK(waitpid(pid, &status, 0) == pid) << "waitpid";
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }

  // A child that holds a lifeline, says so, and stays until it is killed.
  void StartChild() {
    UniqueFd lifeline = ValueOrDie(NewLifeline());
    const pid_t pid = fork();
    MP_PCHECK(pid >= 0) << "fork";
    if (pid != 0) return;
    HoldLifeline(lifeline.release());
    Tell("held ");
    for (;;) pause();
  }
  void Tell(const std::string& what) {
    MP_PCHECK(write(writer_.get(), what.data(), what.size()) > 0) << "write";
  }
  void Await(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      char byte;
      MP_PCHECK(read(reader_.get(), &byte, 1) == 1) << "read";
    }
  }

  // Until everybody has gone.
  void AwaitTheEnd() {
    writer_.reset();
    char byte;
    while (read(reader_.get(), &byte, 1) == 1) {
    }
  }

  UniqueFd reader_;
  UniqueFd writer_;
};

TEST_F(LifelineTest, ChildrenEndWithTheirParent) {
  RunAndKill([this] {
    for (int i = 0; i < 3; ++i) StartChild();
    Await(3 * 5);
  });
  AwaitTheEnd();
}

TEST_F(LifelineTest, ThatHadEndedBefore) {
  RunAndKill([this] { StartChild(); });  // may not have come so far
  AwaitTheEnd();
}

TEST_F(LifelineTest, TheThreadDoesNotMatter) {
  RunAndKill([this] {
    std::thread([this] { StartChild(); }).join();
    Await(5);
    Tell("alive ");
    // Its child is: a dead one would have been seen.
    siginfo_t info = {};
    MP_CHECK(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
             info.si_pid == 0);
  });
  AwaitTheEnd();
}

// A child that the program forks by itself does not keep the parent's pipe.
TEST_F(LifelineTest, OtherChildrenHaveNoPartInIt) {
  auto [stopped, stop] = testing::MakePipe();
  RunAndKill([this, &stopped = stopped, &stop = stop] {
    StartChild();
    Await(5);
    const pid_t other = fork();
    if (other != 0) return;
    // Lives on until it is told to go, without the pipe that the child has.
    writer_.reset();
    stop.reset();
    char byte;
    [[maybe_unused]] const ssize_t end = read(stopped.get(), &byte, 1);
    _exit(0);
  });
  AwaitTheEnd();  // of the child, while the other one is alive
  stop.reset();
}

TEST_F(LifelineTest, SignalsThatAreBlockedDoNotMatter) {
  RunAndKill([this] {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    StartChild();
    Await(5);
  });
  AwaitTheEnd();
}

}  // namespace
}  // namespace mp::process_internal
