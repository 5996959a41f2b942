// A pool under fire: random workers are killed at random moments while tasks
// run. Every task must have exactly one outcome, and it must be the right one.

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/pool.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::IsOk;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kKills = 100;  // a fork is slow there
#else
constexpr int kKills = 1000;
#endif

class PoolStormTest : public mp::testing::ProcessTest {};

// Deterministic, and long enough to be hit: some microseconds.
uint64_t Mix(uint64_t seed, const std::string& text) {
  for (int round = 0; round < 100; ++round) {
    for (const char c : text) {
      seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  return seed;
}

// Kills random workers of a pool, at random moments.
class Killer {
 public:
  Killer(const Pool& pool, uint32_t seed, int count)
      : thread_([this, &pool, seed, count] {
          std::minstd_rand random(seed);
          for (int kills = 0; kills < count;) {
            const std::vector<pid_t> pids = pool.pids();
            // Not through the pool: it must not know what is coming.
            if (!pids.empty() &&
                kill(pids[random() % pids.size()], SIGKILL) == 0) {
              ++kills;
            }
            absl::SleepFor(absl::Microseconds(random() % 4000));
          }
          killing_ = false;
        }) {}
  ~Killer() { thread_.join(); }

  bool killing() const { return killing_; }

 private:
  std::atomic<bool> killing_{true};
  std::thread thread_;
};

TEST_F(PoolStormTest, EveryTaskHasOneRightOutcome) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  Pool pool({.processes = 4, .task_capacity_bytes = 16 << 10});

  const Killer killer(pool, seed, kKills);

  const std::string text(50, 'm');
  struct Task {
    uint64_t input;
    AsyncResult<uint64_t> result;
    bool taken_back;
  };
  std::deque<Task> under_way;
  int64_t done = 0;
  int64_t lost = 0;
  int64_t cancelled = 0;
  const auto check_oldest = [&] {
    const Task task = std::move(under_way.front());
    under_way.pop_front();
    const absl::StatusOr<uint64_t> value = task.result.Get();
    if (value.ok()) {
      ASSERT_FALSE(task.taken_back);
      ASSERT_EQ(*value, Mix(task.input, text));
      ++done;
    } else if (absl::IsCancelled(value.status())) {
      ++cancelled;
    } else {
      ASSERT_FALSE(task.taken_back);
      ASSERT_TRUE(IsWorkerDied(value.status())) << value.status();
      // The same task again, as a user would.
      under_way.push_back(
          {task.input, pool.ApplyAsync(Mix, task.input, text), false});
      ++lost;
    }
  };
  std::minstd_rand random(seed + 1);
  uint64_t next = 0;
  while (killer.killing()) {
    while (under_way.size() < 1000) {
      under_way.push_back({next, pool.ApplyAsync(Mix, next, text), false});
      ++next;
    }
    if (random() % 4 == 0) {
      Task& task = under_way[random() % under_way.size()];
      task.taken_back |= task.result.Cancel();
    }
    check_oldest();
    if (HasFatalFailure()) break;
  }
  while (!under_way.empty() && !HasFatalFailure()) check_oldest();
  EXPECT_EQ(done + cancelled, static_cast<int64_t>(next));
  // A worker has one task at a time to take with it.
  EXPECT_LE(lost, kKills);
  pool.Close();
  EXPECT_THAT(pool.Join(), IsOk());
  RecordProperty("tasks", std::to_string(done));
  RecordProperty("lost_and_repeated", std::to_string(lost));
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
