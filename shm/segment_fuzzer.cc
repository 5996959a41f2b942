// Attaches to descriptors of hostile contents, sizes and seals, and of other
// kinds. There is either an error, or a segment all of which can be used.
//
// The input: what is done to the file, see below, and the bytes at its
// beginning.

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"
#include "mp/shm/segment.h"
#include "mp/testing/fuzz_input.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace mp {
namespace {

using testing::FuzzInput;

constexpr uint64_t kLayout = 7;
// Where the header has the size of the file.
constexpr size_t kFileSizeAt = 24;

std::array<std::byte, Segment::kHeaderSize> ValidHeader() {
  const auto segment = ValueOrDie(Segment::Create(
      {.name = "fuzzed", .layout = kLayout, .size = 1, .ring_size = 1}));
  std::array<std::byte, Segment::kHeaderSize> header;
  MP_PCHECK(pread(segment->fd(), header.data(), header.size(), 0) ==
            static_cast<ssize_t>(header.size()));
  uint64_t size;
  std::memcpy(&size, header.data() + kFileSizeAt, sizeof(size));
  MP_CHECK(size ==
           segment->size() + Segment::kHeaderSize + segment->ring_size());
  return header;
}

UniqueFd NoFile(size_t kind) {
  int fds[2] = {-1, -1};
  switch (kind) {
    case 0:
      MP_PCHECK(pipe2(fds, O_CLOEXEC) == 0);
      close(fds[1]);
      return UniqueFd(fds[0]);
    case 1:
      return UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC));
    case 2:
      return UniqueFd(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    default:
      return UniqueFd();
  }
}

// Empty if the system does not want such a file.
UniqueFd MakeFile(FuzzInput& input) {
  const bool valid = input.Bool();
  const bool tells_its_size = input.Bool();
  const bool read_only = input.Below(8) == 0;
  const auto seals = input.Take<uint8_t>();
  const size_t shift = input.Below(48);
  auto size = static_cast<uint64_t>(input.Take<uint32_t>()) << shift;
  size &= (uint64_t{1} << 48) - 1;

  UniqueFd fd(memfd_create("fuzzed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  MP_PCHECK(fd.get() >= 0);
  std::vector<std::byte> contents;
  if (valid) {
    static const auto header = ValidHeader();
    contents.assign(header.begin(), header.end());
  }
  const std::span<const std::byte> rest = input.Rest();
  if (contents.size() < rest.size()) contents.resize(rest.size());
  // Over a valid header, so that zeros leave it as it is.
  for (size_t i = 0; i < rest.size(); ++i) contents[i] ^= rest[i];
  if (tells_its_size && contents.size() >= kFileSizeAt + sizeof(size)) {
    std::memcpy(contents.data() + kFileSizeAt, &size, sizeof(size));
  }
  MP_PCHECK(pwrite(fd.get(), contents.data(), contents.size(), 0) ==
            static_cast<ssize_t>(contents.size()));
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return UniqueFd();
  if (read_only) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
    UniqueFd other(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    MP_PCHECK(fcntl(fd.get(), F_ADD_SEALS, seals & 0x1f) == 0);
    return other;
  }
  MP_PCHECK(fcntl(fd.get(), F_ADD_SEALS, seals & 0x1f) == 0);
  return fd;
}

void Touch(std::byte* at) {
  const std::byte before = *at;
  *at = std::byte{0x55};
  MP_CHECK(*at == std::byte{0x55});
  *at = before;
}

// Everything that a segment promises, but not in each of its pages: there may
// be more than the machine has.
void Use(Segment& segment) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  MP_CHECK(segment.size() > 0);
  Touch(segment.data());
  Touch(segment.data() + segment.size() - 1);
  MP_CHECK((segment.ring() == nullptr) == (segment.ring_size() == 0));
  if (segment.ring_size() > 0) {
    const size_t size = segment.ring_size();
    for (const size_t i : {size_t{0}, size / 2, size - 1}) {
      Touch(segment.ring() + i);
      segment.ring()[i] = std::byte{1};
      MP_CHECK(segment.ring()[size + i] == std::byte{1});
      segment.ring()[size + i] = std::byte{2};
      MP_CHECK(segment.ring()[i] == std::byte{2});
    }
  }
  MP_CHECK(segment.spare_size() % page == 0);
  if (segment.spare_size() == 0) return;
  for (const size_t offset : {size_t{0}, segment.spare_size() - page}) {
    if (!segment.ReserveSpare(offset, page).ok()) continue;
    const absl::StatusOr<std::byte*> ring = segment.MapSpareRing(offset, page);
    if (ring.ok()) {
      Touch(*ring);
      (*ring)[0] = std::byte{3};
      MP_CHECK((*ring)[page] == std::byte{3});
      Segment::UnmapRing(*ring, page);
    }
    segment.DiscardSpare(offset, page).IgnoreError();
  }
}

void Check(FuzzInput& input) {
  const size_t kind = input.Below(16);
  UniqueFd fd = kind < 12 ? MakeFile(input) : NoFile(kind - 12);
  UniqueFd same(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  const absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Attach(std::move(fd), kLayout);
  if (!segment.ok()) return;
  Use(**segment);
  // Once more: it is the same, unless it can be written through one of them
  // only.
  const auto again = Segment::Attach(std::move(same), kLayout);
  MP_CHECK_OK(again.status());
  MP_CHECK(*again == *segment);
}

}  // namespace
}  // namespace mp

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mp::testing::FuzzInput input(data, size);
  mp::Check(input);
  return 0;
}
