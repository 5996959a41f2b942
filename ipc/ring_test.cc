#include "mp/ipc/ring.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/shm/segment.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {

// Reaches into a ring's shared memory.
struct RingTestPeer {
  using Cursor = Ring::Cursor;

  // As if so much had passed through the ring, which must be empty and unused.
  static void SetCursors(Ring& ring, uint32_t records, uint32_t blocks) {
    Ring::Control& control = *ring.control_;
    const uint64_t cursor =
        Cursor{.records = records, .blocks = blocks}.packed();
    control.tail = cursor;
    control.producers.tail = cursor;
    control.head = cursor;
    control.producers.room_blocks = 0;
    control.consumers.seen_tail = cursor;
  }
  static void MoveTail(Ring& ring, uint32_t blocks) {
    Ring::Control& control = *ring.control_;
    Cursor tail = Cursor::Unpack(control.tail);
    tail.blocks += blocks;
    control.tail = tail.packed();
    control.producers.tail = tail.packed();
    control.producers.room_blocks = 0;
    control.consumers.seen_tail = control.tail;
  }
  static std::span<std::byte> Control(Ring& ring) {
    return std::as_writable_bytes(std::span(ring.control_.get(), 1));
  }
  static std::span<std::byte> Memory(Ring& ring) {
    return {ring.mapping_->regions[0].load(), ring.capacity_blocks_ * kBlock};
  }
  static void SetReserved(Ring& ring, uint32_t region, uint32_t blocks) {
    ring.control_->regions[region].reserved = blocks;
  }
  // Which thread has claimed the next room; 0 for none.
  static uint64_t Claim(const Ring& ring) {
    return ring.control_->claim.load();
  }
  static void SetClaim(Ring& ring, uint64_t claim) {
    ring.control_->claim = claim;
  }
  static constexpr uint64_t kLayout = Ring::kLayout;
};

namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

constexpr Deadline kNow = Deadline::Now();
constexpr Deadline kInfinite = Deadline::Infinite();

struct Record {
  std::string data;
  uint32_t number = 0;
};

RingResult Put(Ring& ring, std::string_view data, Deadline deadline = kNow,
               uint32_t* number = nullptr) {
  return ring.Put(
      data.size(),
      [&](std::byte* to, uint32_t n) {
        std::copy(data.begin(), data.end(), reinterpret_cast<char*>(to));
        if (number != nullptr) *number = n;
        return true;
      },
      deadline);
}

RingResult Get(Ring& ring, Record* record, Deadline deadline = kNow,
               Token watched = kNoToken) {
  return ring.Get(
      [&](std::span<const std::byte> bytes, uint32_t number) {
        record->data.assign(reinterpret_cast<const char*>(bytes.data()),
                            bytes.size());
        record->number = number;
      },
      deadline, Ring::WatchOne{watched});
}

std::optional<std::string> TryGet(Ring& ring) {
  Record record;
  if (Get(ring, &record) != RingResult::kDone) return std::nullopt;
  return record.data;
}

class RingTest : public testing::ProcessTest {
 protected:
  // The smallest there is: one page, which on some machines is 64 KiB.
  static Ring MakeRing(uint32_t max_records = 0, size_t capacity_bytes = 1) {
    absl::StatusOr<Ring> ring = Ring::Create({.name = "ring-test",
                                              .capacity_bytes = capacity_bytes,
                                              .max_records = max_records});
    if (!ring.ok()) throw std::runtime_error(ring.status().ToString());
    return *std::move(ring);
  }

  static size_t Capacity(const Ring& ring) {
    return ring.max_record_size() + kBlock;
  }
};

