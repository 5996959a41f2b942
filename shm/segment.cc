#include "mp/shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"
#include "mp/base/fork_handlers.h"

namespace mp {
namespace {

constexpr uint64_t kMagic = 0x6d70'7368'6d65'6d21;  // "mpshmem!"
constexpr uint32_t kVersion = 2;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// Far beyond any machine; keeps the arithmetic below from overflowing.
constexpr size_t kMaxSize = size_t{1} << 46;

size_t RoundUpToPages(size_t size) {
  // Not kept in a static: a child forked while another thread initialises one
  // waits for that thread for ever.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (size + page - 1) / page * page;
}

// Gives the file pages now. Returns an errno value, 0 if it worked.
int Reserve(int fd, size_t offset, size_t size) {
  // The kernel would kill processes for memory before it reports that there is
  // not so much in the machine.
  struct sysinfo machine;
  if (sysinfo(&machine) == 0 &&
      size / machine.mem_unit > machine.totalram + machine.totalswap) {
    return ENOMEM;
  }
  // A signal makes the kernel give up and free what the call has reserved. In
  // pieces, a program with a busy timer gets there, too.
  constexpr size_t kPiece = size_t{1} << 20;
  const size_t end = offset + size;
  while (offset < end) {
    const size_t piece = std::min(kPiece, end - offset);
    const int error = posix_fallocate(fd, static_cast<off_t>(offset),
                                      static_cast<off_t>(piece));
    if (error == EINTR) continue;
    if (error != 0) return error;
    offset += piece;
  }
  return 0;
}

bool MapShared(int fd, std::byte* at, size_t size, size_t offset) {
  return mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
              static_cast<off_t>(offset)) != MAP_FAILED;
}

// Maps the file's range [offset, offset + size), and the last `ring_size` bytes
// of it once more behind itself.
absl::StatusOr<std::byte*> MapRange(int fd, size_t offset, size_t size,
                                    size_t ring_size) {
  // Takes one range of addresses for everything, then puts the file into it.
  const size_t span = size + ring_size;
  void* const range =
      mmap(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (range == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("mmap(", span, " bytes)"));
  }
  auto* const base = static_cast<std::byte*>(range);
  if (!MapShared(fd, base, size, offset) ||
      (ring_size > 0 &&
       !MapShared(fd, base + size, ring_size, offset + size - ring_size))) {
    const int error = errno;
    munmap(range, span);
    return ErrnoStatus(error, absl::StrCat("mmap(segment, ", span, " bytes)"));
  }
  return base;
}

}  // namespace

// Without it, whoever is sent many small objects of one slab would map that for
// each of them.
class Segment::Registry {
 public:
  static void Add(const std::shared_ptr<Segment>& segment) {
    const std::lock_guard lock(mutex_);
    Segment*& first = Bucket(segment->inode_);
    segment->self_ = segment;
    segment->next_ = first;
    first = segment.get();
  }
  static void Remove(const Segment* segment) {
    const std::lock_guard lock(mutex_);
    for (Segment** link = &Bucket(segment->inode_); *link != nullptr;
         link = &(*link)->next_) {
      if (*link == segment) {
        *link = segment->next_;
        return;
      }
    }
  }
  // Null if there is none with that file. The caller's reference must be
  // dropped outside of here: it may be the last one.
  static std::shared_ptr<Segment> Find(const struct stat& file) {
    const std::lock_guard lock(mutex_);
    for (const Segment* segment = Bucket(file.st_ino); segment != nullptr;
         segment = segment->next_) {
      // The numbers of inodes come round; the time of the last change, of a
      // file that exists, tells apart those that have met again.
      struct stat known;
      if (segment->inode_ == file.st_ino && fstat(segment->fd(), &known) == 0 &&
          known.st_dev == file.st_dev && known.st_ino == file.st_ino &&
          known.st_ctim.tv_sec == file.st_ctim.tv_sec &&
          known.st_ctim.tv_nsec == file.st_ctim.tv_nsec) {
        if (auto found = segment->self_.lock()) return found;
      }
    }
    return nullptr;
  }

