// Random SIGKILLs of many who wait for several things at once, and of those who
// make them ready.

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/ipc/message_storm_test_util.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/wait.h"

namespace mp {
namespace {

class WaitStormTest : public MessageStormTest {
 protected:
  // Two queues, or a queue and a pipe. A producer always uses the same one, as
  // its messages are in order in that only.
  class Channel {
   public:
    explicit Channel(bool with_pipe) {
      if (!with_pipe) return;
      auto [receiver, sender] = Pipe<Message>(/*duplex=*/false);
      receiver_ = std::make_shared<Connection<Message>>(receiver);
      sender_ = std::make_shared<Connection<Message>>(sender);
    }

    absl::Status Put(const Message& message) {
      if (message.producer % 2 == 0) return first_.Put(message);
      if (sender_ == nullptr) return second_.Put(message);
      receiver_->Close();
      if (first_.closed()) {
        sender_->Close();
        return absl::FailedPreconditionError("the storm is over");
      }
      return sender_->Send(message);
    }

    absl::StatusOr<Message> Get() {
      std::vector<Waitable> both = {first_};
      if (sender_ == nullptr) {
        both.emplace_back(second_);
      } else {
        sender_->Close();
        both.emplace_back(*receiver_);
      }
      for (;;) {
        const absl::StatusOr<std::vector<size_t>> ready = Wait(both);
        if (!ready.ok()) return ready.status();
        size_t ended = 0;
        for (const size_t i : *ready) {
          absl::StatusOr<Message> message = TryGet(i);
          if (absl::IsDeadlineExceeded(message.status())) continue;
          if (!absl::IsOutOfRange(message.status())) return message;
          if (++ended == both.size()) return message;
        }
      }
    }

    void Stop() {
      first_.Close();
      second_.Close();
      if (sender_ != nullptr) sender_->Close();
    }
    bool Empty() {
      return first_.Empty() && absl::IsOutOfRange(TryGet(1).status());
    }

   private:
    absl::StatusOr<Message> TryGet(size_t i) {
      if (i == 0) return first_.Get(absl::ZeroDuration());
      if (sender_ == nullptr) return second_.Get(absl::ZeroDuration());
      return receiver_->Recv(absl::ZeroDuration());
    }

    Queue<Message> first_ = MakeQueue();
    Queue<Message> second_ = MakeQueue();
    std::shared_ptr<Connection<Message>> receiver_;
    std::shared_ptr<Connection<Message>> sender_;

    static Queue<Message> MakeQueue() {
      return Queue<Message>(QueueOptions{.capacity_bytes = 1 << 16});
    }
  };
};

TEST_F(WaitStormTest, TwoQueues) {
  Rage(Channel(/*with_pipe=*/false), 1000, {.kills = Kills(1000)});
}

// A sleep takes a thread beside poll().
TEST_F(WaitStormTest, AQueueAndAPipe) {
  Rage(Channel(/*with_pipe=*/true), 1000, {.kills = Kills(500)});
}

}  // namespace
}  // namespace mp
