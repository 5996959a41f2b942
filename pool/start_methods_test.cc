// Pools whose workers are started in each way: forked, and afresh.

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/ipc/queue.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/worker_died.h"
#include "mp/process/process.h"
#include "mp/sync/event.h"
#include "mp/sync/lock.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A program that comes to its end before main().
constexpr char kEndEarly[] = "MP_POOL_TEST_END_EARLY";
const bool not_early = [] {
  if (getenv(kEndEarly) != nullptr) _exit(7);
  return true;
}();

class StartMethodsTest : public mp::testing::ProcessTest,
                         public ::testing::WithParamInterface<StartMethod> {
 protected:
  // What the library keeps for the life of a process is there before the first
  // look for leaks.
  static void SetUpTestSuite() {
    for (const StartMethod method : GetAllStartMethods()) {
      Process process({.daemon = true, .start_method = method}, [] {});
      MP_CHECK_OK(process.Start());
      MP_CHECK_OK(process.Join());
    }
  }

  static PoolOptions With(PoolOptions options) {
    options.start_method = GetParam();
    return options;
  }
  static bool IsFork() { return GetParam() == StartMethod::kFork; }
};

INSTANTIATE_TEST_SUITE_P(All, StartMethodsTest,
                         ::testing::Values(StartMethod::kFork,
                                           StartMethod::kSpawn,
                                           StartMethod::kForkserver),
                         [](const auto& method) {
                           return std::string(StartMethodName(method.param));
                         });

int Square(int x) { return x * x; }
int Add(int a, int b) { return a + b; }

TEST_P(StartMethodsTest, FunctionsAndLambdasInAllCalls) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(pool.Apply(Add, 3, 4), IsOkAndHolds(7));
  EXPECT_THAT(pool.Apply([](const std::string& name) { return "I am " + name; },
                         "text"),
              IsOkAndHolds("I am text"));
  EXPECT_THAT(pool.Map(Square, std::vector<int>{1, 2, 3}),
              IsOkAndHolds(ElementsAre(1, 4, 9)));
  EXPECT_THAT(pool.Map([](int x) { return -x; }, std::vector<int>{1, 2, 3}, 2),
              IsOkAndHolds(ElementsAre(-1, -2, -3)));
  EXPECT_THAT(
      pool.Starmap(Add, std::vector<std::pair<int, int>>{{1, 2}, {3, 4}}),
      IsOkAndHolds(ElementsAre(3, 7)));
  std::multiset<int> squares;
  for (absl::StatusOr<int>& each :
       pool.ImapUnordered(Square, std::vector<int>{1, 2, 3, 4})) {
    squares.insert(each.value());
  }
  EXPECT_THAT(squares, ElementsAre(1, 4, 9, 16));
}

TEST_P(StartMethodsTest, WorkersAreStartedSo) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(
      pool.Apply([] {
        const ProcessInfo self = CurrentProcess();
        return absl::StrCat(StartMethodName(self.start_method), " ",
                            self.daemon ? "daemon" : "");
      }),
      IsOkAndHolds(absl::StrCat(StartMethodName(GetParam()), " daemon")));
}

TEST_P(StartMethodsTest, ErrorsAndExceptionsComeBack) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Apply([] { return absl::DataLossError("no"); }),
              StatusIs(absl::StatusCode::kDataLoss, "no"));
  EXPECT_THAT(pool.Apply([] { throw std::runtime_error("no"); }),
              StatusIs(absl::StatusCode::kUnknown,
                       AllOf(HasSubstr("PoolWorker-"),
                             HasSubstr("std::runtime_error: no"))));
}

TEST_P(StartMethodsTest, DeadWorkerIsReplaced) {
  Pool pool(With({.processes = 1}));
  for (int round = 0; round < 3; ++round) {
    const absl::Status died = pool.Apply([] { raise(SIGKILL); });
    EXPECT_TRUE(IsWorkerDied(died)) << died;
    EXPECT_THAT(pool.Apply(Square, round), IsOkAndHolds(round * round));
  }
}

TEST_P(StartMethodsTest, WorkersLeaveAfterTheirTasks) {
  Pool pool(With({.processes = 1, .maxtasksperchild = 2}));
  std::set<pid_t> pids;
  for (int i = 0; i < 6; ++i) pids.insert(pool.Apply(getpid).value());
  EXPECT_EQ(pids.size(), 3u);
}

