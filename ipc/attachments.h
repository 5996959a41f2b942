// Descriptors that travel beside the bytes of a message, where the way it goes
// can carry them. The bytes name them by index.

#ifndef MP_IPC_ATTACHMENTS_H_
#define MP_IPC_ATTACHMENTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"
#include "mp/shm/segment.h"

namespace mp {

// At the sender: borrowed, so their owners must keep them open until the
// message has gone.
class OutgoingDescriptors {
 public:
  // Each call is another descriptor at the receiver.
  uint32_t Add(int fd);
  // One descriptor, however many objects in it travel.
  uint32_t AddSegment(const Segment& segment);

  const std::vector<int>& fds() const { return fds_; }

 private:
  std::vector<int> fds_;
};

// At the receiver. Indices are not trusted: DataLoss for one that is not there,
// or is used in two ways.
class IncomingDescriptors {
 public:
  IncomingDescriptors() = default;
  explicit IncomingDescriptors(std::vector<UniqueFd> fds);

  absl::StatusOr<UniqueFd> Take(uint32_t index);
  // The same object for each use of an index. Errors as Segment::Attach().
  absl::StatusOr<std::shared_ptr<Segment>> TakeSegment(uint32_t index,
                                                       uint64_t layout);

 private:
  struct Item {
    UniqueFd fd;  // until it is taken
    std::shared_ptr<Segment> segment;
    uint64_t layout = 0;
  };
  std::vector<Item> items_;
};

}  // namespace mp

#endif  // MP_IPC_ATTACHMENTS_H_
