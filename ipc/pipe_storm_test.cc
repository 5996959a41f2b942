// Random SIGKILLs of many senders and receivers at work.

#include <poll.h>
#include <signal.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/ipc/message_storm_test_util.h"
#include "mp/ipc/pipe.h"
#include "mp/testing/child.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;

class PipeStormTest : public MessageStormTest {
 protected:
  // The end of the file comes when the last sender has left, so each process
  // closes the end that it does not use.
  class Channel {
   public:
    explicit Channel(bool polls) : polls_(polls) {
      auto [receiver, sender] = Pipe<Message>(/*duplex=*/false);
      receiver_ = std::make_shared<Connection<Message>>(receiver);
      sender_ = std::make_shared<Connection<Message>>(sender);
      over_ = std::make_shared<SharedPage<std::atomic<bool>>>();
    }

    absl::Status Put(const Message& message) {
      receiver_->Close();
      if (**over_) {
        sender_->Close();
        return absl::FailedPreconditionError("the storm is over");
      }
      return sender_->Send(message);
    }
    absl::StatusOr<Message> Get() {
      sender_->Close();
      for (;;) {
        if (polls_) {
          pollfd entry = {.fd = receiver_->fileno().value(),
                          .events = POLLIN,
                          .revents = 0};
          MP_PCHECK(poll(&entry, 1, -1) == 1) << "poll";
        }
        absl::StatusOr<Message> message = receiver_->Recv(
            polls_ ? absl::ZeroDuration() : absl::InfiniteDuration());
        if (!absl::IsDeadlineExceeded(message.status())) return message;
      }
    }
    void Stop() {
      **over_ = true;
      sender_->Close();
    }
    bool Empty() {
      return absl::IsOutOfRange(receiver_->Recv(absl::ZeroDuration()).status());
    }

   private:
    bool polls_;
    std::shared_ptr<Connection<Message>> receiver_;
    std::shared_ptr<Connection<Message>> sender_;
    std::shared_ptr<SharedPage<std::atomic<bool>>> over_;
  };
};

TEST_F(PipeStormTest, SmallMessages) {
  Rage(Channel(/*polls=*/false), 100, {.kills = Kills(1000)});
}

// A pipe takes some 80 KiB, and what is larger one by one.
TEST_F(PipeStormTest, LargeMessages) {
  Rage(Channel(/*polls=*/false), 200'000, {.kills = Kills(400)});
}

// The receivers sleep in poll().
TEST_F(PipeStormTest, Polled) {
  Rage(Channel(/*polls=*/true), 3000, {.kills = Kills(1000)});
}

// The only process at the other end dies: all that it has sent comes, then the
// end of the file.
TEST_F(PipeStormTest, OnlyPeerDies) {
  std::minstd_rand random(1);
  for (int round = 0; round < Kills(500); ++round) {
    auto [ours, theirs] = Pipe<int>();
    const SharedPage<std::atomic<int>> sent;
    auto peer = ChildProcess::Start([&, &ours = ours, &theirs = theirs] {
      ours.Close();
      for (int i = 0;; ++i) {
        MP_CHECK_OK(theirs.Send(i));
        *sent = i + 1;
        // Sometimes it dies as it waits for an answer.
        if (i % 64 == 63) MP_CHECK(theirs.Recv().ok());
      }
    });
    theirs.Close();
    const int wanted = static_cast<int>(random() % 300);
    int next = 0;
    for (; next < wanted; ++next) {
      ASSERT_THAT(ours.Recv(), IsOkAndHolds(next));
      if (next % 64 == 63) {
        ASSERT_OK(ours.Send(0));
      }
    }
    peer.Kill();
    for (;; ++next) {
      const absl::StatusOr<int> message = ours.Recv();
      if (!message.ok()) {
        ASSERT_THAT(message, StatusIs(absl::StatusCode::kOutOfRange));
        break;
      }
      ASSERT_EQ(*message, next);
    }
    peer.ExpectSignal(SIGKILL);
    // It may have died between Send and what it says of it.
    EXPECT_GE(next, *sent);
    EXPECT_LE(next, *sent + 1);
    EXPECT_THAT(ours.Send(0), StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_THAT(ours.Poll(), IsOkAndHolds(true));
  }
}

}  // namespace
}  // namespace mp
