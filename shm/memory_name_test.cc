#include "mp/shm/memory_name.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"
#include "mp/shm/segment.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

class MemoryNameTest : public testing::ProcessTest {
 protected:
  // Tests run beside each other, in sandboxes with the same pids.
  const std::string name_ =
      absl::StrCat("memory_name_test ", std::random_device{}());
};

TEST_F(MemoryNameTest, IsFoundOncePublished) {
  ASSERT_OK_AND_ASSIGN(MemoryName name, MemoryName::Claim(name_));
  EXPECT_THAT(MemoryName::Open(name_).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(name_)));
  ASSERT_OK_AND_ASSIGN(
      std::shared_ptr<Segment> segment,
      Segment::Create({.name = name.SegmentName(), .layout = 1, .size = 10}));
  EXPECT_OK(name.Publish(segment->fd()));
  ASSERT_OK_AND_ASSIGN(UniqueFd fd, MemoryName::Open(name_));
  ASSERT_OK_AND_ASSIGN(std::shared_ptr<Segment> same,
                       Segment::Attach(std::move(fd), 1));
  segment->data()[3] = std::byte{7};
  EXPECT_EQ(same->data()[3], std::byte{7});
  EXPECT_TRUE(name.GiveUp());
  EXPECT_FALSE(name.GiveUp());
  EXPECT_THAT(MemoryName::Open(name_).status(),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(MemoryNameTest, OnlyOneHasIt) {
  ASSERT_OK_AND_ASSIGN(MemoryName name, MemoryName::Claim(name_));
  EXPECT_THAT(MemoryName::Claim(name_).status(),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("bind")));
  ChildProcess::Start([&] {
    EXPECT_THAT(MemoryName::Claim(name_).status(),
                StatusIs(absl::StatusCode::kAlreadyExists));
    EXPECT_FALSE(name.GiveUp()) << "its parent's";
  }).ExpectExit(0);
  EXPECT_OK(MemoryName::Claim(name_ + "x"));
  EXPECT_TRUE(name.GiveUp());
  EXPECT_OK(MemoryName::Claim(name_));
}

// The first object must not take the second one's name with it.
TEST_F(MemoryNameTest, MayBeClaimedAgain) {
  std::optional<MemoryName> first;
  {
    ASSERT_OK_AND_ASSIGN(MemoryName name, MemoryName::Claim(name_));
    first.emplace(std::move(name));
  }
  EXPECT_TRUE(first->GiveUp());
  ASSERT_OK_AND_ASSIGN(MemoryName second, MemoryName::Claim(name_));
  first.reset();
  EXPECT_THAT(MemoryName::Claim(name_).status(),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(MemoryNameTest, WhatIsNoName) {
  for (const std::string& bad :
       {std::string(), std::string("a\0b", 3), std::string(65, 'x'),
        std::string(17, '\x01')}) {
    EXPECT_THAT(MemoryName::Claim(bad).status(),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(MemoryName::Open(bad).status(),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

// A descriptor of the owner that is something else than the name promises.
TEST_F(MemoryNameTest, OpensNothingElse) {
  const UniqueFd file(open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_OK_AND_ASSIGN(MemoryName name, MemoryName::Claim(name_));
  EXPECT_OK(name.Publish(file.get()));
  EXPECT_THAT(MemoryName::Open(name_).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("another's")));
}

TEST_F(MemoryNameTest, OfAClosedDescriptor) {
  ASSERT_OK_AND_ASSIGN(MemoryName name, MemoryName::Claim(name_));
  EXPECT_OK(name.Publish(1'000'000));
  EXPECT_THAT(MemoryName::Open(name_).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("readlink")));
}

// The child must not keep a name that was being claimed when it was forked.
TEST_F(MemoryNameTest, ForkedWhileAnotherThreadClaims) {
  for (int i = 0; i < 50; ++i) {
    SharedPage<std::atomic<bool>> runs;
    std::optional<absl::StatusOr<MemoryName>> name;
    std::thread claims([&] { name.emplace(MemoryName::Claim(name_)); });
    auto child = ChildProcess::Start([&] {
      *runs = true;
      for (;;) pause();
    });
    claims.join();
    while (!*runs) absl::SleepFor(absl::Microseconds(100));
    ASSERT_OK(name->status());
    EXPECT_TRUE((*name)->GiveUp());
    EXPECT_OK(MemoryName::Claim(name_)) << "the child has it";
    child.Kill();
    child.ExpectSignal(SIGKILL);
  }
}

// The line that a dead owner has left, so to speak, does not hide another.
TEST_F(MemoryNameTest, AStaleLocationHidesNothing) {
  const std::string location =
      absl::StrCat("mp/at/", geteuid(), "/", getpid(), "/1000000/", name_);
  const UniqueFd stale(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un where = {.sun_family = AF_UNIX, .sun_path = {}};
  std::copy(location.begin(), location.end(), where.sun_path + 1);
  ASSERT_EQ(bind(stale.get(), reinterpret_cast<const sockaddr*>(&where),
                 static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                        location.size())),
            0);
  EXPECT_THAT(MemoryName::Open(name_).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("readlink")));
  ASSERT_OK_AND_ASSIGN(MemoryName name, MemoryName::Claim(name_));
  ASSERT_OK_AND_ASSIGN(
      std::shared_ptr<Segment> segment,
      Segment::Create({.name = name.SegmentName(), .layout = 1, .size = 10}));
  EXPECT_OK(name.Publish(segment->fd()));
  EXPECT_OK(MemoryName::Open(name_));
}

}  // namespace
}  // namespace mp