 private:
  // A fork must not catch the registry half changed. Others create segments
  // under locks of their own, which their handlers must take first, so these
  // handlers are the first ones of the program.
  [[gnu::constructor(101)]] static void AddHandlers() {
    AddForkHandlers({.before = [] { mutex_.lock(); },
                     .in_parent = [] { mutex_.unlock(); },
                     .in_child = [] { mutex_.unlock(); }});
  }

  static Segment*& Bucket(ino_t inode) {
    return buckets_[inode % std::size(buckets_)];
  }

  static inline constinit std::mutex mutex_;
  static inline constinit Segment* buckets_[1024] = {};
};

struct Segment::Header {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint64_t layout;
  uint64_t file_size;
  uint64_t ring_size;
  uint64_t spare_size;
};

absl::StatusOr<std::shared_ptr<Segment>> Segment::Create(
    const SegmentOptions& options) {
  static_assert(sizeof(Header) <= kHeaderSize);
  if (options.size == 0 || options.size > kMaxSize ||
      options.ring_size > kMaxSize || options.spare_size > kMaxSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment of ", options.size, " bytes with a ring of ",
                     options.ring_size, " and ", options.spare_size,
                     " spare bytes: sizes must be from 1 to ", kMaxSize));
  }
  const Sizes sizes = {
      .contents = RoundUpToPages(kHeaderSize + options.size),
      .ring = RoundUpToPages(options.ring_size),
      .spare = RoundUpToPages(options.spare_size),
  };
  const size_t used = sizes.contents + sizes.ring;
  const std::string name = absl::StrFormat("mp:%s", ToAbsl(options.name));
  UniqueFd fd = AboveStandardStreams(
      UniqueFd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  if (!fd) return ErrnoStatus(errno, absl::StrCat("memfd_create(", name, ")"));
  const size_t reserved =
      sizes.contents + std::min(options.ring_reserved_size, sizes.ring);
  if (const int error = Reserve(fd.get(), 0, reserved); error != 0) {
    return ErrnoStatus(error, absl::StrFormat("posix_fallocate(%s, %d bytes)",
                                              name, reserved));
  }
  if (reserved < used + sizes.spare &&
      ftruncate(fd.get(), static_cast<off_t>(used + sizes.spare)) != 0) {
    return ErrnoStatus(errno, absl::StrFormat("ftruncate(%s, %d bytes)", name,
                                              used + sizes.spare));
  }
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fcntl(F_ADD_SEALS, ", name, ")"));
  }
  absl::StatusOr<std::shared_ptr<Segment>> segment = Map(std::move(fd), sizes);
  if (segment.ok()) {
    new ((*segment)->base_) Header{.magic = kMagic,
                                   .version = kVersion,
                                   .reserved = 0,
                                   .layout = options.layout,
                                   .file_size = used + sizes.spare,
                                   .ring_size = sizes.ring,
                                   .spare_size = sizes.spare};
  }
  return segment;
}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Attach(UniqueFd fd,
                                                         uint64_t layout) {
  // The header is read through the descriptor first: memory that is not a
  // sealed segment could shrink under a mapping and raise SIGBUS.
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return ErrnoStatus(errno, "fcntl(F_GET_SEALS)");
  Header header;
  const ssize_t got = pread(fd.get(), &header, sizeof(header), 0);
  if (got < 0) return ErrnoStatus(errno, "pread(segment header)");
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "fstat(segment)");
  if ((seals & kSeals) != kSeals || got != sizeof(header) ||
      header.magic != kMagic || header.version != kVersion) {
    return absl::InvalidArgumentError(
        "the descriptor is not a shared-memory segment of this version of mp");
  }
  if (header.layout != layout) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the segment has layout %016x where %016x is expected: it holds "
        "another kind of object, or comes from another build",
        header.layout, layout));
  }
  // Before any sum of these, which could overflow.
  const auto file_size = static_cast<uint64_t>(info.st_size);
  const bool fits = header.file_size == file_size &&
                    header.ring_size < file_size &&
                    header.spare_size < file_size - header.ring_size;
  if (!fits || header.ring_size != RoundUpToPages(header.ring_size) ||
      header.spare_size != RoundUpToPages(header.spare_size) ||
      file_size - header.ring_size - header.spare_size <= kHeaderSize) {
    return absl::DataLossError("the segment's header contradicts its size");
  }
  // Whoever may not write has no use for a mapping that can.
  if ((fcntl(fd.get(), F_GETFL) & O_ACCMODE) == O_RDWR) {
    if (std::shared_ptr<Segment> known = Registry::Find(info)) return known;
  }
  return Map(std::move(fd),
             {.contents = file_size - header.ring_size - header.spare_size,
              .ring = header.ring_size,
              .spare = header.spare_size});
}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Map(UniqueFd fd,
                                                      const Sizes& sizes) {
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "fstat(segment)");
  absl::StatusOr<std::byte*> base =
      MapRange(fd.get(), 0, sizes.contents + sizes.ring, sizes.ring);
  if (!base.ok()) return base.status();
  auto* const object = new Segment(std::move(fd), info.st_ino, *base, sizes);
  std::shared_ptr<Segment> segment(object, Deleter{object});
  Registry::Add(segment);
  return segment;
}

