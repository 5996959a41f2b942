// What can go wrong × where it goes wrong: the right caller gets the right
// error, nothing else is harmed, and the pool is as good as before.
//
// The initializer's faults are in initializer_test.cc, those of callbacks in
// async_result_test.cc.

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
#include "mp/pool/pool.h"
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

class PoolFaultTest : public mp::testing::ProcessTest,
                      public ::testing::WithParamInterface<
                          std::tuple<PoolWorkers, Fault, Place>> {
 protected:
  Trap TheTrap() const {
    return {.fault = fault_, .place = place_, .home = getpid()};
  }

  void ExpectRightError(const absl::Status& status) const {
    switch (fault_) {
      case kError:
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss, "trap"));
        return;
      case kThrow:
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnknown,
                                     HasSubstr("std::runtime_error: trap")));
        return;
      case kExit:
        EXPECT_THAT(status.message(), HasSubstr("exited with code 3"));
        break;
      case kCrash:
        EXPECT_THAT(status.message(), HasSubstr("SIGABRT"));
        break;
      case kKill:
        EXPECT_THAT(status.message(), HasSubstr("SIGKILL"));
        break;
    }
    EXPECT_TRUE(IsWorkerDied(status)) << status;
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

}  // namespace
}  // namespace mp
