#include "mp/ipc/attachments.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mp {

uint32_t OutgoingDescriptors::Add(int fd) {
  fds_.push_back(fd);
  return static_cast<uint32_t>(fds_.size() - 1);
}

uint32_t OutgoingDescriptors::AddSegment(const Segment& segment) {
  // Nobody else has the descriptor of a segment, so equal means the segment.
  const auto known = std::find(fds_.begin(), fds_.end(), segment.fd());
  return known == fds_.end() ? Add(segment.fd())
                             : static_cast<uint32_t>(known - fds_.begin());
}

IncomingDescriptors::IncomingDescriptors(std::vector<UniqueFd> fds) {
  items_.reserve(fds.size());
  for (UniqueFd& fd : fds) items_.emplace_back().fd = std::move(fd);
}

absl::StatusOr<UniqueFd> IncomingDescriptors::Take(uint32_t index) {
  if (index >= items_.size() || !items_[index].fd) {
    return absl::DataLossError(
        absl::StrCat("no descriptor ", index, " came with the message"));
  }
  return std::move(items_[index].fd);
}

absl::StatusOr<std::shared_ptr<Segment>> IncomingDescriptors::TakeSegment(
    uint32_t index, uint64_t layout) {
  if (index < items_.size() && items_[index].segment != nullptr) {
    if (items_[index].layout == layout) return items_[index].segment;
    return absl::DataLossError("two kinds of object in one segment");
  }
  absl::StatusOr<UniqueFd> fd = Take(index);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Attach(*std::move(fd), layout);
  if (!segment.ok()) return segment.status();
  items_[index].segment = *segment;
  items_[index].layout = layout;
  return segment;
}

}  // namespace mp
