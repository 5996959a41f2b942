#include "mp/ipc/codec.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "mp/base/errno_status.h"

namespace mp {
namespace codec_internal {

absl::Status WrongSizeForEncode() {
  return absl::InternalError(
      "mp: the value does not fit the size it was encoded for: it was changed "
      "meanwhile, or Size() and Write() of its mp::Codec disagree");
}

absl::Status WrongSizeForDecode(size_t size, size_t expected) {
  return absl::DataLossError(absl::StrFormat(
      "mp: a message of %d bytes cannot be decoded: it should have %d", size,
      expected));
}

namespace {

// What an error has beside its code, as something that has a codec.
using StatusParts =
    std::pair<std::string, std::vector<std::pair<std::string, std::string>>>;

StatusParts PartsOf(const absl::Status& status) {
  std::vector<std::pair<std::string, std::string>> payloads;
  status.ForEachPayload(
      [&payloads](absl::string_view url, const absl::Cord& payload) {
        payloads.emplace_back(std::string(url), std::string(payload));
      });
  return {std::string(status.message()), std::move(payloads)};
}

// A Duration is whole seconds and quarters of a nanosecond, with one sign.
using DurationParts = std::pair<int64_t, int64_t>;

constexpr int64_t kTicksPerNanosecond = 4;
constexpr int64_t kTicksPerSecond = 1'000'000'000 * kTicksPerNanosecond;
constexpr int64_t kInfiniteTicks = std::numeric_limits<int64_t>::max();

DurationParts PartsOf(absl::Duration value) {
  if (value == absl::InfiniteDuration()) return {1, kInfiniteTicks};
  if (value == -absl::InfiniteDuration()) return {-1, kInfiniteTicks};
  absl::Duration rest;
  const int64_t seconds = absl::IDivDuration(value, absl::Seconds(1), &rest);
  const int64_t ticks = absl::IDivDuration(
      rest, absl::Nanoseconds(1) / kTicksPerNanosecond, &rest);
  return {seconds, ticks};
}

}  // namespace
}  // namespace codec_internal

void Writer::Fail(absl::Status why) {
  if (status_.ok()) status_ = std::move(why);
  next_ = end_;
}

bool Writer::CanSendDescriptors() {
  if (descriptors_ != nullptr) return true;
  Fail(absl::UnimplementedError(
      "mp: a handle or a descriptor cannot be sent this way, only as an "
      "argument of an mp::Process, through a Queue or through a Connection"));
  return false;
}

void Writer::WriteDescriptor(int fd) {
  if (!CanSendDescriptors()) return;
  if (fd < 0) {
    Fail(absl::InvalidArgumentError(
        "mp: an empty UniqueFd or a closed connection cannot be sent"));
    return;
  }
  Write(descriptors_->Add(fd));
}

void Writer::WriteSegment(const Segment* segment) {
  if (!CanSendDescriptors()) return;
  if (segment == nullptr) {
    Fail(absl::InvalidArgumentError(
        "mp: an empty handle or pointer, or one to memory of this process "
        "alone, cannot be sent"));
    return;
  }
  Write(descriptors_->AddSegment(*segment));
}

absl::Status Writer::Finish() {
  if (next_ != end_) Fail(codec_internal::WrongSizeForEncode());
  return std::move(status_);
}

void Codec<StaysBehind>::Write(StaysBehind value, Writer& writer) {
  if (value.what != nullptr) {
    writer.Fail(absl::InvalidArgumentError(
        absl::StrCat("mp: a handle with ", value.what,
                     " cannot be sent: that is a function of this process")));
  }
  writer.Write(uint8_t{0});
}

StaysBehind Codec<StaysBehind>::Read(Reader& reader) {
  reader.Read<uint8_t>();
  return StaysBehind();
}

UniqueFd Reader::ReadDescriptor() {
  const auto index = Read<uint32_t>();
  if (!ok()) return UniqueFd();
  IncomingDescriptors none;
  absl::StatusOr<UniqueFd> fd =
      (descriptors_ == nullptr ? none : *descriptors_).Take(index);
  if (fd.ok()) return *std::move(fd);
  Fail(fd.status());
  return UniqueFd();
}

std::shared_ptr<Segment> Reader::ReadSegment(uint64_t layout) {
  const auto index = Read<uint32_t>();
  if (!ok()) return nullptr;
  IncomingDescriptors none;
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      (descriptors_ == nullptr ? none : *descriptors_)
          .TakeSegment(index, layout);
  if (segment.ok()) return *std::move(segment);
  Fail(segment.status());
  return nullptr;
}

void Reader::Fail(absl::Status why) {
  if (status_.ok()) status_ = std::move(why);
  next_ = end_;
}

void Reader::Fail(std::string_view what) {
  if (status_.ok()) {
    status_ = absl::DataLossError(absl::StrFormat(
        "mp: a message of %d bytes cannot be decoded: %s (at byte %d)",
        end_ - begin_, ToAbsl(what), next_ - begin_));
  }
  next_ = end_;
}

absl::Status Reader::Finish() {
  if (next_ != end_) Fail("it goes on after its end");
  return std::move(status_);
}

// OK is its code alone: that is what most statuses are, and each result of a
// stream has one.
size_t Codec<absl::Status>::Size(const absl::Status& value) {
  if (value.ok()) return sizeof(int);
  return sizeof(int) + EncodedSize(codec_internal::PartsOf(value));
}

void Codec<absl::Status>::Write(const absl::Status& value, Writer& writer) {
  writer.Write(value.raw_code());
  if (!value.ok()) writer.Write(codec_internal::PartsOf(value));
}

absl::Status Codec<absl::Status>::Read(Reader& reader) {
  const int code = reader.Read<int>();
  if (code == 0) return absl::OkStatus();
  const auto [message, payloads] = reader.Read<codec_internal::StatusParts>();
  absl::Status status(static_cast<absl::StatusCode>(code), message);
  for (const auto& [url, payload] : payloads) {
    status.SetPayload(url, absl::Cord(payload));
  }
  return status;
}

void Codec<absl::Duration>::Write(absl::Duration value, Writer& writer) {
  writer.Write(codec_internal::PartsOf(value));
}

absl::Duration Codec<absl::Duration>::Read(Reader& reader) {
  using codec_internal::kInfiniteTicks;
  using codec_internal::kTicksPerNanosecond;
  using codec_internal::kTicksPerSecond;
  const auto [seconds, ticks] = reader.Read<codec_internal::DurationParts>();
  if (ticks == kInfiniteTicks && (seconds == 1 || seconds == -1)) {
    return absl::InfiniteDuration() * seconds;
  }
  if (ticks <= -kTicksPerSecond || ticks >= kTicksPerSecond) {
    reader.Fail("a duration has a fraction of more than a second");
    return absl::ZeroDuration();
  }
  return absl::Seconds(seconds) +
         absl::Nanoseconds(1) / kTicksPerNanosecond * ticks;
}

}  // namespace mp
