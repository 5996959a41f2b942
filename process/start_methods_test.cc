// What must be so whatever the start method: each test runs with all three.
// Targets are functions, and what they need are arguments.

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/wait.h"
#include "mp/process/process.h"
#include "mp/shm/raw_array.h"
#include "mp/shm/shared_memory.h"
#include "mp/sync/array.h"
#include "mp/sync/barrier.h"
#include "mp/sync/condition.h"
#include "mp/sync/event.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/sync/rwlock.h"
#include "mp/sync/semaphore.h"
#include "mp/sync/value.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/pipe.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::IsOkAndHolds;
using ::mp::testing::IsReadable;
using ::mp::testing::MakePipe;
using ::mp::testing::PipeEnds;
using ::mp::testing::ReadAll;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// The descriptors that this process has.
std::vector<int> Descriptors() {
  std::vector<int> fds;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    fds.push_back(std::stoi(entry.path().filename()));
  }
  // The last one is the iterator's.
  std::sort(fds.begin(), fds.end());
  std::erase_if(fds, [](int fd) { return fcntl(fd, F_GETFD) < 0; });
  return fds;
}

void DoNothing() {}

class StartMethodsTest : public mp::testing::ProcessTest,
                         public ::testing::WithParamInterface<StartMethod> {
 protected:
  // What the library keeps for the life of a process is there before the first
  // look for leaks.
  static void SetUpTestSuite() {
    for (const StartMethod method : GetAllStartMethods()) {
      Process process({.daemon = true, .start_method = method}, DoNothing);
      MP_CHECK_OK(process.Start());
      MP_CHECK_OK(process.Join());
    }
  }

  ProcessOptions Options() const { return {.start_method = GetParam()}; }
  bool forks() const { return GetParam() == StartMethod::kFork; }

  template <typename... Args>
  int ExitCodeOf(Args&&... args) const {
    return ExitCodeWith(Options(), std::forward<Args>(args)...);
  }
  template <typename... Args>
  static int ExitCodeWith(ProcessOptions options, Args&&... args) {
    Process process(std::move(options), std::forward<Args>(args)...);
    MP_CHECK_OK(process.Start());
    MP_CHECK_OK(process.Join());
    return process.exitcode().value();
  }

  // Runs `body` in a forked child, which may spoil what it likes.
  template <typename Body>
  static void InAChild(Body body) {
    EXPECT_EQ(ExitCodeWith({.start_method = StartMethod::kFork},
                           [&body] {
                             body();
                             return ::testing::Test::HasFailure() ? 1 : 0;
                           }),
              0)
        << "in the child, see above";
  }

  // What the child writes to the stream.
  template <typename... Args>
  std::string TextOf(int stream, Args&&... args) const {
    PipeEnds pipe = MakePipe();
    const UniqueFd saved(fcntl(stream, F_DUPFD_CLOEXEC, 3));
    std::fflush(nullptr);
    dup2(pipe.writer.get(), stream);
    pipe.writer.reset();
    Process process({.name = "Talker", .start_method = GetParam()},
                    std::forward<Args>(args)...);
    const absl::Status status = process.Start();
    dup2(saved.get(), stream);
    MP_CHECK_OK(status);
    std::string text = ReadAll(pipe.reader.get());
    MP_CHECK_OK(process.Join());
    return text;
  }
};

INSTANTIATE_TEST_SUITE_P(, StartMethodsTest,
                         ::testing::Values(StartMethod::kFork,
                                           StartMethod::kSpawn,
                                           StartMethod::kForkserver),
                         [](const auto& method) {
                           return StartMethodName(method.param);
                         });

// What concerns children that are not a copy of their parent.
class FreshProcessTest : public StartMethodsTest {};

INSTANTIATE_TEST_SUITE_P(, FreshProcessTest,
                         ::testing::Values(StartMethod::kSpawn,
                                           StartMethod::kForkserver),
                         [](const auto& method) {
                           return StartMethodName(method.param);
                         });

// ---- Life

void WaitFor(Event event) { event.Wait(); }

