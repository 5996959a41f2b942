// What the storms over pools share: who kills workers, tasks whose results tell
// that they are right, and what a pool takes from the system.

#ifndef MP_POOL_POOL_STORM_TEST_UTIL_H_
#define MP_POOL_POOL_STORM_TEST_UTIL_H_

#include <dirent.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/pool/pool.h"

namespace mp::pool_internal {

// Deterministic, and long enough to be hit: some microseconds.
inline uint64_t Mix(uint64_t seed, const std::string& text) {
  for (int round = 0; round < 100; ++round) {
    for (const char c : text) {
      seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  return seed;
}

// Kills random workers of a pool until it is told to stop.
class Killer {
 public:
  // How long to wait until the next.
  using Pause = std::function<absl::Duration(std::minstd_rand&)>;
  static absl::Duration UpToFourMilliseconds(std::minstd_rand& random) {
    return absl::Microseconds(random() % 4000);
  }

  // No more than `count`.
  Killer(const Pool& pool, uint32_t seed, int count,
         Pause pause = UpToFourMilliseconds)
      : thread_([this, &pool, seed, count, pause = std::move(pause)] {
          std::minstd_rand random(seed);
          while (kills_ < count && !stop_) {
            const std::vector<pid_t> pids = pool.pids();
            // Not through the pool: it must not know what is coming.
            if (!pids.empty() &&
                kill(pids[random() % pids.size()], SIGKILL) == 0) {
              ++kills_;
            }
            absl::SleepFor(pause(random));
          }
          killing_ = false;
        }) {}
  ~Killer() { Stop(); }

  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  bool killing() const { return killing_; }
  int kills() const { return kills_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<bool> killing_{true};
  std::atomic<int> kills_{0};
  std::thread thread_;
};

// Of a process, in KiB: its own memory, or with all that it shares.
inline long MemoryOf(pid_t pid, const std::string& kind) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(kind)) return std::stol(line.substr(kind.size()));
  }
  return 0;  // it has ended
}

inline int CountEntries(const char* path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path), &closedir);
  int count = 0;
  while (readdir(directory.get()) != nullptr) ++count;
  return count;
}

// What must not grow, of the calling process, which has a pool.
struct Footprint {
  long own_kib = 0;
  long shared_kib = 0;
  int descriptors = 0;
  int mappings = 0;

  static Footprint Now() {
    Footprint now;
    now.own_kib = MemoryOf(getpid(), "RssAnon:");
    now.shared_kib = MemoryOf(getpid(), "RssShmem:");
    now.descriptors = CountEntries("/proc/self/fd");
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) ++now.mappings;
    return now;
  }

  // Sanitizers keep memory that has been given back.
  void ExpectFlatSince(const Footprint& before, long kib) const {
    EXPECT_LE(own_kib, before.own_kib + kib);
    EXPECT_LE(shared_kib, before.shared_kib + kib);
    // Those of workers come and go.
    EXPECT_LE(descriptors, before.descriptors + 8);
    EXPECT_LE(mappings, before.mappings + 8);
  }
};

struct StormReport {
  int64_t tasks = 0;
  int64_t done = 0;
  int64_t cancelled = 0;
  int64_t lost = 0;  // with a worker, and submitted again
};

// Submits tasks to a pool whose workers are killed, so that a thousand of them
// are under way, for as long as `more(tasks)`. Each must have one outcome, and
// the right one. Cancels one of `cancel_each` tasks.
template <class Calls>  // a pool, or PoolCalls
void StormOnTasks(Calls& pool, uint32_t seed, uint32_t cancel_each,
                  const std::function<bool(int64_t)>& more,
                  StormReport& report) {
  const std::string text(50, 'm');
  struct Task {
    uint64_t input;
    AsyncResult<uint64_t> result;
    bool taken_back;
  };
  std::deque<Task> under_way;
  const auto check_oldest = [&] {
    const Task task = std::move(under_way.front());
    under_way.pop_front();
    const absl::StatusOr<uint64_t> value = task.result.Get();
    if (value.ok()) {
      ASSERT_FALSE(task.taken_back);
      ASSERT_EQ(*value, Mix(task.input, text));
      ++report.done;
    } else if (absl::IsCancelled(value.status())) {
      ++report.cancelled;
    } else {
      ASSERT_FALSE(task.taken_back);
      ASSERT_TRUE(IsWorkerDied(value.status())) << value.status();
      // The same task again, as a user would.
      under_way.push_back(
          {task.input, pool.ApplyAsync(Mix, task.input, text), false});
      ++report.lost;
    }
  };
  std::minstd_rand random(seed);
  while (more(report.tasks)) {
    while (under_way.size() < 1000) {
      const auto input = static_cast<uint64_t>(report.tasks++);
      under_way.push_back({input, pool.ApplyAsync(Mix, input, text), false});
    }
    if (random() % cancel_each == 0) {
      Task& task = under_way[random() % under_way.size()];
      task.taken_back |= task.result.Cancel();
    }
    check_oldest();
    if (::testing::Test::HasFatalFailure()) return;
  }
  while (!under_way.empty()) {
    check_oldest();
    if (::testing::Test::HasFatalFailure()) return;
  }
  EXPECT_EQ(report.done + report.cancelled, report.tasks);
}

}  // namespace mp::pool_internal

#endif  // MP_POOL_POOL_STORM_TEST_UTIL_H_
