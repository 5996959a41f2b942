#include "mp/ipc/protobuf.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/message.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/pool/pool.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

// Generated classes that come with every version: nested and recursive ones,
// with all kinds of fields, and NamePart has required ones.
using google::protobuf::DescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using NamePart = google::protobuf::UninterpretedOption::NamePart;
using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

struct Tagged {
  int tag = 0;
  DescriptorProto message;
  std::vector<DescriptorProto> more;
};

// Looks a little like a message.
struct Similar {
  size_t ByteSizeLong() const { return 0; }
  bool IsInitialized() const { return true; }
};

static_assert(Encodable<FileDescriptorProto> && Encodable<Tagged>);
static_assert(Encodable<std::vector<DescriptorProto>>);
static_assert(Encodable<std::variant<int, DescriptorProto>>);
static_assert(Encodable<std::map<std::string, DescriptorProto>>);
static_assert(Encodable<std::unique_ptr<DescriptorProto>>);
static_assert(Encodable<absl::StatusOr<DescriptorProto>>);
static_assert(!CarriesDescriptors<FileDescriptorProto>());
static_assert(!PlainBytes<NamePart>);
static_assert(!Encodable<google::protobuf::Message>);
static_assert(!Encodable<std::unique_ptr<google::protobuf::Message>>);
static_assert(!Encodable<DescriptorProto*>);
static_assert(!ProtobufMessage<Similar> && !ProtobufMessage<std::string>);

DescriptorProto MakeMessage(int depth = 3) {
  DescriptorProto message;
  message.set_name("level " + std::to_string(depth));
  FieldDescriptorProto* const field = message.add_field();
  field->set_name("field");
  field->set_number(depth);
  field->set_type(FieldDescriptorProto::TYPE_DOUBLE);
  field->mutable_options()->set_packed(true);
  message.add_reserved_name(std::string(200, 'x'));
  if (depth > 0) *message.add_nested_type() = MakeMessage(depth - 1);
  return message;
}

template <class T>
std::vector<std::byte> EncodeOrDie(const T& value) {
  std::vector<std::byte> bytes(EncodedSize(value));
  EXPECT_OK(Encode(value, bytes));
  return bytes;
}

template <class T>
std::string Text(const T& message) {
  return message.SerializeAsString();
}

TEST(ProtobufTest, Messages) {
  for (const DescriptorProto& message : {MakeMessage(), DescriptorProto()}) {
    const std::vector<std::byte> bytes = EncodeOrDie(message);
    EXPECT_EQ(bytes.size(), sizeof(uint64_t) + message.ByteSizeLong());
    const absl::StatusOr<DescriptorProto> decoded =
        Decode<DescriptorProto>(bytes);
    ASSERT_OK(decoded);
    EXPECT_EQ(Text(*decoded), Text(message));
    // Over an old one, of which nothing remains.
    DescriptorProto old = MakeMessage(1);
    old.add_extension()->set_name("old");
    ASSERT_OK(DecodeInto(bytes, old));
    EXPECT_EQ(Text(old), Text(message));
  }
}

TEST(ProtobufTest, AmongOthers) {
  const Tagged tagged{5, MakeMessage(1), {MakeMessage(0), {}, MakeMessage(2)}};
  const absl::StatusOr<Tagged> decoded = Decode<Tagged>(EncodeOrDie(tagged));
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->tag, 5);
  EXPECT_EQ(Text(decoded->message), Text(tagged.message));
  ASSERT_EQ(decoded->more.size(), 3u);
  EXPECT_EQ(Text(decoded->more[2]), Text(tagged.more[2]));

  const auto pointer = std::make_unique<DescriptorProto>(MakeMessage());
  const auto copy =
      Decode<std::unique_ptr<DescriptorProto>>(EncodeOrDie(pointer));
  ASSERT_OK(copy);
  EXPECT_EQ(Text(**copy), Text(*pointer));
}

TEST(ProtobufTest, UnknownFieldsTravel) {
  DescriptorProto message = MakeMessage(0);
  message.mutable_unknown_fields()->AddVarint(12345, 678);
  const auto decoded = Decode<DescriptorProto>(EncodeOrDie(message));
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->unknown_fields().field_count(), 1);
  EXPECT_EQ(Text(*decoded), Text(message));
}

TEST(ProtobufTest, MissingFieldsAreTheSendersError) {
  NamePart part;
  part.set_name_part("name");
  std::vector<std::byte> bytes(EncodedSize(part));
  EXPECT_THAT(Encode(part, bytes), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("is_extension")));
  part.set_is_extension(false);
  EXPECT_OK(Decode<NamePart>(EncodeOrDie(part)));

  // And of who made such bytes in another way.
  part.clear_is_extension();
  const std::string incomplete = part.SerializePartialAsString();
  EXPECT_THAT(Decode<NamePart>(EncodeOrDie(incomplete)),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("lacks required fields")));
}

