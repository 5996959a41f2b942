#include "mp/process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::FailSystemCall;
using ::mp::testing::IsReadable;
using ::mp::testing::kSanitized;
using ::mp::testing::MakePipe;
using ::mp::testing::PipeEnds;
using ::mp::testing::ReadAll;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::ExitedWithCode;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Optional;
using ::testing::SizeIs;

// ---- Helpers

// Closed until opened, for any number of processes.
class Gate {
 public:
  Gate() : fd_(eventfd(0, EFD_CLOEXEC)) { MP_PCHECK(fd_.valid()) << "eventfd"; }

  void Open() { MP_PCHECK(eventfd_write(fd_.get(), 1) == 0) << "eventfd"; }
  void Wait() const {
    pollfd entry = {.fd = fd_.get(), .events = POLLIN, .revents = 0};
    while (poll(&entry, 1, -1) != 1) {
    }
  }

 private:
  UniqueFd fd_;
};

void Print(std::string_view text) {
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, text.data(), text.size());
}

// Runs a target to its end and returns its exit code.
template <typename... Args>
int ExitCodeOf(Args&&... args) {
  Process process(std::forward<Args>(args)...);
  MP_CHECK_OK(process.Start());
  MP_CHECK_OK(process.Join());
  return process.exitcode().value();
}

// As the exit code of a child: 0 if `condition` holds and no assertion failed.
int Verdict(bool condition = true) {
  return condition && !::testing::Test::HasFailure() ? 0 : 1;
}

// Runs `body` in a child and fails the test if an assertion failed there. The
// child prints which.
template <typename F>
void RunInChild(F body) {
  EXPECT_EQ(ExitCodeOf([&body] {
              body();
              return Verdict();
            }),
            0)
      << "in the child, see above";
}

struct Outcome {
  int exitcode;
  std::string text;
};

// Runs `target` in a process whose `stream` is a pipe, and returns what it and
// its children wrote.
template <typename F>
Outcome RunAndRead(int stream, F target) {
  PipeEnds pipe = MakePipe();
  Process process(ProcessOptions{.name = "Talker"}, [&] {
    dup2(pipe.writer.get(), stream);
    pipe.writer.reset();
    return process_internal::ExitCodeOf(target);
  });
  MP_CHECK_OK(process.Start());
  pipe.writer.reset();
  std::string text = ReadAll(pipe.reader.get());
  MP_CHECK_OK(process.Join());
  return {process.exitcode().value(), std::move(text)};
}

size_t CountDescriptors() {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

class ProcessTest : public mp::testing::ProcessTest {};

// ---- Life

// This program's main() is GoogleTest's.
TEST_F(ProcessTest, OtherMethodsNeedInit) {
  for (const StartMethod method :
       {StartMethod::kSpawn, StartMethod::kForkserver}) {
    Process process({.start_method = method}, [] {});
    EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                          HasSubstr("mp::Init")));
    EXPECT_EQ(process.pid(), std::nullopt);
  }
}

TEST_F(ProcessTest, Life) {
  Gate gate;
  Process process([&] {
    gate.Wait();
    return 3;
  });
  EXPECT_FALSE(process.IsAlive());
  EXPECT_EQ(process.exitcode(), std::nullopt);
  EXPECT_EQ(process.pid(), std::nullopt);
  EXPECT_EQ(process.sentinel(), -1);
  EXPECT_FALSE(process.daemon());
  EXPECT_THAT(ActiveChildren(), IsEmpty());

  ASSERT_OK(process.Start());
  EXPECT_TRUE(process.IsAlive());
  EXPECT_EQ(process.exitcode(), std::nullopt);
  EXPECT_NE(process.pid(), std::nullopt);
  EXPECT_EQ(process.pid(), process.ident());
  ASSERT_THAT(ActiveChildren(), SizeIs(1));
  EXPECT_EQ(ActiveChildren()[0].pid(), process.pid());

  gate.Open();
  ASSERT_OK(process.Join());
  EXPECT_FALSE(process.IsAlive());
  EXPECT_THAT(process.exitcode(), Optional(3));
  EXPECT_NE(process.pid(), std::nullopt);
  EXPECT_THAT(ActiveChildren(), IsEmpty());
  EXPECT_OK(process.Join()) << "as often as one likes";
}

TEST_F(ProcessTest, StartsOnce) {
  Process process([] {});
  ASSERT_OK(process.Start());
  EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                        HasSubstr("has been started before")));
  ASSERT_OK(process.Join());
  EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ProcessTest, NothingButStartBeforeStart) {
  Process process([] {});
  for (const absl::Status& status : {process.Join(), process.Terminate(),
                                     process.Kill(), process.Interrupt()}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("has not been started")));
  }
}

TEST_F(ProcessTest, WithoutTargetDoesNothing) {
  EXPECT_EQ(ExitCodeOf(), 0);
  EXPECT_EQ(ExitCodeOf(ProcessOptions{.name = "idle"}), 0);
}

