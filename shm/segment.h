// A segment: anonymous shared memory, the ground every shared object stands on.
//
// A segment is a memfd that is reserved when it is created, so a full machine
// gives an error here and never SIGBUS later; sealed, so nobody can shrink or
// grow it under a mapping; and mapped by every process that uses it. It has no
// name in any file system: the kernel frees it when the last descriptor and
// mapping are gone, however their processes ended.
//
// It begins with a header (magic, version, layout fingerprint, size). Attaching
// to memory that does not carry the expected header is an error.
//
// A segment is held by std::shared_ptr; objects inside it are handed out as
// aliasing shared_ptrs, so a process unmaps it when it drops its last object. A
// forked child inherits mapping and descriptor.

#ifndef MP_SHM_SEGMENT_H_
#define MP_SHM_SEGMENT_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"

namespace mp {

struct SegmentOptions {
  // For people: shown in /proc/PID/maps as "memfd:mp:<name>".
  std::string_view name;
  // Names the layout of the contents. Change it when the layout changes; see
  // LayoutFingerprint().
  uint64_t layout = 0;
  // Bytes wanted after the header, more than zero. Rounded up to whole pages.
  size_t size = 0;
  // If not zero, that many bytes follow, rounded up to whole pages, and are
  // mapped twice in a row: what runs over the end of the ring shows up at its
  // beginning. A ring buffer in it needs no case for records that wrap.
  size_t ring_size = 0;
  // So much of the ring, from its beginning and in whole pages, is reserved at
  // once; the rest must not be used before ReserveRing().
  size_t ring_reserved_size = std::numeric_limits<size_t>::max();
  // That many bytes more, rounded up to whole pages, neither reserved nor
  // mapped: room to grow into, which costs nothing before it is used.
  size_t spare_size = 0;
};

class Segment {
 public:
  // Room the header takes at the start of the memory. Contents begin here, so
  // they are aligned to it: to two cache lines, as processors fetch them.
  static constexpr size_t kHeaderSize = 128;

  // A zero-filled segment. Errors name the system call: no descriptor left
  // (ResourceExhausted), no memory (ResourceExhausted).
  static absl::StatusOr<std::shared_ptr<Segment>> Create(
      const SegmentOptions& options);

  // Maps the segment behind `fd` if its header has this `layout`. One that this
  // process has already is not mapped again: it is the same object then, and
  // `fd` is closed. InvalidArgument if it is no segment, is not sealed, or has
  // another layout.
  static absl::StatusOr<std::shared_ptr<Segment>> Attach(UniqueFd fd,
                                                         uint64_t layout);

  // The segment that `object` lies in if that was made from the segment's
  // pointer; null otherwise.
  template <class T>
  static std::shared_ptr<Segment> Of(const std::shared_ptr<T>& object) {
    const Deleter* const deleter = std::get_deleter<Deleter>(object);
    if (deleter == nullptr) return nullptr;
    return std::shared_ptr<Segment>(object, deleter->segment);
  }

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  ~Segment();

  // The contents behind the header, aligned to kHeaderSize.
  std::byte* data() const;
  size_t size() const;

  // The ring, page-aligned; ring()[i] and ring()[i + ring_size()] are the same
  // byte. Null and zero if there is none.
  std::byte* ring() const;
  size_t ring_size() const;
  // Gives memory to a part of it, so that its use cannot fail; whole pages.
  // Errors: ResourceExhausted, naming the system call.
  absl::Status ReserveRing(size_t offset, size_t size);

  // The spare bytes, by their offset among them; offsets and sizes are whole
  // pages. Reserve() gives them memory, so that their use cannot fail; they are
  // zero. Discard() takes memory and contents away. All processes share that.
  // Errors: ResourceExhausted, naming the system call.
  size_t spare_size() const { return spare_size_; }
  absl::Status ReserveSpare(size_t offset, size_t size);
  absl::Status DiscardSpare(size_t offset, size_t size);
  // Maps a range of them, or maps it twice in a row like the ring, for this
  // process. To be undone by Unmap() or UnmapRing() before the segment goes.
  absl::StatusOr<std::byte*> MapSpare(size_t offset, size_t size);
  static void Unmap(std::byte* range, size_t size);
  absl::StatusOr<std::byte*> MapSpareRing(size_t offset, size_t size);
  static void UnmapRing(std::byte* ring, size_t size);

  int fd() const { return fd_.get(); }

 private:
  struct Header;
  // All pointers into a segment share this; Of() finds the segment by it.
  struct Deleter {
    Segment* segment;
    void operator()(Segment* last) const { delete last; }
  };

  // Bytes in the file, whole pages.
  struct Sizes {
    size_t contents;  // with the header
    size_t ring;
    size_t spare;
  };

  Segment(UniqueFd fd, ino_t inode, std::byte* base, const Sizes& sizes);
  static absl::StatusOr<std::shared_ptr<Segment>> Map(UniqueFd fd,
                                                      const Sizes& sizes);
  absl::Status ReserveFile(size_t offset, size_t size);

  // All segments of this process, by the file behind them.
  class Registry;

  const UniqueFd fd_;
  const ino_t inode_;
  std::weak_ptr<Segment> self_;
  Segment* next_ = nullptr;  // in the registry
  std::byte* const base_;
  const size_t contents_size_;
  const size_t ring_size_;
  const size_t spare_size_;
};

// A fingerprint of a layout for SegmentOptions: from its name, its version and
// the sizes that matter (FNV-1a).
constexpr uint64_t LayoutFingerprint(std::string_view name, uint64_t version,
                                     uint64_t size) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&hash](uint8_t byte) {
    hash = (hash ^ byte) * 0x100000001b3;
  };
  for (const char c : name) mix(static_cast<uint8_t>(c));
  for (int i = 0; i < 8; ++i) mix(static_cast<uint8_t>(version >> (8 * i)));
  for (int i = 0; i < 8; ++i) mix(static_cast<uint8_t>(size >> (8 * i)));
  return hash;
}

}  // namespace mp

#endif  // MP_SHM_SEGMENT_H_
