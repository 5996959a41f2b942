// A pool under fire: random workers are killed at random moments while tasks
// run. Every task must have exactly one outcome, and it must be the right one.

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_storm_test_util.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::Footprint;
using ::mp::pool_internal::Killer;
using ::mp::pool_internal::Mix;
using ::mp::pool_internal::StormOnTasks;
using ::mp::pool_internal::StormReport;
using ::mp::testing::IsOk;

// A fork is slow with sanitizers, which keep memory that was given back.
constexpr int kKills = mp::testing::kSanitized ? 100 : 1000;
constexpr long kFlatKib = mp::testing::kSanitized ? 1 << 20 : 2048;

class PoolStormTest : public mp::testing::ProcessTest {};

TEST_F(PoolStormTest, EveryTaskHasOneRightOutcome) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  Pool pool({.processes = 4, .task_capacity_bytes = 16 << 10});

  const Killer killer(pool, seed, kKills);
  std::optional<Footprint> before;
  StormReport report;
  StormOnTasks(
      pool, seed + 1, /*cancel_each=*/4,
      [&](int64_t) {
        if (!before.has_value() && killer.kills() > kKills / 5) {
          before = Footprint::Now();
        }
        return killer.killing();
      },
      report);
  ASSERT_FALSE(HasFatalFailure());
  // A worker has one task at a time to take with it.
  EXPECT_LE(report.lost, kKills);
  ASSERT_TRUE(before.has_value());
  while (pool.pids().size() < 4) absl::SleepFor(absl::Milliseconds(1));
  Footprint::Now().ExpectFlatSince(*before, kFlatKib);
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  RecordProperty("tasks", std::to_string(report.done));
  RecordProperty("lost_and_repeated", std::to_string(report.lost));
}

uint64_t MixNumber(uint64_t n) { return Mix(n, "stream"); }

struct Stop {};

// Workers that leave by themselves as well, and chunks.
void StormOnStream(bool ordered) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  Pool pool({.processes = 4,
             .task_capacity_bytes = 16 << 10,
             .maxtasksperchild = 100});
  const Killer killer(pool, seed, kKills / 3);

  uint64_t read = 0;
  const auto items = [&] {
    return pool_internal::GeneratedRange([&](int n) {
      if (!killer.killing()) throw Stop();
      ++read;
      return static_cast<uint64_t>(n);
    });
  };
  const auto work = [](uint64_t n) { return std::pair(n, MixNumber(n)); };
  auto stream = ordered ? pool.Imap(work, items(), 3)
                        : pool.ImapUnordered(work, items(), 3);
  std::vector<bool> seen;
  uint64_t done = 0;
  uint64_t lost = 0;
  try {
    for (;;) {
      const auto outcome = stream.Next();
      if (!outcome.ok()) {
        ASSERT_TRUE(IsWorkerDied(outcome.status())) << outcome.status();
        ++lost;
        continue;
      }
      const auto [n, mixed] = *outcome;
      ASSERT_EQ(mixed, MixNumber(n));
      if (ordered) {
        ASSERT_EQ(n, done + lost);
      }
      if (seen.size() <= n) seen.resize(2 * n + 1);
      ASSERT_FALSE(seen[n]) << n;
      seen[n] = true;
      ++done;
    }
  } catch (const Stop&) {
  }
  EXPECT_EQ(done + lost, read);
  EXPECT_LE(lost, uint64_t{3} * (kKills / 3));
  EXPECT_FALSE(stream.Done());
  EXPECT_FALSE(stream.Next().ok());
  EXPECT_TRUE(stream.Done());
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
}

TEST_F(PoolStormTest, EveryItemOfAStreamHasOneRightOutcome) {
  StormOnStream(/*ordered=*/true);
}

TEST_F(PoolStormTest, EveryItemOfAnUnorderedStreamHasOneRightOutcome) {
  StormOnStream(/*ordered=*/false);
}

}  // namespace
}  // namespace mp