TEST_F(ProcessTest, DestroyingTheHandleDoesNotWait) {
  Gate gate;
  SharedPage<std::atomic<bool>> done(false);
  {
    Process process([&] {
      gate.Wait();
      *done = true;
    });
    ASSERT_OK(process.Start());
  }
  EXPECT_FALSE(*done);
  gate.Open();
  for (const Process& process : ActiveChildren()) EXPECT_OK(process.Join());
  EXPECT_TRUE(*done);
}

// ---- Targets and arguments

int Add(int a, int b) { return a + b; }

struct Adder {
  int Plus(int b) const { return a + b; }
  int a;
};

TEST_F(ProcessTest, TargetsOfAllKinds) {
  EXPECT_EQ(ExitCodeOf(Add, 3, 4), 7);
  EXPECT_EQ(ExitCodeOf(&Add, 3, 4), 7);
  EXPECT_EQ(ExitCodeOf([] { return 8; }), 8);
  EXPECT_EQ(ExitCodeOf([](const auto&... n) { return (n + ...); }, 1, 2, 3), 6);
  EXPECT_EQ(ExitCodeOf(std::function<int()>([] { return 9; })), 9);
  EXPECT_EQ(ExitCodeOf(&Adder::Plus, Adder{5}, 6), 11);
  const Adder adder{6};
  EXPECT_EQ(ExitCodeOf(&Adder::Plus, &adder, 6), 12);
  EXPECT_EQ(ExitCodeOf([n = std::make_unique<int>(4)] { return *n; }), 4);
  EXPECT_EQ(ExitCodeOf([count = 0]() mutable { return ++count; }), 1);
}

TEST_F(ProcessTest, ArgumentsArriveAsTheyWere) {
  const auto check = [](std::string_view text, std::vector<int> numbers,
                        std::unique_ptr<int> pointer) {
    return Verdict(text == "text" && numbers == std::vector<int>{1, 2} &&
                   *pointer == 3);
  };
  EXPECT_EQ(ExitCodeOf(check, "text", std::vector<int>{1, 2},
                       std::make_unique<int>(3)),
            0);
}

TEST_F(ProcessTest, ArgumentsAreCopiesUnlessReferences) {
  int number = 1;
  // What is asked for as a reference is the child's, not a compile error.
  Process by_value([](int& n) { return n++; }, number);
  Process by_reference([](int& n) { return n++; }, std::ref(number));
  number = 2;
  ASSERT_OK(by_value.Start());
  ASSERT_OK(by_reference.Start());
  ASSERT_OK(by_value.Join());
  ASSERT_OK(by_reference.Join());
  EXPECT_THAT(by_value.exitcode(), Optional(1));
  EXPECT_THAT(by_reference.exitcode(), Optional(2));
  EXPECT_EQ(number, 2);
}

TEST_F(ProcessTest, ArgumentsGoToTheChild) {
  PipeEnds pipe = MakePipe();
  Process process(
      [](UniqueFd writer) { return Verdict(write(writer.get(), "x", 1) == 1); },
      std::move(pipe.writer));
  ASSERT_OK(process.Start());
  // Ends only because the parent's copy of the writing end is closed.
  EXPECT_EQ(ReadAll(pipe.reader.get()), "x");
  ASSERT_OK(process.Join());
}

TEST_F(ProcessTest, ChildDestroysItsArguments) {
  SharedPage<std::atomic<int>> destroyed(0);
  const auto count = [&destroyed](int* memory) {
    ++*destroyed;
    delete memory;
  };
  using Counted = std::unique_ptr<int, decltype(count)>;
  Process process([](const Counted&) {}, Counted(new int, count));
  ASSERT_OK(process.Start());
  ASSERT_OK(process.Join());
  EXPECT_EQ(*destroyed, 2) << "once in each process";
}

TEST_F(ProcessTest, ChildHasACopyOfEverything) {
  int number = 5;
  EXPECT_EQ(ExitCodeOf([&number] { return number++; }), 5);
  EXPECT_EQ(number, 5);
}

// ---- Exit codes

TEST_F(ProcessTest, StatusTargets) {
  EXPECT_EQ(ExitCodeOf([] { return absl::OkStatus(); }), 0);
  const Outcome outcome = RunAndRead(
      STDERR_FILENO, [] { return absl::NotFoundError("no such thing"); });
  EXPECT_EQ(outcome.exitcode, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("Process Talker (pid "),
                                  HasSubstr("NOT_FOUND: no such thing\n")));
}

class PartyError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

TEST_F(ProcessTest, EscapedExceptions) {
  Outcome outcome = RunAndRead(STDERR_FILENO, [] {
    std::cerr << "before\n";
    throw PartyError("no more cake");
  });
  EXPECT_EQ(outcome.exitcode, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("before\nProcess Talker (pid "),
                                  HasSubstr("PartyError: no more cake\n")));

  outcome = RunAndRead(STDERR_FILENO, [] { throw 42; });
  EXPECT_EQ(outcome.exitcode, 1);
  EXPECT_THAT(outcome.text, HasSubstr("uncaught int\n"));
}

TEST_F(ProcessTest, ExitCodesAreThoseOfTheKernel) {
  EXPECT_EQ(ExitCodeOf([] { return 255; }), 255);
  EXPECT_EQ(ExitCodeOf([] { return 256; }), 0);
  EXPECT_EQ(ExitCodeOf([] { return 300; }), 44);
  EXPECT_EQ(ExitCodeOf([] { return -1; }), 255);
}

