// What can go wrong × where it goes wrong: the right caller gets the right
// error, nothing else is harmed, and the pool is as good as before.
//
// Of the faults that end the pool's own process, pool_end_test.cc has what
// becomes of its workers, and what callbacks do.

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/queue.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/sync/event.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

enum Fault : int { kError, kThrow, kExit, kCrash, kKill };
enum Place : int {
  kNowhere,
  kArgumentEncode,
  kArgumentDecode,
  kFunction,
  kResultEncode,
  kResultDecode,
};

// Goes off at one place. It travels as an argument, and back as a result.
struct Trap {
  Fault fault = kError;
  Place place = kNowhere;
  pid_t home = 0;
  bool is_result = false;
};

// Returns in the case of kError only.
void GoOff(Fault fault) {
  switch (fault) {
    case kError:
      return;
    case kThrow:
      throw std::runtime_error("trap");
    case kExit:
      _exit(3);
    case kCrash:
      std::abort();
    case kKill:
      raise(SIGKILL);
  }
}

absl::StatusOr<Trap> Pass(Trap trap) {
  if (trap.place == kFunction) {
    GoOff(trap.fault);
    return absl::DataLossError("trap");
  }
  trap.is_result = true;
  return trap;
}

}  // namespace

template <>
struct Codec<Trap> {
  static size_t Size(const Trap&) { return 3 * sizeof(int) + 1; }
  static void Write(const Trap& trap, Writer& writer) {
    if (trap.place == (trap.is_result ? kResultEncode : kArgumentEncode)) {
      GoOff(trap.fault);
      return writer.Fail(absl::DataLossError("trap"));
    }
    writer.Write(int{trap.fault});
    writer.Write(int{trap.place});
    writer.Write(trap.home);
    writer.Write(trap.is_result);
  }
  static Trap Read(Reader& reader) {
    Trap trap;
    trap.fault = static_cast<Fault>(reader.Read<int>());
    trap.place = static_cast<Place>(reader.Read<int>());
    trap.home = reader.Read<pid_t>();
    trap.is_result = reader.Read<bool>();
    if (!reader.ok()) return trap;
    if (trap.place == (trap.is_result ? kResultDecode : kArgumentDecode)) {
      GoOff(trap.fault);
      reader.Fail(absl::DataLossError("trap"));
    }
    return trap;
  }
};

namespace {

using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

int Square(int x) { return x * x; }

// Whether a status says what a fault is to be reported as.
void ExpectErrorOf(Fault fault, const absl::Status& status) {
  switch (fault) {
    case kError:
      EXPECT_THAT(status,
                  StatusIs(absl::StatusCode::kDataLoss, HasSubstr("trap")));
      return;
    case kThrow:
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnknown,
                                   HasSubstr("std::runtime_error: trap")));
      return;
    case kExit:
      EXPECT_THAT(status.message(), HasSubstr("exited with code 3"));
      return;
    case kCrash:
      EXPECT_THAT(status.message(), HasSubstr("SIGABRT"));
      return;
    case kKill:
      EXPECT_THAT(status.message(), HasSubstr("SIGKILL"));
      return;
  }
}

class PoolFaultTest : public mp::testing::ProcessTest,
                      public ::testing::WithParamInterface<
                          std::tuple<PoolWorkers, Fault, Place>> {
 protected:
  Trap TheTrap() const {
    return {.fault = fault_, .place = place_, .home = getpid()};
  }

  void ExpectRightError(const absl::Status& status) const {
    ExpectErrorOf(fault_, status);
    EXPECT_EQ(IsWorkerDied(status), fault_ > kThrow) << status;
  }

  // Calls `with_trap()`, while innocent tasks are under way. What the argument
  // throws when it is encoded, its caller catches.
  template <class Call>
  void Try(Pool& pool, Call with_trap) {
    std::vector<AsyncResult<int>> innocent;
    for (int i = 0; i < 20; ++i) innocent.push_back(pool.ApplyAsync(Square, i));
    if (fault_ == kThrow && place_ == kArgumentEncode) {
      EXPECT_THROW(with_trap(), std::runtime_error);
    } else {
      with_trap();
    }
    for (int i = 0; i < 20; ++i) innocent.push_back(pool.ApplyAsync(Square, i));
    for (int i = 0; i < 40; ++i) {
      EXPECT_THAT(innocent[static_cast<size_t>(i)].Get(),
                  IsOkAndHolds(Square(i % 20)));
    }
  }

  const PoolWorkers workers_ = std::get<0>(GetParam());
  const Fault fault_ = std::get<1>(GetParam());
  const Place place_ = std::get<2>(GetParam());
};