TEST_P(StartMethodsTest, Life) {
  Event event;
  Process process(Options(), WaitFor, event);
  EXPECT_FALSE(process.IsAlive());
  EXPECT_EQ(process.exitcode(), std::nullopt);
  EXPECT_EQ(process.pid(), std::nullopt);
  EXPECT_EQ(process.sentinel(), -1);
  EXPECT_EQ(process.start_method(), GetParam());
  EXPECT_THAT(ActiveChildren(), IsEmpty());
  ASSERT_OK(process.Start());
  EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(process.IsAlive());
  EXPECT_EQ(process.exitcode(), std::nullopt);
  EXPECT_FALSE(IsReadable(process.sentinel()));
  EXPECT_EQ(ActiveChildren().size(), 1u);
  EXPECT_THAT(process.Join(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(process.Join(-absl::Seconds(1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(process.Close(), StatusIs(absl::StatusCode::kFailedPrecondition));
  event.Set();
  EXPECT_OK(process.Join());
  EXPECT_TRUE(IsReadable(process.sentinel()));
  EXPECT_FALSE(process.IsAlive());
  EXPECT_EQ(process.exitcode(), 0);
  EXPECT_THAT(ActiveChildren(), IsEmpty());
  EXPECT_OK(process.Close());
  EXPECT_OK(process.Close());
}

int Sum(int a, std::string b, std::vector<int> c, std::map<int, std::string> d,
        std::optional<double> e, std::unique_ptr<int> f) {
  int sum = a + std::stoi(b) + *f + (e.has_value() ? 1'000 : 0);
  for (const int item : c) sum += item;
  for (const auto& [key, value] : d) sum += key * std::stoi(value);
  return sum;
}

TEST_P(StartMethodsTest, ArgumentsArriveAsTheyWere) {
  EXPECT_EQ(ExitCodeOf(Sum, 1, "2", std::vector<int>{3, 4},
                       std::map<int, std::string>{{5, "6"}}, std::nullopt,
                       std::make_unique<int>(7)),
            1 + 2 + 3 + 4 + 30 + 7);
}

int Length(const char* text, std::string_view view) {
  return static_cast<int>(std::string_view(text).size() * 10 + view.size());
}

TEST_P(StartMethodsTest, TextTravelsAsText) {
  std::string gone = "abc";
  Process process(Options(), Length, "four", std::string_view(gone));
  ASSERT_OK(process.Start());
  gone = "longer than before, somewhere else";
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), 43);
}

size_t SizeOf(const std::string& text) { return text.size(); }
int SizeIs(const std::string& text, size_t size) {
  return SizeOf(text) == size ? 0 : 1;
}

TEST_P(StartMethodsTest, NullIsNoText) {
  const char* const null = nullptr;
  EXPECT_EQ(ExitCodeOf([](const char* text) { return text == nullptr ? 0 : 1; },
                       null),
            0);
}

TEST_P(StartMethodsTest, LargeArguments) {
  constexpr size_t kSize = size_t{8} << 20;
  EXPECT_EQ(ExitCodeOf(SizeIs, std::string(kSize, 'x'), kSize), 0);
}

int Answer() { return 42; }
absl::Status Fail(const std::string& why) { return absl::AbortedError(why); }
struct Functor {
  int operator()(int number) const { return number + 1; }
};
template <typename T>
int Twice(T number) {
  return 2 * static_cast<int>(number);
}

TEST_P(StartMethodsTest, TargetsOfAllKinds) {
  EXPECT_EQ(ExitCodeOf(Answer), 42);
  EXPECT_EQ(ExitCodeOf(&Answer), 42);
  EXPECT_EQ(ExitCodeOf([] { return 7; }), 7);
  EXPECT_EQ(ExitCodeOf([](int a, int b) { return a * b; }, 6, 7), 42);
  EXPECT_EQ(ExitCodeOf(Functor(), 4), 5);
  EXPECT_EQ(ExitCodeOf(std::plus<int>(), 4, 5), 9);
  EXPECT_EQ(ExitCodeOf(Twice<double>, 4.0), 8);
  EXPECT_EQ(ExitCodeOf(DoNothing), 0);
  EXPECT_EQ(ExitCodeOf(Fail, "no"), 1);
  EXPECT_EQ(ExitCodeOf(atoi, "17"), 17) << "of a shared library";
  Process nothing(Options());
  ASSERT_OK(nothing.Start());
  ASSERT_OK(nothing.Join());
  EXPECT_EQ(nothing.exitcode(), 0);
}

// One that the child has to load first.
TEST_P(StartMethodsTest, FunctionInALibraryThatWasLoadedLater) {
  const std::string path = std::filesystem::absolute(
      "process/libstart_methods_testlib.so");  // in the runfiles
  void* const library = dlopen(path.c_str(), RTLD_NOW);
  ASSERT_NE(library, nullptr) << dlerror();
  auto* const triple = reinterpret_cast<int (*)(int)>(dlsym(library, "Triple"));
  ASSERT_NE(triple, nullptr);
  EXPECT_EQ(ExitCodeOf(triple, 14), 42);
}

TEST_P(FreshProcessTest, WhatCannotTravelIsRefused) {
  int captured = 0;
  Process capture(Options(), [captured] { return captured; });
  EXPECT_THAT(capture.Start(), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("captures")));
  Process pointer(
      Options(), [](int, int* p) { return *p; }, 1, &captured);
  EXPECT_THAT(pointer.Start(), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("argument 2")));
  Process reference(
      Options(), [](int& p) { return p; }, std::ref(captured));
  EXPECT_THAT(reference.Start(), StatusIs(absl::StatusCode::kInvalidArgument));
  Lock lock;
  lock.set_repair([] {});
  Process repair(
      Options(), [](Lock&) {}, lock);
  EXPECT_THAT(repair.Start(), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("a repair callback")));
  Barrier barrier(1, [] {});
  Process action(
      Options(), [](Barrier&) {}, barrier);
  EXPECT_THAT(action.Start(), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("an action")));
  Lock moved_from;
  const Lock taken = std::move(moved_from);
  Process empty(
      Options(), [](Lock&) {}, std::move(moved_from));
  EXPECT_THAT(empty.Start(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ActiveChildren(), IsEmpty());
}

// ---- Subclasses

class Adder : public PortableProcess<Adder> {
 public:
  Adder() = default;
  Adder(ProcessOptions options, Queue<int> in, Queue<std::string> out)
      : PortableProcess(std::move(options)),
        in_(std::move(in)),
        out_(std::move(out)) {}

 protected:
  int Run() override {
    MP_CHECK_OK(out_->Put(name()));
    MP_CHECK(IsAlive() && pid() == getpid());
    int sum = 0;
    for (int i = 0; i < 3; ++i) sum += in_->Get().value();
    return sum;
  }

 private:
  friend auto MpFields(Adder& adder) { return std::tie(adder.in_, adder.out_); }
  std::optional<Queue<int>> in_;
  std::optional<Queue<std::string>> out_;
};

TEST_P(StartMethodsTest, Subclass) {
  Queue<int> in;
  Queue<std::string> out;
  Adder adder({.name = "adder", .start_method = GetParam()}, in, out);
  ASSERT_OK(adder.Start());
  for (const int number : {1, 2, 3}) ASSERT_OK(in.Put(number));
  EXPECT_EQ(out.Get().value(), "adder");
  ASSERT_OK(adder.Join());
  EXPECT_EQ(adder.exitcode(), 6);
}

class Plain : public Process {
 public:
  using Process::Process;

 protected:
  int Run() override { return 5; }
};

TEST_P(StartMethodsTest, SubclassThatIsNotPortable) {
  Plain plain(Options());
  if (!forks()) {
    EXPECT_THAT(plain.Start(), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("PortableProcess")));
    return;
  }
  ASSERT_OK(plain.Start());
  ASSERT_OK(plain.Join());
  EXPECT_EQ(plain.exitcode(), 5);
}