TEST_F(ProcessTest, OtherWaysOut) {
  EXPECT_EQ(ExitCodeOf([] { Exit(9); }), 9);
  EXPECT_EQ(ExitCodeOf([] { std::exit(10); }), 10);
  EXPECT_EQ(ExitCodeOf([] { _exit(11); }), 11);
  EXPECT_EQ(ExitCodeOf([] { std::thread([] { Exit(12); }).join(); }), 12);
  EXPECT_EQ(ExitCodeOf([] { pthread_exit(nullptr); }), 0);
}

TEST_F(ProcessTest, DeathByASignalOfItsOwn) {
  EXPECT_EQ(ExitCodeOf([] { raise(SIGUSR1); }), -SIGUSR1);
  EXPECT_EQ(ExitCodeOf([] {
              signal(SIGABRT, SIG_DFL);
              const rlimit no_core = {0, 0};
              setrlimit(RLIMIT_CORE, &no_core);
              std::abort();
            }),
            -SIGABRT);
}

// ---- Join, signals, sentinel, Close

TEST_F(ProcessTest, JoinTimesOut) {
  Process process([] { pause(); });
  ASSERT_OK(process.Start());
  for (const absl::Duration timeout :
       {absl::ZeroDuration(), absl::Seconds(-1), -absl::InfiniteDuration()}) {
    EXPECT_THAT(process.Join(timeout),
                StatusIs(absl::StatusCode::kDeadlineExceeded,
                         HasSubstr(process.name())));
  }
  const absl::Time start = absl::Now();
  EXPECT_THAT(process.Join(absl::Milliseconds(30)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(29));
  EXPECT_TRUE(process.IsAlive());
  ASSERT_OK(process.Kill());
  ASSERT_OK(process.Join(absl::Hours(1'000'000)));
}

TEST_F(ProcessTest, Signals) {
  const auto end_by = [](absl::Status (Process::*signal)() const) {
    Process process([] { pause(); });
    MP_CHECK_OK(process.Start());
    MP_CHECK_OK((process.*signal)());
    MP_CHECK_OK(process.Join());
    EXPECT_OK((process.*signal)()) << "long gone";
    EXPECT_THAT(ActiveChildren(), IsEmpty());
    return process.exitcode().value();
  };
  EXPECT_EQ(end_by(&Process::Terminate), -SIGTERM);
  EXPECT_EQ(end_by(&Process::Kill), -SIGKILL);
  EXPECT_EQ(end_by(&Process::Interrupt), -SIGINT);
}

TEST_F(ProcessTest, SignalsToTheDeadAreOk) {
  Process process([] { return 4; });
  ASSERT_OK(process.Start());
  while (!IsReadable(process.sentinel())) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_OK(process.Terminate()) << "a zombie";
  ASSERT_OK(process.Join());
  EXPECT_THAT(process.exitcode(), Optional(4));
}

TEST_F(ProcessTest, JoinByManyThreads) {
  Gate gate;
  Process process([&] {
    gate.Wait();
    return 6;
  });
  ASSERT_OK(process.Start());
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&process, i] {
      if (i % 2 == 0) {
        EXPECT_OK(process.Join());
      } else {
        while (process.IsAlive()) std::this_thread::yield();
      }
      EXPECT_THAT(process.exitcode(), Optional(6));
    });
  }
  gate.Open();
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ProcessTest, SignalHandlersDoNotEndJoin) {
  static std::atomic<int> handled{0};
  struct sigaction action = {};
  action.sa_handler = [](int) { ++handled; };  // without SA_RESTART
  struct sigaction before;
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  Gate gate;
  Process process([&] { gate.Wait(); });
  ASSERT_OK(process.Start());
  std::thread disturber([&gate, target = pthread_self()] {
    while (handled < 5) {
      pthread_kill(target, SIGUSR1);
      absl::SleepFor(absl::Milliseconds(1));
    }
    gate.Open();
  });
  EXPECT_OK(process.Join());
  disturber.join();
  EXPECT_THAT(process.exitcode(), Optional(0));
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
}

TEST_F(ProcessTest, Sentinel) {
  Gate gate;
  Process process([&] { gate.Wait(); });
  ASSERT_OK(process.Start());
  ASSERT_GE(process.sentinel(), 0);
  EXPECT_FALSE(IsReadable(process.sentinel()));
  gate.Open();
  pollfd entry = {.fd = process.sentinel(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, -1), 1);
  ASSERT_OK(process.Join());
  EXPECT_TRUE(IsReadable(process.sentinel())) << "stays ready";
}

// Python's sentinel is a pipe, which such a grandchild holds open.
TEST_F(ProcessTest, SentinelAndJoinDoNotWaitForGrandchildren) {
  Gate gate;
  SharedPage<std::atomic<pid_t>> grandchild(0);
  Process process([&] {
    *grandchild = fork();
    if (*grandchild == 0) {
      gate.Wait();
      _exit(0);
    }
  });
  ASSERT_OK(process.Start());
  EXPECT_OK(process.Join());
  EXPECT_TRUE(IsReadable(process.sentinel()));
  EXPECT_EQ(kill(*grandchild, 0), 0) << "still there";
  gate.Open();
}

