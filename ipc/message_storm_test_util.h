// Storms over what carries messages: everything that the tests of queues and
// pipes share.

#ifndef MP_IPC_MESSAGE_STORM_TEST_UTIL_H_
#define MP_IPC_MESSAGE_STORM_TEST_UTIL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/queue.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

namespace mp {

inline constexpr int kProducers = 4;
inline constexpr int kConsumers = 4;

struct Message {
  uint32_t id = 0;  // of all messages of the storm
  uint32_t producer = 0;
  uint32_t generation = 0;  // of the producer
  std::string payload;
};

inline std::string Payload(uint32_t id, size_t max_size) {
  std::minstd_rand random(id);
  return std::string(random() % max_size, static_cast<char>(random()));
}

// What everybody has done, in memory that outlives them. A message's id is
// taken before it is put.
struct Ledger {
  static constexpr uint32_t kMax = 1 << 28;  // memory only as far as it is used

  std::atomic<uint32_t> next_id{0};
  // For each message: its Put has returned; how often it has been gotten.
  std::array<std::atomic<uint8_t>, kMax> put;
  std::array<std::atomic<uint8_t>, kMax> gotten;
  // For each consumer: whether it is between the beginning of Get and the entry
  // in `gotten`, that is, whether a message may be gone with it.
  std::array<std::atomic<bool>, kConsumers> getting{};
};

// The fixture. A channel has
//   absl::Status Put(const Message&);       // in a producer
//   absl::StatusOr<Message> Get();          // in a consumer
//   void Stop();                            // in the test: puts are over
//   bool Empty();
// where after Stop() Put() gives FailedPrecondition, and Get() OutOfRange once
// nothing is left.
class MessageStormTest : public testing::ProcessTest {
 protected:
  // Returns how many messages were gotten.
  template <class Channel>
  int Rage(Channel channel, size_t max_size,
           const testing::StormOptions& options) {
    const testing::SharedPage<Ledger> ledger;
    testing::Storm storm(options);
    storm.AddRole("producer", kProducers, [&](testing::StormWorker& self) {
      const uint32_t id = ledger->next_id++;
      ASSERT_LT(id, Ledger::kMax);
      const absl::Status status =
          channel.Put({.id = id,
                       .producer = static_cast<uint32_t>(self.number()),
                       .generation = static_cast<uint32_t>(self.generation()),
                       .payload = Payload(id, max_size)});
      if (absl::IsFailedPrecondition(status)) return;  // the storm is over
      ASSERT_OK(status);
      ledger->put[id] = 1;
    });
    storm.AddRole("consumer", kConsumers, [&](testing::StormWorker& self) {
      // What it saw last of each producer: the generation and the message.
      std::array<std::pair<uint32_t, uint32_t>, kProducers> last = {};
      std::atomic<bool>& getting =
          ledger->getting[static_cast<size_t>(self.number() - kProducers)];
      for (bool closed = false; !closed; self.Progress()) {
        getting = true;
        const absl::StatusOr<Message> message = channel.Get();
        if (message.ok()) {
          ++ledger->gotten[message->id];
        } else {
          ASSERT_THAT(message,
                      testing::StatusIs(absl::StatusCode::kOutOfRange));
          closed = true;
        }
        getting = false;
        if (closed) return;
        EXPECT_EQ(message->payload, Payload(message->id, max_size));
        ASSERT_LT(message->producer, last.size());
        const std::pair<uint32_t, uint32_t> now = {message->generation,
                                                   message->id + 1};
        EXPECT_LT(last[message->producer], now) << "out of order";
        last[message->producer] = now;
      }
    });
    // Victims with which a message may be gone.
    int suspects = 0;
    storm.OnKill([&](const testing::StormKill& kill) {
      if (kill.number < kProducers) return;
      suspects += ledger->getting[static_cast<size_t>(kill.number - kProducers)]
                      ? 1
                      : 0;
    });
    storm.OnStop([&] { channel.Stop(); });
    const testing::StormReport report = storm.Run();
    EXPECT_EQ(report.kills, storm.kills());
    EXPECT_TRUE(channel.Empty()) << "the consumers have drained it";

    const uint32_t messages = ledger->next_id;
    int missing = 0;
    int gotten = 0;
    for (uint32_t id = 0; id < messages; ++id) {
      const int times = ledger->gotten[id];
      if (times > 1) ADD_FAILURE() << "message " << id << " came twice";
      if (times == 0 && ledger->put[id] != 0) ++missing;
      gotten += times;
    }
    printf("%u messages, %d gotten, %d gone with %d that died in Get\n",
           messages, gotten, missing, suspects);
    EXPECT_LE(missing, suspects);
    EXPECT_GT(gotten, storm.kills());
    return gotten;
  }

  static int Kills(int kills) {
#if defined(__SANITIZE_THREAD__)
    return kills / 40;  // each takes most of a second
#elif defined(__SANITIZE_ADDRESS__)
    return kills / 10;
#else
    return kills;
#endif
  }
};

// A queue as a channel.
struct QueueChannel {
  Queue<Message> queue;

  absl::Status Put(const Message& message) { return queue.Put(message); }
  absl::StatusOr<Message> Get() { return queue.Get(); }
  void Stop() { queue.Close(); }
  bool Empty() const { return queue.Empty(); }
};

}  // namespace mp

#endif  // MP_IPC_MESSAGE_STORM_TEST_UTIL_H_
