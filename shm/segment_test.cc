#include "mp/shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::NotNull;

constexpr uint64_t kLayout = LayoutFingerprint("test", 1, 4096);
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

// What the header looks like to somebody who forges one.
struct ForgedHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint64_t layout;
  uint64_t file_size;
  uint64_t ring_size;
  uint64_t spare_size;
};

std::shared_ptr<Segment> MustCreate(size_t size, size_t ring_size = 0) {
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Create({.name = "test",
                       .layout = kLayout,
                       .size = size,
                       .ring_size = ring_size});
  EXPECT_OK(segment);
  return segment.ok() ? *std::move(segment) : nullptr;
}

UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

// A memfd of `size` bytes that begins with `header`.
UniqueFd Forge(const ForgedHeader& header, size_t size, int seals = kSeals) {
  UniqueFd fd(memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  const size_t written = std::min(size, sizeof(header));
  EXPECT_EQ(pwrite(fd.get(), &header, written, 0),
            static_cast<ssize_t>(written));
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

// A header that Attach accepts for a file of `size` bytes: taken from a real
// segment, so that the tests below fail for the reason they name.
ForgedHeader GoodHeader(size_t size, size_t ring_size = 0,
                        size_t spare_size = 0) {
  const std::shared_ptr<Segment> segment = MustCreate(1);
  ForgedHeader header;
  EXPECT_EQ(pread(segment->fd(), &header, sizeof(header), 0),
            static_cast<ssize_t>(sizeof(header)));
  header.file_size = size;
  header.ring_size = ring_size;
  header.spare_size = spare_size;
  return header;
}

// How many mappings of this process have `text` in their line.
int CountMappings(std::string_view text) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(text) != std::string::npos) ++count;
  }
  return count;
}

class SegmentTest : public testing::ProcessTest {};