TEST_F(ProcessTest, Close) {
  Gate gate;
  Process process(ProcessOptions{.name = "closing"}, [&] { gate.Wait(); });
  ASSERT_OK(process.Start());
  EXPECT_THAT(process.Close(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                        HasSubstr("while it runs")));
  gate.Open();
  ASSERT_OK(process.Join());
  EXPECT_OK(process.Close());
  EXPECT_OK(process.Close());
  for (const absl::Status& status :
       {process.Start(), process.Join(), process.Terminate(),
        process.set_daemon(true)}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("closing is closed")));
  }
  EXPECT_FALSE(process.IsAlive());
  EXPECT_EQ(process.exitcode(), std::nullopt);
  EXPECT_EQ(process.pid(), std::nullopt);
  EXPECT_EQ(process.sentinel(), -1);
  EXPECT_EQ(process.name(), "closing");
  EXPECT_THAT(process.ToString(), HasSubstr("closed"));
}

TEST_F(ProcessTest, ClosedBeforeStart) {
  Process process([] {});
  EXPECT_OK(process.Close());
  EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ProcessTest, ToString) {
  const std::string parent = " parent=" + std::to_string(getpid());
  Process process(ProcessOptions{.name = "p", .daemon = true}, [] { pause(); });
  EXPECT_EQ(process.ToString(),
            "<Process name='p'" + parent + " initial daemon>");
  ASSERT_OK(process.Start());
  const std::string start =
      "<Process name='p' pid=" + std::to_string(*process.pid()) + parent;
  EXPECT_EQ(process.ToString(), start + " started daemon>");
  ASSERT_OK(process.Terminate());
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.ToString(), start + " stopped exitcode=-SIGTERM daemon>");
}

// ---- Handles

TEST_F(ProcessTest, VectorOfProcesses) {
  std::vector<Process> processes;
  for (int i = 0; i < 5; ++i) processes.emplace_back([i] { return i; });
  for (Process& process : processes) ASSERT_OK(process.Start());
  for (int i = 0; i < 5; ++i) {
    ASSERT_OK(processes[i].Join());
    EXPECT_THAT(processes[i].exitcode(), Optional(i));
  }
}

TEST_F(ProcessTest, MovesWhileItRuns) {
  Gate gate;
  Process first([&] { gate.Wait(); });
  ASSERT_OK(first.Start());
  Process second = std::move(first);
  first = Process([] { return 1; });
  gate.Open();
  ASSERT_OK(second.Join());
  EXPECT_THAT(second.exitcode(), Optional(0));
  ASSERT_OK(first.Start());
  ASSERT_OK(first.Join());
  EXPECT_THAT(first.exitcode(), Optional(1));
}

class Doubler : public Process {
 public:
  explicit Doubler(int number, SharedPage<std::atomic<int>>& result)
      : Process(ProcessOptions{.name = "Doubler"}),
        number_(std::make_unique<int>(number)),
        result_(&result) {}

 private:
  int Run() override {
    **result_ = *number_ * 2;
    return Verdict(name() == "Doubler" && pid() == getpid() && IsAlive());
  }

  std::unique_ptr<int> number_;
  SharedPage<std::atomic<int>>* result_;
};

TEST_F(ProcessTest, Subclass) {
  SharedPage<std::atomic<int>> result(0);
  Doubler doubler(21, result);
  ASSERT_OK(doubler.Start());
  ASSERT_OK(doubler.Join());
  EXPECT_THAT(doubler.exitcode(), Optional(0));
  EXPECT_EQ(*result, 42);
}

TEST_F(ProcessTest, SubclassesMoveButAreNotSliced) {
  static_assert(std::is_nothrow_move_constructible_v<Process>);
  static_assert(!std::copy_constructible<Process>);
  static_assert(std::movable<Doubler>);
  static_assert(!std::constructible_from<Process, Doubler>);
  static_assert(!std::assignable_from<Process&, Doubler>);

  SharedPage<std::atomic<int>> result(0);
  std::vector<Doubler> doublers;
  doublers.emplace_back(1, result);
  doublers.emplace_back(2, result);
  for (Doubler& doubler : doublers) {
    ASSERT_OK(doubler.Start());
    ASSERT_OK(doubler.Join());
    EXPECT_THAT(doubler.exitcode(), Optional(0));
  }
  EXPECT_EQ(*result, 4);
}

TEST_F(ProcessTest, CopiesInAChildOnlyLook) {
  Gate gate;
  Process sibling(ProcessOptions{.name = "sibling"}, [&] { gate.Wait(); });
  Process unstarted([] {});
  ASSERT_OK(sibling.Start());
  RunInChild([&] {
    for (const absl::Status& status : {sibling.Join(), sibling.Terminate(),
                                       sibling.Close(), unstarted.Start()}) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                                   HasSubstr("created it")));
    }
    EXPECT_TRUE(sibling.IsAlive());
    EXPECT_EQ(sibling.name(), "sibling");
    EXPECT_FALSE(IsReadable(sibling.sentinel()));
    EXPECT_THAT(ActiveChildren(), IsEmpty());
    gate.Open();
    pollfd entry = {sibling.sentinel(), POLLIN, 0};
    EXPECT_EQ(poll(&entry, 1, -1), 1);
    EXPECT_FALSE(sibling.IsAlive());
    EXPECT_EQ(sibling.exitcode(), std::nullopt);
  });
  ASSERT_OK(sibling.Join());
}