// Sleepers do not look around by themselves, so a wake-up that is lost hangs
// the test. For tests in which nobody dies.
class PatientRingTest : public RingTest {
 protected:
  PatientRingTest() { ParkSlices::SetFirstForTest(3600'000'000'000); }
  ~PatientRingTest() override { ParkSlices::SetFirstForTest(0); }
};

// ---- Against a model.

// Runs random puts and gets, and looks at everything after each.
void CompareWithModel(Ring ring, uint32_t first_number, int operations) {
  const size_t capacity = ring.max_record_size() + kBlock;
  std::minstd_rand random(1);
  std::deque<std::string> model;
  size_t used = 0;
  uint32_t put_number = first_number;
  uint32_t get_number = first_number;
  // Tends to fill and to drain the ring by turns.
  unsigned put_share = 0;
  for (int i = 0; i < operations; ++i) {
    if (i % 512 == 0) put_share = 2 + random() % 5;
    if (random() % 8 < put_share) {
      // Mostly small; sometimes about as large as the ring.
      const size_t limit = random() % 16 == 0 ? capacity : 300;
      const std::string data(random() % limit,
                             static_cast<char>('a' + random() % 26));
      const bool fits =
          used + RecordSize(data.size()) <= capacity &&
          (ring.max_records() == 0 || model.size() < ring.max_records());
      uint32_t number = 0;
      const RingResult result = Put(ring, data, kNow, &number);
      if (data.size() > ring.max_record_size()) {
        ASSERT_EQ(result, RingResult::kTooLarge);
      } else {
        ASSERT_EQ(result, fits ? RingResult::kDone : RingResult::kTimedOut);
      }
      if (result == RingResult::kDone) {
        ASSERT_EQ(number, put_number++);
        model.push_back(data);
        used += RecordSize(data.size());
      }
    } else {
      Record record;
      const RingResult result = Get(ring, &record);
      ASSERT_EQ(result, model.empty() ? RingResult::kTimedOut  //
                                      : RingResult::kDone);
      if (result == RingResult::kDone) {
        ASSERT_EQ(record.data, model.front());
        ASSERT_EQ(record.number, get_number++);
        used -= RecordSize(record.data.size());
        model.pop_front();
      }
    }
    ASSERT_EQ(ring.size(), model.size());
    ASSERT_EQ(ring.HasRecord(), !model.empty());
    ASSERT_EQ(ring.gotten(), get_number);
  }
}

TEST_F(RingTest, BehavesLikeADeque) {
  CompareWithModel(MakeRing(), 0, 100'000);
}

TEST_F(RingTest, BehavesLikeABoundedDeque) {
  CompareWithModel(MakeRing(/*max_records=*/5), 0, 100'000);
}

TEST_F(RingTest, BehavesTheSameWhenItsMemoryComesWhenItIsNeeded) {
  constexpr size_t kCapacity = size_t{1} << 20;
  absl::StatusOr<Ring> ring = Ring::Create(
      {.name = "ring-test", .capacity_bytes = kCapacity, .reserved_bytes = 1});
  ASSERT_OK(ring);
  EXPECT_LT(ring->reserved_bytes(), kCapacity / 8);
  ASSERT_EQ(Put(*ring, "x"), RingResult::kDone);
  EXPECT_LT(ring->reserved_bytes(), kCapacity / 8);
  ASSERT_EQ(TryGet(*ring), "x");
  CompareWithModel(*ring, 1, 20'000);
  EXPECT_EQ(ring->reserved_bytes(), kCapacity);
}

TEST_F(RingTest, MemoryThatDoesNotComeLeavesTheRingAsItWas) {
  auto child = ChildProcess::Start([] {
    absl::StatusOr<Ring> ring = Ring::Create({.name = "ring-test",
                                              .capacity_bytes = size_t{1} << 20,
                                              .reserved_bytes = 1});
    ASSERT_OK(ring);
    testing::FailSystemCall(SYS_fallocate, ENOSPC);
    const std::string large(100'000, 'x');
    EXPECT_EQ(Put(*ring, large), RingResult::kNoMemory);
    EXPECT_TRUE(absl::IsResourceExhausted(Ring::LastMemoryError()));
    EXPECT_EQ(Put(*ring, "y"), RingResult::kDone);
    EXPECT_EQ(Put(*ring, large), RingResult::kNoMemory);
    EXPECT_EQ(TryGet(*ring), "y");
    EXPECT_EQ(TryGet(*ring), std::nullopt);
  });
  child.ExpectExit(0);
}

TEST_F(RingTest, CountersWrapAround) {
  constexpr uint32_t kMax = std::numeric_limits<uint32_t>::max();
  for (const uint32_t records : {kMax - 1000, 0u}) {
    for (const uint32_t blocks : {kMax / 8 * 8 - 8000, 0u}) {
      Ring ring = MakeRing();
      RingTestPeer::SetCursors(ring, records, blocks);
      CompareWithModel(ring, records, 20'000);
    }
  }
}

// The same without reaching into it: 32 GiB pass through.
TEST_F(RingTest, PositionsWrapAround) {
  Ring ring = MakeRing(0, size_t{1} << 24);
  const size_t max = ring.max_record_size();
  const uint64_t rounds = (uint64_t{1} << 32) * kBlock / Capacity(ring) + 2;
  for (uint64_t i = 0; i < rounds; ++i) {
    ASSERT_EQ(
        ring.Put(
            max, [](std::byte*, uint32_t) { return true; },  // writes nothing
            kNow),
        RingResult::kDone);
    ASSERT_EQ(ring.Get([](auto, uint32_t) {}, kNow), RingResult::kDone);
  }
  EXPECT_EQ(ring.gotten(), rounds);
  CompareWithModel(ring, static_cast<uint32_t>(rounds), 1000);
}

// ---- How much fits.

TEST_F(RingTest, CapacityIsExact) {
  for (const size_t size : {0, 1, 8, 9, 64}) {
    Ring ring = MakeRing();
    const std::string data(size, 'x');
    const size_t fit = Capacity(ring) / RecordSize(size);
    for (size_t i = 0; i < fit; ++i) {
      ASSERT_EQ(Put(ring, data), RingResult::kDone) << i;
    }
    EXPECT_EQ(ring.size(), fit);
    if (Capacity(ring) % RecordSize(size) == 0) {
      EXPECT_EQ(Put(ring, ""), RingResult::kTimedOut);
    }
    EXPECT_EQ(Put(ring, data), RingResult::kTimedOut);
    EXPECT_EQ(TryGet(ring), data);
    EXPECT_EQ(Put(ring, data), RingResult::kDone);
    EXPECT_EQ(Put(ring, data), RingResult::kTimedOut);
  }
}

TEST_F(RingTest, MaxRecordsIsExact) {
  Ring ring = MakeRing(/*max_records=*/3);
  EXPECT_EQ(ring.max_records(), 3u);
  for (const char* data : {"a", "b", "c"}) {
    EXPECT_EQ(Put(ring, data), RingResult::kDone);
  }
  EXPECT_EQ(Put(ring, "d"), RingResult::kTimedOut);
  EXPECT_EQ(TryGet(ring), "a");
  EXPECT_EQ(Put(ring, "e"), RingResult::kDone);
  EXPECT_EQ(Put(ring, "f"), RingResult::kTimedOut);
  EXPECT_EQ(ring.size(), 3u);
  EXPECT_EQ(MakeRing().max_records(), 0u);
}

TEST_F(RingTest, LargestRecord) {
  Ring ring = MakeRing();
  std::string largest(ring.max_record_size(), ' ');
  for (size_t i = 0; i < largest.size(); ++i) {
    largest[i] = static_cast<char>(i * 31);
  }
  // At every offset, so that it runs over the end in all ways.
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(Put(ring, largest), RingResult::kDone);
    ASSERT_EQ(Put(ring, ""), RingResult::kTimedOut);
    ASSERT_EQ(TryGet(ring), largest);
    ASSERT_EQ(Put(ring, ""), RingResult::kDone);
    ASSERT_EQ(Put(ring, largest), RingResult::kTimedOut);
    ASSERT_EQ(TryGet(ring), "");
  }
}

TEST_F(RingTest, TooLarge) {
  Ring ring = MakeRing();
  constexpr size_t kMax = std::numeric_limits<size_t>::max();
  for (const size_t size :
       {ring.max_record_size() + 1, Capacity(ring), Capacity(ring) * 2,
        size_t{1} << 31, size_t{1} << 32, (size_t{1} << 35) - 8, kMax / 2,
        kMax - 15, kMax - 8, kMax - 7, kMax}) {
    const auto fill = [](std::byte*, uint32_t) {
      ADD_FAILURE() << "there is no room to write to";
      return true;
    };
    EXPECT_EQ(ring.Put(size, fill, kInfinite), RingResult::kTooLarge) << size;
  }
  EXPECT_EQ(ring.size(), 0u);
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
}

TEST_F(RingTest, CapacityIsRoundedUp) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  EXPECT_EQ(Capacity(MakeRing(0, 1)), page);
  EXPECT_EQ(Capacity(MakeRing(0, page)), page);
  EXPECT_EQ(Capacity(MakeRing(0, page + 1)), 2 * page);
  EXPECT_EQ(Capacity(MakeRing(0, 5 * page)), 8 * page);
}

TEST_F(RingTest, AbsurdCapacity) {
  for (const size_t bytes :
       {size_t{0}, (size_t{1} << 34) + 1, std::numeric_limits<size_t>::max()}) {
    EXPECT_THAT(
        Ring::Create({.name = "absurd", .capacity_bytes = bytes}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("capacity of")));
  }
}

TEST_F(RingTest, RecordsAreAligned) {
  Ring ring = MakeRing();
  for (size_t size = 1; size < 30; ++size) {
    const auto fill = [](std::byte* to, uint32_t) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(to) % kBlock, 0u);
      return true;
    };
    EXPECT_EQ(ring.Put(size, fill, kNow), RingResult::kDone);
    const auto use = [&](std::span<const std::byte> bytes, uint32_t) {
      EXPECT_EQ(bytes.size(), size);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % kBlock, 0u);
    };
    EXPECT_EQ(ring.Get(use, kNow), RingResult::kDone);
  }
}

TEST_F(RingTest, Handles) {
  Ring ring = MakeRing();
  Ring same = ring;
  EXPECT_EQ(ring, same);
  EXPECT_NE(ring, MakeRing());
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  EXPECT_EQ(TryGet(same), "x");
}

// ---- Puts and gets that do not come to an end.

TEST_F(RingTest, FillThatRefusesLeavesNothing) {
  Ring ring = MakeRing();
  EXPECT_EQ(Put(ring, "before"), RingResult::kDone);
  const auto fill = [](std::byte* to, uint32_t number) {
    EXPECT_EQ(number, 1u);
    std::memset(to, 0x55, 100);
    return false;
  };
  EXPECT_EQ(ring.Put(100, fill, kNow), RingResult::kAborted);
  EXPECT_EQ(ring.size(), 1u);
  uint32_t number = 0;
  EXPECT_EQ(Put(ring, "after", kNow, &number), RingResult::kDone);
  EXPECT_EQ(number, 1u);
  EXPECT_EQ(TryGet(ring), "before");
  EXPECT_EQ(TryGet(ring), "after");
  EXPECT_EQ(TryGet(ring), std::nullopt);
}

TEST_F(RingTest, FillThatThrowsLeavesNothing) {
  Ring ring = MakeRing();
  const auto fill = [](std::byte*, uint32_t) -> bool {
    throw std::runtime_error("fill");
  };
  EXPECT_THROW(ring.Put(100, fill, kNow), std::runtime_error);
  EXPECT_EQ(ring.size(), 0u);
  uint32_t number = 1;
  EXPECT_EQ(Put(ring, "after", kNow, &number), RingResult::kDone);
  EXPECT_EQ(number, 0u);
  EXPECT_EQ(TryGet(ring), "after");
}

TEST_F(RingTest, UseThatThrowsLeavesTheRecord) {
  Ring ring = MakeRing();
  EXPECT_EQ(Put(ring, "first"), RingResult::kDone);
  EXPECT_EQ(Put(ring, "second"), RingResult::kDone);
  const auto use = [](std::span<const std::byte>, uint32_t) {
    throw std::runtime_error("use");
  };
  EXPECT_THROW(ring.Get(use, kNow), std::runtime_error);
  EXPECT_THROW(ring.Get(use, kNow), std::runtime_error);
  EXPECT_EQ(ring.size(), 2u);
  EXPECT_EQ(ring.gotten(), 0u);
  EXPECT_EQ(TryGet(ring), "first");
  EXPECT_EQ(TryGet(ring), "second");
}

TEST_F(RingTest, ProcessDiesInFill) {
  Ring ring = MakeRing();
  EXPECT_EQ(Put(ring, "before"), RingResult::kDone);
  ChildProcess::Start([&] {
    ring.Put(
        100,
        [](std::byte* to, uint32_t) {
          std::memset(to, 0x55, 50);
          kill(getpid(), SIGKILL);
          return true;
        },
        kNow);
  }).ExpectSignal(SIGKILL);
  EXPECT_EQ(ring.size(), 1u);
  EXPECT_EQ(Put(ring, "after"), RingResult::kDone);
  EXPECT_EQ(TryGet(ring), "before");
  EXPECT_EQ(TryGet(ring), "after");
}

TEST_F(RingTest, ProcessDiesInUse) {
  Ring ring = MakeRing();
  EXPECT_EQ(Put(ring, "first"), RingResult::kDone);
  EXPECT_EQ(Put(ring, "second"), RingResult::kDone);
  ChildProcess::Start([&] {
    ring.Get([](auto, uint32_t) { kill(getpid(), SIGKILL); }, kNow);
  }).ExpectSignal(SIGKILL);
  EXPECT_EQ(ring.size(), 2u);
  EXPECT_EQ(TryGet(ring), "first");
  EXPECT_EQ(TryGet(ring), "second");
}

// ---- Waiting.

TEST_F(RingTest, WaitsAtLeastUntilTheDeadline) {
  Ring ring = MakeRing(/*max_records=*/1);
  const auto elapsed = [](int64_t since) { return MonotonicNanos() - since; };
  int64_t start = MonotonicNanos();
  Record record;
  EXPECT_EQ(Get(ring, &record, Deadline::After(absl::Milliseconds(30))),
            RingResult::kTimedOut);
  EXPECT_GE(elapsed(start), 30'000'000);
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  start = MonotonicNanos();
  EXPECT_EQ(Put(ring, "y", Deadline::After(absl::Milliseconds(30))),
            RingResult::kTimedOut);
  EXPECT_GE(elapsed(start), 30'000'000);
}

TEST_F(PatientRingTest, WakesConsumers) {
  Ring ring = MakeRing();
  std::vector<ChildProcess> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.push_back(ChildProcess::Start([&] {
      Record record;
      EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
      EXPECT_EQ(record.data, "x");
    }));
  }
  for (ChildProcess& each : consumers) ASSERT_TRUE(each.WaitUntilAsleep());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  for (ChildProcess& each : consumers) each.ExpectExit();
}

TEST_F(PatientRingTest, WakesProducers) {
  Ring ring = MakeRing(/*max_records=*/3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  std::vector<ChildProcess> producers;
  for (int i = 0; i < 3; ++i) {
    producers.push_back(ChildProcess::Start(
        [&] { EXPECT_EQ(Put(ring, "y", kInfinite), RingResult::kDone); }));
  }
  for (ChildProcess& each : producers) ASSERT_TRUE(each.WaitUntilAsleep());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(TryGet(ring), "x");
  for (ChildProcess& each : producers) each.ExpectExit();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(TryGet(ring), "y");
}

// Who was woken and then does not take the record leaves it to another sleeper.
TEST_F(PatientRingTest, UseThatThrowsPassesTheWakeUpOn) {
  Ring ring = MakeRing();
  const SharedPage<std::atomic<int>> calls;
  std::vector<ChildProcess> consumers;
  for (int i = 0; i < 2; ++i) {
    consumers.push_back(ChildProcess::Start([&] {
      const auto use = [&](auto, uint32_t) {
        if (++*calls == 1) throw std::runtime_error("use");
      };
      try {
        EXPECT_EQ(ring.Get(use, kInfinite), RingResult::kDone);
      } catch (const std::runtime_error&) {
      }
    }));
  }
  for (ChildProcess& each : consumers) ASSERT_TRUE(each.WaitUntilAsleep());
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  for (ChildProcess& each : consumers) each.ExpectExit();
  EXPECT_EQ(*calls, 2);
  EXPECT_EQ(ring.size(), 0u);
}

TEST_F(PatientRingTest, FillThatRefusesPassesTheWakeUpOn) {
  Ring ring = MakeRing(/*max_records=*/1);
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  const SharedPage<std::atomic<int>> calls;
  std::vector<ChildProcess> producers;
  for (int i = 0; i < 2; ++i) {
    producers.push_back(ChildProcess::Start([&] {
      ring.Put(
          1, [&](std::byte*, uint32_t) { return ++*calls != 1; }, kInfinite);
    }));
  }
  for (ChildProcess& each : producers) ASSERT_TRUE(each.WaitUntilAsleep());
  EXPECT_EQ(TryGet(ring), "x");
  for (ChildProcess& each : producers) each.ExpectExit();
  EXPECT_EQ(*calls, 2);
  EXPECT_EQ(ring.size(), 1u);
}

// Another put or get that is under way is no sign of a full or an empty ring.
TEST_F(RingTest, WithoutWaitingUnderContention) {
  constexpr int kProcesses = 4;
  constexpr int kEach = 2000;
  constexpr size_t kSize = 100;
  Ring ring = MakeRing(0, kProcesses * kEach * RecordSize(kSize));
  // Long enough to be met by others.
  const auto dawdle = [] {
    for (int i = 0; i < 5000; ++i) asm volatile("");
  };
  std::vector<ChildProcess> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([&] {
      const auto fill = [&](std::byte*, uint32_t) {
        dawdle();
        return true;
      };
      for (int j = 0; j < kEach; ++j) {
        ASSERT_EQ(ring.Put(kSize, fill, kNow), RingResult::kDone) << j;
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit();
  EXPECT_EQ(ring.size(), static_cast<uint32_t>(kProcesses * kEach));
  children.clear();
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([&] {
      const auto use = [&](auto, uint32_t) { dawdle(); };
      while (ring.Get(use, kNow) == RingResult::kDone) {
      }
      EXPECT_FALSE(ring.HasRecord());
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit();
  EXPECT_EQ(ring.size(), 0u);
}

// A stopped process is not dead: others do not take over from it, but nor do
// those that do not want to wait.
TEST_F(RingTest, ProcessStopsInFill) {
  Ring ring = MakeRing();
  const SharedPage<std::atomic<bool>> inside;
  auto stopped = ChildProcess::Start([&] {
    ring.Put(
        1,
        [&](std::byte*, uint32_t) {
          *inside = true;
          pause();
          return true;
        },
        kNow);
  });
  while (!*inside) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_TRUE(stopped.Stop());
  EXPECT_EQ(Put(ring, "x", kNow), RingResult::kTimedOut);
  EXPECT_EQ(Put(ring, "x", Deadline::After(absl::Milliseconds(10))),
            RingResult::kTimedOut);
  EXPECT_EQ(TryGet(ring), std::nullopt);
  stopped.Kill();
  stopped.ExpectSignal(SIGKILL);
  EXPECT_EQ(Put(ring, "x", kNow), RingResult::kDone);
  EXPECT_EQ(TryGet(ring), "x");
}

// ---- Closing.

TEST_F(RingTest, Close) {
  Ring ring = MakeRing();
  EXPECT_FALSE(ring.closed());
  EXPECT_EQ(Put(ring, "first"), RingResult::kDone);
  EXPECT_EQ(Put(ring, "second"), RingResult::kDone);
  ring.Close();
  EXPECT_TRUE(ring.closed());
  EXPECT_EQ(Put(ring, "third"), RingResult::kClosed);
  EXPECT_EQ(Put(ring, "third", kInfinite), RingResult::kClosed);
  EXPECT_EQ(TryGet(ring), "first");
  ring.Close();
  EXPECT_EQ(TryGet(ring), "second");
  Record record;
  EXPECT_EQ(Get(ring, &record), RingResult::kClosed);
  EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kClosed);
}

TEST_F(PatientRingTest, CloseWakesEverybody) {
  Ring empty = MakeRing();
  Ring full = MakeRing(/*max_records=*/1);
  EXPECT_EQ(Put(full, "x"), RingResult::kDone);
  std::vector<ChildProcess> sleepers;
  for (int i = 0; i < 3; ++i) {
    sleepers.push_back(ChildProcess::Start([&] {
      Record record;
      EXPECT_EQ(Get(empty, &record, kInfinite), RingResult::kClosed);
    }));
    sleepers.push_back(ChildProcess::Start(
        [&] { EXPECT_EQ(Put(full, "y", kInfinite), RingResult::kClosed); }));
    sleepers.push_back(ChildProcess::Start([&] {
      EXPECT_TRUE(empty.WaitForRecord([] { return false; }, kInfinite));
    }));
  }
  for (ChildProcess& each : sleepers) ASSERT_TRUE(each.WaitUntilAsleep());
  empty.Close();
  full.Close();
  for (ChildProcess& each : sleepers) each.ExpectExit();
  EXPECT_EQ(TryGet(full), "x");
}

// However Close() falls in between puts: what was put is gotten.
TEST_F(PatientRingTest, CloseLosesNothing) {
  for (int round = 0; round < 100; ++round) {
    Ring ring = MakeRing();
    const SharedPage<std::atomic<int>> put;
    auto producer = ChildProcess::Start([&] {
      while (Put(ring, "x", kInfinite) == RingResult::kDone) ++*put;
    });
    auto closer = ChildProcess::Start([&] {
      while (*put < round) {
      }
      ring.Close();
    });
    int gotten = 0;
    Record record;
    while (Get(ring, &record, kInfinite) == RingResult::kDone) ++gotten;
    producer.ExpectExit();
    closer.ExpectExit();
    ASSERT_EQ(gotten, *put);
  }
}

// ---- Watching a process.

TEST_F(RingTest, WatchedProcessDies) {
  Ring empty = MakeRing();
  Ring full = MakeRing(/*max_records=*/1);
  EXPECT_EQ(Put(full, "x"), RingResult::kDone);
  const SharedPage<std::atomic<Token>> token;
  auto watched = ChildProcess::Start([&] {
    *token = Liveness::Self();
    pause();
  });
  while (*token == kNoToken) absl::SleepFor(absl::Milliseconds(1));
  std::vector<ChildProcess> sleepers;
  for (int i = 0; i < 2; ++i) {
    sleepers.push_back(ChildProcess::Start([&] {
      Record record;
      EXPECT_EQ(Get(empty, &record, kInfinite, *token), RingResult::kTimedOut);
    }));
    sleepers.push_back(ChildProcess::Start([&] {
      EXPECT_EQ(full.Put(
                    1, [](std::byte*, uint32_t) { return true; }, kInfinite,
                    Ring::WatchOne{*token}),
                RingResult::kTimedOut);
    }));
  }
  for (ChildProcess& each : sleepers) ASSERT_TRUE(each.WaitUntilAsleep());
  watched.Kill();
  watched.ExpectSignal(SIGKILL);
  for (ChildProcess& each : sleepers) each.ExpectExit();
  // Those who come later do not wait either, but take what is there.
  Record record;
  EXPECT_EQ(Get(empty, &record, kInfinite, *token), RingResult::kTimedOut);
  EXPECT_EQ(Get(full, &record, kInfinite, *token), RingResult::kDone);
}

TEST_F(RingTest, LastRecordOfTheWatchedProcess) {
  const SharedPage<std::atomic<Token>> token;
  for (int round = 0; round < 200; ++round) {
    Ring ring = MakeRing();
    *token = kNoToken;
    auto watched = ChildProcess::Start([&] {
      *token = Liveness::Self();
      absl::SleepFor(absl::Microseconds(round));
      EXPECT_EQ(Put(ring, "last"), RingResult::kDone);
      kill(getpid(), SIGKILL);
    });
    while (*token == kNoToken) {
    }
    Record record;
    ASSERT_EQ(Get(ring, &record, kInfinite, *token), RingResult::kDone);
    ASSERT_EQ(Get(ring, &record, kInfinite, *token), RingResult::kTimedOut);
    watched.ExpectSignal(SIGKILL);
  }
}

// ---- Waiting for a record without taking it.

TEST_F(RingTest, WaitForRecord) {
  Ring ring = MakeRing();
  const auto never = [] { return false; };
  EXPECT_FALSE(ring.WaitForRecord(never, kNow));
  const int64_t start = MonotonicNanos();
  EXPECT_FALSE(
      ring.WaitForRecord(never, Deadline::After(absl::Milliseconds(20))));
  EXPECT_GE(MonotonicNanos() - start, 20'000'000);
  EXPECT_TRUE(ring.WaitForRecord([] { return true; }, kNow));
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  EXPECT_TRUE(ring.WaitForRecord(never, kInfinite));
  EXPECT_EQ(ring.size(), 1u);
}

using SharedGate = BasicGate<KernelPlatform>;

TEST_F(RingTest, WaitForRecordAtAGateAsWell) {
  Ring ring = MakeRing();
  SharedGate gate;
  const auto never = [] { return false; };
  EXPECT_FALSE(ring.WaitForRecord(never, gate, kNow));
  const int64_t start = MonotonicNanos();
  EXPECT_FALSE(
      ring.WaitForRecord(never, gate, Deadline::After(absl::Milliseconds(20))));
  EXPECT_GE(MonotonicNanos() - start, 20'000'000);
  EXPECT_TRUE(ring.WaitForRecord([] { return true; }, gate, kNow));
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  EXPECT_TRUE(ring.WaitForRecord(never, gate, kInfinite));
  EXPECT_EQ(ring.size(), 1u);
}

TEST_F(PatientRingTest, WakesWhoWaitsForARecordAtAGateAsWell) {
  if (!HaveFutexWaitv()) GTEST_SKIP() << "the kernel has no futex_waitv";
  struct Shared {
    SharedGate gate;
    std::atomic<bool> also{false};
  };
  using Wake = void (*)(Ring&, Shared&);
  const Wake put = [](Ring& ring, Shared&) {
    EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  };
  const Wake close = [](Ring& ring, Shared&) { ring.Close(); };
  const Wake notify = [](Ring&, Shared& shared) {
    shared.also = true;
    FenceBeforeNotify();
    shared.gate.NotifyAll();
  };
  for (const Wake wake : {put, close, notify}) {
    Ring ring = MakeRing();
    const SharedPage<Shared> shared;
    auto sleeper = ChildProcess::Start([&] {
      EXPECT_TRUE(ring.WaitForRecord([&] { return shared->also.load(); },
                                     shared->gate, kInfinite));
    });
    ASSERT_TRUE(sleeper.WaitUntilAsleep());
    wake(ring, *shared);
    sleeper.ExpectExit();
  }
}

// It takes nothing, and another one sleeps.
TEST_F(PatientRingTest, WhoWaitsAtAGateAsWellPassesTheRecordOn) {
  Ring ring = MakeRing();
  auto waiter = ChildProcess::Start([&] {
    SharedGate gate;
    EXPECT_TRUE(ring.WaitForRecord([] { return false; }, gate, kInfinite));
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  auto consumer = ChildProcess::Start([&] {
    Record record;
    EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
  });
  ASSERT_TRUE(consumer.WaitUntilAsleep());
  EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  waiter.ExpectExit();
  consumer.ExpectExit();
}

TEST_F(PatientRingTest, WakeConsumer) {
  Ring ring = MakeRing();
  const SharedPage<std::atomic<bool>> also;
  auto sleeper = ChildProcess::Start([&] {
    EXPECT_TRUE(ring.WaitForRecord([&] { return also->load(); }, kInfinite));
    EXPECT_FALSE(ring.HasRecord());
  });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  *also = true;
  ring.WakeConsumer();
  sleeper.ExpectExit();
}

// A spinner has the producers leave the sleepers alone, but what it looks for
// is not what they look for.
TEST_F(PatientRingTest, WakeConsumerWhileAnotherSpins) {
  Ring ring = MakeRing();
  const SharedPage<std::atomic<bool>> also;
  auto sleeper = ChildProcess::Start([&] {
    EXPECT_TRUE(ring.WaitForRecord([&] { return also->load(); }, kInfinite));
  });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  AdaptiveSpin<KernelPlatform, kSpinForPartner> spin;
  EXPECT_EQ(ring.SpinUntil(spin,
                           [&] {
                             *also = true;
                             ring.WakeConsumer();
                             return true;
                           }),
            KernelPlatform::MaySpin());
  *also = true;
  sleeper.ExpectExit();
}

TEST_F(PatientRingTest, SpinUntilLeavesRecordsToOthers) {
  Ring ring = MakeRing();
  auto sleeper = ChildProcess::Start([&] {
    Record record;
    EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
  });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  AdaptiveSpin<KernelPlatform, kSpinForPartner> spin;
  ring.SpinUntil(spin, [&] {
    // Wakes nobody: somebody spins.
    return ring.HasRecord() || Put(ring, "x") != RingResult::kDone;
  });
  if (!KernelPlatform::MaySpin()) {
    EXPECT_EQ(Put(ring, "x"), RingResult::kDone);
  }
  sleeper.ExpectExit();
}

TEST_F(PatientRingTest, ExpectRecordLeavesTheOthersAsleepUntilItHasOne) {
  Ring ring = MakeRing();
  auto sleeper = ChildProcess::Start([&] {
    Record record;
    EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
    EXPECT_EQ(record.data, "second");
  });
  ASSERT_TRUE(sleeper.WaitUntilAsleep());
  ring.ExpectRecord();
  EXPECT_EQ(Put(ring, "first"), RingResult::kDone);
  EXPECT_EQ(Put(ring, "second"), RingResult::kDone);
  absl::SleepFor(absl::Milliseconds(20));  // it would have taken the first
  Record record;
  EXPECT_EQ(Get(ring, &record), RingResult::kDone);
  EXPECT_EQ(record.data, "first");
  ring.EndExpecting();
  sleeper.ExpectExit();
}

// ---- Whose turn it is.

class ClaimTest : public RingTest {
 protected:
  // Puts a record that has no room, in another process.
  ChildProcess StartPut(Ring& ring, std::string data,
                        Deadline deadline = kInfinite) {
    return ChildProcess::Start(
        [ring, data = std::move(data), deadline]() mutable {
          EXPECT_EQ(Put(ring, data, deadline), RingResult::kDone);
        });
  }
  static void AwaitClaim(const Ring& ring) {
    while (RingTestPeer::Claim(ring) == 0) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  static void Fill(Ring& ring, int records) {
    for (int i = 0; i < records; ++i) {
      ASSERT_EQ(Put(ring, "old"), RingResult::kDone);
    }
  }
  static void ExpectNext(Ring& ring, std::string_view data) {
    Record record;
    EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
    EXPECT_EQ(record.data, data);
  }
};

// Small ones take every room that there is; the large one needs all of it.
TEST_F(ClaimTest, LargeRecordAmongSmallOnes) {
  Ring ring = MakeRing();
  const std::string large(ring.max_record_size(), 'l');
  const SharedPage<std::atomic<bool>> end;
  std::vector<ChildProcess> crowd;
  for (int i = 0; i < 2; ++i) {
    crowd.push_back(ChildProcess::Start([&] {
      while (!*end) ASSERT_EQ(Put(ring, "small", kInfinite), RingResult::kDone);
    }));
  }
  Record record;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
  }
  ChildProcess waiter = StartPut(ring, large);
  do {
    // Time enough to fill the room with small ones again.
    absl::SleepFor(absl::Microseconds(100));
    ASSERT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
  } while (record.data != large);
  waiter.ExpectExit();
  *end = true;
  while (TryGet(ring).has_value()) {
  }
  for (ChildProcess& child : crowd) child.ExpectExit();
  EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
}

TEST_F(ClaimTest, WhoHasWaitedComesFirst) {
  Ring ring = MakeRing(/*max_records=*/2);
  Fill(ring, 2);
  ChildProcess waiter = StartPut(ring, "waiter");
  AwaitClaim(ring);
  // Comes anew all the time, and so is always there when there is room.
  ChildProcess hasty = ChildProcess::Start([&] {
    while (Put(ring, "hasty", Deadline::After(absl::Microseconds(100))) !=
           RingResult::kDone) {
    }
  });
  absl::SleepFor(absl::Milliseconds(5));
  for (const char* const data : {"old", "old", "waiter", "hasty"}) {
    ExpectNext(ring, data);
  }
  waiter.ExpectExit();
  hasty.ExpectExit();
  EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
}

TEST_F(ClaimTest, PutThatDoesNotWaitTakesNoNotice) {
  Ring ring = MakeRing();
  Fill(ring, 1);
  ChildProcess waiter =
      StartPut(ring, std::string(ring.max_record_size(), 'l'));
  AwaitClaim(ring);
  EXPECT_EQ(Put(ring, "now"), RingResult::kDone);
  EXPECT_EQ(Put(ring, "later", Deadline::After(absl::Milliseconds(1))),
            RingResult::kTimedOut);
  ExpectNext(ring, "old");
  ExpectNext(ring, "now");
  ExpectNext(ring, std::string(ring.max_record_size(), 'l'));
  waiter.ExpectExit();
}

TEST_F(ClaimTest, GivingUpEndsIt) {
  Ring ring = MakeRing(/*max_records=*/1);
  Fill(ring, 1);
  auto waiter = ChildProcess::Start([&] {
    EXPECT_EQ(Put(ring, "x", Deadline::After(absl::Milliseconds(60))),
              RingResult::kTimedOut);
  });
  AwaitClaim(ring);
  waiter.ExpectExit();
  EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
}

TEST_F(ClaimTest, EndsWhenTheRingIsClosed) {
  Ring ring = MakeRing(/*max_records=*/1);
  Fill(ring, 1);
  auto waiter = ChildProcess::Start(
      [&] { EXPECT_EQ(Put(ring, "x", kInfinite), RingResult::kClosed); });
  AwaitClaim(ring);
  ring.Close();
  waiter.ExpectExit();
  EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
}

TEST_F(ClaimTest, DiesWithItsProcess) {
  Ring ring = MakeRing(/*max_records=*/1);
  Fill(ring, 1);
  ChildProcess victim = StartPut(ring, "victim");
  AwaitClaim(ring);
  ChildProcess other = StartPut(ring, "other");
  ASSERT_TRUE(other.WaitUntilAsleep());
  victim.Kill();
  victim.ExpectSignal(SIGKILL);
  ExpectNext(ring, "old");
  ExpectNext(ring, "other");
  other.ExpectExit();
  EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
}

// A process that is stopped has a claim for no longer than others have waited.
TEST_F(ClaimTest, LapsesIfItIsNotUsed) {
  Ring ring = MakeRing(/*max_records=*/1);
  Fill(ring, 1);
  ChildProcess stopped = StartPut(ring, "stopped");
  AwaitClaim(ring);
  ASSERT_TRUE(stopped.Stop());
  ChildProcess other = StartPut(ring, "other");
  ExpectNext(ring, "old");
  ExpectNext(ring, "other");
  other.ExpectExit();
  stopped.Continue();
  ExpectNext(ring, "stopped");
  stopped.ExpectExit();
  EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
}

// Of a process that has never been, or that does not wait at all.
TEST_F(ClaimTest, Nonsense) {
  for (const uint64_t claim :
       {uint64_t{1}, ~uint64_t{0}, uint64_t{Liveness::Self()} << 32 | 12345}) {
    Ring ring = MakeRing();
    RingTestPeer::SetClaim(ring, claim);
    StartPut(ring, "x").ExpectExit();
    EXPECT_EQ(RingTestPeer::Claim(ring), 0u);
    ExpectNext(ring, "x");
  }
}

// Puts of others still say what is wrong with them.
TEST_F(ClaimTest, ErrorsOfOthers) {
  Ring ring = MakeRing();
  Fill(ring, 1);
  const std::string large(ring.max_record_size(), 'l');
  ChildProcess waiter = StartPut(ring, large);
  AwaitClaim(ring);
  EXPECT_EQ(Put(ring, large + "x", kInfinite), RingResult::kTooLarge);
  ExpectNext(ring, "old");
  ExpectNext(ring, large);
  waiter.ExpectExit();
}

TEST_F(ClaimTest, DiesBeforeTheRingIsClosed) {
  Ring ring = MakeRing(/*max_records=*/1);
  Fill(ring, 1);
  ChildProcess victim = StartPut(ring, "victim");
  AwaitClaim(ring);
  victim.Kill();
  victim.ExpectSignal(SIGKILL);
  ring.Close();
  EXPECT_EQ(Put(ring, "x", kInfinite), RingResult::kClosed);
}

TEST_F(ClaimTest, IsStoppedBeforeTheRingIsClosed) {
  Ring ring = MakeRing(/*max_records=*/1);
  Fill(ring, 1);
  auto stopped = ChildProcess::Start(
      [&] { EXPECT_EQ(Put(ring, "x", kInfinite), RingResult::kClosed); });
  AwaitClaim(ring);
  auto other = ChildProcess::Start(
      [&] { EXPECT_EQ(Put(ring, "x", kInfinite), RingResult::kClosed); });
  ASSERT_TRUE(other.WaitUntilAsleep());
  ASSERT_TRUE(stopped.Stop());
  ring.Close();
  other.ExpectExit();
  stopped.Continue();
  stopped.ExpectExit();
}

// Who gets may have to put before it gets again, and the large record waits
// for just that.
TEST_F(ClaimTest, WhoGetsDoesNotStandBack) {
  Ring ring = MakeRing();
  Fill(ring, 3);
  const std::string large(ring.max_record_size(), 'l');
  ChildProcess waiter = StartPut(ring, large);
  AwaitClaim(ring);
  for (int i = 0; i < 1000; ++i) {
    Record record;
    ASSERT_EQ(Get(ring, &record, kInfinite), RingResult::kDone);
    ASSERT_EQ(Put(ring, record.data, kInfinite), RingResult::kDone);
  }
  for (int i = 0; i < 3; ++i) ExpectNext(ring, "old");
  ExpectNext(ring, large);
  waiter.ExpectExit();
}

// Who gets may even wait for one that never does.
TEST_F(ClaimTest, LapsesIfNobodyGets) {
  Ring ring = MakeRing();
  Fill(ring, 1);
  const std::string large(ring.max_record_size(), 'l');
  ChildProcess waiter = StartPut(ring, large);
  AwaitClaim(ring);
  StartPut(ring, "small").ExpectExit();
  for (const std::string_view data : {"old", "small"}) ExpectNext(ring, data);
  ExpectNext(ring, large);
  waiter.ExpectExit();
}

// ---- Who is there.

TEST_F(RingTest, OnlyWhoLeavesIsNotThereAnyMore) {
  Ring ring = MakeRing();
  const Token one = 1, other = 2, third = 3;
  EXPECT_EQ(ring.producer(), kNoToken);
  ring.SetProducer(one, ring.departures());
  ring.SetConsumer(other, ring.departures());
  ring.Leave(third);
  EXPECT_EQ(ring.producer(), one);
  EXPECT_EQ(ring.consumer(), other);
  ring.Leave(one);
  EXPECT_EQ(ring.producer(), kNoToken);
  EXPECT_EQ(ring.consumer(), other);
  ring.Leave(other);
  EXPECT_EQ(ring.consumer(), kNoToken);
}

// One that was about to say that it is there, while it left.
TEST_F(RingTest, DepartureBeforeIsNotForgotten) {
  Ring ring = MakeRing();
  const Token one = 1, other = 2;
  const uint32_t departures = ring.departures();
  ring.Leave(one);
  ring.SetProducer(one, departures);
  EXPECT_EQ(ring.producer(), kNoToken);
  ring.Leave(other);
  EXPECT_EQ(ring.producer(), kNoToken);
}

// ---- Many processes.

TEST_F(PatientRingTest, NumbersAreConsecutive) {
  constexpr uint32_t kProcesses = 3;
  constexpr uint32_t kEach = 3000;
  constexpr uint32_t kTotal = kProcesses * kEach;
  Ring ring = MakeRing();
  const SharedPage<std::array<std::atomic<int>, kTotal>> put;
  const SharedPage<std::array<std::atomic<int>, kTotal>> gotten;
  std::vector<ChildProcess> children;
  for (uint32_t i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([&] {
      for (uint32_t j = 0; j < kEach; ++j) {
        const auto fill = [&](std::byte* to, uint32_t number) {
          std::memcpy(to, &number, sizeof(number));
          ++put->at(number);
          return true;
        };
        ASSERT_EQ(ring.Put(sizeof(uint32_t), fill, kInfinite),
                  RingResult::kDone);
      }
    }));
    children.push_back(ChildProcess::Start([&] {
      for (uint32_t j = 0; j < kEach; ++j) {
        const auto use = [&](std::span<const std::byte> data, uint32_t number) {
          uint32_t sent;
          std::memcpy(&sent, data.data(), sizeof(sent));
          EXPECT_EQ(sent, number);
          EXPECT_EQ(ring.gotten(), number);
          ++gotten->at(number);
        };
        ASSERT_EQ(ring.Get(use, kInfinite), RingResult::kDone);
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit();
  for (uint32_t i = 0; i < kTotal; ++i) {
    ASSERT_EQ(put->at(i), 1) << i;
    ASSERT_EQ(gotten->at(i), 1) << i;
  }
  EXPECT_EQ(ring.size(), 0u);
}

TEST_F(PatientRingTest, SizeIsExactWhileOthersAreAtIt) {
  Ring ring = MakeRing(/*max_records=*/3);
  const SharedPage<std::atomic<bool>> stop;
  auto producer = ChildProcess::Start([&] {
    while (Put(ring, "x", kInfinite) == RingResult::kDone) {
    }
  });
  auto consumer = ChildProcess::Start([&] {
    Record record;
    while (Get(ring, &record, kInfinite) == RingResult::kDone) {
    }
  });
  std::array<int, 4> seen = {};
  for (int i = 0; i < 100'000; ++i) ++seen.at(ring.size());
  ring.Close();
  producer.ExpectExit();
  consumer.ExpectExit();
}

// ---- Memory that somebody else has written into.

TEST_F(RingTest, CorruptedRecord) {
  constexpr size_t kMax = std::numeric_limits<size_t>::max();
  const size_t capacity = Capacity(MakeRing());
  for (const uint64_t size :
       {kMax, kMax - 7, size_t{1} << 35, capacity, capacity - 7, size_t{17}}) {
    Ring ring = MakeRing();
    EXPECT_EQ(Put(ring, "0123456789abcdef"), RingResult::kDone);
    std::memcpy(RingTestPeer::Memory(ring).data(), &size, sizeof(size));
    for (int i = 0; i < 2; ++i) {
      Record record;
      EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kCorrupted);
    }
  }
}

TEST_F(RingTest, CorruptedCursor) {
  const uint32_t blocks = static_cast<uint32_t>(Capacity(MakeRing()) / kBlock);
  for (const uint32_t move : {blocks, blocks + 1, 1u << 31, uint32_t{0} - 4}) {
    Ring ring = MakeRing();
    EXPECT_EQ(Put(ring, "0123456789abcdef"), RingResult::kDone);
    RingTestPeer::MoveTail(ring, move);
    Record record;
    EXPECT_EQ(Get(ring, &record, kInfinite), RingResult::kCorrupted);
    EXPECT_EQ(Put(ring, "x", kInfinite), RingResult::kCorrupted);
  }
}

// A region has so much memory at most as it is large. Found by frame_fuzzer.
TEST_F(RingTest, CorruptedReservation) {
  absl::StatusOr<Ring> growing =
      Ring::Create({.name = "ring-test",
                    .capacity_bytes = 1,
                    .growth = RingGrowth::kUnlimited});
  ASSERT_OK(growing);
  const size_t capacity = Capacity(MakeRing());
  // Goes into the second region, then over its end.
  ASSERT_EQ(Put(*growing, std::string(3 * capacity, 'x')), RingResult::kDone);
  ASSERT_EQ(Put(*growing, "y"), RingResult::kDone);
  ASSERT_EQ(TryGet(*growing), std::string(3 * capacity, 'x'));
  RingTestPeer::SetReserved(*growing, 1,
                            static_cast<uint32_t>(4 * capacity / kBlock) + 1);
  EXPECT_EQ(Put(*growing, std::string(2 * capacity, 'z')),
            RingResult::kCorrupted);
}

// Its layout says that it does. Found by codec_fuzzer.
TEST_F(RingTest, SegmentThatHoldsNoRing) {
  const size_t page = Capacity(MakeRing());
  const SegmentOptions right = {.name = "ring-test",
                                .layout = RingTestPeer::kLayout,
                                .size = page,
                                .ring_size = page,
                                .spare_size = 0};
  const auto is_ring = [](const SegmentOptions& options) {
    const Ring ring = HandleAccess::FromParts<Ring>(
        SegmentPart<RingTestPeer::kLayout>{*Segment::Create(options)});
    return ring.valid();
  };
  EXPECT_TRUE(is_ring(right));
  SegmentOptions wrong = right;
  wrong.size = 1;
  wrong.ring_size = 0;
  EXPECT_FALSE(is_ring(wrong));
  wrong = right;
  wrong.ring_size = 3 * page;
  EXPECT_FALSE(is_ring(wrong));
  wrong = right;
  wrong.spare_size = page;
  EXPECT_FALSE(is_ring(wrong));
  wrong.spare_size = 4 * page;
  EXPECT_TRUE(is_ring(wrong));
}

TEST_F(RingTest, GarbageGivesNoCrash) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    Ring ring = MakeRing();
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(Put(ring, std::string(random() % 100, 'x')), RingResult::kDone);
    }
    const std::span<std::byte> control = RingTestPeer::Control(ring);
    const std::span<std::byte> memory = RingTestPeer::Memory(ring);
    for (int i = 0; i < 40; ++i) {
      const std::span<std::byte> target = i % 4 == 0 ? memory : control;
      target[random() % target.size()] = static_cast<std::byte>(random());
    }
    for (int i = 0; i < 30; ++i) {
      // Writes and reads all of what it is given; AddressSanitizer and the
      // guard of the address space look on.
      const size_t size = random() % Capacity(ring);
      ring.Put(
          size,
          [&](std::byte* to, uint32_t) {
            std::memset(to, 0x55, size);
            return true;
          },
          Deadline::AtNanos(1));
      size_t sum = 0;
      ring.Get(
          [&](std::span<const std::byte> data, uint32_t) {
            EXPECT_GE(data.data(), memory.data());
            EXPECT_LE(data.data() + data.size(),
                      memory.data() + 2 * memory.size());
            for (const std::byte byte : data) {
              sum += static_cast<size_t>(byte);
            }
          },
          Deadline::AtNanos(1));
      ring.size();
      ring.HasRecord();
    }
  }
}

}  // namespace
}  // namespace mp::ipc_internal
