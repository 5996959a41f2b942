// Rings that get more memory when they need it, and give it back.

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/ipc/ring.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {

struct RingTestPeer {
  // Memory that the kernel counts, in bytes.
  static size_t Memory(const Ring& ring) {
    struct stat info;
    EXPECT_EQ(fstat(ring.mapping_->segment->fd(), &info), 0);
    return static_cast<size_t>(info.st_blocks) * 512;
  }
  // As if so much had passed through the ring, which must be unused.
  static void SetCursors(Ring& ring, uint32_t records, uint32_t blocks) {
    Ring::Control& control = *ring.control_;
    const uint64_t cursor =
        Ring::Cursor{.records = records, .blocks = blocks}.packed();
    control.tail = cursor;
    control.producers.tail = cursor;
    control.head = cursor;
    control.producers.room_blocks = 0;
    control.consumers.seen_tail = cursor;
  }
};

namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::FailSystemCall;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

constexpr Deadline kNow = Deadline::Now();
constexpr Deadline kInfinite = Deadline::Infinite();
constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kKept = 64 * kMiB;  // what an empty ring may keep

RingResult Put(Ring& ring, std::string_view data, Deadline deadline = kNow) {
  return ring.Put(
      data.size(),
      [&](std::byte* to, uint32_t) {
        std::copy(data.begin(), data.end(), reinterpret_cast<char*>(to));
        return true;
      },
      deadline);
}

std::optional<std::string> Get(Ring& ring, Deadline deadline = kNow) {
  std::string data;
  const RingResult result = ring.Get(
      [&](std::span<const std::byte> bytes, uint32_t) {
        data.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      },
      deadline);
  if (result != RingResult::kDone) return std::nullopt;
  return data;
}

// Each differs from its neighbours, in all places.
std::string Data(uint32_t id, size_t size) {
  std::string data(size, static_cast<char>('a' + id % 26));
  std::memcpy(data.data(), &id, std::min(sizeof(id), size));
  if (size > 8) std::memcpy(data.data() + size - 4, &id, 4);
  return data;
}

class RingGrowthTest : public testing::ProcessTest {
 protected:
  static Ring MakeRing(RingGrowth growth, size_t capacity_bytes = 1,
                       uint32_t max_records = 0) {
    absl::StatusOr<Ring> ring = Ring::Create({.name = "ring-growth-test",
                                              .capacity_bytes = capacity_bytes,
                                              .growth = growth,
                                              .max_records = max_records});
    EXPECT_OK(ring);
    return *std::move(ring);
  }
};

class PatientRingGrowthTest : public RingGrowthTest {
 protected:
  PatientRingGrowthTest() { ParkSlices::SetFirstForTest(3600'000'000'000); }
  ~PatientRingGrowthTest() override { ParkSlices::SetFirstForTest(0); }
};

TEST_F(RingGrowthTest, GrowsWithItsRecordsAndGivesMemoryBack) {
  Ring ring = MakeRing(RingGrowth::kUnlimited);
  const size_t least = RingTestPeer::Memory(ring);
  for (int round = 0; round < 3; ++round) {
    constexpr uint32_t kRecords = 300'000;
    for (uint32_t i = 0; i < kRecords; ++i) {
      ASSERT_EQ(Put(ring, Data(i, i % 1000)), RingResult::kDone);
    }
    EXPECT_EQ(ring.size(), kRecords);
    // About 508 bytes each. Regions grow by four, and what a region has, by a
    // quarter.
    EXPECT_GE(ring.reserved_bytes(), 145 * kMiB);
    EXPECT_LE(ring.reserved_bytes(), 185 * kMiB);
    EXPECT_GE(RingTestPeer::Memory(ring), 145 * kMiB);
    for (uint32_t i = 0; i < kRecords; ++i) {
      ASSERT_TRUE(Get(ring) == Data(i, i % 1000));
    }
    EXPECT_EQ(ring.size(), 0U);
    EXPECT_LE(RingTestPeer::Memory(ring), least + kKept);
    EXPECT_LE(ring.reserved_bytes(), least + kKept);
  }
}

// Memory goes back while there are records, too.
TEST_F(RingGrowthTest, FollowsWhatIsInIt) {
  Ring ring = MakeRing(RingGrowth::kUnlimited);
  uint32_t put = 0;
  uint32_t gotten = 0;
  const auto put_some = [&](int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(Put(ring, Data(put++, 1000)), RingResult::kDone);
    }
  };
  const auto get_some = [&](int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_TRUE(Get(ring) == Data(gotten++, 1000));
    }
  };
  put_some(100'000);  // more than fits into the region of 64 MiB
  const size_t most = RingTestPeer::Memory(ring);
  get_some(99'000);
  EXPECT_LT(RingTestPeer::Memory(ring), most - 60 * kMiB);
  // Never empty, never more than before.
  for (int i = 0; i < 20; ++i) {
    put_some(1000);
    get_some(1000);
  }
  EXPECT_LT(RingTestPeer::Memory(ring), most);
  get_some(1000);
  EXPECT_LE(RingTestPeer::Memory(ring), kKept);
}

// Puts and gets of all sizes; small rings of everything, so that many regions
// come and go; positions near the end of what they count.
TEST_F(RingGrowthTest, BehavesLikeADeque) {
  for (const uint32_t blocks : {0U, std::numeric_limits<uint32_t>::max() - 7}) {
    for (const uint32_t max_records : {0U, 40U}) {
      Ring ring = MakeRing(RingGrowth::kUnlimited, 1, max_records);
      RingTestPeer::SetCursors(ring, blocks / 3, blocks);
      std::minstd_rand random(1);
      std::deque<std::string> model;
      uint32_t id = 0;
      unsigned put_share = 0;
      for (int i = 0; i < 20'000; ++i) {
        if (i % 256 == 0) put_share = 2 + random() % 5;
        if (random() % 8 < put_share) {
          const size_t limit = random() % 64 == 0  ? 300'000
                               : random() % 8 == 0 ? 20'000
                                                   : 300;
          const std::string data = Data(id++, random() % limit);
          const bool fits = max_records == 0 || model.size() < max_records;
          ASSERT_EQ(Put(ring, data),
                    fits ? RingResult::kDone : RingResult::kTimedOut);
          if (fits) model.push_back(data);
        } else if (model.empty()) {
          ASSERT_EQ(Get(ring), std::nullopt);
        } else {
          ASSERT_TRUE(Get(ring) == model.front());
          model.pop_front();
        }
        ASSERT_EQ(ring.size(), model.size());
        ASSERT_EQ(ring.HasRecord(), !model.empty());
      }
    }
  }
}

TEST_F(RingGrowthTest, LargeRecordWaitsUntilTheRingIsEmpty) {
  Ring ring = MakeRing(RingGrowth::kForLargeRecords, 1 << 16);
  const std::string large = Data(1, 20 * kMiB);
  ASSERT_EQ(Put(ring, "small"), RingResult::kDone);
  EXPECT_EQ(Put(ring, large), RingResult::kTimedOut);
  EXPECT_EQ(Get(ring), "small");
  const size_t least = RingTestPeer::Memory(ring);
  ASSERT_EQ(Put(ring, large), RingResult::kDone);
  EXPECT_EQ(Put(ring, large), RingResult::kTimedOut);
  // It has more memory than it needs, but not for others.
  EXPECT_EQ(Put(ring, "behind"), RingResult::kTimedOut);
  EXPECT_TRUE(Get(ring) == large);
  EXPECT_EQ(Put(ring, Data(2, 40 * kMiB)), RingResult::kDone);
  EXPECT_TRUE(Get(ring) == Data(2, 40 * kMiB));
  EXPECT_LE(RingTestPeer::Memory(ring), least + kKept);
  // Small ones find no more room than before.
  int count = 0;
  while (Put(ring, Data(3, 1000)) == RingResult::kDone) ++count;
  EXPECT_EQ(count, (1 << 16) / 1008);
}

TEST_F(RingGrowthTest, WhatIsNotLargeSharesTheSmallRegions) {
  absl::StatusOr<Ring> ring =
      Ring::Create({.name = "ring-growth-test",
                    .capacity_bytes = 1 << 16,
                    .growth = RingGrowth::kForLargeRecords,
                    .large_bytes = 1 << 20});
  ASSERT_OK(ring);
  for (int round = 0; round < 3; ++round) {
    int count = 0;
    while (Put(*ring, Data(3, 1000)) == RingResult::kDone) ++count;
    // In three regions, of which the smaller two have some bytes left over.
    EXPECT_LE(count, ((1 << 16) + (1 << 18) + (1 << 20)) / 1008);
    EXPECT_GE(count, ((1 << 16) + (1 << 18) + (1 << 20)) / 1008 - 2);
    for (int i = 0; i < count; ++i) EXPECT_EQ(Get(*ring), Data(3, 1000));
    ASSERT_EQ(Put(*ring, "small"), RingResult::kDone);
    ASSERT_EQ(Put(*ring, Data(4, kMiB - 8)), RingResult::kDone);
    EXPECT_EQ(Put(*ring, Data(5, kMiB)), RingResult::kTimedOut);
    EXPECT_EQ(Get(*ring), "small");
    EXPECT_TRUE(Get(*ring) == Data(4, kMiB - 8));
    ASSERT_EQ(Put(*ring, Data(5, kMiB)), RingResult::kDone);
    EXPECT_TRUE(Get(*ring) == Data(5, kMiB));
  }
}

TEST_F(RingGrowthTest, LargestRecord) {
  Ring ring = MakeRing(RingGrowth::kForLargeRecords, 1 << 16);
  EXPECT_EQ(ring.max_record_size(), (size_t{4} << 30) - kBlock);
  EXPECT_EQ(ring.Put(
                ring.max_record_size() + 1,
                [](std::byte*, uint32_t) { return true; }, kInfinite),
            RingResult::kTooLarge);
  EXPECT_EQ(MakeRing(RingGrowth::kNone, 1 << 16).max_record_size(),
            (size_t{1} << 16) - kBlock);
}

TEST_F(PatientRingGrowthTest, WaitingLargeRecordGoesOnceTheRingIsEmpty) {
  Ring ring = MakeRing(RingGrowth::kForLargeRecords);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(Put(ring, "small"), RingResult::kDone);
  auto putter = ChildProcess::Start([&] {
    EXPECT_EQ(Put(ring, Data(1, kMiB), kInfinite), RingResult::kDone);
  });
  ASSERT_TRUE(putter.WaitUntilAsleep());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get(ring, kInfinite), "small");
  EXPECT_TRUE(Get(ring, kInfinite) == Data(1, kMiB));
  putter.ExpectExit();
}

// Each process maps a region when it comes there.
TEST_F(RingGrowthTest, OtherProcessesFollow) {
  Ring ring = MakeRing(RingGrowth::kUnlimited);
  ASSERT_EQ(Put(ring, "first"), RingResult::kDone);
  auto consumer = ChildProcess::Start([&] {
    EXPECT_EQ(Get(ring, kInfinite), "first");
    for (uint32_t i = 0; i < 2000; ++i) {
      ASSERT_TRUE(Get(ring, kInfinite) == Data(i, i % 20'000));
    }
  });
  auto producer = ChildProcess::Start([&] {
    for (uint32_t i = 0; i < 2000; ++i) {
      ASSERT_EQ(Put(ring, Data(i, i % 20'000), kInfinite), RingResult::kDone);
    }
  });
  producer.ExpectExit();
  consumer.ExpectExit();
  ASSERT_EQ(Put(ring, Data(5, 100'000)), RingResult::kDone);
  EXPECT_TRUE(Get(ring) == Data(5, 100'000));
}

TEST_F(RingGrowthTest, ManyThreads) {
  Ring ring = MakeRing(RingGrowth::kUnlimited);
  constexpr int kEach = 1500;
  std::vector<std::thread> threads;
  std::atomic<uint64_t> sum = 0;
  for (uint32_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(t + 1);
      for (int i = 0; i < kEach; ++i) {
        const std::string data = Data(t, 8 + random() % 30'000);
        sum += data.size();
        ASSERT_EQ(Put(ring, data, kInfinite), RingResult::kDone);
      }
    });
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        const std::optional<std::string> data = Get(ring, kInfinite);
        ASSERT_TRUE(data.has_value());
        uint32_t id;
        std::memcpy(&id, data->data(), sizeof(id));
        ASSERT_TRUE(*data == Data(id, data->size()));
        sum -= data->size();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 0U);
  EXPECT_EQ(ring.size(), 0U);
}

// ---- Without memory.

TEST_F(RingGrowthTest, SizeOfFilesIsLimited) {
  auto child = ChildProcess::Start([] {
    const rlimit little = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
    Ring ring = MakeRing(RingGrowth::kUnlimited, 1 << 16);
    EXPECT_EQ(ring.max_record_size(), (1U << 18) - kBlock);
    EXPECT_EQ(Put(ring, Data(1, 200'000)), RingResult::kDone);
    EXPECT_TRUE(Get(ring) == Data(1, 200'000));
  });
  child.ExpectExit();
}

TEST_F(RingGrowthTest, NoMemory) {
  Ring ring = MakeRing(RingGrowth::kUnlimited);
  ASSERT_EQ(Put(ring, "before"), RingResult::kDone);
  auto child = ChildProcess::Start([&] {
    FailSystemCall(SYS_fallocate, ENOSPC);
    EXPECT_EQ(Put(ring, Data(1, 100'000)), RingResult::kNoMemory);
    EXPECT_THAT(Ring::LastMemoryError(),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         HasSubstr("posix_fallocate")));
  });
  child.ExpectExit();
  // Nothing is lost, and with memory it goes on.
  EXPECT_EQ(Put(ring, Data(2, 100'000)), RingResult::kDone);
  EXPECT_EQ(Get(ring), "before");
  EXPECT_TRUE(Get(ring) == Data(2, 100'000));
}

TEST_F(RingGrowthTest, NoAddresses) {
  Ring ring = MakeRing(RingGrowth::kUnlimited);
  ASSERT_EQ(Put(ring, "before"), RingResult::kDone);
  ASSERT_EQ(Put(ring, Data(1, 100'000)), RingResult::kDone);
  auto child = ChildProcess::Start([&] {
    Ring inherited = ring;
    EXPECT_EQ(Get(inherited), "before");
    // A region that this process has not seen yet.
    ASSERT_EQ(Put(inherited, Data(2, 2 * kMiB)), RingResult::kDone);
  });
  child.ExpectExit();
  EXPECT_TRUE(Get(ring) == Data(1, 100'000));
  auto without = ChildProcess::Start([&] {
    FailSystemCall(SYS_mmap, ENOMEM);
    EXPECT_EQ(ring.Get([](auto, uint32_t) {}, kNow), RingResult::kNoMemory);
    EXPECT_THAT(
        Ring::LastMemoryError(),
        StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("mmap")));
  });
  without.ExpectExit();
  EXPECT_TRUE(Get(ring) == Data(2, 2 * kMiB)) << "it has stayed";
}

}  // namespace
}  // namespace mp::ipc_internal