// ---- Who is who

TEST_F(ProcessTest, Names) {
  EXPECT_EQ(CurrentProcess().name, "MainProcess");
  EXPECT_EQ(CurrentProcess().pid, getpid());
  EXPECT_FALSE(CurrentProcess().daemon);
  EXPECT_EQ(ParentProcess(), std::nullopt);

  Process first, second;
  const int number = std::stoi(first.name().substr(strlen("Process-")));
  EXPECT_EQ(second.name(), "Process-" + std::to_string(number + 1));
  second.set_name("other");
  EXPECT_EQ(second.name(), "other");
}

TEST_F(ProcessTest, NamesOfGrandchildren) {
  std::string name;
  Process process([&name] {
    EXPECT_EQ(CurrentProcess().name, name);
    EXPECT_EQ(CurrentProcess().pid, getpid());
    Process named(ProcessOptions{.name = "named"});
    EXPECT_EQ(Process().name(), name + ":2");
    RunInChild([&name] {
      EXPECT_EQ(CurrentProcess().name, name + ":3");
      EXPECT_EQ(Process().name(), name + ":3:1");
    });
    return Verdict();
  });
  name = process.name();
  ASSERT_OK(process.Start());
  ASSERT_OK(process.Join());
  EXPECT_THAT(process.exitcode(), Optional(0));
}

TEST_F(ProcessTest, ParentOfAChild) {
  RunInChild([parent = getpid()] {
    std::optional<Parent> mine = ParentProcess();
    EXPECT_TRUE(mine.has_value());
    EXPECT_EQ(mine->name(), "MainProcess");
    EXPECT_EQ(mine->pid(), parent);
    EXPECT_TRUE(mine->IsAlive());
    EXPECT_THAT(mine->Join(absl::Milliseconds(1)),
                StatusIs(absl::StatusCode::kDeadlineExceeded));
  });
}

TEST_F(ProcessTest, GrandchildSeesItsParentEnd) {
  PipeEnds pipe = MakePipe();
  Gate alive;
  Process process([&] {
    Process grandchild([&] {
      Parent parent = ParentProcess().value();
      EXPECT_TRUE(parent.IsAlive());
      alive.Open();
      EXPECT_OK(parent.Join());
      EXPECT_FALSE(parent.IsAlive());
      EXPECT_TRUE(IsReadable(parent.sentinel()));
      const char verdict = Verdict() == 0 ? 'y' : 'n';
      EXPECT_EQ(write(pipe.writer.get(), &verdict, 1), 1);
    });
    EXPECT_OK(grandchild.Start());
    pause();
  });
  ASSERT_OK(process.Start());
  pipe.writer.reset();
  alive.Wait();
  ASSERT_OK(process.Terminate());
  ASSERT_OK(process.Join());
  EXPECT_EQ(ReadAll(pipe.reader.get()), "y");
}

TEST_F(ProcessTest, Recursion) {
  const auto family = [](const auto& self, int depth) -> int {
    if (depth == 0) return 1;
    const int left = ExitCodeOf([&] { return self(self, depth - 1); });
    const int right = ExitCodeOf([&] { return self(self, depth - 1); });
    return left + right + 1;
  };
  EXPECT_EQ(family(family, 3), 15);
}

TEST_F(ProcessTest, CpuCount) {
  EXPECT_GE(CpuCount(), 1);
  EXPECT_LE(CpuCount(), sysconf(_SC_NPROCESSORS_CONF));
}

// ---- Daemonic processes

TEST_F(ProcessTest, DaemonicProcessesHaveNoChildren) {
  Process process(ProcessOptions{.name = "imp", .daemon = true}, [] {
    EXPECT_TRUE(CurrentProcess().daemon);
    Process child([] {});
    EXPECT_TRUE(child.daemon()) << "as its creator";
    EXPECT_THAT(child.Start(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                        HasSubstr("imp is daemonic")));
    return Verdict();
  });
  EXPECT_TRUE(process.daemon());
  ASSERT_OK(process.Start());
  ASSERT_OK(process.Join());
  EXPECT_THAT(process.exitcode(), Optional(0));
}