// ---- The ways out

TEST_P(StartMethodsTest, ExitCodes) {
  EXPECT_EQ(ExitCodeOf([] { return 300; }), 300 % 256);
  EXPECT_EQ(ExitCodeOf([] { Exit(9); }), 9);
  EXPECT_EQ(ExitCodeOf([] { std::exit(10); }), 10);
  EXPECT_EQ(ExitCodeOf([] { _exit(11); }), 11);
  EXPECT_EQ(ExitCodeOf([] { raise(SIGKILL); }), -SIGKILL);
}

TEST_P(StartMethodsTest, Signals) {
  const std::vector<std::pair<absl::Status (Process::*)() const, int>> ways = {
      {&Process::Interrupt, SIGINT},
      {&Process::Terminate, SIGTERM},
      {&Process::Kill, SIGKILL}};
  for (const auto& [send, signal] : ways) {
    Event never;
    Process process(Options(), WaitFor, never);
    ASSERT_OK(process.Start());
    EXPECT_OK((process.*send)());
    EXPECT_OK(process.Join());
    EXPECT_EQ(process.exitcode(), -signal);
    EXPECT_OK((process.*send)()) << "to the dead";
  }
}

void Throw() { throw std::runtime_error("the reason"); }

TEST_P(StartMethodsTest, EscapedExceptionsAreReported) {
  EXPECT_THAT(TextOf(STDERR_FILENO, Throw),
              AllOf(HasSubstr("Process Talker"), HasSubstr("the reason")));
  EXPECT_EQ(ExitCodeOf(Throw), 1);
  EXPECT_THAT(TextOf(STDERR_FILENO, Fail, "its status"),
              AllOf(HasSubstr("Process Talker"), HasSubstr("its status")));
}

void Say(const std::string& text) {
  std::cout << text;  // not flushed here
  std::fputs(text.c_str(), stdout);
}

TEST_P(StartMethodsTest, OutputIsFlushedOnce) {
  EXPECT_EQ(TextOf(STDOUT_FILENO, Say, "a"), "aa");
}

// ---- Who it is

struct Self {
  std::string name;
  pid_t pid = 0;
  bool daemon = false;
  StartMethod method = StartMethod::kFork;
  StartMethod default_method = StartMethod::kFork;
  std::string authkey;
  std::string parent_name;
  pid_t parent_pid = 0;
  pid_t getppid_says = 0;
  bool parent_is_alive = false;
  std::string next_name;
};

void Describe(Queue<Self> out) {
  const ProcessInfo self = CurrentProcess();
  const Parent parent = ParentProcess().value();
  MP_CHECK_OK(out.Put({.name = self.name,
                       .pid = self.pid,
                       .daemon = self.daemon,
                       .method = self.start_method,
                       .default_method = GetStartMethod(),
                       .authkey = Authkey(),
                       .parent_name = parent.name(),
                       .parent_pid = parent.pid(),
                       .getppid_says = getppid(),
                       .parent_is_alive = parent.IsAlive(),
                       .next_name = Process().name()}));
}

