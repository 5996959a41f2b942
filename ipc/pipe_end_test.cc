#include "mp/ipc/pipe_end.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/ring.h"
#include "mp/shm/liveness.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {
namespace {

using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

constexpr Deadline kNow = Deadline::Now();

class PipeEndTest : public testing::ProcessTest {
 protected:
  PipeEndTest() {
    absl::StatusOr<PipeEnd::Pair> pair = PipeEnd::CreatePair(/*duplex=*/false);
    EXPECT_OK(pair);
    receiver_ = pair->first;
    sender_ = pair->second;
  }

  // As if a process wrote whatever it likes.
  void PutRecord(std::span<const std::byte> bytes) {
    Ring ring = sender_->out().value();
    ASSERT_EQ(ring.Put(
                  bytes.size(),
                  [bytes](std::byte* to, uint32_t) {
                    if (!bytes.empty()) memcpy(to, bytes.data(), bytes.size());
                    return true;
                  },
                  kNow),
              RingResult::kDone);
  }
  absl::Status Recv(uint32_t type) {
    return receiver_->Recv(
        type, [](std::span<const std::byte>, absl::Status&) { return true; },
        kNow);
  }

  std::shared_ptr<PipeEnd> receiver_;
  std::shared_ptr<PipeEnd> sender_;
};

TEST_F(PipeEndTest, TypesHaveDifferentMarks) {
  const std::set<uint32_t> marks = {
      kRawBytes,          TypeMark<int>(),
      TypeMark<float>(),  TypeMark<std::string>(),
      TypeMark<int8_t>(), TypeMark<std::vector<std::string>>()};
  EXPECT_EQ(marks.size(), 6u);
}

TEST_F(PipeEndTest, MessageOfAnotherTypeStays) {
  const Frame frame = {.version = Frame::kVersion, .type = TypeMark<int>()};
  PutRecord(std::as_bytes(std::span(&frame, 1)));
  EXPECT_THAT(Recv(TypeMark<float>()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Recv(kRawBytes), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK(Recv(TypeMark<int>()));
}

TEST_F(PipeEndTest, MessageOfAnotherVersion) {
  const Frame frame = {.version = Frame::kVersion + 1, .type = kRawBytes};
  PutRecord(std::as_bytes(std::span(&frame, 1)));
  EXPECT_THAT(Recv(kRawBytes),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("version 2")));
}

TEST_F(PipeEndTest, MessageWithoutAWholeFrame) {
  for (size_t size = 0; size < sizeof(Frame); ++size) {
    SCOPED_TRACE(size);
    const Ring ring = receiver_->in().value();
    PutRecord(std::vector<std::byte>(size));
    EXPECT_THAT(Recv(kRawBytes), StatusIs(absl::StatusCode::kDataLoss));
    EXPECT_EQ(ring.size(), 0u);  // it would stay for ever
  }
}

// Somebody leaves just then: it is known nevertheless who is still here.
TEST_F(PipeEndTest, AnotherLeavesDuringSendAndRecv) {
  constexpr Token kOther = 12345;
  Ring ring = sender_->out().value();
  EXPECT_OK(sender_->Send(
      kRawBytes, 0,
      [](Ring& out, std::span<std::byte>, absl::Status&) {
        out.Leave(kOther);
        return FillResult::kFilled;
      },
      kNow));
  EXPECT_EQ(ring.producer(), Liveness::Self());
  EXPECT_OK(receiver_->Recv(
      kRawBytes,
      [&ring](std::span<const std::byte>, absl::Status&) {
        ring.Leave(kOther);
        return true;
      },
      kNow));
  EXPECT_EQ(ring.consumer(), Liveness::Self());
  EXPECT_EQ(ring.producer(), Liveness::Self());
}

// What is left of one that did not arrive.
TEST_F(PipeEndTest, EndOfNothing) {
  PipeEnd nothing(std::nullopt, std::nullopt,
                  std::make_shared<const UniqueFd>());
  EXPECT_THAT(nothing.Send(
                  kRawBytes, 0,
                  [](Ring&, std::span<std::byte>, absl::Status&) {
                    return FillResult::kFilled;
                  },
                  kNow),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(nothing.Poll(kNow),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  nothing.Close();
  EXPECT_TRUE(nothing.closed());
}

}  // namespace
}  // namespace mp::ipc_internal
