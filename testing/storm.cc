#include "mp/testing/storm.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/testing/child.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/shared_page.h"

namespace mp::testing_internal {

constexpr size_t kMaxWorkers = 64;

// Shared with the workers.
struct StormPage {
  std::atomic<bool> stopping;
  std::array<std::atomic<uint64_t>, kMaxWorkers> progress;
};

namespace {

// A worker without progress for this long may be stranded and is spared.
constexpr int64_t kSuspectNanos = 50'000'000;
// How often to look at the workers while waiting for something.
constexpr int64_t kLookNanos = 2'000'000;

uint64_t ChooseSeed(uint64_t wanted) {
  if (wanted != 0) return wanted;
  const char* const text = getenv("MP_STORM_SEED");
  const uint64_t given = text == nullptr ? 0 : strtoull(text, nullptr, 10);
  return given != 0 ? given : std::random_device()();
}

void SleepNanos(int64_t nanos) {
  const timespec pause = {.tv_sec = static_cast<time_t>(nanos / 1'000'000'000),
                          .tv_nsec = static_cast<long>(nanos % 1'000'000'000)};
  nanosleep(&pause, nullptr);
}

}  // namespace

// One storm while it rages.
class StormRun {
 public:
  explicit StormRun(const testing::Storm& storm)
      : storm_(storm),
        options_(storm.options_),
        seed_(ChooseSeed(options_.seed)),
        random_(seed_) {
    for (const testing::Storm::Role& role : storm_.roles_) {
      for (int i = 0; i < role.count; ++i) {
        MP_CHECK(workers_.size() < kMaxWorkers) << "too many workers";
        workers_.push_back({.role = &role});
      }
    }
    MP_CHECK(!workers_.empty()) << "a storm needs workers";
  }

  uint64_t seed() const { return seed_; }

  testing::StormReport Report() const {
    testing::StormReport report = {.seed = seed_, .kills = kills_};
    for (const auto& progress : page_->progress) report.progress += progress;
    return report;
  }

  absl::Status Run() {
    for (Worker& worker : workers_) Start(&worker);
    absl::Status status;
    while (status.ok() && kills_ < options_.kills) {
      SleepNanos(RandomInterval());
      status = Look();
      if (status.ok()) status = KillOne();
    }
    if (status.ok()) status = AwaitProgress();
    if (status.ok() && storm_.on_stop_) status = Stop();
    for (Worker& worker : workers_) {
      worker.child->Kill();
      worker.child->Wait();
    }
    return status;
  }

 private:
  struct Worker {
    const testing::Storm::Role* role = nullptr;
    std::optional<testing::ChildProcess> child = std::nullopt;
    int generation = 0;
    // Its progress when it was last seen to make some, and when that was.
    uint64_t progress = 0;
    int64_t since_nanos = 0;
    // Its progress when it was started, and whether it has to make some before
    // it may be killed.
    uint64_t started_with = 0;
    bool spared = false;
  };

  size_t Number(const Worker& worker) const {
    return static_cast<size_t>(&worker - workers_.data());
  }

  uint64_t Progress(const Worker& worker) const {
    return page_->progress[Number(worker)].load(std::memory_order_relaxed);
  }

  std::string Name(const Worker& worker) const {
    return absl::StrFormat("%s (worker %d, pid %d)", worker.role->name,
                           Number(worker), worker.child->pid());
  }

  void Start(Worker* worker) {
    const uint64_t progress = Progress(*worker);
    // One that cannot get anywhere must not be killed again and again before
    // that shows.
    worker->spared = worker->generation > 0 && progress == worker->started_with;
    worker->progress = worker->started_with = progress;
    worker->since_nanos = MonotonicNanos();
    worker->child = testing::ChildProcess::Start([&] {
      testing::StormWorker self(page_.get(), static_cast<int>(Number(*worker)),
                                worker->generation);
      const int failures = CountFailures();
      while (!self.stopping() && CountFailures() == failures) {
        worker->role->body(self);
        self.Progress();
      }
    });
  }

  int64_t RandomInterval() {
    return std::uniform_int_distribution<int64_t>(
        absl::ToInt64Nanoseconds(options_.min_interval),
        absl::ToInt64Nanoseconds(options_.max_interval))(random_);
  }

  // Looks at every worker: whether it lives, and when it made progress.
  absl::Status Look() {
    const int64_t now = MonotonicNanos();
    for (Worker& worker : workers_) {
      if (!worker.child->IsAlive()) {
        return absl::AbortedError(
            absl::StrCat(Name(worker), " ended by itself: ",
                         ::testing::PrintToString(*worker.child->Wait())));
      }
      const uint64_t progress = Progress(worker);
      if (progress != worker.progress) {
        worker.progress = progress;
        worker.since_nanos = now;
      } else if (absl::Nanoseconds(now - worker.since_nanos) >
                 options_.stall_limit) {
        // One that only lacks a processor is left to the watchdog.
        const std::string call = testing::SleepingIn(worker.child->pid());
        if (call.empty()) continue;
        return absl::DeadlineExceededError(absl::StrFormat(
            "%s is stranded: no progress for %s, sleeps in system call %s; "
            "all workers:\n%s",
            Name(worker), absl::FormatDuration(options_.stall_limit), call,
            testing::DescribeDescendants(getpid())));
      }
    }
    return absl::OkStatus();
  }

  // Nothing happens if nobody may be killed at the moment.
  absl::Status KillOne() {
    const int64_t now = MonotonicNanos();
    std::vector<Worker*> candidates;
    for (Worker& worker : workers_) {
      if (worker.spared && worker.progress == worker.started_with) continue;
      if (now - worker.since_nanos >= kSuspectNanos) continue;
      candidates.push_back(&worker);
    }
    if (candidates.empty()) return absl::OkStatus();
    Worker& victim = *candidates[std::uniform_int_distribution<size_t>(
        0, candidates.size() - 1)(random_)];
    victim.child->Kill();
    const testing::ExitStatus end = *victim.child->Wait();
    if (end != testing::ExitStatus::Signal(SIGKILL)) {
      return absl::AbortedError(absl::StrCat(
          Name(victim), " ended by itself: ", ::testing::PrintToString(end)));
    }
    ++kills_;
    if (storm_.on_kill_) {
      const int failures = CountFailures();
      storm_.on_kill_({.role = victim.role->name,
                       .number = static_cast<int>(Number(victim)),
                       .pid = victim.child->pid()});
      if (CountFailures() != failures) {
        return absl::AbortedError(
            absl::StrCat("the check failed after the death of ", Name(victim)));
      }
    }
    ++victim.generation;
    Start(&victim);
    return absl::OkStatus();
  }

  // Everybody must come out of what the storm has left.
  absl::Status AwaitProgress() {
    std::vector<uint64_t> before;
    for (const Worker& worker : workers_) before.push_back(Progress(worker));
    while (true) {
      const absl::Status status = Look();
      if (!status.ok()) return status;
      bool all = true;
      for (const Worker& worker : workers_) {
        all = all && Progress(worker) != before[Number(worker)];
      }
      if (all) return absl::OkStatus();
      SleepNanos(kLookNanos);
    }
  }

  absl::Status Stop() {
    page_->stopping = true;
    storm_.on_stop_();
    absl::Status status;
    for (Worker& worker : workers_) {
      while (!worker.child->Wait(options_.stall_limit).has_value()) {
        const std::string call = testing::SleepingIn(worker.child->pid());
        if (call.empty()) continue;
        return absl::DeadlineExceededError(absl::StrFormat(
            "%s does not stop, sleeps in system call %s; all workers:\n%s",
            Name(worker), call, testing::DescribeDescendants(getpid())));
      }
      const testing::ExitStatus end = *worker.child->Wait();
      if (end != testing::ExitStatus::Code(0)) {
        status = absl::AbortedError(absl::StrCat(
            Name(worker), " ended with ", ::testing::PrintToString(end)));
      }
    }
    return status;
  }

  const testing::Storm& storm_;
  const testing::StormOptions& options_;
  const uint64_t seed_;
  std::mt19937_64 random_;
  const testing::SharedPage<StormPage> page_;
  std::vector<Worker> workers_;
  int kills_ = 0;
};

}  // namespace mp::testing_internal

namespace mp::testing {

void StormWorker::Progress() {
  page_->progress[static_cast<size_t>(number_)].fetch_add(
      1, std::memory_order_relaxed);
}

bool StormWorker::stopping() const {
  return page_->stopping.load(std::memory_order_relaxed);
}

Storm::Storm(const StormOptions& options) : options_(options) {
  if (const char* const factor = getenv("MP_STORM_FACTOR")) {
    options_.kills *= atoi(factor);
    MP_CHECK(options_.kills > 0) << "MP_STORM_FACTOR=" << factor;
  }
}

void Storm::AddRole(const std::string& name, int count,
                    std::function<void(StormWorker&)> body) {
  roles_.push_back({.name = name, .count = count, .body = std::move(body)});
}

void Storm::OnKill(std::function<void(const StormKill&)> callback) {
  on_kill_ = std::move(callback);
}

void Storm::OnStop(std::function<void()> callback) {
  on_stop_ = std::move(callback);
}

StormReport Storm::Run() {
  testing_internal::StormRun run(*this);
  printf("storm: MP_STORM_SEED=%llu\n",
         static_cast<unsigned long long>(run.seed()));
  const absl::Status status = run.Run();
  const StormReport report = run.Report();
  if (!status.ok()) {
    ADD_FAILURE() << "storm with seed " << report.seed << ", after "
                  << report.kills << " kills: " << status.ToString();
  }
  return report;
}

}  // namespace mp::testing
