#include "mp/ipc/pipe.h"

#include <sys/syscall.h>

#include <cerrno>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/connection.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::FailSystemCall;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class PipeTest : public testing::ProcessTest {};

TEST_F(PipeTest, OneWay) {
  auto [receiver, sender] = Pipe<int>(/*duplex=*/false);
  EXPECT_TRUE(receiver.readable());
  EXPECT_FALSE(receiver.writable());
  EXPECT_FALSE(sender.readable());
  EXPECT_TRUE(sender.writable());
  ASSERT_OK(sender.Send(1));
  EXPECT_THAT(receiver.Recv(), IsOkAndHolds(1));

  const auto cannot_send =
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cannot send"));
  EXPECT_THAT(receiver.Send(1), cannot_send);
  EXPECT_THAT(receiver.SendBytes("1"), cannot_send);
  const auto cannot_receive = StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("cannot receive"));
  EXPECT_THAT(sender.Recv(), cannot_receive);
  EXPECT_THAT(sender.RecvBytes(), cannot_receive);
  EXPECT_THAT(sender.RecvBytesInto({}), cannot_receive);
  EXPECT_THAT(sender.Poll(), cannot_receive);
  // Nothing of that did harm.
  ASSERT_OK(sender.Send(2));
  EXPECT_THAT(receiver.Recv(), IsOkAndHolds(2));
}

TEST_F(PipeTest, BothEndsOfADuplexPipe) {
  auto [a, b] = Pipe<int>();
  EXPECT_TRUE(a.readable() && a.writable() && b.readable() && b.writable());
  EXPECT_FALSE(a == b);
  const Connection<int> copy = a;
  EXPECT_TRUE(copy == a);
}

TEST_F(PipeTest, NoSockets) {
  auto child = ChildProcess::Start([] {
    FailSystemCall(SYS_socketpair, EMFILE);
    EXPECT_THAT(CreatePipe<int>(),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         AllOf(HasSubstr("socketpair"), HasSubstr("EMFILE"))));
  });
  child.ExpectExit();
}

TEST_F(PipeTest, NoMemory) {
  auto child = ChildProcess::Start([] {
    FailSystemCall(SYS_memfd_create, EMFILE);
    EXPECT_THAT(
        CreatePipe<int>(),
        StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("memfd")));
  });
  child.ExpectExit();
}

}  // namespace
}  // namespace mp
