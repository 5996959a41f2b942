#include "mp/shm/shared_memory.h"

#include <cstdint>
#include <limits>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/base/unique_fd.h"
#include "mp/shm/memory_name.h"
#include "mp/shm/segment.h"

namespace mp {
namespace {

// Before the bytes, which keeps them aligned.
struct alignas(Segment::kHeaderSize) Prefix {
  uint64_t size;
};

absl::StatusOr<std::shared_ptr<Segment>> NewSegment(std::string_view name,
                                                    uint64_t layout,
                                                    size_t size) {
  // The sum would overflow; a segment knows what is too much otherwise.
  if (size == 0 || size > std::numeric_limits<size_t>::max() / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory of ", size, " bytes"));
  }
  absl::StatusOr<std::shared_ptr<Segment>> segment = Segment::Create(
      {.name = name, .layout = layout, .size = sizeof(Prefix) + size});
  if (segment.ok()) new ((*segment)->data()) Prefix{.size = size};
  return segment;
}

}  // namespace

struct SharedMemory::Block {
  std::shared_ptr<Segment> segment;
  size_t size;
  std::string name;
  // Of the process that created it. Goes before the segment does.
  MemoryName owned_name;
};

SharedMemory::SharedMemory(std::shared_ptr<Block> block)
    : block_(std::move(block)) {}

SharedMemory::SharedMemory(size_t size)
    : SharedMemory(ValueOrDie(Create(size))) {}

absl::StatusOr<SharedMemory> SharedMemory::Create(size_t size) {
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      NewSegment("block", kLayout, size);
  if (!segment.ok()) return segment.status();
  return SharedMemory(
      std::shared_ptr<Block>(new Block{.segment = *std::move(segment),
                                       .size = size,
                                       .name = {},
                                       .owned_name = {}}));
}

absl::StatusOr<SharedMemory> SharedMemory::CreateNamed(std::string_view name,
                                                       size_t size) {
  absl::StatusOr<MemoryName> owned = MemoryName::Claim(name);
  if (!owned.ok()) return owned.status();
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      NewSegment(owned->SegmentName(), kLayout, size);
  if (!segment.ok()) return segment.status();
  // Nobody can open it before it is complete.
  if (absl::Status status = owned->Publish((*segment)->fd()); !status.ok()) {
    return status;
  }
  return SharedMemory(
      std::shared_ptr<Block>(new Block{.segment = *std::move(segment),
                                       .size = size,
                                       .name = std::string(name),
                                       .owned_name = *std::move(owned)}));
}

absl::StatusOr<SharedMemory> SharedMemory::OpenNamed(std::string_view name) {
  absl::StatusOr<UniqueFd> fd = MemoryName::Open(name);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Attach(*std::move(fd), kLayout);
  if (!segment.ok()) return segment.status();
  return FromSegment(*std::move(segment), std::string(name));
}

absl::StatusOr<SharedMemory> SharedMemory::FromSegment(
    std::shared_ptr<Segment> segment, std::string name) {
  // Once: others could change it.
  const uint64_t size = reinterpret_cast<const Prefix*>(segment->data())->size;
  if (segment->size() < sizeof(Prefix) ||
      size > segment->size() - sizeof(Prefix)) {
    return absl::DataLossError(absl::StrCat("the shared memory says it has ",
                                            size, " bytes, of ",
                                            segment->size()));
  }
  return SharedMemory(
      std::shared_ptr<Block>(new Block{.segment = std::move(segment),
                                       .size = size,
                                       .name = std::move(name),
                                       .owned_name = {}}));
}

// The name stays with its owner.
std::tuple<SegmentPart<SharedMemory::kLayout>, std::string>
SharedMemory::parts() const {
  if (block_ == nullptr) return {};
  return {{block_->segment}, block_->name};
}

SharedMemory::SharedMemory(SegmentPart<kLayout> part, std::string name) {
  if (part.segment == nullptr) return;
  absl::StatusOr<SharedMemory> memory =
      FromSegment(std::move(part.segment), std::move(name));
  if (memory.ok()) *this = *std::move(memory);
}

std::span<std::byte> SharedMemory::bytes() const {
  return {block_->segment->data() + sizeof(Prefix), block_->size};
}

const std::string& SharedMemory::name() const { return block_->name; }

absl::Status SharedMemory::Unlink() {
  if (block_->owned_name.GiveUp()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "Unlink() of shared memory whose name this process does not own");
}

}  // namespace mp
