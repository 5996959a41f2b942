// Random SIGKILLs of many producers and consumers at work.

#include <cstddef>

#include "gtest/gtest.h"
#include "mp/ipc/message_storm_test_util.h"
#include "mp/ipc/queue.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

class QueueStormTest : public MessageStormTest {
 protected:
  void Rage(const QueueOptions& options, size_t max_size,
            const testing::StormOptions& storm) {
    MessageStormTest::Rage(QueueChannel{Queue<Message>(options)}, max_size,
                           storm);
  }
};

// Never full: the producers are killed as they put, the consumers also as they
// wait.
TEST_F(QueueStormTest, AmpleRoom) { Rage({}, 100, {.kills = Kills(400)}); }

// Full or empty most of the time, so that most are killed as they wait or wake
// others.
TEST_F(QueueStormTest, TwoSlots) {
  Rage({.maxsize = 2}, 100, {.kills = Kills(1000)});
}

// Records run over the end, and room for one is not room for another.
TEST_F(QueueStormTest, LargeMessages) {
  Rage({.capacity_bytes = 4096}, 2000, {.kills = Kills(1000)});
}

// More memory comes and goes all the time.
TEST_F(QueueStormTest, GrowsAndShrinks) {
  Rage({}, 30'000, {.kills = Kills(400)});
}

}  // namespace
}  // namespace mp
