#include "mp/pool/pool_calls.h"

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/pool/async_result.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/pool/result_stream.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// For whatever kind of workers.
class PoolCallsTest : public pool_internal::AnyWorkersTest {};

INSTANTIATE_TEST_SUITE_P(Workers, PoolCallsTest, pool_internal::AnyWorkers(),
                         pool_internal::WorkersName);

double Power(double base, int exponent) { return std::pow(base, exponent); }

template <class T>
std::vector<T> Values(ResultStream<T> stream) {
  std::vector<T> values;
  for (absl::StatusOr<T>& each : stream) {
    EXPECT_THAT(each, IsOk());
    if (each.ok()) values.push_back(*std::move(each));
  }
  return values;
}

// ---- With ----

TEST_P(PoolCallsTest, WithOptionsThereAreTheSameCalls) {
  Pool pool(With({.processes = 2}));
  const PoolCalls calls = pool.With({.retries = 1});
  EXPECT_THAT(calls.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(calls.ApplyAsync(Square, 4).Get(), IsOkAndHolds(16));
  EXPECT_THAT(calls.Map(Square, Numbers(100)), IsOkAndHolds(Squares(100)));
  EXPECT_THAT(calls.MapAsync(Square, Numbers(100)).Get(),
              IsOkAndHolds(Squares(100)));
  const std::vector<std::pair<double, int>> pairs = {{2, 3}, {3, 2}};
  EXPECT_THAT(calls.Starmap(Power, pairs), IsOkAndHolds(ElementsAre(8, 9)));
  EXPECT_THAT(calls.StarmapAsync(Power, pairs).Get(),
              IsOkAndHolds(ElementsAre(8, 9)));
  EXPECT_EQ(Values(calls.Imap(Square, Numbers(100))), Squares(100));
  EXPECT_THAT(Values(calls.ImapUnordered(Square, Numbers(100))),
              ::testing::UnorderedElementsAreArray(Squares(100)));
}

TEST_P(PoolCallsTest, WithTakesThePlaceOfEarlierOptions) {
  Pool pool(With({.processes = 1}));
  const PoolCalls broken = pool.With({.retries = -1});
  EXPECT_THAT(broken.Apply(Square, 3),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(broken.With({}).Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(broken.Apply(Square, 3),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(pool.Apply(Square, 3), IsOkAndHolds(9));
}

// A pool or what its With() returns.
absl::StatusOr<std::vector<int>> SquareAll(const PoolCalls& calls) {
  return calls.Map(Square, Numbers(10));
}

TEST_P(PoolCallsTest, APoolIsPassedAsItsCalls) {
  Pool pool(With({.processes = 1}));
  EXPECT_THAT(SquareAll(pool), IsOkAndHolds(Squares(10)));
  EXPECT_THAT(SquareAll(pool.With({.retries = 1})), IsOkAndHolds(Squares(10)));
}

TEST_P(PoolCallsTest, CallsDoNotKeepThePool) {
  std::optional<PoolCalls> calls;
  std::optional<PoolCalls> retrying;
  std::optional<ResultStream<int>> stream;
  {
    Pool pool(With({.processes = 1}));
    calls = pool;
    retrying = pool.With({.retries = 1});
    EXPECT_THAT(calls->Apply(Square, 3), IsOkAndHolds(9));
  }
  for (const PoolCalls& each : {*calls, *retrying}) {
    EXPECT_THAT(each.Apply(Square, 3),
                StatusIs(absl::StatusCode::kFailedPrecondition, _));
    EXPECT_THAT(each.Map(Square, Numbers(10)),
                StatusIs(absl::StatusCode::kFailedPrecondition, _));
    EXPECT_THAT(each.Imap(Square, Numbers(10)).Next(),
                StatusIs(absl::StatusCode::kFailedPrecondition, _));
  }
}

TEST_P(PoolCallsTest, PoolsAreMovedWithTheirCalls) {
  Pool pool(With({.processes = 1}));
  const PoolCalls calls = pool.With({.retries = 1});
  Pool moved = std::move(pool);
  EXPECT_THAT(calls.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(moved.Apply(Square, 3), IsOkAndHolds(9));
  moved = Pool(With({.processes = 1}));
  EXPECT_THAT(moved.Apply(Square, 3), IsOkAndHolds(9));
  EXPECT_THAT(calls.Apply(Square, 3),
              StatusIs(absl::StatusCode::kFailedPrecondition, _))
      << "its pool has gone";
}

// ---- items in braces ----

TEST_P(PoolCallsTest, MapOfItemsInBraces) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(pool.Map(Square, {1, 2, 3}), IsOkAndHolds(ElementsAre(1, 4, 9)));
  EXPECT_THAT(pool.Map(Square, {1, 2, 3}, 1),
              IsOkAndHolds(ElementsAre(1, 4, 9)));
  EXPECT_THAT(pool.MapAsync(Square, {1, 2, 3}).Get(),
              IsOkAndHolds(ElementsAre(1, 4, 9)));
  EXPECT_THAT(
      pool.Map([](const std::string& s) { return s.size(); }, {"a", "bc", ""}),
      IsOkAndHolds(ElementsAre(1, 2, 0)));
  EXPECT_THAT(pool.Map([](bool b) { return !b; }, {true, false}),
              IsOkAndHolds(ElementsAre(false, true)));
  const std::initializer_list<int> named = {4, 5};
  EXPECT_THAT(pool.Map(Square, named), IsOkAndHolds(ElementsAre(16, 25)));
}

TEST_P(PoolCallsTest, StarmapOfItemsInBraces) {
  Pool pool(With({.processes = 2}));
  EXPECT_THAT(pool.Starmap(Power, {{2, 3}, {3, 2}}),
              IsOkAndHolds(ElementsAre(8, 9)));
  EXPECT_THAT(pool.StarmapAsync(Power, {{2, 3}, {3, 2}}, 1).Get(),
              IsOkAndHolds(ElementsAre(8, 9)));
  EXPECT_THAT(pool.Starmap(Power, {std::pair(2., 3), std::pair(3., 2)}),
              IsOkAndHolds(ElementsAre(8, 9)));
  EXPECT_THAT(pool.Starmap([](const std::string& s, int n) { return s[n]; },
                           {{"abc", 1}, {"xyz", 2}}),
              IsOkAndHolds(ElementsAre('b', 'z')));
}

// A stream may live longer than what is in the braces.
TEST_P(PoolCallsTest, StreamsOfItemsInBraces) {
  Pool pool(With({.processes = 2}));
  auto stream = pool.Imap(Square, {1, 2, 3}, 1, 1);
  EXPECT_THAT(Values(std::move(stream)), ElementsAre(1, 4, 9));
  auto unordered = pool.ImapUnordered(Square, {1, 2, 3}, 2);
  EXPECT_THAT(Values(std::move(unordered)),
              ::testing::UnorderedElementsAre(1, 4, 9));
  auto flags = pool.Imap([](bool b) { return !b; }, {true, false});
  EXPECT_THAT(Values(std::move(flags)), ElementsAre(false, true));
}

// ---- callbacks ----

TEST_P(PoolCallsTest, CallbacksNeedOnlyBeMovable) {
  Pool pool(With({.processes = 1}));
  std::vector<int> seen;  // by one thread after the other
  const AsyncResult<int> result = pool.ApplyAsync(Square, 3);
  result.OnDone([&seen, one = std::make_unique<int>(1)](
                    const absl::StatusOr<int>&) { seen.push_back(*one); });
  result.OnSuccess([&seen, two = std::make_unique<int>(2)](int value) {
    seen.push_back(value * *two);
  });
  pool.ApplyAsync([] { return absl::NotFoundError(""); })
      .OnError([&seen, three = std::make_unique<int>(3)](const absl::Status&) {
        seen.push_back(*three);
      });
  pool.ApplyAsync([] {}).OnSuccess(
      [&seen, four = std::make_unique<int>(4)] { seen.push_back(*four); });
  pool.Close();
  ASSERT_THAT(pool.Join(), IsOk());
  EXPECT_THAT(seen, ::testing::UnorderedElementsAre(1, 18, 3, 4));
}

}  // namespace
}  // namespace mp
