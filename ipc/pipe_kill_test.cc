// SIGKILL at every instruction of what one does with a pipe.

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/ipc/pipe.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/pipe.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AnyOf;

// Both ends are also this process's.
class PipeKillTest : public MessageKillTest {
 protected:
  static std::string Text(char c, size_t size) { return std::string(size, c); }

  void Prepare() {
    auto [receiver, sender] = Pipe<std::string>(/*duplex=*/false);
    receiver_.emplace(std::move(receiver));
    sender_.emplace(std::move(sender));
  }
  void ExpectRecv(const std::string& expected) {
    const absl::StatusOr<std::string> message = receiver_->Recv(kStranded);
    ASSERT_OK(message);
    EXPECT_TRUE(*message == expected);
  }
  bool Empty() { return !receiver_->Poll().value(); }
  // The pipe is whole.
  void ExpectWorks() {
    ASSERT_TRUE(Empty());
    ASSERT_OK(sender_->Send("works", kStranded));
    ExpectRecv("works");
    ASSERT_TRUE(Empty());
  }
  bool IsReadable() { return testing::IsReadable(receiver_->fileno().value()); }

  std::optional<Connection<std::string>> receiver_;
  std::optional<Connection<std::string>> sender_;
};

// ---- Nobody waits.

// The first message of a pipe, which makes its descriptor readable.
TEST_F(PipeKillTest, FirstSend) {
  Outcomes outcomes;
  Run({.prepare = [&] { Prepare(); },
       .op = [&] { sender_->Send("first").IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool sent = !Empty();
             outcomes.Saw(sent, point);
             if (sent) {
               EXPECT_TRUE(IsReadable());
               ExpectRecv("first");
             }
             ASSERT_OK(sender_->Send("next", kStranded));
             EXPECT_TRUE(IsReadable());
             ExpectRecv("next");
             EXPECT_FALSE(IsReadable());
             ExpectWorks();
           }});
}

TEST_F(PipeKillTest, SendWhereEachMessageMakesAnEdge) {
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(sender_->Send("before"));
             EXPECT_TRUE(IsReadable());
           },
       .op = [&] { sender_->Send("second").IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             EXPECT_TRUE(IsReadable());
             ExpectRecv("before");
             const bool sent = !Empty();
             outcomes.Saw(sent, point);
             EXPECT_EQ(IsReadable(), sent);
             if (sent) ExpectRecv("second");
             EXPECT_FALSE(IsReadable());
             ASSERT_OK(sender_->Send("next", kStranded));
             EXPECT_TRUE(IsReadable());
             ExpectRecv("next");
             ExpectWorks();
           }});
}

// Takes the last message, so the descriptor becomes unreadable.
TEST_F(PipeKillTest, LastRecvOfAPolledPipe) {
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             Prepare();
             EXPECT_FALSE(IsReadable());
             ASSERT_OK(sender_->Send("one"));
           },
       .op = [&] { receiver_->Recv().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool received = Empty();
             outcomes.Saw(received, point);
             if (!received) {
               EXPECT_TRUE(IsReadable());
               ExpectRecv("one");
             }
             EXPECT_FALSE(IsReadable());
             ASSERT_OK(sender_->Send("next", kStranded));
             EXPECT_TRUE(IsReadable());
             ExpectRecv("next");
             ExpectWorks();
           }});
}

TEST_F(PipeKillTest, Recv) {
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             Prepare();
             for (const char* text : {"1", "2", "3"}) {
               ASSERT_OK(sender_->Send(text));
             }
           },
       .op = [&] { receiver_->Recv().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK_AND_ASSIGN(const std::string first,
                                  receiver_->Recv(kStranded));
             EXPECT_THAT(first, AnyOf("1", "2"));
             outcomes.Saw(first == "2", point);
             if (first == "1") ExpectRecv("2");
             ExpectRecv("3");
             ExpectWorks();
           }});
}

