// Random SIGKILLs of many who write and read items in place.

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/message_storm_test_util.h"
#include "mp/ipc/zero_copy_queue.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

// Messages in their encoded form.
struct ZeroCopyChannel {
  ZeroCopyQueue<std::byte> queue;

  absl::Status Put(const Message& message) {
    absl::StatusOr<Reservation<std::byte>> place =
        queue.Reserve(EncodedSize(message));
    if (!place.ok()) return place.status();
    if (absl::Status status = Encode(message, place->data()); !status.ok()) {
      return status;
    }
    return place->Commit();
  }
  absl::StatusOr<Message> Get() {
    const absl::StatusOr<Borrowed<std::byte>> item = queue.Borrow();
    if (!item.ok()) return item.status();
    return Decode<Message>(item->data());
  }
  void Stop() { queue.Close(); }
  bool Empty() const { return queue.Empty(); }
};

class ZeroCopyQueueStormTest : public MessageStormTest {
 protected:
  void Rage(const ZeroCopyQueueOptions& options, size_t max_size,
            const testing::StormOptions& storm) {
    MessageStormTest::Rage(ZeroCopyChannel{ZeroCopyQueue<std::byte>(options)},
                           max_size, storm);
  }
};

TEST_F(ZeroCopyQueueStormTest, AmpleLoans) {
  Rage({}, 20'000, {.kills = Kills(400)});
}

// Most wait for a loan most of the time, and the victims' are needed.
TEST_F(ZeroCopyQueueStormTest, FewLoans) {
  Rage({.loans = 6}, 5000, {.kills = Kills(1000)});
}

TEST_F(ZeroCopyQueueStormTest, TwoSlots) {
  Rage({.maxsize = 2}, 5000, {.kills = Kills(400)});
}

}  // namespace
}  // namespace mp