TEST_F(ProcessTest, DaemonIsSetBeforeStart) {
  Process process([] { return CurrentProcess().daemon ? 1 : 0; });
  ASSERT_OK(process.set_daemon(true));
  ASSERT_OK(process.Start());
  EXPECT_THAT(process.set_daemon(false),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_OK(process.Join());
  EXPECT_THAT(process.exitcode(), Optional(1));
}

// ---- The end of a child

TEST_F(ProcessTest, ChildEndsItsChildren) {
  SharedPage<std::atomic<bool>> joined(false);
  for (const bool by_exit : {false, true}) {
    *joined = false;
    RunInChild([&] {
      Process daemonic(ProcessOptions{.daemon = true}, [] { pause(); });
      Process other([&] {
        absl::SleepFor(absl::Milliseconds(30));
        *joined = true;
      });
      EXPECT_OK(daemonic.Start());
      EXPECT_OK(other.Start());
      if (by_exit) std::exit(Verdict());
    });
    EXPECT_TRUE(*joined);
  }
}

TEST_F(ProcessTest, NothingIsWrittenTwice) {
  const Outcome outcome = RunAndRead(STDOUT_FILENO, [] {
    std::setvbuf(stdout, nullptr, _IOFBF, 4096);
    std::cout << "parent;";
    std::printf("of;");
    EXPECT_EQ(ExitCodeOf([] {
                std::cout << "child;";
                std::printf("at its end;");
              }),
              0);
    EXPECT_EQ(ExitCodeOf([] {
                std::printf("by Exit;");
                Exit(0);
              }),
              0);
    std::cout << "after";
    return Verdict();
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.text, "parent;of;child;at its end;by Exit;after");
}

TEST_F(ProcessTest, NothingIsWrittenTwiceWhileAnotherThreadWrites) {
  constexpr int kChildren = 20;
  const Outcome outcome = RunAndRead(STDOUT_FILENO, [] {
    std::setvbuf(stdout, nullptr, _IOFBF, 1 << 20);
    std::atomic<bool> stop{false};
    std::thread writer([&] {
      for (int i = 0; !stop; ++i) std::printf("%d\n", i);
    });
    for (int i = 0; i < kChildren; ++i) EXPECT_EQ(ExitCodeOf([] {}), 0);
    stop = true;
    writer.join();
    return Verdict();
  });
  EXPECT_EQ(outcome.exitcode, 0);
  std::istringstream lines(outcome.text);
  int expected = 0;
  for (int i = 0; lines >> i; ++expected) ASSERT_EQ(i, expected);
  EXPECT_GT(expected, kChildren);
}

TEST_F(ProcessTest, UnsynchronisedStreamsAreFlushedToo) {
  const Outcome outcome = RunAndRead(STDOUT_FILENO, [] {
    std::ios::sync_with_stdio(false);
    std::setvbuf(stdout, nullptr, _IOFBF, 4096);
    std::cout << "parent;";
    std::printf("of;");
    const int code = ExitCodeOf([] {
      std::cout << "child;";
      std::printf("at its end;");
    });
    return Verdict(code == 0);
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.text, "parent;of;child;at its end;");
}

TEST_F(ProcessTest, ExceptionTextComesAfterWhatWasWrittenBefore) {
  const Outcome outcome = RunAndRead(STDOUT_FILENO, [] {
    dup2(STDOUT_FILENO, STDERR_FILENO);
    std::setvbuf(stdout, nullptr, _IOFBF, 4096);
    std::printf("first;");
    throw std::runtime_error("second");
  });
  EXPECT_EQ(outcome.exitcode, 1);
  EXPECT_THAT(outcome.text,
              AllOf(::testing::StartsWith("first;"), EndsWith("second\n")));
}

TEST_F(ProcessTest, InheritedDestructorsAndHandlersDoNotRun) {
  const SharedPage<std::atomic<int>> page(0);
  static std::atomic<int>* destroyed;
  destroyed = page.get();
  struct Counting {
    ~Counting() { ++*destroyed; }
  };
  EXPECT_EQ(ExitCodeOf([] {
              // Twice as a child of a child, as its own do not run either.
              static Counting counting;
              return ExitCodeOf([] {});
            }),
            0);
  EXPECT_EQ(*destroyed, 0);
}

// What the parent had registered before its first Start, that is.
TEST_F(ProcessTest, ExitRunsTheHandlersOfTheChild) {
  const SharedPage<std::atomic<int>> page(0);
  static std::atomic<int>* handled;
  handled = page.get();
  EXPECT_EQ(ExitCodeOf([] {
              std::atexit([] { ++*handled; });
              std::exit(7);
            }),
            7);
  EXPECT_EQ(*handled, 1);
}

TEST_F(ProcessTest, ChildDoesNotReturnIntoTheCaller) {
  // A thread of the child that outlives the target ends with it.
  EXPECT_EQ(ExitCodeOf([] {
              std::thread([] { pause(); }).detach();
              return 5;
            }),
            5);
}

// ---- The end of the program, in a process started afresh for it

class ProcessDeathTest : public mp::testing::ProcessTest {
 protected:
  ProcessDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

[[noreturn]] void ProgramWithChildren(bool daemonic, int code) {
  static auto& registered_before = *new std::string("old handler;");
  std::atexit([] { Print(registered_before); });
  Gate ready;
  Process process(ProcessOptions{.daemon = daemonic}, [&] {
    signal(SIGTERM, [](int) {
      Print("terminated;");
      _exit(0);
    });
    ready.Open();
    absl::SleepFor(daemonic ? absl::InfiniteDuration()
                            : absl::Milliseconds(50));
    Print("child done;");
  });
  MP_CHECK_OK(process.Start());
  ready.Wait();
  Print("main done;");
  std::exit(code);
}

TEST_F(ProcessDeathTest, ProgramJoinsItsChildren) {
  EXPECT_EXIT(ProgramWithChildren(false, 5), ExitedWithCode(5),
              HasSubstr("main done;child done;old handler;"));
}

TEST_F(ProcessDeathTest, ProgramTerminatesItsDaemons) {
  EXPECT_EXIT(ProgramWithChildren(true, 6), ExitedWithCode(6),
              HasSubstr("main done;terminated;old handler;"));
}

TEST_F(ProcessDeathTest, ExitInTheMainProcessIsThatOfTheProgram) {
  EXPECT_EXIT(
      {
        std::atexit([] { Print("handler;"); });
        MP_CHECK(ExitCodeOf([] { std::exit(3); }) == 3);
        Print("main;");
        Exit(4);
      },
      ExitedWithCode(4),
      AllOf(EndsWith("main;handler;"), Not(HasSubstr("handler;main"))));
}

TEST_F(ProcessDeathTest, MovedFrom) {
  Process process;
  Process other = std::move(process);
  EXPECT_DEATH((void)process.IsAlive(), "moved-from");
}

// ---- Surroundings

TEST_F(ProcessTest, StdinIsTheNullDevice) {
  PipeEnds pipe = MakePipe();
  ASSERT_EQ(write(pipe.writer.get(), "one\ntwo\n", 8), 8);
  RunInChild([&] {
    dup2(pipe.reader.get(), STDIN_FILENO);
    std::string line;
    EXPECT_TRUE(std::getline(std::cin, line));
    EXPECT_EQ(line, "one");
    EXPECT_EQ(ExitCodeOf([] {
                char c;
                return Verdict(std::getchar() == EOF &&
                               read(STDIN_FILENO, &c, 1) == 0);
              }),
              0);
    EXPECT_TRUE(std::getline(std::cin, line));
    EXPECT_EQ(line, "two") << "not taken by the child";
  });
}

TEST_F(ProcessTest, StartsWithoutStandardStreams) {
  EXPECT_EQ(ExitCodeOf([] {
              close(STDIN_FILENO);
              close(STDOUT_FILENO);
              close(STDERR_FILENO);
              std::cout << "lost" << std::flush;
              Process process([] {
                std::cout << "lost" << std::flush;
                std::printf("lost");
                // The null device took the free place, nothing else did.
                char c;
                if (read(STDIN_FILENO, &c, 1) != 0) return 1;
                if (ParentProcess()->sentinel() <= STDERR_FILENO) return 2;
                throw std::runtime_error("lost");
              });
              if (!process.Start().ok() || !process.Join().ok()) return 1;
              if (process.sentinel() <= STDERR_FILENO) return 2;
              return process.exitcode() == 1 ? 0 : 3;
            }),
            0);
}

TEST_F(ProcessTest, StartsWithStreamsThatThrow) {
  EXPECT_EQ(ExitCodeOf([] {
              std::ios::sync_with_stdio(false);
              close(STDOUT_FILENO);
              std::cout << "cannot be flushed";
              std::cout.exceptions(std::ios::badbit);
              return ExitCodeOf([] {});
            }),
            0);
}

TEST_F(ProcessTest, StartsWithoutNullDevice) {
  PipeEnds pipe = MakePipe();
  ASSERT_EQ(write(pipe.writer.get(), "text", 4), 4);
  EXPECT_EQ(ExitCodeOf([&] {
              dup2(pipe.reader.get(), STDIN_FILENO);
              FailSystemCall(SYS_openat, ENOENT);
              return ExitCodeOf([] {
                char c;
                return read(STDIN_FILENO, &c, 1) == 0 ? 4 : 1;
              });
            }),
            4);
}

TEST_F(ProcessTest, SignalMaskIsInherited) {
  sigset_t mask, before;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &mask, &before), 0);
  EXPECT_EQ(ExitCodeOf([] {
              sigset_t now;
              pthread_sigmask(SIG_SETMASK, nullptr, &now);
              return Verdict(sigismember(&now, SIGUSR2) == 1 &&
                             sigismember(&now, SIGUSR1) == 0 &&
                             sigismember(&now, SIGTERM) == 0);
            }),
            0);
  sigset_t after;
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &before, &after), 0);
  EXPECT_EQ(sigismember(&after, SIGUSR2), 1);
  EXPECT_EQ(sigismember(&after, SIGUSR1), 0);
}