TEST_P(StartMethodsTest, Identity) {
  Queue<Self> out;
  for (const bool daemon : {false, true}) {
    Process process({.daemon = daemon, .start_method = GetParam()}, Describe,
                    out);
    EXPECT_EQ(process.daemon(), daemon);
    ASSERT_OK(process.Start());
    const Self self = out.Get().value();
    EXPECT_EQ(self.name, process.name());
    EXPECT_EQ(self.pid, process.pid());
    EXPECT_EQ(self.daemon, daemon);
    EXPECT_EQ(self.method, GetParam());
    EXPECT_EQ(self.default_method, GetStartMethod());
    EXPECT_EQ(self.authkey, Authkey());
    EXPECT_EQ(self.authkey, process.authkey());
    EXPECT_EQ(self.authkey.size(), 32u);
    EXPECT_EQ(self.parent_name, "MainProcess");
    EXPECT_EQ(self.parent_pid, getpid());
    EXPECT_EQ(self.getppid_says, getpid());
    EXPECT_TRUE(self.parent_is_alive);
    EXPECT_EQ(self.next_name, process.name() + ":1");
    ASSERT_OK(process.Join());
  }
  Process named({.name = "called", .start_method = GetParam()}, Describe, out);
  named.set_authkey("another");
  ASSERT_OK(named.Start());
  const Self self = out.Get().value();
  EXPECT_EQ(self.name, "called");
  EXPECT_EQ(self.authkey, "another");
  ASSERT_OK(named.Join());
}

void StartOne(Queue<std::string> out, int depth) {
  MP_CHECK_OK(out.Put(CurrentProcess().name.substr(sizeof("Process"))));
  for (int i = 0; depth > 0 && i < 2; ++i) {
    Process child(StartOne, out, depth - 1);
    MP_CHECK_OK(child.Start());
    MP_CHECK(child.start_method() == CurrentProcess().start_method);
    MP_CHECK_OK(child.Join());
  }
}

// The method and what arrived as an argument go on to grandchildren.
TEST_P(StartMethodsTest, Recursion) {
  InAChild([] {
    MP_CHECK_OK(SetStartMethod(GetParam(), /*force=*/true));
    Queue<std::string> out;
    Process process({.name = "Process-x"}, StartOne, out, 2);
    ASSERT_OK(process.Start());
    ASSERT_OK(process.Join());
    EXPECT_EQ(process.exitcode(), 0);
    std::vector<std::string> names;
    while (!out.Empty()) names.push_back(out.Get().value());
    ASSERT_EQ(names.size(), 7u);
    EXPECT_EQ(names[0], "x");
    // Below it the counters begin anew.
    const std::string path = names[1].substr(0, names[1].size() - 2);
    const std::vector<std::string> below(names.begin() + 1, names.end());
    EXPECT_THAT(below, ElementsAre(path + ":1", path + ":1:1", path + ":1:2",
                                   path + ":2", path + ":2:1", path + ":2:2"));
  });
}

// ---- Shared objects as arguments

void UseAll(Lock lock, RLock rlock, RWLock rwlock, Semaphore semaphore,
            BoundedSemaphore bounded, Event event, Condition condition,
            Barrier barrier, Value<int> value, Array<int> array,
            RawArray<int> raw, SharedMemory memory, Queue<std::string> queue,
            UniqueFd descriptor) {
  barrier.Wait().IgnoreError();
  for (int i = 0; i < 100; ++i) {
    const std::scoped_lock all(lock, rlock, rwlock);
    raw[0] += 1;
  }
  semaphore.Acquire();
  bounded.Acquire();
  value.Update([](int& number) { number = 11; });
  array.Set(1, 12);
  memory.At<int>(4) = 13;
  MP_CHECK_OK(queue.Put("14"));
  MP_CHECK(write(descriptor.get(), "15", 2) == 2);
  {
    const std::scoped_lock hold(condition);
    raw[1] = 1;
    condition.NotifyAll();
  }
  event.Set();
}

TEST_P(StartMethodsTest, SharedObjectsAreTheSame) {
  Lock lock;
  RLock rlock;
  RWLock rwlock;
  Semaphore semaphore(2);
  BoundedSemaphore bounded(2);
  Event event;
  Condition condition;
  Barrier barrier(2);
  Value<int> value(1);
  Array<int> array(3);
  RawArray<int> raw(2);
  SharedMemory memory(100);
  Queue<std::string> queue;
  PipeEnds pipe = MakePipe();
  Process process(Options(), UseAll, lock, rlock, rwlock, semaphore, bounded,
                  event, condition, barrier, value, array, raw, memory, queue,
                  std::move(pipe.writer));
  ASSERT_OK(process.Start());
  EXPECT_OK(barrier.Wait().status());
  for (int i = 0; i < 100; ++i) {
    const std::scoped_lock all(lock, rlock, rwlock);
    raw[0] += 1;
  }
  {
    const std::scoped_lock hold(condition);
    EXPECT_TRUE(condition.WaitFor([&] { return raw[1] == 1; }));
  }
  event.Wait();
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), 0);
  EXPECT_EQ(raw[0], 200);
  EXPECT_EQ(semaphore.value(), 1);
  EXPECT_EQ(bounded.value(), 1);
  EXPECT_EQ(value.Get(), 11);
  EXPECT_EQ(array.Get(1), 12);
  EXPECT_EQ(memory.At<int>(4), 13);
  EXPECT_EQ(queue.Get().value(), "14");
  EXPECT_EQ(ReadAll(pipe.reader.get()), "15");
}

