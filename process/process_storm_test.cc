// SIGKILL at random moments: of a parent that starts children, of the
// forkserver while it is used. And starts without end.
//
// MP_STORM_FACTOR multiplies the numbers.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/process/process.h"
#include "mp/testing/pipe.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::kSanitized;
using ::mp::testing::StatusIs;

int Times(int number) {
  const char* const factor = getenv("MP_STORM_FACTOR");
  return factor == nullptr ? number : number * atoi(factor);
}

// What only an end of the process takes away.
void HoldUntilTheEnd(UniqueFd) {
  for (;;) pause();
}

class StormTest : public mp::testing::ProcessTest {
 protected:
  // Runs `body` in a child, with a forkserver of its own.
  template <typename Body>
  static void InAChild(Body body) {
    Process process({.start_method = StartMethod::kFork}, [&body] {
      body();
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    ASSERT_OK(process.Start());
    ASSERT_OK(process.Join());
    EXPECT_EQ(process.exitcode(), 0) << "in the child, see above";
  }

  std::mt19937_64 random_{std::random_device()()};
};

using ForkserverStormTest = StormTest;

class ProcessStormTest : public StormTest,
                         public ::testing::WithParamInterface<StartMethod> {};

INSTANTIATE_TEST_SUITE_P(, ProcessStormTest,
                         ::testing::Values(StartMethod::kFork,
                                           StartMethod::kSpawn,
                                           StartMethod::kForkserver),
                         [](const auto& method) {
                           return StartMethodName(method.param);
                         });

// Each daemon has the write end of a pipe, so the pipe ends when all are gone.
// The forkserver has not: LeakCheck looks for it when all is over.
TEST_P(ProcessStormTest, NobodyOutlivesAKilledParent) {
  std::uniform_int_distribution<int> micros(0, 12'000);
  absl::Duration longest;
  const int kills = Times(80);
  for (int i = 0; i < kills; ++i) {
    auto [reader, writer] = testing::MakePipe();
    Process parent({.start_method = StartMethod::kFork}, [&writer = writer] {
      std::vector<Process> daemons;
      for (;;) {
        daemons.emplace_back(
            ProcessOptions{.daemon = true, .start_method = GetParam()},
            HoldUntilTheEnd, UniqueFd(fcntl(writer.get(), F_DUPFD_CLOEXEC, 3)));
        MP_CHECK_OK(daemons.back().Start());
        if (daemons.size() == 20) HoldUntilTheEnd(UniqueFd());
      }
    });
    ASSERT_OK(parent.Start());
    writer.reset();
    absl::SleepFor(absl::Microseconds(micros(random_)));
    ASSERT_OK(parent.Kill());
    const absl::Time killed = absl::Now();
    ASSERT_OK(parent.Join());
    pollfd entry = {.fd = reader.get(), .events = POLLIN, .revents = 0};
    while (poll(&entry, 1, -1) != 1) {
    }
    longest = std::max(longest, absl::Now() - killed);
  }
  printf("%d parents killed; their children were gone after %s at most\n",
         kills, absl::FormatDuration(longest).c_str());
}

// Every start succeeds or says why not; no start happens twice or in secret; no
// exit code is wrong.
TEST_F(ForkserverStormTest, IsKilledWhileItIsUsed) {
  InAChild([this] {
    std::atomic<bool> stop{false};
    std::atomic<int> kills{0};
    // A copy that has not got its own name yet is taken for the server, too.
    std::mutex mutex;
    std::set<pid_t> killed;
    std::uniform_int_distribution<int> micros(0, 8'000);
    std::thread killer([&] {
      while (!stop) {
        for (const testing::ProcessInfo& info :
             testing::Descendants(getpid())) {
          if (info.name != "mp-forkserver" || info.state == 'Z') continue;
          const std::lock_guard lock(mutex);
          killed.insert(info.pid);
          kill(info.pid, SIGKILL);
          ++kills;
        }
        absl::SleepFor(absl::Microseconds(micros(random_)));
      }
    });
    int starts = 0;
    int refused = 0;
    while (kills < Times(100)) {
      Process process(
          {.start_method = StartMethod::kForkserver},
          [](int code) { return code; }, starts);
      const absl::Status status = process.Start();
      if (!status.ok()) {
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
        ++refused;
        continue;
      }
      EXPECT_OK(process.Join());
      const std::lock_guard lock(mutex);
      if (process.exitcode() != -SIGKILL ||
          killed.count(process.pid().value()) == 0) {
        EXPECT_EQ(process.exitcode(), starts % 256);
      }
      ++starts;
    }
    stop = true;
    killer.join();
    // Nobody is there but the last server.
    for (const testing::ProcessInfo& info : testing::Descendants(getpid())) {
      EXPECT_EQ(info.name, "mp-forkserver") << testing::Describe(info);
    }
    printf("%d kills, %d starts, %d refused\n", kills.load(), starts, refused);
    EXPECT_GT(starts, 0);
  });
}

struct Footprint {
  size_t pages = 0;  // of data and stack
  size_t descriptors = 0;

  static Footprint Now() {
    Footprint now;
    std::ifstream statm("/proc/self/statm");
    size_t size, resident, shared, text, library;
    statm >> size >> resident >> shared >> text >> library >> now.pages;
    now.descriptors = static_cast<size_t>(std::distance(
        std::filesystem::directory_iterator("/proc/self/fd"), {}));
    return now;
  }
};

TEST_P(ProcessStormTest, StartsWithoutEnd) {
  InAChild([] {
    const int starts = Times(GetParam() == StartMethod::kSpawn ? 100 : 600);
    const auto start_one = [](int i) {
      Process process(
          {.start_method = GetParam()}, [](int code) { return code; }, i);
      ASSERT_OK(process.Start());
      ASSERT_OK(process.Join());
      ASSERT_EQ(process.exitcode(), i % 256);
    };
    for (int i = 0; i < 20; ++i) start_one(i);
    const Footprint before = Footprint::Now();
    for (int i = 0; i < starts; ++i) start_one(i);
    const Footprint after = Footprint::Now();
    printf("%d starts: data %zu -> %zu pages, %zu -> %zu descriptors\n", starts,
           before.pages, after.pages, before.descriptors, after.descriptors);
    EXPECT_EQ(after.descriptors, before.descriptors);
    // The heap may have been extended once. AddressSanitizer does not give
    // memory back at once.
    if (!kSanitized) {
      EXPECT_LE(after.pages, before.pages + 64);
    }
    size_t others = 0;
    for (const testing::ProcessInfo& info : testing::Descendants(getpid())) {
      others += info.name == "mp-forkserver" ? 0 : 1;
    }
    EXPECT_EQ(others, 0u);
  });
}

}  // namespace
}  // namespace mp