TEST_F(ProcessTest, ProgramsThatIgnoreTheirChildren) {
  RunInChild([] {
    signal(SIGCHLD, SIG_IGN);
    Gate gate;
    Process process([&] { gate.Wait(); });
    EXPECT_OK(process.Start());
    EXPECT_TRUE(process.IsAlive());
    gate.Open();
    EXPECT_OK(process.Join());
    EXPECT_FALSE(process.IsAlive());
    EXPECT_THAT(process.exitcode(), Optional(kExitCodeUnknown));
    EXPECT_OK(process.Kill());
    for (int i = 0; i < 50; ++i) {
      EXPECT_EQ(ExitCodeOf([] {}), kExitCodeUnknown);
    }
  });
}

TEST_F(ProcessTest, OtherReapers) {
  Process process([] { return 3; });
  ASSERT_OK(process.Start());
  int status = -1;
  ASSERT_EQ(waitpid(*process.pid(), &status, 0), *process.pid());
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_OK(process.Join());
  EXPECT_THAT(process.exitcode(), Optional(kExitCodeUnknown));
}

TEST_F(ProcessTest, OtherChildrenAreLeftAlone) {
  const pid_t pid = fork();
  if (pid == 0) _exit(8);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(ExitCodeOf([] { return 2; }), 2);
  EXPECT_THAT(ActiveChildren(), IsEmpty());
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 8);
}