// Until an empty message.
void Echo(Connection<std::string> connection) {
  for (std::string message = "x"; !message.empty();) {
    absl::StatusOr<std::string> received = connection.Recv();
    MP_CHECK_OK(received.status());
    message = *std::move(received);
    MP_CHECK_OK(connection.Send(message));
  }
}

TEST_P(StartMethodsTest, ConnectionsAreTheSame) {
  auto [ours, theirs] = mp::Pipe<std::string>();
  Process process(Options(), Echo, theirs);
  ASSERT_OK(process.Start());
  theirs.Close();
  for (const size_t size : {5u, 100'000u, 0u}) {
    ASSERT_OK(ours.Send(std::string(size, 'x')));
    const absl::StatusOr<std::string> message = ours.Recv();
    ASSERT_OK(message);
    EXPECT_TRUE(*message == std::string(size, 'x'));
  }
  EXPECT_THAT(ours.Recv(), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(ours.Send("x"), StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), 0);
}

void PutAndEnd(Queue<int> queue, Event end) {
  MP_CHECK_OK(queue.Put(1));
  end.Wait();
}

TEST_P(StartMethodsTest, WaitForAQueueOrTheEnd) {
  Queue<int> queue;
  Event end;
  Process process(Options(), PutAndEnd, queue, end);
  ASSERT_OK(process.Start());
  const auto wait = [&](absl::Duration timeout) {
    return Wait({queue, process.sentinel()}, timeout);
  };
  EXPECT_THAT(wait(absl::InfiniteDuration()), IsOkAndHolds(ElementsAre(0)));
  EXPECT_THAT(queue.GetNowait(), IsOkAndHolds(1));
  EXPECT_THAT(wait(absl::Milliseconds(30)), IsOkAndHolds(ElementsAre()));
  std::thread ender([end]() mutable {
    absl::SleepFor(absl::Milliseconds(20));
    end.Set();
  });
  EXPECT_THAT(wait(absl::InfiniteDuration()), IsOkAndHolds(ElementsAre(1)));
  ender.join();
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), 0);
}

void AcquireAndDie(Lock lock) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  lock.Acquire();
  raise(SIGKILL);
}

TEST_P(StartMethodsTest, OwnerDeathIsNoticed) {
  Lock lock;
  EXPECT_EQ(ExitCodeOf(AcquireAndDie, lock), -SIGKILL);
  EXPECT_EQ(lock.Acquire(), kOwnerDied);
  EXPECT_OK(lock.Release());
}

void AcquireAndWait(Lock lock, Event held) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  lock.Acquire();
  held.Set();
  for (;;) pause();
}

TEST_P(StartMethodsTest, ASleeperWakesWhenTheOwnerDies) {
  Lock lock;
  Event held;
  Process process(Options(), AcquireAndWait, lock, held);
  ASSERT_OK(process.Start());
  held.Wait();
  EXPECT_FALSE(lock.Acquire(absl::ZeroDuration()));
  std::thread killer([&] {
    absl::SleepFor(absl::Milliseconds(20));
    MP_CHECK_OK(process.Kill());
  });
  EXPECT_EQ(lock.Acquire(), kOwnerDied);
  EXPECT_OK(lock.Release());
  killer.join();
  ASSERT_OK(process.Join());
}

int AreTheSame(Lock a, Lock b) { return a == b ? 0 : 1; }

TEST_P(StartMethodsTest, TwoHandlesOfOneObject) {
  const Lock lock;
  EXPECT_EQ(ExitCodeOf(AreTheSame, lock, lock), 0);
  EXPECT_EQ(ExitCodeOf(AreTheSame, lock, Lock()), 1);
}

void TakeMany(std::vector<Queue<int>> queues) {
  for (size_t i = 0; i < queues.size(); ++i) {
    MP_CHECK_OK(queues[i].Put(static_cast<int>(i)));
  }
}

// More than one message between processes can carry.
TEST_P(StartMethodsTest, HundredsOfDescriptors) {
  std::vector<Queue<int>> queues;
  for (int i = 0; i < 600; ++i) queues.emplace_back(1);
  ASSERT_EQ(ExitCodeOf(TakeMany, queues), 0);
  for (int i = 0; i < 600; ++i) {
    EXPECT_EQ(queues[static_cast<size_t>(i)].Get().value(), i);
  }
}

// ---- What it has from its parent

void ReportDescriptors(Queue<std::vector<int>> out, Event go_on) {
  MP_CHECK_OK(out.Put(Descriptors()));
  go_on.Wait();
}

TEST_P(FreshProcessTest, DescriptorsOfTheParent) {
  // One as high as a program has it, and not close-on-exec.
  const UniqueFd high(fcntl(STDERR_FILENO, F_DUPFD, 900));
  Queue<std::vector<int>> out;
  Event go_on;
  std::vector<Process> siblings;
  std::vector<std::vector<int>> fds;
  for (int i = 0; i < 5; ++i) {
    Process& process =
        siblings.emplace_back(Options(), ReportDescriptors, out, go_on);
    ASSERT_OK(process.Start());
    fds.push_back(out.Get().value());
    EXPECT_THAT(fds.back(), Not(::testing::Contains(high.get())));
    EXPECT_EQ(fds.back().size(), fds.front().size());
  }
  // The streams, the message, the liveness table, the queue, the slab; the
  // others are the kernel's and the runtime's affair.
  EXPECT_LE(fds.front().size(), 10u);
  go_on.Set();
  for (Process& process : siblings) EXPECT_OK(process.Join());
}