Segment::Segment(UniqueFd fd, ino_t inode, std::byte* base, const Sizes& sizes)
    : fd_(std::move(fd)),
      inode_(inode),
      base_(base),
      contents_size_(sizes.contents),
      ring_size_(sizes.ring),
      spare_size_(sizes.spare) {}

Segment::~Segment() {
  Registry::Remove(this);
  munmap(base_, contents_size_ + 2 * ring_size_);
}

std::byte* Segment::data() const { return base_ + kHeaderSize; }

size_t Segment::size() const { return contents_size_ - kHeaderSize; }

std::byte* Segment::ring() const {
  return ring_size_ == 0 ? nullptr : base_ + contents_size_;
}

size_t Segment::ring_size() const { return ring_size_; }

absl::Status Segment::ReserveRing(size_t offset, size_t size) {
  MP_CHECK(offset <= ring_size_ && size <= ring_size_ - offset);
  return ReserveFile(contents_size_ + offset, size);
}

absl::Status Segment::ReserveSpare(size_t offset, size_t size) {
  MP_CHECK(offset <= spare_size_ && size <= spare_size_ - offset);
  return ReserveFile(contents_size_ + ring_size_ + offset, size);
}

absl::Status Segment::ReserveFile(size_t offset, size_t size) {
  const int error = Reserve(fd_.get(), offset, size);
  if (error == 0) return absl::OkStatus();
  return ErrnoStatus(error, absl::StrCat("posix_fallocate(", size, " bytes)"));
}

absl::Status Segment::DiscardSpare(size_t offset, size_t size) {
  MP_CHECK(offset <= spare_size_ && size <= spare_size_ - offset);
  const size_t begin = contents_size_ + ring_size_ + offset;
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(begin), static_cast<off_t>(size)) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, "fallocate(FALLOC_FL_PUNCH_HOLE)");
}

absl::StatusOr<std::byte*> Segment::MapSpare(size_t offset, size_t size) {
  MP_CHECK(offset <= spare_size_ && size <= spare_size_ - offset);
  return MapRange(fd_.get(), contents_size_ + ring_size_ + offset, size, 0);
}

void Segment::Unmap(std::byte* range, size_t size) { munmap(range, size); }

absl::StatusOr<std::byte*> Segment::MapSpareRing(size_t offset, size_t size) {
  MP_CHECK(offset <= spare_size_ && size <= spare_size_ - offset);
  return MapRange(fd_.get(), contents_size_ + ring_size_ + offset, size, size);
}

void Segment::UnmapRing(std::byte* ring, size_t size) {
  munmap(ring, 2 * size);
}

}  // namespace mp
