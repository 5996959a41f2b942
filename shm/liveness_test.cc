#include "mp/shm/liveness.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/testing/child.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::testing::NotNull;

using SharedToken = SharedPage<std::atomic<Token>>;

// A child that publishes its token and then waits to be killed.
ChildProcess StartSleeper(SharedToken& token) {
  token->store(kNoToken);
  ChildProcess child = ChildProcess::Start([&] {
    token->store(Liveness::Self());
    for (;;) pause();
  });
  while (token->load() == kNoToken) absl::SleepFor(absl::Microseconds(100));
  return child;
}

// Whether the process is seen to be dead; looks until then or until `limit`.
bool DeadWithin(Token token, absl::Duration limit) {
  const Deadline deadline = Deadline::After(limit);
  while (!Liveness::IsDead(token)) {
    if (deadline.Expired()) return false;
    absl::SleepFor(absl::Microseconds(200));
  }
  return true;
}

// In a process whose first thread calls exit as a system call.
void WaitForEndOfFirstThread() {
  while (testing::ReadProcessInfo(getpid())->state != 'Z') {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Long enough to be sure that a thing does not happen by itself.
constexpr absl::Duration kWhile = absl::Milliseconds(50);
// The watchdog of the fixture is nearer.
constexpr absl::Duration kEver = absl::Seconds(100);

class LivenessTest : public testing::ProcessTest {};

TEST_F(LivenessTest, SelfIsStableAliveAndNamesThisProcess) {
  ASSERT_OK(Liveness::Join());
  const Token self = Liveness::Self();
  EXPECT_NE(self, kNoToken);
  EXPECT_NE(self, kDeadToken);
  EXPECT_LT(self, kTokenLimit);
  EXPECT_FALSE(Liveness::IsDead(self));
  EXPECT_EQ(Liveness::Pid(self), getpid());
  ASSERT_OK(Liveness::Join());
  EXPECT_EQ(Liveness::Self(), self);
  std::thread([self] { EXPECT_EQ(Liveness::Self(), self); }).join();
}

TEST_F(LivenessTest, DeadTokenIsDeadFromTheStart) {
  EXPECT_TRUE(Liveness::IsDead(kDeadToken));
  EXPECT_EQ(Liveness::Pid(kDeadToken), 0);
}

TEST_F(LivenessTest, EveryChildHasATokenOfItsOwn) {
  const Token parent = Liveness::Self();
  SharedToken child_token, grandchild_token;
  auto child = ChildProcess::Start([&] {
    child_token->store(Liveness::Self());
    EXPECT_FALSE(Liveness::IsDead(parent));
    EXPECT_EQ(Liveness::Pid(parent), getppid());
    auto grandchild =
        ChildProcess::Start([&] { grandchild_token->store(Liveness::Self()); });
    grandchild.ExpectExit(0);
    EXPECT_TRUE(Liveness::IsDead(grandchild_token->load()));
    EXPECT_EQ(Liveness::Self(), child_token->load());
  });
  child.ExpectExit(0);
  const std::set<Token> tokens = {parent, child_token->load(),
                                  grandchild_token->load()};
  EXPECT_EQ(tokens.size(), 3u);
  EXPECT_EQ(Liveness::Self(), parent);
  EXPECT_TRUE(Liveness::IsDead(child_token->load()));
}

TEST_F(LivenessTest, AStoppedProcessIsAlive) {
  SharedToken token;
  auto child = StartSleeper(token);
  ASSERT_TRUE(child.Stop());
  absl::SleepFor(kWhile);
  EXPECT_FALSE(Liveness::IsDead(*token));
  EXPECT_EQ(Liveness::Pid(*token), child.pid());
  child.Continue();
  EXPECT_FALSE(Liveness::IsDead(*token));
}

TEST_F(LivenessTest, AKilledProcessIsDeadBeforeAndAfterItIsReaped) {
  SharedToken token;
  auto child = StartSleeper(token);
  child.Kill();
  EXPECT_TRUE(DeadWithin(*token, kEver));  // nobody has reaped the zombie
  child.ExpectSignal(SIGKILL);
  EXPECT_TRUE(Liveness::IsDead(*token));
}

TEST_F(LivenessTest, AProcessThatExitedIsDead) {
  SharedToken token;
  auto child = ChildProcess::Start([&] { token->store(Liveness::Self()); });
  child.ExpectExit(0);
  EXPECT_TRUE(Liveness::IsDead(*token));
}

// The pid lives on, but the program that owned things has gone.
TEST_F(LivenessTest, AProcessThatCalledExecIsDead) {
  SharedToken token;
  auto child = ChildProcess::Start([&] {
    token->store(Liveness::Self());
    execl("/bin/sleep", "sleep", "1000", nullptr);
  });
  while (*token == kNoToken) absl::SleepFor(absl::Microseconds(100));
  EXPECT_TRUE(DeadWithin(*token, kEver));
  EXPECT_TRUE(child.IsAlive());
}

// The first thread may end before the process does.
TEST_F(LivenessTest, AProcessWithoutItsFirstThreadIsAlive) {
  SharedToken token;
  SharedPage<std::atomic<int>> stage;
  auto child = ChildProcess::Start([&] {
    std::thread([&] {
      WaitForEndOfFirstThread();
      token->store(Liveness::Self());
      while (*stage == 0) absl::SleepFor(absl::Milliseconds(1));
      Liveness::Rehome();
      *stage = 2;
      for (;;) pause();
    }).detach();
    syscall(SYS_exit, 0);  // of this thread only
  });
  while (*token == kNoToken) absl::SleepFor(absl::Milliseconds(1));
  absl::SleepFor(kWhile);
  EXPECT_FALSE(Liveness::IsDead(*token));
  uint32_t expected;
  EXPECT_EQ(Liveness::Watch(*token, &expected), nullptr);
  // Another thread takes the certificate over.
  *stage = 1;
  while (*stage != 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(Liveness::Watch(*token, &expected), NotNull());
  EXPECT_FALSE(Liveness::IsDead(*token));
  child.Kill();
  EXPECT_TRUE(DeadWithin(*token, kEver));
}

TEST_F(LivenessTest, ExecWithAnotherThreadHoldingTheCertificate) {
  SharedToken token;
  auto child = ChildProcess::Start([&] {
    std::thread([&] { token->store(Liveness::Self()); }).join();
    Liveness::Rehome();  // now the first thread's
    std::thread([] { execl("/bin/sleep", "sleep", "1000", nullptr); }).join();
  });
  while (*token == kNoToken) absl::SleepFor(absl::Microseconds(100));
  EXPECT_TRUE(DeadWithin(*token, kEver));
  EXPECT_TRUE(child.IsAlive());
}

TEST_F(LivenessTest, WatchWakesOnDeath) {
  SharedToken token;
  auto child = StartSleeper(token);
  uint32_t expected = 0;
  const FutexWord* const life = Liveness::Watch(*token, &expected);
  ASSERT_THAT(life, NotNull());
  EXPECT_EQ(life->load(), expected);
  // Watching again gives the same.
  uint32_t again = 0;
  EXPECT_EQ(Liveness::Watch(*token, &again), life);
  EXPECT_EQ(again, expected);

  std::thread killer([&] {
    absl::SleepFor(kWhile);
    child.Kill();
  });
  while (life->load() == expected) {
    // Without a wake-up this ends by the deadline, which fails the test.
    ASSERT_TRUE(FutexWait(*life, expected, Deadline::After(kEver)));
  }
  killer.join();
  EXPECT_TRUE(DeadWithin(*token, kEver));
  EXPECT_EQ(Liveness::Watch(*token, &expected), nullptr);
}

// A thread that joined and ended is not the end of its process.
TEST_F(LivenessTest, TheEndOfTheThreadThatJoinedIsNotADeath) {
  SharedToken token;
  SharedPage<std::atomic<int>> stage;
  auto child = ChildProcess::Start([&] {
    // The child itself joined in fork(); a process that never forked joins
    // where it first uses the table. Move the certificate to another thread by
    // ending the first one.
    std::thread([&] {
      WaitForEndOfFirstThread();
      std::thread([&] {
        Liveness::Rehome();
        token->store(Liveness::Self());
        while (*stage < 1) absl::SleepFor(absl::Milliseconds(1));
      }).join();
      *stage = 2;
      while (*stage < 3) absl::SleepFor(absl::Milliseconds(1));
      Liveness::Rehome();
      *stage = 4;
      for (;;) pause();
    }).detach();
    syscall(SYS_exit, 0);  // of this thread only
  });
  while (*token == kNoToken) absl::SleepFor(absl::Milliseconds(1));
  uint32_t expected = 0;
  const FutexWord* const life = Liveness::Watch(*token, &expected);
  ASSERT_THAT(life, NotNull());
  // It gives the certificate back: the watcher is woken and finds it alive.
  *stage = 1;
  while (life->load() == expected) {
    ASSERT_TRUE(FutexWait(*life, expected, Deadline::After(kEver)));
  }
  while (*stage != 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(Liveness::Watch(*token, &expected), nullptr);
  EXPECT_FALSE(Liveness::IsDead(*token));
  *stage = 3;
  while (*stage != 4) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(Liveness::Watch(*token, &expected), NotNull());
  EXPECT_FALSE(Liveness::IsDead(*token));
  child.Kill();
  EXPECT_TRUE(DeadWithin(*token, kEver));
}

TEST_F(LivenessTest, AChildForkedByAnotherThreadIsAMember) {
  SharedToken token;
  SharedPage<std::atomic<int>> stage;
  std::thread([&] {
    auto child = ChildProcess::Start([&] {
      token->store(Liveness::Self());
      *stage = 1;
      for (;;) pause();
    });
    while (*stage != 1) absl::SleepFor(absl::Milliseconds(1));
    uint32_t expected;
    EXPECT_THAT(Liveness::Watch(*token, &expected), NotNull());
    EXPECT_FALSE(Liveness::IsDead(*token));
    child.Kill();
    EXPECT_TRUE(DeadWithin(*token, kEver));
  }).join();
}

// There, the pids in the table would be other processes'.
TEST_F(LivenessTest, AProcessInAnotherPidNamespaceIsRefused) {
  ASSERT_OK(Liveness::Join());
  auto child = ChildProcess::Start([] {
    if (unshare(CLONE_NEWPID) != 0 &&
        unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) {
      printf("not tested: unshare(CLONE_NEWPID): %s\n", strerror(errno));
      return;
    }
    EXPECT_OK(Liveness::Join()) << "its children are elsewhere, not it";
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      _exit(absl::IsFailedPrecondition(Liveness::Join()) ? 42 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(grandchild, &status, 0), grandchild);
    EXPECT_EQ(WEXITSTATUS(status), 42);
  });
  child.ExpectExit(0);
}

TEST_F(LivenessTest, SlotsAreReusedAndTokensAreNot) {
  // More than there are slots; but instrumented processes fork slowly.
  constexpr int kChildren = kSanitized ? 300 : 5'000;
  constexpr bool kOnceRound = kChildren > kMaxLiveProcesses;
  SharedToken sleeping, homeless, execed;
  auto sleeper = StartSleeper(sleeping);
  // Alive, though no thread of it holds the certificate.
  auto without_certificate = ChildProcess::Start([&] {
    std::thread([&] {
      WaitForEndOfFirstThread();
      homeless->store(Liveness::Self());
      for (;;) pause();
    }).detach();
    syscall(SYS_exit, 0);  // of this thread only
  });
  // Alive, but it has nothing to do with shared objects any more.
  auto other_program = ChildProcess::Start([&] {
    execed->store(Liveness::Self());
    execl("/bin/sleep", "sleep", "1000", nullptr);
  });
  while (*homeless == kNoToken || *execed == kNoToken) {
    absl::SleepFor(absl::Microseconds(100));
  }
  EXPECT_TRUE(DeadWithin(*execed, kEver));

  std::set<Token> tokens = {Liveness::Self(), *sleeping, *homeless, *execed};
  ASSERT_EQ(tokens.size(), 4u);
  SharedToken token;
  Token first = kNoToken;
  for (int i = 0; i < kChildren; ++i) {
    auto child = ChildProcess::Start([&] {
      const Token self = Liveness::Self();
      EXPECT_FALSE(Liveness::IsDead(self));
      EXPECT_EQ(Liveness::Pid(self), getpid());
      token->store(self);
    });
    child.ExpectExit(0);
    ASSERT_TRUE(tokens.insert(*token).second) << "child " << i;
    if (first == kNoToken) first = *token;
  }
  // The slots of the dead have passed on, those of the living have not.
  if (kOnceRound) {
    EXPECT_EQ(Liveness::Pid(first), 0);
    EXPECT_EQ(Liveness::Pid(*execed), 0);
  }
  EXPECT_TRUE(Liveness::IsDead(first));
  EXPECT_TRUE(other_program.IsAlive());
  EXPECT_TRUE(Liveness::IsDead(*execed));
  EXPECT_FALSE(Liveness::IsDead(*sleeping));
  EXPECT_EQ(Liveness::Pid(*sleeping), sleeper.pid());
  EXPECT_FALSE(Liveness::IsDead(*homeless));
  EXPECT_EQ(Liveness::Pid(*homeless), without_certificate.pid());
  without_certificate.Kill();
  EXPECT_TRUE(DeadWithin(*homeless, kEver));
}

// SIGKILL at random moments of fork, when the child takes its slot.
TEST_F(LivenessTest, TheTableSurvivesKillsWhileChildrenTakeSlots) {
  constexpr int kRounds = kSanitized ? 30 : 150;
  constexpr int kAtATime = 8;
  const auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < kRounds; ++round) {
    std::vector<pid_t> pids;
    for (int i = 0; i < kAtATime; ++i) {
      const pid_t pid = fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) _exit(Liveness::IsDead(Liveness::Self()) ? 1 : 0);
      pids.push_back(pid);
      if (random() % 2 == 0) {
        // What is done here takes about as long as fork() in the child.
        for (unsigned spin = random() % 20'000; spin > 0; --spin) {
          std::atomic_signal_fence(std::memory_order_seq_cst);
        }
        kill(pid, SIGKILL);
      }
    }
    for (const pid_t pid : pids) {
      int status = 0;
      ASSERT_EQ(waitpid(pid, &status, 0), pid);
      EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    }
  }
  if (kSanitized) return;
  // No slot is lost: as many children as there are slots, all at once, would
  // take too long, but one after the other they visit every slot.
  SharedToken token;
  std::set<Token> slots;
  for (int i = 0; i < kMaxLiveProcesses; ++i) {
    ChildProcess::Start([&] { token->store(Liveness::Self()); }).ExpectExit(0);
    slots.insert(*token % (kMaxLiveProcesses + 1));
  }
  // All slots but this process's own; the search skips slot 0.
  EXPECT_EQ(slots.size(), static_cast<size_t>(kMaxLiveProcesses) - 1);
}

// Everything forks, joins and ends at the same time.
TEST_F(LivenessTest, ThreadsMayForkWhileOthersUseTheTable) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> users;
  for (int i = 0; i < 2; ++i) {
    users.emplace_back([&] {
      while (!stop) {
        EXPECT_FALSE(Liveness::IsDead(Liveness::Self()));
        std::thread([] { Liveness::Rehome(); }).join();
      }
    });
  }
  std::vector<std::thread> forkers;
  for (int i = 0; i < 2; ++i) {
    forkers.emplace_back([] {
      for (int n = 0; n < 50; ++n) {
        const pid_t pid = fork();
        MP_PCHECK(pid >= 0) << "fork";
        if (pid == 0) {
          Liveness::Rehome();
          _exit(Liveness::Join().ok() ? 0 : 1);
        }
        int status = 0;
        EXPECT_EQ(waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
      }
    });
  }
  for (std::thread& forker : forkers) forker.join();
  stop = true;
  for (std::thread& user : users) user.join();
}

// The tests below need a process that has no table yet: not a forked child.
// A death test of the threadsafe style runs in a fresh one.
class LivenessDeathTest : public LivenessTest {};

constexpr auto Succeeds = [](int status) { return status == 0; };

// What the child saw becomes the exit code of its parent.
int ExitCodeOf(pid_t pid) {
  int status = 0;
  MP_PCHECK(waitpid(pid, &status, 0) == pid) << "waitpid";
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

[[noreturn]] void ForkWithoutDescriptors() {
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  const pid_t pid = fork();
  setrlimit(RLIMIT_NOFILE, &limit);
  const absl::Status status = Liveness::Join();
  if (pid == 0) {
    fprintf(stderr, "%s\n", status.ToString().c_str());
    _exit(absl::IsResourceExhausted(status) ? 0 : 1);
  }
  _exit(status.ok() ? ExitCodeOf(pid) : 2);
}

// A table of the child's own would know nothing about the parent, and a lock in
// memory that both share would take the parent for dead.
TEST_F(LivenessDeathTest, AChildThatInheritedNoTableDoesNotMakeOne) {
  EXPECT_EXIT(ForkWithoutDescriptors(), Succeeds,
              "memfd_create.*liveness.*EMFILE");
}

[[noreturn]] void JoinInAThreadThatEnds() {
  Token self = kNoToken;
  std::thread([&self] { self = Liveness::Self(); }).join();
  // 100: dead; 1: alive and certified; 0: alive, the kernel does not know.
  const auto seen_by_child = [self] {
    const pid_t pid = fork();
    if (pid != 0) return ExitCodeOf(pid);
    uint32_t expected;
    const bool certified = Liveness::Watch(self, &expected) != nullptr;
    _exit(Liveness::IsDead(self) ? 100 : certified ? 1 : 0);
  };
  if (seen_by_child() != 0) _exit(1);
  std::thread(Liveness::Rehome).join();
  if (seen_by_child() != 0) _exit(2);
  Liveness::Rehome();
  if (seen_by_child() != 1) _exit(3);
  _exit(Liveness::Self() == self ? 0 : 4);
}

TEST_F(LivenessDeathTest, TheThreadThatJoinedMayEnd) {
  EXPECT_EXIT(JoinInAThreadThatEnds(), Succeeds, "");
}

void UseWithoutMemory() {
  // No file, not even one in memory, may be as large as the table; but the
  // message must fit where standard error goes.
  const rlimit small = {.rlim_cur = 100'000, .rlim_max = 100'000};
  setrlimit(RLIMIT_FSIZE, &small);
  signal(SIGXFSZ, SIG_IGN);
  Liveness::Self();
}

TEST_F(LivenessDeathTest, UseAbortsIfThereIsNoTable) {
  EXPECT_DEATH(UseWithoutMemory(),
               "cannot use shared objects: .*posix_fallocate.*liveness");
}

}  // namespace
}  // namespace mp

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  return RUN_ALL_TESTS();
}