TEST(ProtobufTest, ChangedMessageIsTheSendersError) {
  for (const std::string name : {"", "a longer name than it had before"}) {
    DescriptorProto message;
    message.set_name("a name");
    std::vector<std::byte> bytes(EncodedSize(message));
    message.set_name(name);
    EXPECT_THAT(Encode(message, bytes), StatusIs(absl::StatusCode::kInternal));
  }
}

TEST(ProtobufTest, DamageIsDataLoss) {
  const std::vector<std::byte> bytes = EncodeOrDie(MakeMessage(1));
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THAT(Decode<DescriptorProto>(std::span(bytes).first(size)),
                StatusIs(absl::StatusCode::kDataLoss));
  }
  int refused = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::vector<std::byte> damaged = bytes;
    for (const int flip : {1, 2, 4, 7, 8, 0x80, 0xff}) {
      damaged[i] = bytes[i] ^ std::byte(flip);
      const auto decoded = Decode<DescriptorProto>(damaged);
      if (decoded.ok()) continue;
      EXPECT_THAT(decoded, StatusIs(absl::StatusCode::kDataLoss));
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

// As large as no test can have it, but with the interface of one.
struct Huge {
  size_t size = 0;
  bool IsInitialized() const { return true; }
  std::string InitializationErrorString() const { return ""; }
  size_t ByteSizeLong() const { return size; }
  uint8_t* SerializeWithCachedSizesToArray(uint8_t* to) const {
    return to + size;
  }
  bool ParsePartialFromArray(const void*, int length) {
    size = static_cast<size_t>(length);
    return true;
  }

 private:
  std::string not_plain_;
};
static_assert(ProtobufMessage<Huge>);

TEST(ProtobufTest, HugeMessageIsTheSendersError) {
  constexpr size_t kMost = std::numeric_limits<int>::max();
  Huge huge;
  huge.size = kMost;
  EXPECT_EQ(EncodedSize(huge), kMost + sizeof(uint64_t));
  for (const size_t size : {kMost + 1, kMost * 2 + 2, kMost * 100}) {
    huge.size = size;
    std::vector<std::byte> bytes(EncodedSize(huge));
    EXPECT_LT(bytes.size(), 100u);
    EXPECT_THAT(Encode(huge, bytes),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

class ProtobufProcessTest : public testing::ProcessTest {};

TEST_F(ProtobufProcessTest, ThroughAQueue) {
  Queue<DescriptorProto> queue;
  auto child = ChildProcess::Start([&queue] {
    for (int i = 0; i < 10; ++i) EXPECT_OK(queue.Put(MakeMessage(i)));
    EXPECT_OK(queue.Put(DescriptorProto()));
  });
  for (int i = 0; i < 10; ++i) {
    const absl::StatusOr<DescriptorProto> got = queue.Get();
    ASSERT_OK(got);
    EXPECT_EQ(Text(*got), Text(MakeMessage(i)));
  }
  const absl::StatusOr<DescriptorProto> empty = queue.Get();
  ASSERT_OK(empty);
  EXPECT_EQ(Text(*empty), "");
  child.ExpectExit();

  Queue<NamePart> parts;
  EXPECT_THAT(parts.Put(NamePart()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(parts.Empty());
}

TEST_F(ProtobufProcessTest, ThroughAConnection) {
  using Message = std::pair<int, FileDescriptorProto>;
  auto [ours, theirs] = Pipe<Message>();
  auto child = ChildProcess::Start([&ours = ours, &theirs = theirs] {
    ours.Close();
    absl::StatusOr<Message> message = theirs.Recv();
    ASSERT_OK(message);
    *message->second.add_message_type() = MakeMessage(message->first);
    EXPECT_OK(theirs.Send(*message));
  });
  theirs.Close();
  Message message;
  message.first = 2;
  message.second.set_package("package");
  EXPECT_OK(ours.Send(message));
  const absl::StatusOr<Message> answer = ours.Recv();
  ASSERT_OK(answer);
  EXPECT_EQ(answer->second.package(), "package");
  EXPECT_EQ(Text(answer->second.message_type(0)), Text(MakeMessage(2)));
  child.ExpectExit();
}

DescriptorProto WithAField(DescriptorProto message) {
  message.add_field()->set_name("field");
  return message;
}

TEST_F(ProtobufProcessTest, ThroughAPool) {
  Pool pool({.processes = 1});
  const absl::StatusOr<std::vector<DescriptorProto>> results =
      pool.Map(WithAField, std::vector{MakeMessage(1), DescriptorProto()});
  ASSERT_OK(results);
  EXPECT_EQ(Text(results->at(0)), Text(WithAField(MakeMessage(1))));
  EXPECT_EQ(results->at(1).field(0).name(), "field");
}

}  // namespace
}  // namespace mp
