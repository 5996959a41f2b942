#include "mp/shm/slab.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Le;

struct State {
  explicit State(int initial) : value(initial) {}
  std::atomic<int> value;
};

struct NotTrivial {
  ~NotTrivial() {}
};
struct Virtual {
  virtual ~Virtual() = default;
};
static_assert(SafeInSharedMemory<State>);
static_assert(SafeInSharedMemory<int>);
static_assert(SafeInSharedMemory<std::array<std::atomic<uint64_t>, 8>>);
static_assert(!SafeInSharedMemory<int*>);
static_assert(!SafeInSharedMemory<int&>);
static_assert(!SafeInSharedMemory<std::string>);
static_assert(!SafeInSharedMemory<NotTrivial>);
static_assert(!SafeInSharedMemory<Virtual>);
static_assert(!SafeInSharedMemory<std::mutex>);

std::shared_ptr<std::byte> MustAllocate(size_t size) {
  absl::StatusOr<std::shared_ptr<std::byte>> memory =
      shm_internal::AllocateShared(size);
  MP_CHECK_OK(memory.status());
  return *std::move(memory);
}

int CountSlabMappings() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:mp:slab") != std::string::npos) ++count;
  }
  return count;
}

int CountDescriptors() {
  DIR* const directory = opendir("/proc/self/fd");
  MP_PCHECK(directory != nullptr) << "opendir";
  int count = 0;
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

// The bodies run in a child: a child begins without a slab, and the process of
// the tests keeps none for the leak check to find.
class SlabTest : public testing::ProcessTest {};

TEST_F(SlabTest, ObjectsAreConstructedAlignedAndDistinct) {
  auto child = ChildProcess::Start([] {
    std::vector<std::shared_ptr<State>> objects;
    std::set<uintptr_t> addresses;
    for (int i = 0; i < 2'000; ++i) {
      ASSERT_OK_AND_ASSIGN(std::shared_ptr<State> object, MakeShared<State>(i));
      const auto address = reinterpret_cast<uintptr_t>(object.get());
      EXPECT_EQ(address % shm_internal::kSlabAlignment, 0u);
      EXPECT_TRUE(addresses.insert(address).second);
      objects.push_back(std::move(object));
    }
    for (int i = 0; i < 2'000; ++i) {
      EXPECT_EQ(objects[static_cast<size_t>(i)]->value, i);
    }
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, MemoryOfAnySizeIsZeroFilledAndDoesNotOverlap) {
  auto child = ChildProcess::Start([] {
    std::vector<std::pair<std::shared_ptr<std::byte>, size_t>> blocks;
    for (const size_t size :
         {1u, 64u, 65u, 5'000u, 16'000u, 16'400u, 40'000u, 100u, 262'144u,
          262'145u, 3'000'000u, 1u, 20'000u, 250'000u, 250'000u, 64u}) {
      blocks.emplace_back(MustAllocate(size), size);
      std::byte* const begin = blocks.back().first.get();
      EXPECT_TRUE(std::all_of(begin, begin + size, [](std::byte b) {
        return b == std::byte{0};
      })) << size;
      std::fill_n(begin, size, static_cast<std::byte>(blocks.size()));
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      std::byte* const begin = blocks[i].first.get();
      EXPECT_TRUE(std::all_of(
          begin, begin + blocks[i].second,
          [i](std::byte b) { return b == static_cast<std::byte>(i + 1); }))
          << i;
    }
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, AnArrayFollowsTheObject) {
  ChildProcess::Start([] {
    struct Header {
      explicit Header(uint64_t n) : count(n) {}
      uint64_t count;
    };
    // In a slab, and in a segment of its own.
    for (const size_t count : {0u, 1u, 7u, 100'000u}) {
      ASSERT_OK_AND_ASSIGN(
          const std::shared_ptr<Header> header,
          (MakeSharedWithArray<Header, std::atomic<uint64_t>>(count, count)));
      ASSERT_OK_AND_ASSIGN(const std::shared_ptr<State> next,
                           MakeShared<State>(-1));
      EXPECT_EQ(header->count, count);
      auto* const array =
          reinterpret_cast<std::atomic<uint64_t>*>(header.get() + 1);
      for (size_t i = 0; i < count; ++i) {
        EXPECT_EQ(array[i].exchange(i + 1), 0u);
      }
      EXPECT_EQ(next->value, -1);
      EXPECT_EQ(header->count, count);
    }
  }).ExpectExit(0);
}

TEST_F(SlabTest, SharedWithForkedChildren) {
  auto child = ChildProcess::Start([] {
    ASSERT_OK_AND_ASSIGN(const std::shared_ptr<State> object,
                         MakeShared<State>(1));
    auto grandchild = ChildProcess::Start([&] {
      EXPECT_EQ(object->value, 1);
      object->value = 2;
    });
    grandchild.ExpectExit(0);
    EXPECT_EQ(object->value, 2);
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, AChildDoesNotCarveFromItsParentsSlab) {
  auto child = ChildProcess::Start([] {
    const std::shared_ptr<std::byte> first = MustAllocate(64);
    auto grandchild = ChildProcess::Start([] {
      // As much as the parent has left, and more.
      std::vector<std::shared_ptr<std::byte>> blocks;
      for (int i = 0; i < 1'000; ++i) {
        blocks.push_back(MustAllocate(64));
        std::fill_n(blocks.back().get(), 64, std::byte{0xff});
      }
    });
    grandchild.ExpectExit(0);
    for (int i = 0; i < 100; ++i) {
      const std::shared_ptr<std::byte> next = MustAllocate(64);
      EXPECT_EQ(next.get()[0], std::byte{0});
      EXPECT_EQ(next.get()[63], std::byte{0});
    }
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, ASlabGoesWithItsLastObject) {
  auto child = ChildProcess::Start([] {
    const int descriptors = CountDescriptors();
    ASSERT_EQ(CountSlabMappings(), 0);
    std::vector<std::shared_ptr<std::byte>> blocks;
    for (int i = 0; i < 10'000; ++i) blocks.push_back(MustAllocate(1'000));
    EXPECT_GT(CountSlabMappings(), 2);
    // One object holds its slab, the allocator its current one.
    blocks.erase(blocks.begin() + 1, blocks.end());
    EXPECT_EQ(CountSlabMappings(), 2);
    *blocks.front() = std::byte{1};
    blocks.clear();
    EXPECT_EQ(CountSlabMappings(), 1);
    EXPECT_EQ(CountDescriptors(), descriptors + 1);
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, AChildDropsItsParentsCurrentSlab) {
  auto child = ChildProcess::Start([] {
    MustAllocate(64);
    EXPECT_EQ(CountSlabMappings(), 1);
    ChildProcess::Start([] {
      EXPECT_EQ(CountSlabMappings(), 0);
    }).ExpectExit(0);
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, ManyObjectsNeedFewDescriptorsAndMappings) {
  auto child = ChildProcess::Start([] {
    const int descriptors = CountDescriptors();
    std::vector<std::shared_ptr<State>> objects;
    for (int i = 0; i < 100'000; ++i) {
      ASSERT_OK_AND_ASSIGN(std::shared_ptr<State> object, MakeShared<State>(i));
      objects.push_back(std::move(object));
    }
    // 64 bytes each in slabs of up to a mebibyte.
    EXPECT_THAT(CountSlabMappings(), Le(16));
    EXPECT_THAT(CountDescriptors(), Le(descriptors + 16));
  });
  child.ExpectExit(0);
}

// Large objects must not make the small ones start a slab each.
TEST_F(SlabTest, LargeObjectsLeaveTheSlabToSmallOnes) {
  auto child = ChildProcess::Start([] {
    std::vector<std::shared_ptr<std::byte>> blocks;
    for (int i = 0; i < 50; ++i) {
      blocks.push_back(MustAllocate(300'000));
      blocks.push_back(MustAllocate(64));
    }
    EXPECT_EQ(CountSlabMappings(), 51);
    blocks.clear();
    EXPECT_EQ(CountSlabMappings(), 1);
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, ThreadsGetDifferentObjects) {
  auto child = ChildProcess::Start([] {
    constexpr size_t kThreads = 4;
    constexpr int kEach = 5'000;
    std::array<std::vector<std::shared_ptr<State>>, kThreads> objects;
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&objects, t] {
        for (int i = 0; i < kEach; ++i) {
          objects[t].push_back(*MakeShared<State>(static_cast<int>(t)));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    std::set<State*> all;
    for (size_t t = 0; t < kThreads; ++t) {
      for (const auto& object : objects[t]) {
        EXPECT_EQ(object->value, static_cast<int>(t));
        EXPECT_TRUE(all.insert(object.get()).second);
      }
    }
  });
  child.ExpectExit(0);
}

// A child finds the allocator usable whatever other threads of its parent did.
TEST_F(SlabTest, ForkWhileOtherThreadsAllocate) {
  auto child = ChildProcess::Start([] {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&stop] {
        while (!stop) MustAllocate(1'000);
      });
    }
    for (int i = 0; i < 100; ++i) {
      const pid_t pid = fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) {
        _exit(*MustAllocate(64) == std::byte{0} ? 0 : 1);
      }
      int status = 0;
      ASSERT_EQ(waitpid(pid, &status, 0), pid);
      EXPECT_EQ(status, 0);
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
  });
  child.ExpectExit(0);
}

TEST_F(SlabTest, NoDescriptorLeftIsAnErrorThatNamesTheCall) {
  auto child = ChildProcess::Start([] {
    rlimit limit;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    // Only for the call: UBSan needs descriptors, too.
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    const absl::Status status = MakeShared<State>(1).status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                                 AllOf(HasSubstr("memfd_create(mp:slab)"),
                                       HasSubstr("EMFILE"))));
    EXPECT_OK(MakeShared<State>(1));  // nothing is broken by that
  });
  child.ExpectExit(0);
}

}  // namespace
}  // namespace mp