// ---- Failures of Start

TEST_F(ProcessTest, NoProcessLeft) {
  RunInChild([] {
    FailSystemCall(SYS_clone, EAGAIN);
    Process process([] {});
    EXPECT_THAT(process.Start(),
                StatusIs(absl::StatusCode::kUnavailable,
                         AllOf(HasSubstr("fork: "), HasSubstr("EAGAIN"))));
    EXPECT_EQ(process.pid(), std::nullopt);
    EXPECT_FALSE(process.IsAlive());
    EXPECT_THAT(process.Join(),
                StatusIs(absl::StatusCode::kFailedPrecondition));
  });
}

TEST_F(ProcessTest, NoDescriptorLeft) {
  RunInChild([] {
    Process process([] { return 4; });
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit none = {0, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    const absl::Status status = process.Start();
    setrlimit(RLIMIT_NOFILE, &limit);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                                 AllOf(HasSubstr("pidfd_open: "),
                                       HasSubstr("EMFILE"))));
    EXPECT_EQ(process.pid(), std::nullopt);
    EXPECT_OK(process.Start()) << "may be tried again";
    EXPECT_OK(process.Join());
    EXPECT_THAT(process.exitcode(), Optional(4));
  });
}

TEST_F(ProcessTest, DescriptorTakenByAnotherThread) {
  RunInChild([] {
    FailSystemCall(SYS_pidfd_open, EMFILE, static_cast<uint32_t>(getpid()));
    Process process([] { pause(); });
    EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kResourceExhausted,
                                          HasSubstr("pidfd_open: ")));
    EXPECT_EQ(waitpid(-1, nullptr, 0), -1) << "no child is left";
    EXPECT_EQ(errno, ECHILD);
  });
}

TEST_F(ProcessTest, KernelWithoutPidfds) {
  RunInChild([] {
    FailSystemCall(SYS_pidfd_open, ENOSYS);
    EXPECT_THAT(Process().Start(), StatusIs(absl::StatusCode::kUnimplemented,
                                            HasSubstr("pidfd_open: ")));
  });
}

// ---- Many

TEST_F(ProcessTest, ManyShortOnes) {
  std::vector<Process> processes(100);
  for (Process& process : processes) ASSERT_OK(process.Start());
  for (Process& process : processes) {
    ASSERT_OK(process.Join());
    EXPECT_THAT(process.exitcode(), Optional(0));
  }
}

TEST_F(ProcessTest, ManyTerminatedRightAfterStart) {
  std::vector<Process> processes;
  for (int i = 0; i < 100; ++i) processes.emplace_back([] { pause(); });
  for (Process& process : processes) {
    ASSERT_OK(process.Start());
    ASSERT_OK(process.Terminate());
  }
  for (Process& process : processes) {
    ASSERT_OK(process.Join());
    EXPECT_THAT(process.exitcode(), Optional(-SIGTERM));
  }
}

TEST_F(ProcessTest, ManyAtOnce) {
  constexpr int kProcesses = kSanitized ? 50 : 500;
  Gate gate;
  std::vector<Process> processes;
  for (int i = 0; i < kProcesses; ++i) {
    processes.emplace_back([&] { gate.Wait(); });
    ASSERT_OK(processes.back().Start());
  }
  EXPECT_THAT(ActiveChildren(), SizeIs(kProcesses));
  gate.Open();
  for (Process& process : processes) {
    ASSERT_OK(process.Join());
    EXPECT_THAT(process.exitcode(), Optional(0));
  }
  EXPECT_THAT(ActiveChildren(), IsEmpty());
}

TEST_F(ProcessTest, ManyOneAfterTheOther) {
  EXPECT_EQ(ExitCodeOf([] {}), 0);  // what is made once is made here
  const size_t descriptors = CountDescriptors();
  constexpr int kProcesses = kSanitized ? 100 : 2000;
  for (int i = 0; i < kProcesses; ++i) {
    Process process([i] { return i % 256; });
    ASSERT_OK(process.Start());
    ASSERT_OK(process.Join());
    ASSERT_THAT(process.exitcode(), Optional(i % 256));
  }
  EXPECT_EQ(CountDescriptors(), descriptors);
}

// The child of a thread meets locks that other threads held at the fork; those
// of the library must not be among them. Each child uses all of it.
TEST_F(ProcessTest, StartFromTenThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 10; ++i) {
    threads.emplace_back([] {
      for (int j = 0; j < (kSanitized ? 4 : 20); ++j) {
        EXPECT_EQ(ExitCodeOf([] {
                    if (!ActiveChildren().empty()) return 1;
                    return ExitCodeOf([] { return 7; });
                  }),
                  7);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(ActiveChildren(), IsEmpty());
}

}  // namespace
}  // namespace mp