// Larger than the memory that a pipe has from the beginning.
TEST_F(PipeKillTest, LargeSend) {
  Outcomes outcomes;
  const std::string large = Text('x', 4'200);
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(sender_->Send("before"));
             ExpectRecv("before");
           },
       .op = [&] { sender_->Send(large).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool sent = !Empty();
             outcomes.Saw(sent, point);
             if (sent) ExpectRecv(large);
             ASSERT_OK(sender_->Send(large, kStranded));
             ExpectRecv(large);
             ExpectWorks();
           },
       .stride = 101});
}

TEST_F(PipeKillTest, LargeRecv) {
  Outcomes outcomes;
  const std::string large = Text('x', 4'200);
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(sender_->Send(large));
           },
       .setup = [&] { std::string(large).clear(); },
       .op = [&] { receiver_->Recv().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool received = Empty();
             outcomes.Saw(received, point);
             if (!received) ExpectRecv(large);
             ASSERT_OK(sender_->Send(large, kStranded));
             ExpectRecv(large);
             ExpectWorks();
           },
       .stride = 101});
}

TEST_F(PipeKillTest, Poll) {
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(sender_->Send("1"));
           },
       .op = [&] { receiver_->Poll().IgnoreError(); },
       .check =
           [&](const KillPoint&) {
             ExpectRecv("1");
             ExpectWorks();
           }});
}

TEST_F(PipeKillTest, Close) {
  Run({.prepare = [&] { Prepare(); },
       .op = [&] { receiver_->Close(); },
       .check = [&](const KillPoint&) { ExpectWorks(); }});  // with its own end
}

// ---- Somebody sleeps on the other side.

// One receiver survives all deaths.
TEST_F(PipeKillTest, SendWithSleepingReceiver) {
  Outcomes outcomes;
  constexpr int kVictims = 1'000'000;
  auto [receiver, sender] = Pipe<int>(/*duplex=*/false);
  const SharedPage<Log> log;
  auto survivor =
      ChildProcess::Start([&, &receiver = receiver, &sender = sender] {
        sender.Close();
        for (;;) {
          const absl::StatusOr<int> message = receiver.Recv();
          if (!message.ok()) {
            EXPECT_THAT(message, StatusIs(absl::StatusCode::kOutOfRange));
            return;
          }
          log->Add(*message);
        }
      });
  int next = 0;
  int seen = 0;
  Run({.prepare =
           [&, &receiver = receiver] {
             AwaitSurvivor([&] { return !receiver.Poll().value(); });
             ASSERT_TRUE(survivor.WaitUntilAsleep());
             seen = log->count;
           },
       .op = [&,
              &sender = sender] { sender.Send(kVictims + next).IgnoreError(); },
       .check =
           [&, &sender = sender](const KillPoint& point) {
             ASSERT_OK(sender.Send(next, kStranded));
             log->Await(seen + 1);
             const bool sent = log->items[seen] == kVictims + next;
             outcomes.Saw(sent, point);
             if (sent) log->Await(++seen + 1);
             EXPECT_EQ(log->items[seen], next);
             ++seen;
             ++next;
           }});
  sender.Close();
  survivor.ExpectExit();
  EXPECT_EQ(log->count, seen);
}

// The sender on the other side, which has sent before, dies as it sends: after
// what it has sent comes the end of the file.
TEST_F(PipeKillTest, EndOfFileAfterSend) {
  Outcomes outcomes;
  const SharedPage<Log> log;
  std::optional<ChildProcess> survivor;
  Run({.prepare =
           [&] {
             Prepare();
             log->count = 0;
             survivor.emplace(ChildProcess::Start([&] {
               sender_->Close();
               absl::StatusOr<std::string> message = receiver_->Recv();
               for (; message.ok(); message = receiver_->Recv()) log->Add(1);
               EXPECT_THAT(message, StatusIs(absl::StatusCode::kOutOfRange));
             }));
             ASSERT_TRUE(survivor->WaitUntilAsleep());
           },
       .op = [&] { sender_->Send("1").IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             sender_->Close();
             survivor->ExpectExit();
             outcomes.Saw(log->count == 1, point);
           },
       .stride = 7});
  survivor.reset();
}

}  // namespace
}  // namespace mp