int StdinIsEmpty() {
  char byte;
  return read(STDIN_FILENO, &byte, 1) == 0 && getchar() == EOF ? 0 : 1;
}

TEST_P(StartMethodsTest, StdinIsEmpty) {
  EXPECT_EQ(ExitCodeOf(StdinIsEmpty), 0);
}

std::string Directory() { return std::filesystem::current_path(); }

void ReportSurroundings(Queue<std::string> out) {
  const char* const variable = getenv("MP_START_METHODS_TEST");
  MP_CHECK_OK(out.Put(variable == nullptr ? "not set" : variable));
  MP_CHECK_OK(out.Put(Directory()));
  MP_CHECK_OK(out.Put(getenv("MP_PROCESS_ASSIGNMENT") == nullptr ? "clean"
                                                                 : "spoiled"));
}

TEST_P(StartMethodsTest, EnvironmentAndDirectoryAreThoseOfTheMoment) {
  InAChild([] {
    Queue<std::string> out;
    for (const std::string place : {"/", "/proc"}) {
      setenv("MP_START_METHODS_TEST", place.c_str(), /*overwrite=*/1);
      ASSERT_EQ(chdir(place.c_str()), 0);
      ASSERT_EQ(
          ExitCodeWith({.start_method = GetParam()}, ReportSurroundings, out),
          0);
      EXPECT_EQ(out.Get().value(), place);
      EXPECT_EQ(out.Get().value(), place);
      EXPECT_EQ(out.Get().value(), "clean");
    }
  });
}

int IsBlocked(int signal) {
  sigset_t mask;
  sigemptyset(&mask);
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return sigismember(&mask, signal);
}

TEST_P(StartMethodsTest, SignalMaskIsThatOfTheStarter) {
  EXPECT_EQ(ExitCodeOf(IsBlocked, SIGUSR1), 0);
  sigset_t mask, before;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &mask, &before);
  EXPECT_EQ(ExitCodeOf(IsBlocked, SIGUSR1), 1);
  EXPECT_EQ(ExitCodeOf(IsBlocked, SIGTERM), 0);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_P(StartMethodsTest, StartsWithoutStandardStreams) {
  InAChild([] {
    Value<int> value(0);
    const auto set = [](Value<int> v) {
      std::cout << "nowhere\n" << std::flush;
      std::cerr << "nowhere\n" << std::flush;
      v.Set(1);
    };
    for (const int fd : {0, 1, 2}) close(fd);
    MP_CHECK(ExitCodeWith({.start_method = GetParam()}, set, value) == 0);
    MP_CHECK(value.Get() == 1);
  });
}

// What is shared must not take the place of a stream that is closed.
TEST_P(StartMethodsTest, OutputDoesNotGoIntoSharedMemory) {
  InAChild([] {
    for (const int fd : {0, 1, 2}) close(fd);
    RawArray<char> large(4 << 20);
    Queue<int> queue;
    const auto talk = [](RawArray<char> array, Queue<int> out) {
      std::cout << "spoilt" << std::flush;
      std::cerr << "spoilt" << std::flush;
      return array[0] == 0 && out.Put(1).ok() ? 0 : 1;
    };
    for (int i = 0; i < 2; ++i) {
      MP_CHECK(ExitCodeWith({.daemon = true, .start_method = GetParam()}, talk,
                            large, queue) == 0);
      std::cout << "spoilt" << std::flush;
      // Streams that are opened later are the children's, too.
      if (i == 0) MP_CHECK(open("/dev/null", O_RDWR) == 0 && dup(0) == 1);
    }
    MP_CHECK(queue.qsize() == 2 && queue.Get().value() == 1);
  });
}

bool BecomeNobody() {
  constexpr uid_t kNobody = 65'534;
  return setresuid(kNobody, kNobody, kNobody) == 0;
}

