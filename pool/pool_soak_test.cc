// A million tasks while a worker dies every five milliseconds, and ten million
// through one stream: nothing is lost, and nothing grows. Takes a minute:
//
//   tools/bazel test --config=bench --test_tag_filters= //pool:pool_soak_test

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_storm_test_util.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::Footprint;
using ::mp::pool_internal::GeneratedRange;
using ::mp::pool_internal::Killer;
using ::mp::pool_internal::MemoryOf;
using ::mp::pool_internal::StormOnTasks;
using ::mp::pool_internal::StormReport;
using ::mp::testing::IsOk;

constexpr long kFlatKib = 2048;

class PoolSoakTest : public mp::testing::ProcessTest {
 protected:
  static void Print(const char* when, const Footprint& footprint) {
    printf(
        "%s: %ld KiB own memory, %ld KiB shared, %d descriptors, "
        "%d mappings\n",
        when, footprint.own_kib, footprint.shared_kib, footprint.descriptors,
        footprint.mappings);
  }

  static void RunStorm(bool retry);
  static void RunStream(size_t chunksize);
};

void PoolSoakTest::RunStorm(bool retry) {
  constexpr int64_t kTasks = 1'000'000;
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  Pool pool({.processes = 4});
  Killer killer(pool, seed, 1 << 30,
                [](std::minstd_rand&) { return absl::Milliseconds(5); });
  std::optional<Footprint> before;
  StormReport report;
  PoolCalls calls = pool.With({.retries = retry ? 1000 : 0});
  StormOnTasks(
      calls, seed + 1, /*cancel_each=*/100,
      [&](int64_t tasks) {
        if (!before.has_value() && tasks > kTasks / 10) {
          before = Footprint::Now();
        }
        return tasks < kTasks;
      },
      report);
  ASSERT_FALSE(HasFatalFailure());
  killer.Stop();
  while (pool.pids().size() < 4) absl::SleepFor(absl::Milliseconds(1));
  const Footprint after = Footprint::Now();
  Print("at a tenth", *before);
  Print("at the end", after);
  after.ExpectFlatSince(*before, kFlatKib);
  printf(
      "%ld tasks done, %ld cancelled; %d deaths, with which %ld tasks were "
      "lost and submitted again\n",
      static_cast<long>(report.done), static_cast<long>(report.cancelled),
      killer.kills(), static_cast<long>(report.lost));
  EXPECT_LE(report.lost, retry ? 0 : killer.kills());
  EXPECT_EQ(report.lost == 0, retry);
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(PoolSoakTest, MillionTasksAndADeathEveryFiveMilliseconds) {
  RunStorm(/*retry=*/false);
}
TEST_F(PoolSoakTest, MillionRetriedTasksAndADeathEveryFiveMilliseconds) {
  RunStorm(/*retry=*/true);
}

void PoolSoakTest::RunStream(size_t chunksize) {
  constexpr int64_t kItems = 10'000'000;
  constexpr long kStream = 3;
  Pool pool({.processes = 2});
  // The program's own and that of the largest worker.
  const auto memory = [&] {
    long most = 0;
    for (const pid_t pid : pool.pids()) {
      most = std::max(most, MemoryOf(pid, "RssAnon:"));
    }
    return std::pair(Footprint::Now(), most);
  };
  auto stream = pool.ImapUnordered(
      [](int64_t n) { return kStream * n; },
      GeneratedRange([](int n) { return int64_t{n}; }, int{kItems}), chunksize);
  int64_t count = 0;
  uint64_t sum = 0;
  std::optional<std::pair<Footprint, long>> before;
  for (const auto& each : stream) {
    ASSERT_OK(each.status());
    sum += static_cast<uint64_t>(*each);
    if (++count % (kItems / 10) != 0) continue;
    const auto [now, largest_worker] = memory();
    printf("%ld: worker: %ld KiB; ", static_cast<long>(count), largest_worker);
    Print("pool", now);
    if (!before.has_value()) before.emplace(now, largest_worker);
    now.ExpectFlatSince(before->first, kFlatKib);
    EXPECT_LE(largest_worker, before->second + kFlatKib);
  }
  EXPECT_EQ(count, kItems);
  // Each once: the numbers are right, and so is their sum.
  EXPECT_EQ(sum, uint64_t{kStream} * (kItems / 2) * (kItems - 1));
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(PoolSoakTest, TenMillionTasksThroughOneStream) { RunStream(1); }
TEST_F(PoolSoakTest, TenMillionItemsInChunksThroughOneStream) {
  RunStream(100);
}

}  // namespace
}  // namespace mp
