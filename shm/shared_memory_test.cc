#include "mp/shm/shared_memory.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::Each;
using ::testing::HasSubstr;

class SharedMemoryTest : public testing::ProcessTest {
 protected:
  // Tests run beside each other, in sandboxes with the same pids.
  const std::string name_ =
      absl::StrCat("shared_memory_test ", std::random_device{}());
};

TEST_F(SharedMemoryTest, IsZeroFilledAlignedAndShared) {
  for (const size_t size : {1u, 100u, 4'096u, 1'000'000u}) {
    const SharedMemory block(size);
    EXPECT_EQ(block.size(), size);
    EXPECT_EQ(block.name(), "");
    EXPECT_THAT(block.bytes(), Each(std::byte{0}));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.bytes().data()) % 64, 0u);
    ChildProcess::Start([&] {
      std::fill(block.bytes().begin(), block.bytes().end(), std::byte{9});
    }).ExpectExit(0);
    EXPECT_THAT(block.bytes(), Each(std::byte{9}));
  }
}

// _TestSharedMemory.test_invalid_shared_memory_creation
TEST_F(SharedMemoryTest, ImpossibleSizesAreErrors) {
  EXPECT_THAT(SharedMemory::Create(0).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedMemory::Create(static_cast<size_t>(-1)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  // More than the machine has: an error now, not SIGBUS later.
  EXPECT_THAT(SharedMemory::Create(size_t{1} << 45).status(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("posix_fallocate")));
  // And the name is free again.
  EXPECT_THAT(SharedMemory::CreateNamed(name_, 0).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK(SharedMemory::CreateNamed(name_, 1));
}

struct Record {
  std::atomic<int64_t> count;
  double share;
};

TEST_F(SharedMemoryTest, HoldsStructuresOfTheUsers) {
  const SharedMemory block(256);
  EXPECT_EQ(block.At<Record>(64).count, 0);
  block.At<Record>(64).share = 0.5;
  ChildProcess::Start([&] {
    Record& record = block.At<Record>(64);
    EXPECT_EQ(record.share, 0.5);
    record.count += 3;
  }).ExpectExit(0);
  EXPECT_EQ(block.At<Record>(64).count, 3);
  EXPECT_EQ(block.At<Record>(256 - sizeof(Record)).count, 0);
  EXPECT_DEATH(block.At<Record>(256), "at 256 of a block of 256");
  EXPECT_DEATH(block.At<Record>(256 - 8), "at 248 of a block of 256");
  EXPECT_DEATH(block.At<Record>(static_cast<size_t>(-8)), "of a block of 256");
  EXPECT_DEATH(block.At<Record>(4), "aligned to 8, at 4");
}

TEST_F(SharedMemoryTest, CopiesMeanTheSameBlock) {
  std::optional<SharedMemory> first(10);
  const SharedMemory second = *first;
  EXPECT_EQ(second, *first);
  EXPECT_FALSE(second == SharedMemory(10));
  first.reset();
  EXPECT_EQ(second.bytes()[9], std::byte{0});
}

// ---- Names.

// _TestSharedMemory.test_shared_memory_basics
TEST_F(SharedMemoryTest, ANamedBlockIsOpenedByItsName) {
  ASSERT_OK_AND_ASSIGN(SharedMemory ours,
                       SharedMemory::CreateNamed(name_, 512));
  EXPECT_EQ(ours.name(), name_);
  ASSERT_OK_AND_ASSIGN(SharedMemory theirs, SharedMemory::OpenNamed(name_));
  EXPECT_EQ(theirs.size(), 512u);
  EXPECT_EQ(theirs.name(), name_);
  ours.bytes()[0] = std::byte{42};
  EXPECT_EQ(theirs.bytes()[0], std::byte{42});
  EXPECT_THAT(SharedMemory::CreateNamed(name_, 512).status(),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(SharedMemory::OpenNamed(name_ + "x").status(),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(theirs.Unlink(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_OK(ours.Unlink());
  EXPECT_THAT(ours.Unlink(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(SharedMemory::OpenNamed(name_).status(),
              StatusIs(absl::StatusCode::kNotFound));
  // The block is still there.
  theirs.bytes()[0] = std::byte{43};
  EXPECT_EQ(ours.bytes()[0], std::byte{43});
}

// _TestSharedMemory.test_shared_memory_name_with_embedded_null
TEST_F(SharedMemoryTest, WhatIsNoName) {
  EXPECT_THAT(
      SharedMemory::CreateNamed(std::string_view("a\0b", 3), 1).status(),
      StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedMemory::OpenNamed(std::string_view("a\0b", 3)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// TestSharedMemoryNames.test_that_shared_memory_name_with_colons_...
TEST_F(SharedMemoryTest, NamesOfAnyCharacters) {
  for (const char* const odd : {"a:b:c", ":", "a\nb", "\n", "a b", " ", "/",
                                "a/b/c", "\xc3\xa4", "@", "\\n", "\""}) {
    const std::string name = absl::StrCat(odd, std::random_device{}(), odd);
    ASSERT_OK_AND_ASSIGN(SharedMemory ours, SharedMemory::CreateNamed(name, 8));
    ASSERT_OK_AND_ASSIGN(SharedMemory theirs, SharedMemory::OpenNamed(name));
    ours.bytes()[7] = std::byte{1};
    EXPECT_EQ(theirs.bytes()[7], std::byte{1}) << name;
  }
}

TEST_F(SharedMemoryTest, TheNameGoesWithTheOwnersLastHandle) {
  std::optional<SharedMemory> theirs;
  {
    ASSERT_OK_AND_ASSIGN(SharedMemory ours,
                         SharedMemory::CreateNamed(name_, 8));
    ASSERT_OK_AND_ASSIGN(SharedMemory opened, SharedMemory::OpenNamed(name_));
    theirs.emplace(opened);
    ours.bytes()[0] = std::byte{5};
  }
  EXPECT_THAT(SharedMemory::OpenNamed(name_).status(),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(theirs->bytes()[0], std::byte{5});
}

constexpr char kNameVariable[] = "MP_SHARED_MEMORY_TEST_NAME";

// Run by the next one, as a program of its own.
TEST_F(SharedMemoryTest, DISABLED_AnotherProgram) {
  ASSERT_OK_AND_ASSIGN(SharedMemory theirs,
                       SharedMemory::OpenNamed(getenv(kNameVariable)));
  EXPECT_EQ(theirs.size(), 8u);
  EXPECT_EQ(theirs.At<std::atomic<int64_t>>(0).fetch_add(1), 41);
}

// _TestSharedMemory.test_shared_memory_across_processes, and _untracking: that
// the other program has ended does not cost us the block.
TEST_F(SharedMemoryTest, UnrelatedProgramsShareANamedBlock) {
  ASSERT_OK_AND_ASSIGN(SharedMemory ours, SharedMemory::CreateNamed(name_, 8));
  ours.At<std::atomic<int64_t>>(0) = 41;
  setenv(kNameVariable, name_.c_str(), 1);
  const testing_internal::SelfRun run =
      testing_internal::RunSelf("SharedMemoryTest.DISABLED_AnotherProgram");
  unsetenv(kNameVariable);
  EXPECT_EQ(run.status, testing::ExitStatus::Code(0)) << run.output;
  EXPECT_EQ(ours.At<std::atomic<int64_t>>(0), 42);
  EXPECT_OK(SharedMemory::OpenNamed(name_));
}

// _TestSharedMemory.test_shared_memory_cleaned_after_process_termination, with
// SIGKILL, too, and without anybody who cleans.
TEST_F(SharedMemoryTest, TheNameGoesWithItsOwner) {
  for (const int signal : {SIGTERM, SIGKILL}) {
    SharedPage<std::atomic<bool>> created;
    auto owner = ChildProcess::Start([&] {
      ASSERT_OK_AND_ASSIGN(SharedMemory block,
                           SharedMemory::CreateNamed(name_, 8));
      block.bytes()[0] = std::byte{1};
      *created = true;
      for (;;) pause();
    });
    while (!*created) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_OK_AND_ASSIGN(SharedMemory theirs, SharedMemory::OpenNamed(name_));
    owner.Kill(signal);
    owner.ExpectSignal(signal);
    EXPECT_EQ(theirs.bytes()[0], std::byte{1});
    EXPECT_THAT(SharedMemory::OpenNamed(name_).status(),
                StatusIs(absl::StatusCode::kNotFound));
    EXPECT_OK(SharedMemory::CreateNamed(name_, 8));
  }
}

// Whether the owner's children outlive it, or drop their handles, is no matter.
TEST_F(SharedMemoryTest, ChildrenHaveNoPartInTheName) {
  SharedPage<std::atomic<int>> stage;
  auto owner = ChildProcess::Start([&] {
    std::optional<SharedMemory> block;
    {
      ASSERT_OK_AND_ASSIGN(SharedMemory created,
                           SharedMemory::CreateNamed(name_, 8));
      block.emplace(created);
    }
    auto child = ChildProcess::Start([&] {
      EXPECT_THAT(block->Unlink(),
                  StatusIs(absl::StatusCode::kFailedPrecondition));
      block.reset();
      EXPECT_OK(SharedMemory::OpenNamed(name_));
    });
    child.ExpectExit(0);
    if (fork() == 0) {
      *stage = 1;
      while (*stage == 1) absl::SleepFor(absl::Milliseconds(1));
      EXPECT_EQ(block->bytes()[0], std::byte{0});
      *stage = 3;
      _exit(0);
    }
    while (*stage != 1) absl::SleepFor(absl::Milliseconds(1));
  });
  owner.ExpectExit(0);
  EXPECT_EQ(*stage, 1) << "the grandchild lives";
  EXPECT_THAT(SharedMemory::OpenNamed(name_).status(),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_OK(SharedMemory::CreateNamed(name_, 8));
  *stage = 2;
  while (*stage != 3) absl::SleepFor(absl::Milliseconds(1));
}

}  // namespace
}  // namespace mp