// Not in Bazel's sandbox, where there is one user only.
TEST_P(StartMethodsTest, AfterPrivilegesWereGivenUp) {
  if (ExitCodeOf([] { return BecomeNobody() ? 0 : 1; }) != 0) {
    GTEST_SKIP() << "may not become another user";
  }
  InAChild([] {
    const auto user = [] { return geteuid() == 65'534 ? 1 : 0; };
    const ProcessOptions options = {.daemon = true, .start_method = GetParam()};
    EXPECT_EQ(ExitCodeWith(options, user), 0);
    MP_CHECK(BecomeNobody());
    EXPECT_EQ(ExitCodeWith(options, user), 1);
  });
}

// ---- Start methods

TEST_P(StartMethodsTest, DefaultMethod) {
  InAChild([] {
    EXPECT_OK(SetStartMethod(GetParam()));
    EXPECT_EQ(GetStartMethod(), GetParam());
    EXPECT_EQ(GetAllStartMethods().front(), GetParam());
    EXPECT_EQ(GetAllStartMethods().size(), 3u);
    EXPECT_THAT(SetStartMethod(StartMethod::kFork),
                StatusIs(absl::StatusCode::kFailedPrecondition));
    Queue<Self> out;
    Process process(Describe, out);
    EXPECT_EQ(process.start_method(), GetParam());
    ASSERT_OK(process.Start());
    const Self self = out.Get().value();
    EXPECT_EQ(self.method, GetParam());
    EXPECT_EQ(self.default_method, GetParam());
    EXPECT_OK(process.Join());
    EXPECT_OK(SetStartMethod(StartMethod::kFork, /*force=*/true));
  });
}

TEST_P(StartMethodsTest, AMethodOfItsOwnLeavesTheDefaultAlone) {
  EXPECT_EQ(ExitCodeOf(DoNothing), 0);
  EXPECT_EQ(GetStartMethod(), StartMethod::kFork);
}

// ---- Daemons and the end of the parent

TEST_P(StartMethodsTest, DaemonicProcessesHaveNoChildren) {
  EXPECT_EQ(ExitCodeWith({.daemon = true, .start_method = GetParam()},
                         [] {
                           Process child(DoNothing);
                           return absl::IsFailedPrecondition(child.Start()) ? 0
                                                                            : 1;
                         }),
            0);
}

void Sleep(Queue<pid_t> pids) {
  MP_CHECK_OK(pids.Put(getpid()));
  for (;;) pause();
}

// A parent that starts daemons, from a thread that ends then.
void Lead(Queue<pid_t> pids, StartMethod method) {
  std::vector<Process> daemons;
  std::thread([&] {
    for (int i = 0; i < 3; ++i) {
      daemons.emplace_back(
          ProcessOptions{.daemon = true, .start_method = method}, Sleep, pids);
      MP_CHECK_OK(daemons.back().Start());
    }
  }).join();
  for (;;) pause();
}

// LeakCheck finds whoever is left.
TEST_P(StartMethodsTest, DaemonsEndWithAKilledParent) {
  Queue<pid_t> pids;
  Process parent(Options(), Lead, pids, GetParam());
  ASSERT_OK(parent.Start());
  for (int i = 0; i < 3; ++i) {
    const pid_t daemon = pids.Get().value();
    EXPECT_EQ(kill(daemon, 0), 0) << "alive, though the thread has ended";
  }
  ASSERT_OK(parent.Kill());
  ASSERT_OK(parent.Join());
}

TEST_P(StartMethodsTest, ProgramTerminatesItsDaemons) {
  Queue<pid_t> pids;
  Process parent(
      Options(),
      [](Queue<pid_t> out, StartMethod method) {
        Process daemon({.daemon = true, .start_method = method}, Sleep, out);
        MP_CHECK_OK(daemon.Start());
        while (out.Empty()) absl::SleepFor(absl::Milliseconds(1));
      },
      pids, GetParam());
  ASSERT_OK(parent.Start());
  ASSERT_OK(parent.Join());
  EXPECT_EQ(parent.exitcode(), 0);
  EXPECT_EQ(kill(pids.Get().value(), 0), -1);
}

// Two levels of processes that hold a pipe, and one that this library does not
// know.
void Grow(UniqueFd pipe, StartMethod method, int depth) {
  std::vector<Process> below;
  for (int i = 0; i < 2 && depth > 0; ++i) {
    below.emplace_back(ProcessOptions{.start_method = method}, Grow,
                       UniqueFd(fcntl(pipe.get(), F_DUPFD_CLOEXEC, 3)), method,
                       depth - 1);
    MP_CHECK_OK(below.back().Start());
  }
  MP_CHECK(write(pipe.get(), "x", 1) == 1);
  if (depth == 0) MP_PCHECK(fork() >= 0) << "fork";
  for (;;) pause();
}

TEST_P(StartMethodsTest, KillTree) {
  PipeEnds pipe = MakePipe();
  Process process(Options(), Grow, std::move(pipe.writer), GetParam(), 2);
  EXPECT_THAT(process.KillTree(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_OK(process.Start());
  for (int i = 0; i < 7; ++i) {
    char byte;
    ASSERT_EQ(read(pipe.reader.get(), &byte, 1), 1);
  }
  EXPECT_OK(process.KillTree());
  EXPECT_EQ(ReadAll(pipe.reader.get()), "") << "nobody holds it any more";
  EXPECT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), -SIGKILL);
  EXPECT_OK(process.KillTree()) << "of the dead";
}

// Such a parent sleeps in the kernel until its child has called exec or ended.
TEST_P(StartMethodsTest, KillTreeOfAParentInVfork) {
  PipeEnds pipe = MakePipe();
  Process process(
      Options(),
      [](UniqueFd writer) {
        const int fd = writer.release();
        if (vfork() == 0) {
          [[maybe_unused]] const ssize_t written = write(fd, "x", 1);
          for (;;) pause();
        }
        for (;;) pause();  // ThreadSanitizer makes it a fork
      },
      std::move(pipe.writer));
  ASSERT_OK(process.Start());
  char byte;
  ASSERT_EQ(read(pipe.reader.get(), &byte, 1), 1);
  EXPECT_OK(process.KillTree());
  EXPECT_EQ(ReadAll(pipe.reader.get()), "");
  EXPECT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), -SIGKILL);
}