TEST_F(SegmentTest, IsZeroFilledAlignedAndAtLeastAsLargeAsAskedFor) {
  for (const size_t size : {size_t{1}, size_t{4032}, size_t{4033},
                            size_t{100'000}, size_t{5} << 20}) {
    const std::shared_ptr<Segment> segment = MustCreate(size);
    ASSERT_THAT(segment, NotNull());
    EXPECT_GE(segment->size(), size);
    EXPECT_LT(segment->size(), size + kPage);
    EXPECT_EQ(
        reinterpret_cast<uintptr_t>(segment->data()) % Segment::kHeaderSize,
        0u);
    EXPECT_TRUE(std::all_of(segment->data(), segment->data() + segment->size(),
                            [](std::byte b) { return b == std::byte{0}; }));
    EXPECT_EQ(segment->ring(), nullptr);
    EXPECT_EQ(segment->ring_size(), 0u);
    // All of it can be written: the last byte is inside the file.
    std::fill_n(segment->data(), segment->size(), std::byte{0xff});
  }
}

TEST_F(SegmentTest, ReservesItsMemoryWhenCreated) {
  constexpr size_t kSize = size_t{3} << 20;
  const std::shared_ptr<Segment> segment = MustCreate(kSize, 1 << 20);
  struct stat info;
  ASSERT_EQ(fstat(segment->fd(), &info), 0);
  EXPECT_GE(static_cast<size_t>(info.st_blocks) * 512, kSize + (1 << 20));
}

TEST_F(SegmentTest, HasANameForPeopleAndNoneInAFileSystem) {
  const std::shared_ptr<Segment> segment = MustCreate(1);
  EXPECT_EQ(CountMappings("memfd:mp:test"), 1);
  struct stat info;
  ASSERT_EQ(fstat(segment->fd(), &info), 0);
  EXPECT_EQ(info.st_nlink, 0u);
}

TEST_F(SegmentTest, DescriptorDoesNotSurviveExec) {
  const std::shared_ptr<Segment> segment = MustCreate(1);
  EXPECT_NE(fcntl(segment->fd(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(SegmentTest, AttachGivesWhatTheProcessHasAlready) {
  std::shared_ptr<Segment> segment = MustCreate(10'000);
  const std::shared_ptr<Segment> other = MustCreate(10'000);
  ASSERT_OK_AND_ASSIGN(std::shared_ptr<Segment> attached,
                       Segment::Attach(Duplicate(segment->fd()), kLayout));
  EXPECT_EQ(attached, segment);
  auto child = ChildProcess::Start([&segment] {
    EXPECT_EQ(Segment::Attach(Duplicate(segment->fd()), kLayout).value(),
              segment);
  });
  child.ExpectExit();
  // Attached is as good as created; and what was dropped is mapped anew.
  const UniqueFd fd = Duplicate(segment->fd());
  for (int i = 0; i < 3; ++i) {
    segment.reset();
    attached.reset();
    ASSERT_OK_AND_ASSIGN(segment,
                         Segment::Attach(Duplicate(fd.get()), kLayout));
    ASSERT_OK_AND_ASSIGN(attached,
                         Segment::Attach(Duplicate(fd.get()), kLayout));
    EXPECT_EQ(attached, segment);
    EXPECT_NE(attached, other);
  }
}

TEST_F(SegmentTest, AttachInManyThreadsWhileOthersFork) {
  const std::shared_ptr<Segment> kept = MustCreate(1);
  const UniqueFd fd = Duplicate(MustCreate(1)->fd());
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!done) {
        // Comes and goes.
        EXPECT_OK(Segment::Attach(Duplicate(fd.get()), kLayout));
        EXPECT_EQ(Segment::Attach(Duplicate(kept->fd()), kLayout).value(),
                  kept);
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    auto child = ChildProcess::Start([&] {
      EXPECT_OK(Segment::Attach(Duplicate(fd.get()), kLayout));
      EXPECT_EQ(Segment::Attach(Duplicate(kept->fd()), kLayout).value(), kept);
    });
    child.ExpectExit();
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(SegmentTest, AttachedMemoryOutlivesTheCreator) {
  std::shared_ptr<Segment> segment = MustCreate(1);
  ASSERT_OK_AND_ASSIGN(const std::shared_ptr<Segment> attached,
                       Segment::Attach(Duplicate(segment->fd()), kLayout));
  segment->data()[0] = std::byte{1};
  segment.reset();
  EXPECT_EQ(attached->data()[0], std::byte{1});
}

TEST_F(SegmentTest, RingIsMappedTwiceInARow) {
  const size_t ring_size = 3 * kPage;
  const std::shared_ptr<Segment> segment = MustCreate(100, ring_size - 1);
  std::byte* const ring = segment->ring();
  ASSERT_EQ(segment->ring_size(), ring_size);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(ring) % kPage, 0u);
  for (size_t i = 0; i < ring_size; ++i) {
    ring[i] = static_cast<std::byte>(i % 251);
  }
  EXPECT_EQ(std::memcmp(ring, ring + ring_size, ring_size), 0);
  // A record over the end continues at the beginning.
  std::fill_n(ring + ring_size - 8, 16, std::byte{0xee});
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(ring[i], std::byte{0xee});
  EXPECT_EQ(ring[8], std::byte{8});
  // The contents in front are another part.
  EXPECT_EQ(segment->data()[0], std::byte{0});
  EXPECT_EQ(segment->data()[segment->size() - 1], std::byte{0});
}

TEST_F(SegmentTest, AttachMapsTheRingTwiceToo) {
  const std::shared_ptr<Segment> segment = MustCreate(1, kPage);
  ASSERT_OK_AND_ASSIGN(const std::shared_ptr<Segment> attached,
                       Segment::Attach(Duplicate(segment->fd()), kLayout));
  ASSERT_EQ(attached->ring_size(), kPage);
  attached->ring()[kPage + 5] = std::byte{9};
  EXPECT_EQ(segment->ring()[5], std::byte{9});
}

size_t BlocksOf(const Segment& segment) {
  struct stat info;
  EXPECT_EQ(fstat(segment.fd(), &info), 0);
  return static_cast<size_t>(info.st_blocks) * 512;
}

TEST_F(SegmentTest, RingIsReservedAsFarAsIsSaid) {
  ASSERT_OK_AND_ASSIGN(const std::shared_ptr<Segment> segment,
                       Segment::Create({.name = "test",
                                        .layout = kLayout,
                                        .size = 1,
                                        .ring_size = 8 * kPage,
                                        .ring_reserved_size = 2 * kPage}));
  EXPECT_EQ(segment->ring_size(), 8 * kPage);
  EXPECT_EQ(BlocksOf(*segment), 3 * kPage);
  ASSERT_OK(segment->ReserveRing(4 * kPage, 3 * kPage));
  EXPECT_EQ(BlocksOf(*segment), 6 * kPage);
  ASSERT_OK(segment->ReserveRing(0, 8 * kPage));
  EXPECT_EQ(BlocksOf(*segment), 9 * kPage);
}

TEST_F(SegmentTest, SpareBytesCostNothingUntilTheyAreReserved) {
  ASSERT_OK_AND_ASSIGN(const std::shared_ptr<Segment> segment,
                       Segment::Create({.name = "test",
                                        .layout = kLayout,
                                        .size = 1,
                                        .ring_size = kPage,
                                        .spare_size = size_t{1} << 40}));
  EXPECT_EQ(segment->spare_size(), size_t{1} << 40);
  EXPECT_EQ(segment->ring_size(), kPage);
  EXPECT_EQ(BlocksOf(*segment), 2 * kPage);
  EXPECT_EQ(CountMappings("memfd:mp:test"), 2);

  const size_t offset = size_t{1} << 30;
  ASSERT_OK(segment->ReserveSpare(offset, 4 * kPage));
  EXPECT_EQ(BlocksOf(*segment), 6 * kPage);
  ASSERT_OK_AND_ASSIGN(std::byte* const ring,
                       segment->MapSpareRing(offset, 2 * kPage));
  ring[0] = std::byte{1};
  ring[2 * kPage + 1] = std::byte{2};
  EXPECT_EQ(ring[2 * kPage], std::byte{1});
  EXPECT_EQ(ring[1], std::byte{2});

  // Somebody else sees the same.
  ASSERT_OK_AND_ASSIGN(const std::shared_ptr<Segment> attached,
                       Segment::Attach(Duplicate(segment->fd()), kLayout));
  EXPECT_EQ(attached->spare_size(), size_t{1} << 40);
  ASSERT_OK_AND_ASSIGN(std::byte* const same,
                       attached->MapSpareRing(offset, 2 * kPage));
  EXPECT_EQ(same[1], std::byte{2});
  ASSERT_OK(attached->DiscardSpare(offset, 4 * kPage));
  EXPECT_EQ(BlocksOf(*segment), 2 * kPage);
  EXPECT_EQ(ring[0], std::byte{0});
  Segment::UnmapRing(ring, 2 * kPage);
  Segment::UnmapRing(same, 2 * kPage);
}

TEST_F(SegmentTest, NobodyCanResizeIt) {
  const std::shared_ptr<Segment> segment = MustCreate(10'000);
  EXPECT_EQ(ftruncate(segment->fd(), 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(segment->fd(), 1 << 20), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fcntl(segment->fd(), F_GET_SEALS) & kSeals, kSeals);
  EXPECT_EQ(fcntl(segment->fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
}

TEST_F(SegmentTest, SharedWithAForkedChild) {
  const std::shared_ptr<Segment> segment = MustCreate(1);
  auto child = ChildProcess::Start([&] { segment->data()[0] = std::byte{42}; });
  child.ExpectExit(0);
  EXPECT_EQ(segment->data()[0], std::byte{42});
}

TEST_F(SegmentTest, LivesInAChildAfterTheParentDroppedIt) {
  std::shared_ptr<Segment> segment = MustCreate(1);
  int go[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  UniqueFd reader(go[0]);
  UniqueFd writer(go[1]);
  auto child = ChildProcess::Start([&] {
    writer.reset();
    char end;
    EXPECT_EQ(read(reader.get(), &end, 1), 0);  // the parent has dropped it
    segment->data()[0] = std::byte{1};
    EXPECT_EQ(segment->data()[0], std::byte{1});
  });
  segment.reset();
  EXPECT_EQ(CountMappings("memfd:mp:test"), 0);
  writer.reset();
  child.ExpectExit(0);
}

TEST_F(SegmentTest, UnmappedAndClosedWithItsLastReference) {
  std::shared_ptr<Segment> segment = MustCreate(1, kPage);
  const int fd = segment->fd();
  std::shared_ptr<std::byte> object(segment, segment->data());
  segment.reset();
  EXPECT_GT(CountMappings("memfd:mp:test"), 0);  // the object holds it
  EXPECT_NE(fcntl(fd, F_GETFD), -1);
  object.reset();
  EXPECT_EQ(CountMappings("memfd:mp:test"), 0);
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

TEST_F(SegmentTest, RefusesImpossibleSizes) {
  constexpr size_t kHuge = std::numeric_limits<size_t>::max();
  for (const auto& [size, ring_size] :
       std::vector<std::pair<size_t, size_t>>{{0, 0},
                                              {0, 4096},
                                              {kHuge, 0},
                                              {kHuge - 4096, 0},
                                              {1, kHuge},
                                              {size_t{1} << 47, 0},
                                              {1, size_t{1} << 47}}) {
    EXPECT_THAT(Segment::Create({.name = "test",
                                 .layout = kLayout,
                                 .size = size,
                                 .ring_size = ring_size}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(std::to_string(size))))
        << size << " " << ring_size;
  }
}

TEST_F(SegmentTest, MoreThanTheMachineHasIsAnErrorThatNamesTheCall) {
  EXPECT_THAT(
      Segment::Create(
          {.name = "test", .layout = kLayout, .size = size_t{1} << 46}),
      StatusIs(absl::StatusCode::kResourceExhausted,
               AllOf(HasSubstr("posix_fallocate"), HasSubstr("ENOMEM"))));
}

TEST_F(SegmentTest, NoDescriptorLeftIsAnErrorThatNamesTheCall) {
  auto child = ChildProcess::Start([] {
    rlimit limit;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    // Only for the call: UBSan needs descriptors, too.
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    const absl::Status status =
        Segment::Create({.name = "test", .layout = 1, .size = 1}).status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                                 AllOf(HasSubstr("memfd_create(mp:test)"),
                                       HasSubstr("EMFILE"))));
  });
  child.ExpectExit(0);
}

TEST_F(SegmentTest, NoMemoryLeftIsAnErrorThatNamesTheCall) {
  auto child = ChildProcess::Start([] {
    // As near as a process can come to that by itself.
    const rlimit little = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
    signal(SIGXFSZ, SIG_IGN);
    const absl::Status status =
        Segment::Create({.name = "test", .layout = 1, .size = 4 << 20})
            .status();
    EXPECT_THAT(status.ToString(), AllOf(HasSubstr("posix_fallocate(mp:test"),
                                         HasSubstr("EFBIG")));
    EXPECT_EQ(CountMappings("memfd:mp:test"), 0);
  });
  child.ExpectExit(0);
}

TEST_F(SegmentTest, NoAddressSpaceLeftIsAnErrorThatNamesTheCall) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers do not work with RLIMIT_AS";
#endif
  auto child = ChildProcess::Start([] {
    const rlimit little = {size_t{128} << 20, size_t{128} << 20};
    ASSERT_EQ(setrlimit(RLIMIT_AS, &little), 0);
    const int before = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(before);
    EXPECT_THAT(
        Segment::Create({.name = "test",
                         .layout = 1,
                         .size = 1 << 20,
                         .ring_size = size_t{80} << 20}),
        StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("mmap(")));
    // Nothing of it is left.
    const int after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(after, before);
  });
  child.ExpectExit(0);
}

// The kernel abandons a reservation when a signal arrives.
TEST_F(SegmentTest, SignalsDoNotMakeCreationFail) {
  auto child = ChildProcess::Start([] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    ASSERT_EQ(sigaction(SIGALRM, &action, nullptr), 0);
    const itimerval every_millisecond = {{0, 1'000}, {0, 1'000}};
    ASSERT_EQ(setitimer(ITIMER_REAL, &every_millisecond, nullptr), 0);
    // Takes much longer than a millisecond.
    EXPECT_OK(Segment::Create(
        {.name = "test", .layout = 1, .size = size_t{128} << 20}));
  });
  child.ExpectExit(0);
}

TEST_F(SegmentTest, AttachRefusesAnotherLayout) {
  const std::shared_ptr<Segment> segment = MustCreate(1);
  EXPECT_THAT(Segment::Attach(Duplicate(segment->fd()), kLayout + 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("another kind of object")));
}

TEST_F(SegmentTest, AttachRefusesWhatIsNoSegment) {
  const auto is_no_segment =
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("segment"));
  // A closed descriptor, and one that is not a memfd.
  EXPECT_FALSE(Segment::Attach(UniqueFd(), kLayout).ok());
  EXPECT_THAT(
      Segment::Attach(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)), kLayout),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("F_GET_SEALS")));
  // A good header, so only the seals are missing.
  const ForgedHeader good = GoodHeader(kPage);
  EXPECT_OK(Segment::Attach(Forge(good, kPage), kLayout));
  for (const int seals :
       {0, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW}) {
    EXPECT_THAT(Segment::Attach(Forge(good, kPage, seals), kLayout),
                is_no_segment)
        << seals;
  }
  // Sealed, but empty, short, or without the magic or the version.
  EXPECT_THAT(Segment::Attach(Forge({}, 0), kLayout), is_no_segment);
  EXPECT_THAT(Segment::Attach(Forge(good, sizeof(good) - 1), kLayout),
              is_no_segment);
  EXPECT_THAT(Segment::Attach(Forge({}, kPage), kLayout), is_no_segment);
  ForgedHeader bad = good;
  bad.version += 1;
  EXPECT_THAT(Segment::Attach(Forge(bad, kPage), kLayout), is_no_segment);
  bad = good;
  bad.magic ^= 1;
  EXPECT_THAT(Segment::Attach(Forge(bad, kPage), kLayout), is_no_segment);
}

TEST_F(SegmentTest, AttachRefusesSizesThatContradictTheFile) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  struct Case {
    size_t actual;
    uint64_t file_size;
    uint64_t ring_size;
  };
  const std::vector<Case> cases = {
      {kPage, 2 * kPage, 0},                // truncated
      {2 * kPage, kPage, 0},                // longer than it says
      {kPage, kMax, 0},                     //
      {2 * kPage, 2 * kPage, 2 * kPage},    // nothing but ring
      {2 * kPage, 2 * kPage, 3 * kPage},    // ring larger than the file
      {2 * kPage, 2 * kPage, kMax},         //
      {2 * kPage, 2 * kPage, kMax - 4095},  // 0 when rounded up
      {2 * kPage, 2 * kPage, 1},            // ring not of whole pages
      {2 * kPage, 2 * kPage, kPage + 1},    //
      {sizeof(ForgedHeader), sizeof(ForgedHeader), 0},  // shorter than the
      {Segment::kHeaderSize - 1, Segment::kHeaderSize - 1, 0},  // header's room
      {Segment::kHeaderSize, Segment::kHeaderSize, 0},          // no contents
  };
  for (const Case& c : cases) {
    EXPECT_THAT(
        Segment::Attach(Forge(GoodHeader(c.file_size, c.ring_size), c.actual),
                        kLayout),
        StatusIs(absl::StatusCode::kDataLoss))
        << c.actual << " " << c.file_size << " " << c.ring_size;
  }
  for (const uint64_t spare :
       {2 * kPage, kPage, kMax, kMax - 4095, uint64_t{1}}) {
    EXPECT_THAT(
        Segment::Attach(Forge(GoodHeader(2 * kPage, kPage, spare), 2 * kPage),
                        kLayout),
        StatusIs(absl::StatusCode::kDataLoss))
        << spare;
  }
  // Consistent, but the ring cannot be mapped where the file's size puts it.
  EXPECT_FALSE(Segment::Attach(
                   Forge(GoodHeader(kPage + 100, kPage), kPage + 100), kLayout)
                   .ok());
}

TEST_F(SegmentTest, AttachRefusesReadOnlySegments) {
  const UniqueFd fd =
      Forge(GoodHeader(kPage), kPage,
            F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE);
  EXPECT_THAT(
      Segment::Attach(Duplicate(fd.get()), kLayout),
      StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("mmap(")));
}

TEST(LayoutFingerprintTest, DependsOnEveryPart) {
  static_assert(LayoutFingerprint("a", 1, 8) == LayoutFingerprint("a", 1, 8));
  EXPECT_NE(LayoutFingerprint("a", 1, 8), LayoutFingerprint("b", 1, 8));
  EXPECT_NE(LayoutFingerprint("a", 1, 8), LayoutFingerprint("a", 2, 8));
  EXPECT_NE(LayoutFingerprint("a", 1, 8), LayoutFingerprint("a", 1, 16));
  EXPECT_NE(LayoutFingerprint("a", 1, 8), LayoutFingerprint("a", 8, 1));
  EXPECT_NE(LayoutFingerprint("", 0, 0), 0u);
}

}  // namespace
}  // namespace mp
