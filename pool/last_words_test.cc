#include "mp/pool/last_words.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/worker_died.h"
#include "mp/shm/slab.h"
#include "mp/sync/event.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using pool_internal::LastWords;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class LastWordsTest : public mp::testing::ProcessTest {
 protected:
  void SetUp() override {
    absl::StatusOr<std::shared_ptr<LastWords>> words = MakeShared<LastWords>();
    ASSERT_THAT(words.status(), IsOk());
    words_ = *std::move(words);
  }
  std::shared_ptr<LastWords> words_;
};

TEST_F(LastWordsTest, WhatWasWrittenIsRead) {
  EXPECT_EQ(words_->Read(), "");
  words_->Append("text ");
  words_->AppendHex(0);
  words_->Append(" ");
  words_->AppendHex(0xfedcba9876543210);
  EXPECT_EQ(words_->Read(), "text 0x0 0xfedcba9876543210");
  words_->Append("\n\t\x80");
  EXPECT_EQ(words_->Read(), "text 0x0 0xfedcba9876543210\n??");
  words_->Clear();
  EXPECT_EQ(words_->Read(), "");
}

TEST_F(LastWordsTest, WhatDoesNotFitIsDropped) {
  for (int i = 0; i < 1000; ++i) words_->Append("0123456789");
  const std::string text = words_->Read();
  EXPECT_EQ(text.size(), 4080u);
  EXPECT_EQ(text.substr(4070), "0123456789");
}

// What functions a stack has shows only in code that is not optimised.
ABSL_ATTRIBUTE_NOINLINE void CrashHere(int how) {
  switch (how) {
    case 0: {
      auto* const nowhere = reinterpret_cast<std::atomic<int>*>(0x10);
      nowhere->store(1, std::memory_order_relaxed);
      break;
    }
    case 1:
      std::abort();
    case 2:
      raise(SIGFPE);
      break;
    case 3: {
      const std::atomic<void (*)()> null{nullptr};
      null.load(std::memory_order_relaxed)();
      break;
    }
  }
}

ABSL_ATTRIBUTE_NOINLINE int RunInto(int how) {
  CrashHere(how);
  return 1;
}

TEST_F(LastWordsTest, CrashComesWithItsStack) {
  Pool pool({.processes = 1});
  for (int how = 0; how < 4; ++how) {
    const absl::Status died = pool.Apply(RunInto, how).status();
    EXPECT_TRUE(IsWorkerDied(died)) << died;
    // They have handlers of their own for the rest.
    if (mp::testing::kSanitized && how != 1) continue;
    EXPECT_THAT(died.ToString(), AllOf(HasSubstr("its last words: SIG"),
                                       HasSubstr("CrashHere")));
    // From a call of nothing only the caller is known.
    if (how != 3) {
      EXPECT_THAT(died.message(), HasSubstr("RunInto"));
    }
    if (how == 0) {
      EXPECT_THAT(died.message(), HasSubstr("SIGSEGV at address 0x10"));
    }
  }
  EXPECT_THAT(pool.Apply([] { return absl::OkStatus(); }), IsOk());
}

TEST_F(LastWordsTest, TheSignalIsTheOneThatItWas) {
  Pool pool({.processes = 1});
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGTRAP}) {
    const absl::Status died = pool.Apply([](int s) { raise(s); }, signal);
    EXPECT_TRUE(IsWorkerDied(died)) << died;
    if (mp::testing::kSanitized && signal != SIGABRT) continue;
    EXPECT_THAT(died.message(), HasSubstr(std::string("was killed by SIG") +
                                          sigabbrev_np(signal) + " while"));
  }
}

TEST_F(LastWordsTest, StackOverflowIsSpokenOf) {
  if (mp::testing::kSanitized) return;
  Pool pool({.processes = 1});
  struct Recursion {
    ABSL_ATTRIBUTE_NOINLINE static int Deeper(int n) {
      std::atomic<char> room[1 << 12];
      room[0] = static_cast<char>(n);
      return n < 0 ? 0 : Deeper(n + 1) + room[0];
    }
  };
  EXPECT_THAT(pool.Apply(Recursion::Deeper, 0).status().message(),
              AllOf(HasSubstr("SIGSEGV at"), HasSubstr("Deeper")));
}

TEST_F(LastWordsTest, WorkerThatIsKilledSaysNothing) {
  Event begun;
  Pool pool(
      {.processes = 1,
       .initializer = Initializer([](Event event) { return event; }, begun)});
  for (const int signal : {SIGKILL, SIGABRT}) {
    const AsyncResult<void> task = pool.ApplyAsync([] {
      WorkerState<Event>().Set();
      absl::SleepFor(absl::InfiniteDuration());
    });
    begun.Wait();
    begun.Clear();
    // The task may have begun before the pool has come to count its worker.
    std::vector<pid_t> pids;
    while ((pids = pool.pids()).empty()) absl::SleepFor(absl::Milliseconds(1));
    kill(pids.front(), signal);
    EXPECT_THAT(task.Get().message(), AllOf(HasSubstr(sigabbrev_np(signal)),
                                            Not(HasSubstr("last words"))));
  }
}

TEST_F(LastWordsTest, CrashOfAnInitializerComesWithItsStack) {
  Pool pool({.processes = 1, .initializer = Initializer([] { RunInto(1); })});
  EXPECT_THAT(
      pool.Apply(RunInto, 0),
      StatusIs(absl::StatusCode::kAborted,
               AllOf(HasSubstr("the pool's initializer failed"),
                     HasSubstr("was killed by SIGABRT"),
                     HasSubstr("its last words"), HasSubstr("RunInto"))));
}

TEST_F(LastWordsTest, HandlersOfTheProgramStay) {
  auto child = ChildProcess::Start([] {
    signal(SIGFPE, [](int) { _exit(5); });
    Pool pool({.processes = 1});
    EXPECT_THAT(
        pool.Apply([] { raise(SIGFPE); }).message(),
        AllOf(HasSubstr("exited with code 5"), Not(HasSubstr("last words"))));
    EXPECT_THAT(pool.Apply([] { std::abort(); }).message(),
                HasSubstr("last words"));
    signal(SIGFPE, SIG_DFL);
  });
  child.ExpectExit(0);
}

TEST_F(LastWordsTest, ChildThatATaskForksDoesNotSpeakForTheWorker) {
  Pool pool({.processes = 1});
  EXPECT_THAT(
      pool.Apply([] {
            const pid_t child = fork();
            if (child == 0) std::abort();
            waitpid(child, nullptr, 0);
            _exit(3);
          })
          .message(),
      AllOf(HasSubstr("exited with code 3"), Not(HasSubstr("last words"))));
}

}  // namespace
}  // namespace mp
