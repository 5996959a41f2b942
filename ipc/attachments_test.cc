#include "mp/ipc/attachments.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments_test_util.h"
#include "mp/ipc/codec.h"
#include "mp/shm/segment.h"
#include "mp/shm/slab.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

class AttachmentsTest : public testing::ProcessTest {};

TEST_F(AttachmentsTest, SharedObjectsArriveAsTheSameMemory) {
  const auto one = ValueOrDie(MakeShared<int>(1));
  const auto two = ValueOrDie(MakeShared<int>(2));
  const PackedMessage message = ValueOrDie(Pack(std::pair(one, two)));
  EXPECT_EQ(message.descriptors.fds().size(), 1u) << "they share a slab";
  const auto [a, b] = ValueOrDie(
      Unpack<std::pair<std::shared_ptr<int>, std::shared_ptr<int>>>(message));
  EXPECT_EQ(a, one) << "this process has it already";
  EXPECT_EQ(b, two);
  *one = 5;
  EXPECT_EQ(*a, 5);
}

TEST_F(AttachmentsTest, MemoryOfOneProcessDoesNotTravel) {
  EXPECT_THAT(Pack(std::make_shared<int>(1)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("memory of this process")));
  EXPECT_THAT(Pack(std::shared_ptr<int>()),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(AttachmentsTest, NotEveryWayCarriesDescriptors) {
  const auto object = ValueOrDie(MakeShared<int>(1));
  std::vector<std::byte> bytes(EncodedSize(object));
  EXPECT_THAT(Encode(object, bytes),
              StatusIs(absl::StatusCode::kUnimplemented));
  const PackedMessage message = ValueOrDie(Pack(object));
  EXPECT_THAT(Decode<std::shared_ptr<int>>(message.bytes),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(AttachmentsTest, Descriptors) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const PackedMessage message = ValueOrDie(Pack(write_end));
  UniqueFd copy = ValueOrDie(Unpack<UniqueFd>(message));
  write_end.reset();
  ASSERT_EQ(write(copy.get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 1);
  EXPECT_THAT(Pack(UniqueFd()), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(AttachmentsTest, BadIndicesAreDataLoss) {
  const auto object = ValueOrDie(MakeShared<int>(1));
  PackedMessage message = ValueOrDie(Pack(object));
  // Another descriptor than came, and a place outside of the slab.
  PackedMessage other_index = message;
  other_index.bytes[0] = std::byte{1};
  EXPECT_THAT(Unpack<std::shared_ptr<int>>(other_index),
              StatusIs(absl::StatusCode::kDataLoss));
  for (const std::byte bad : {std::byte{1}, std::byte{255}}) {
    PackedMessage other_place = message;
    other_place.bytes[Writer::kDescriptorSize + (bad == std::byte{1} ? 0 : 7)] =
        bad;
    EXPECT_THAT(Unpack<std::shared_ptr<int>>(other_place),
                StatusIs(absl::StatusCode::kDataLoss));
  }
}

TEST_F(AttachmentsTest, AForeignDescriptorIsNoSegment) {
  PackedMessage message = ValueOrDie(Pack(ValueOrDie(MakeShared<int>(1))));
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  std::vector<UniqueFd> fds;
  fds.emplace_back(fcntl(null.get(), F_DUPFD_CLOEXEC, 0));
  IncomingDescriptors descriptors(std::move(fds));
  Reader reader(message.bytes, &descriptors);
  EXPECT_EQ(reader.Read<std::shared_ptr<int>>(), nullptr);
  EXPECT_FALSE(reader.Finish().ok());
}

TEST_F(AttachmentsTest, ADescriptorIsTakenOnceASegmentAgain) {
  const auto segment =
      ValueOrDie(Segment::Create({.name = "test", .layout = 7, .size = 8}));
  OutgoingDescriptors out;
  EXPECT_EQ(out.AddSegment(*segment), out.AddSegment(*segment));
  std::vector<UniqueFd> fds;
  fds.emplace_back(fcntl(segment->fd(), F_DUPFD_CLOEXEC, 0));
  IncomingDescriptors in(std::move(fds));
  const auto first = ValueOrDie(in.TakeSegment(0, 7));
  EXPECT_EQ(ValueOrDie(in.TakeSegment(0, 7)), first);
  EXPECT_THAT(in.TakeSegment(0, 8), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(in.Take(0), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(in.Take(1), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace mp