TEST_P(StartMethodsTest, TerminateEndsThoseThatWork) {
  Pool pool(With({.processes = 2}));
  Event begun;
  const AsyncResult<void> endless =
      pool.ApplyAsync([] { absl::SleepFor(absl::InfiniteDuration()); });
  pool.Terminate();
  EXPECT_THAT(endless.Get(), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_P(StartMethodsTest, PoolCanBeClosedAndJoined) {
  Pool pool(With({.processes = 2}));
  const AsyncResult<std::vector<int>> all =
      pool.MapAsync(Square, std::vector<int>{1, 2, 3});
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(all.Get(), IsOkAndHolds(ElementsAre(1, 4, 9)));
}

// ---- initializers

struct Office {
  std::string name;
  Queue<std::string> mail;
  Lock lock;
};

Office Open(const char* name, std::string_view suffix, Queue<std::string> mail,
            Lock lock) {
  MP_CHECK_OK(mail.Put("open"));
  return Office{absl::StrCat(name, std::string(suffix)), mail, lock};
}

TEST_P(StartMethodsTest, InitializerGetsItsArgumentsAndTasksItsState) {
  absl::StatusOr<Queue<std::string>> mail = Queue<std::string>::Create();
  ASSERT_THAT(mail.status(), IsOk());
  Lock lock;
  Pool pool(With({.processes = 2,
                  .initializer = Initializer(
                      Open, "office", std::string_view("-1"), *mail, lock),
                  .maxtasksperchild = 1}));
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(pool.Apply([] {
      Office& office = WorkerState<Office>();
      const std::lock_guard locked(office.lock);
      MP_CHECK_OK(office.mail.Put("task"));
      return office.name;
    }),
                IsOkAndHolds("office-1"));
  }
  int opened = 0;
  int tasks = 0;
  while (tasks < 4) ++(mail->Get().value() == "open" ? opened : tasks);
  EXPECT_GE(opened, 4);
}

TEST_P(StartMethodsTest, InitializerMayBeALambdaWithoutCaptures) {
  Pool pool(With(
      {.processes = 1,
       .initializer = Initializer([](int& number) { return ++number; }, 41)}));
  EXPECT_THAT(pool.Apply([] { return WorkerState<int>(); }), IsOkAndHolds(42));
}

TEST_P(StartMethodsTest, InitializerThatFailsFailsThePool) {
  Pool pool(With({.processes = 2, .initializer = Initializer([] {
                                    return absl::NotFoundError("gone");
                                  })}));
  EXPECT_THAT(pool.Apply(Square, 3),
              StatusIs(absl::StatusCode::kNotFound,
                       "the pool's initializer failed: gone"));
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_P(StartMethodsTest, InitializerThatExitsFailsThePool) {
  Pool pool(
      With({.processes = 1, .initializer = Initializer([] { _exit(3); })}));
  EXPECT_THAT(pool.Apply(Square, 3),
              StatusIs(absl::StatusCode::kAborted,
                       AllOf(HasSubstr("the pool's initializer failed"),
                             HasSubstr("exited with code 3"))));
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_P(StartMethodsTest, InitializerThatCannotTravelIsRefused) {
  int captured = 7;
  const absl::StatusOr<Pool> with_capture = Pool::Create(
      With({.processes = 2,
            .initializer = Initializer([captured] { return captured; })}));
  const absl::StatusOr<Pool> with_pointer = Pool::Create(
      With({.processes = 2,
            .initializer = Initializer([](int, const int* p) { return *p; }, 1,
                                       &captured)}));
  if (IsFork()) {
    EXPECT_THAT(with_capture.status(), IsOk());
    EXPECT_THAT(with_pointer.status(), IsOk());
    return;
  }
  EXPECT_THAT(with_capture.status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("PoolWorker-"),
                             HasSubstr("the initializer is neither a function "
                                       "nor a callable without captures"))));
  EXPECT_THAT(with_pointer.status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("argument 2 of the initializer")));
}

// ---- what is not in the program

// A library and a function of it.
class Library {
 public:
  Library()
      : library_(dlopen("pool/libpool_start_methods_testlib.so", RTLD_NOW)) {
    MP_CHECK(library_ != nullptr) << dlerror();
  }
  ~Library() { dlclose(library_); }
  auto triple() const {
    return reinterpret_cast<int (*)(int)>(dlsym(library_, "Triple"));
  }

 private:
  void* const library_;
};

TEST_P(StartMethodsTest, FunctionOfALibraryIsFound) {
  const Library library;
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(pool.Apply(library.triple(), 5), IsOkAndHolds(15));
  EXPECT_THAT(pool.Map(library.triple(), std::vector<int>{1, 2}),
              IsOkAndHolds(ElementsAre(3, 6)));
}

TEST_P(StartMethodsTest, FunctionOfALibraryThatIsLoadedLaterIsAnError) {
  if (IsFork()) return;  // there it is a crash
  Pool pool(With({.processes = 1}));
  const Library library;
  const auto refused = StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("the function is in no module"));
  EXPECT_THAT(pool.Apply(library.triple(), 5), refused);
  EXPECT_THAT(pool.Map(library.triple(), std::vector<int>{1, 2}), refused);
  auto stream = pool.Imap(library.triple(), std::vector<int>{1});
  EXPECT_THAT(stream.Next(), refused);
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
  pool.Apply([] { raise(SIGKILL); }).IgnoreError();
  EXPECT_THAT(pool.Apply(library.triple(), 5), IsOkAndHolds(15))
      << "in a worker that was started later";
}

TEST_P(StartMethodsTest, WorkersThatEndBeforeMainFailThePool) {
  if (GetParam() != StartMethod::kSpawn) return;  // does not pass main()
  setenv(kEndEarly, "1", 1);
  absl::StatusOr<Pool> pool = Pool::Create(With({.processes = 2}));
  ASSERT_THAT(pool.status(), IsOk());
  EXPECT_THAT(pool->Apply(Square, 3),
              StatusIs(absl::StatusCode::kAborted,
                       AllOf(HasSubstr("end before they are ready"),
                             HasSubstr("exited with code 7"))));
  unsetenv(kEndEarly);
  EXPECT_THAT(pool->Join(), IsOk());
}

TEST_P(StartMethodsTest, ByDefaultAsTheProgramStartsProcesses) {
  const StartMethod method = GetParam();
  Process child([method] {
    MP_CHECK_OK(SetStartMethod(method, /*force=*/true));
    Pool pool({.processes = 1});
    MP_CHECK(*pool.Apply([] { return CurrentProcess().start_method; }) ==
             method);
    return 0;
  });
  ASSERT_THAT(child.Start(), IsOk());
  ASSERT_THAT(child.Join(), IsOk());
  EXPECT_EQ(child.exitcode(), 0);
}

TEST_P(StartMethodsTest, PoolsOfThreadsWorkInWorkers) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(
      pool.Apply(
          [](int n) {
            Pool threads({.processes = 2, .workers = PoolWorkers::kThreads});
            return threads.Apply(Square, n);
          },
          6),
      IsOkAndHolds(36));
}

}  // namespace
}  // namespace mp
