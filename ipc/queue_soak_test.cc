// A hundred million messages through a queue, without deaths and with one every
// ten milliseconds. Takes minutes:
//
//   tools/bazel test --config=bench --test_tag_filters= //ipc:queue_soak_test

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/message_storm_test_util.h"
#include "mp/ipc/queue.h"
#include "mp/testing/child.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;

constexpr uint64_t kMessages = 100'000'000;
constexpr size_t kMaxSize = 200;

class QueueSoakTest : public MessageStormTest {
 protected:
  // Private memory of this process in KiB.
  static long PrivateMemory() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("RssAnon:")) return std::stol(line.substr(8));
    }
    ADD_FAILURE() << "no RssAnon in /proc/self/status";
    return 0;
  }
};

TEST_F(QueueSoakTest, HundredMillionMessages) {
  // Nothing may grow with the messages but what the allocator keeps.
  constexpr long kGrowth = 1024;
  constexpr uint64_t kEach = kMessages / kProducers;
  struct Seen {
    std::array<std::atomic<uint64_t>, kProducers> count;
    std::array<std::atomic<uint64_t>, kProducers> sum;  // of the numbers
  };
  Queue<Message> queue(QueueOptions{.capacity_bytes = 1 << 20});
  const SharedPage<Seen> seen;
  std::vector<ChildProcess> producers;
  std::vector<ChildProcess> consumers;
  for (uint32_t producer = 0; producer < kProducers; ++producer) {
    producers.push_back(ChildProcess::Start([&] {
      long before = 0;
      for (uint32_t id = 0; id < kEach; ++id) {
        if (id == kEach / 10) before = PrivateMemory();
        ASSERT_OK(queue.Put({.id = id,
                             .producer = producer,
                             .generation = 0,
                             .payload = Payload(id, kMaxSize)}));
      }
      EXPECT_LE(PrivateMemory(), before + kGrowth);
    }));
  }
  for (int i = 0; i < kConsumers; ++i) {
    consumers.push_back(ChildProcess::Start([&] {
      std::array<int64_t, kProducers> last;
      last.fill(-1);
      long before = 0;
      for (uint64_t n = 0;; ++n) {
        if (n == kEach / 10) before = PrivateMemory();
        const absl::StatusOr<Message> message = queue.Get();
        if (!message.ok()) {
          EXPECT_THAT(message, StatusIs(absl::StatusCode::kOutOfRange));
          break;
        }
        ASSERT_EQ(message->payload, Payload(message->id, kMaxSize));
        ASSERT_LT(last.at(message->producer), message->id) << "out of order";
        last[message->producer] = message->id;
        seen->count[message->producer].fetch_add(1, std::memory_order_relaxed);
        seen->sum[message->producer].fetch_add(message->id,
                                               std::memory_order_relaxed);
      }
      if (before != 0) {
        EXPECT_LE(PrivateMemory(), before + kGrowth);
      }
    }));
  }
  for (ChildProcess& producer : producers) producer.ExpectExit();
  queue.Close();
  for (ChildProcess& consumer : consumers) consumer.ExpectExit();
  for (int i = 0; i < kProducers; ++i) {
    const auto producer = static_cast<size_t>(i);
    EXPECT_EQ(seen->count[producer], kEach);
    EXPECT_EQ(seen->sum[producer], kEach * (kEach - 1) / 2);
  }
}

TEST_F(QueueSoakTest, HundredMillionMessagesAndADeathEveryTenMilliseconds) {
  for (uint64_t gotten = 0; gotten < kMessages;) {
    gotten +=
        static_cast<uint64_t>(Rage(QueueChannel{Queue<Message>()}, kMaxSize,
                                   {.kills = 1000,
                                    .min_interval = absl::Milliseconds(10),
                                    .max_interval = absl::Milliseconds(10)}));
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace mp