TEST_P(PoolFaultTest, HitsItsCallerOnly) {
  Pool pool({.processes = 2, .workers = workers_});
  for (int round = 0; round < 2; ++round) {
    Try(pool, [&] { ExpectRightError(pool.Apply(Pass, TheTrap()).status()); });
    const std::vector<Trap> items = {Trap(), TheTrap(), Trap(), Trap()};
    for (const size_t chunksize : {1, 2, 4}) {
      Try(pool,
          [&] { ExpectRightError(pool.Map(Pass, items, chunksize).status()); });
      Try(pool, [&] {
        auto stream = pool.Imap(Pass, items, chunksize);
        EXPECT_EQ(stream.Next().ok(), fault_ <= kThrow || chunksize == 1);
        ExpectRightError(stream.Next().status());
        // An item that cannot be decoded hides those behind it in its message.
        const bool hides =
            fault_ <= kThrow &&
            (place_ == kArgumentDecode || place_ == kResultDecode) &&
            chunksize > 2;
        const bool dies = fault_ > kThrow && chunksize == 4;
        for (int i = 0; i < 2; ++i) {
          EXPECT_EQ(stream.Next().ok(), !hides && !dies) << chunksize;
        }
        EXPECT_THAT(stream.Next(),
                    StatusIs(absl::StatusCode::kOutOfRange, ::testing::_));
      });
    }
  }
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

INSTANTIATE_TEST_SUITE_P(
    InWorkers, PoolFaultTest,
    ::testing::Combine(::testing::Values(PoolWorkers::kProcesses),
                       ::testing::Values(kError, kThrow, kExit, kCrash, kKill),
                       ::testing::Values(kArgumentDecode, kFunction,
                                         kResultEncode)));

// Where it would be the caller that exits or crashes.
INSTANTIATE_TEST_SUITE_P(
    InCaller, PoolFaultTest,
    ::testing::Combine(::testing::Values(PoolWorkers::kProcesses),
                       ::testing::Values(kError, kThrow),
                       ::testing::Values(kArgumentEncode, kResultDecode)));

INSTANTIATE_TEST_SUITE_P(
    InThreads, PoolFaultTest,
    ::testing::Combine(::testing::Values(PoolWorkers::kThreads),
                       ::testing::Values(kError, kThrow),
                       ::testing::Values(kArgumentEncode, kArgumentDecode,
                                         kFunction, kResultEncode,
                                         kResultDecode)));

// ---- in the initializer, which is the end of its pool ----

class PoolInitializerFaultTest
    : public mp::testing::ProcessTest,
      public ::testing::WithParamInterface<std::tuple<PoolWorkers, Fault>> {};

absl::Status SpringTrap(Event armed, Fault fault, Queue<int> started) {
  if (!armed.IsSet()) return started.Put(1);
  GoOff(fault);
  return absl::DataLossError("trap");
}

// In the first workers, and in one that takes the place of another.
TEST_P(PoolInitializerFaultTest, HitsItsPoolOnly) {
  const auto [workers, fault] = GetParam();
  for (const bool at_once : {true, false}) {
    if (!at_once && workers == PoolWorkers::kThreads) continue;
    Pool other({.processes = 2, .workers = workers});
    std::vector<AsyncResult<int>> innocent;
    const auto submit = [&] {
      for (int i = 0; i < 20; ++i) {
        innocent.push_back(other.ApplyAsync(Square, i));
      }
    };
    submit();
    Event armed;
    if (at_once) armed.Set();
    Queue<int> started;
    Pool pool({.processes = 2,
               .initializer = Initializer(SpringTrap, armed, fault, started),
               .workers = workers});
    if (!at_once) {
      for (int i = 0; i < 2; ++i) EXPECT_THAT(started.Get(), IsOkAndHolds(1));
      const AsyncResult<void> under_way = pool.ApplyAsync([] { pause(); });
      armed.Set();
      EXPECT_TRUE(IsWorkerDied(pool.Apply([] { raise(SIGKILL); })));
      ExpectErrorOf(fault, under_way.Get());
    }
    submit();
    absl::Status error = pool.Apply(Square, 3).status();
    ExpectErrorOf(fault, error);
    EXPECT_THAT(error.message(), HasSubstr("initializer failed"));
    EXPECT_FALSE(IsWorkerDied(error));
    EXPECT_FALSE(pool.Map(Square, std::vector<int>{1, 2}).ok());
    EXPECT_THAT(pool.Join(), IsOk());
    submit();
    for (int i = 0; i < 60; ++i) {
      EXPECT_THAT(innocent[static_cast<size_t>(i)].Get(),
                  IsOkAndHolds(Square(i % 20)));
    }
    // And the next one.
    armed.Clear();
    Pool good({.processes = 2,
               .initializer = Initializer(SpringTrap, armed, fault, started),
               .workers = workers});
    EXPECT_THAT(good.Apply(Square, 3), IsOkAndHolds(9));
  }
}

INSTANTIATE_TEST_SUITE_P(
    InProcesses, PoolInitializerFaultTest,
    ::testing::Combine(::testing::Values(PoolWorkers::kProcesses),
                       ::testing::Values(kError, kThrow, kExit, kCrash,
                                         kKill)));
INSTANTIATE_TEST_SUITE_P(
    InThreads, PoolInitializerFaultTest,
    ::testing::Combine(::testing::Values(PoolWorkers::kThreads),
                       ::testing::Values(kError, kThrow)));

}  // namespace
}  // namespace mp