TEST_P(StartMethodsTest, Context) {
  const Context context = GetContext(GetParam());
  EXPECT_EQ(context.start_method(), GetParam());
  Process process = context.NewProcess(Answer);
  EXPECT_EQ(process.start_method(), GetParam());
  ASSERT_OK(process.Start());
  ASSERT_OK(process.Join());
  EXPECT_EQ(process.exitcode(), 42);
  EXPECT_EQ(context.NewProcess({.name = "x"}, Answer).name(), "x");
  EXPECT_EQ(GetContext().start_method(), GetStartMethod());
}

// ---- Many

TEST_P(StartMethodsTest, ManyShortOnes) {
  std::vector<Process> processes;
  for (int i = 0; i < 30; ++i) {
    processes.emplace_back(
        Options(), [](int code) { return code; }, i);
    ASSERT_OK(processes.back().Start());
  }
  for (int i = 0; i < 30; ++i) {
    ASSERT_OK(processes[static_cast<size_t>(i)].Join());
    EXPECT_EQ(processes[static_cast<size_t>(i)].exitcode(), i);
  }
}

TEST_P(StartMethodsTest, TerminatedRightAfterStart) {
  std::vector<Process> processes;
  for (int i = 0; i < 20; ++i) {
    processes.emplace_back(Options(), [] {
      for (;;) pause();
    });
    ASSERT_OK(processes.back().Start());
    ASSERT_OK(processes.back().Terminate());
  }
  for (const Process& process : processes) {
    ASSERT_OK(process.Join());
    EXPECT_EQ(process.exitcode(), -SIGTERM);
  }
}

TEST_P(StartMethodsTest, StartFromTenThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 10; ++i) {
    threads.emplace_back([this, i] {
      for (int k = 0; k < 3; ++k) {
        EXPECT_EQ(ExitCodeOf([](int code) { return code; }, i * 10 + k),
                  i * 10 + k);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(StartMethodsTest, NoProcessLeft) {
  InAChild([] {
    // What makes the child: fork and the forkserver use clone, posix_spawn
    // clone3, which the forkserver needs to be there.
    testing::FailSystemCall(
        GetParam() == StartMethod::kSpawn ? SYS_clone3 : SYS_clone, EAGAIN);
    Process process({.start_method = GetParam()}, DoNothing);
    EXPECT_THAT(process.Start(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("EAGAIN")));
    EXPECT_EQ(process.pid(), std::nullopt);
    EXPECT_EQ(process.exitcode(), std::nullopt);
    EXPECT_THAT(ActiveChildren(), IsEmpty());
  });
}

TEST_P(FreshProcessTest, NoMemoryLeft) {
  InAChild([] {
    testing::FailSystemCall(SYS_memfd_create, ENOMEM);
    Process process({.start_method = GetParam()}, DoNothing);
    EXPECT_THAT(process.Start(), StatusIs(absl::StatusCode::kResourceExhausted,
                                          AllOf(HasSubstr("memfd_create"),
                                                HasSubstr("ENOMEM"))));
  });
}

// Run in a copy of the program by the next test.
TEST_P(StartMethodsTest, DISABLED_WithoutAProgram) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  ASSERT_THAT(self, HasSubstr("copy_of_start_methods_test"));
  std::filesystem::remove(self);
  std::ofstream(self) << "something else";
  std::filesystem::permissions(self, std::filesystem::perms::owner_all);
  EXPECT_EQ(ExitCodeOf(Answer), 42);
}

TEST_P(StartMethodsTest, TheProgramWasReplaced) {
  const std::string copy =
      std::filesystem::temp_directory_path() /
      ("copy_of_start_methods_test_" + std::to_string(getpid()));
  std::filesystem::copy_file("/proc/self/exe", copy);
  const std::string filter =
      std::string("--gtest_filter=StartMethodsTest.DISABLED_WithoutAProgram/") +
      StartMethodName(GetParam());
  InAChild([&] {
    execl(copy.c_str(), copy.c_str(), "--gtest_also_run_disabled_tests",
          filter.c_str(), static_cast<char*>(nullptr));
    ADD_FAILURE() << "execl";
  });
  std::filesystem::remove(copy);
}

TEST_P(StartMethodsTest, NoDescriptorLeft) {
  InAChild([] {
    Process process({.start_method = GetParam()}, DoNothing);
    rlimit before;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    // All that are below the limit.
    std::vector<UniqueFd> full;
    while (true) {
      UniqueFd fd(dup(STDERR_FILENO));
      if (!fd || fd.get() >= 200) break;
      full.push_back(std::move(fd));
    }
    const rlimit none = {.rlim_cur = 100, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    EXPECT_THAT(process.Start(),
                StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_EQ(process.exitcode(), std::nullopt);
    full.clear();
    EXPECT_OK(process.Start()) << "again";
    EXPECT_OK(process.Join());
    EXPECT_EQ(process.exitcode(), 0);
  });
}

}  // namespace
}  // namespace mp
