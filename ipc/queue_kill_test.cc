// SIGKILL at every instruction of the queue's operations.

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/spin.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/kill_test_util.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace ipc_internal {

struct RingTestPeer {
  static void SetClaimAfter(int64_t nanos) { Ring::claim_after_nanos_ = nanos; }
  // As if a producer had died after it had put a record into another region.
  template <class T>
  static void ProducersAreBehind(const Queue<T>& queue) {
    const Ring ring = std::get<0>(HandleAccess::Parts(queue));
    Ring::Control& control = *ring.control_;
    EXPECT_NE(control.producers.region.exchange(0), 0U);
    control.producers.room_blocks = 0;  // as who takes the lock over does
  }
};

}  // namespace ipc_internal

namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

using ::mp::testing::ChildProcess;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::KillPoint;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::Gt;

class QueueKillTest : public MessageKillTest {
 protected:
  // The queue is whole: takes and gives, for whoever comes.
  template <class T>
  static void ExpectWorks(Queue<T>& queue, const T& item) {
    ASSERT_TRUE(queue.Empty());
    ASSERT_OK(queue.Put(item, kStranded));
    EXPECT_EQ(queue.qsize(), 1u);
    EXPECT_THAT(queue.Get(kStranded), IsOkAndHolds(item));
  }
};

// ---- Nobody waits.

TEST_F(QueueKillTest, Put) {
  std::optional<Queue<int>> queue;
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             queue.emplace(QueueOptions{.capacity_bytes = 4096});
             ASSERT_OK(queue->Put(1));
           },
       .op = [&] { queue->Put(2).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK(queue->Put(3, kStranded));
             EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(1));
             const size_t left = queue->qsize();
             EXPECT_THAT(left, AnyOf(1u, 2u));
             outcomes.Saw(left == 2, point);
             if (left == 2) {
               EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(2));
             }
             EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(3));
             ExpectWorks(*queue, 4);
           }});
}

TEST_F(QueueKillTest, Get) {
  std::optional<Queue<int>> queue;
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             queue.emplace(QueueOptions{.capacity_bytes = 4096});
             for (const int i : {1, 2, 3}) ASSERT_OK(queue->Put(i));
           },
       .op = [&] { queue->Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const size_t left = queue->qsize();
             EXPECT_THAT(left, AnyOf(2u, 3u));
             outcomes.Saw(left == 2, point);
             if (left == 3) {
               EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(1));
             }
             EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(2));
             EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(3));
             ExpectWorks(*queue, 4);
           }});
}

// Those that are in the queue are the first ones.
TEST_F(QueueKillTest, PutMany) {
  std::optional<Queue<int>> queue;
  const std::vector<int> items = {2, 3, 4};
  std::array<int, 4> deaths_after = {};  // by how many had been put
  Run({.prepare =
           [&] {
             queue.emplace(QueueOptions{.capacity_bytes = 4096});
             ASSERT_OK(queue->Put(1));
           },
       .op = [&] { queue->PutMany(items).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK(queue->Put(5, kStranded));
             EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(1));
             const size_t done = queue->qsize() - 1;
             ASSERT_LE(done, items.size());
             if (point.completed()) {
               EXPECT_EQ(done, items.size());
             }
             ++deaths_after[done];
             for (size_t i = 0; i < done; ++i) {
               EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(items[i]));
             }
             EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(5));
             ExpectWorks(*queue, 6);
           },
       .stride = kOutOfLineStride});
  EXPECT_THAT(deaths_after, Each(Gt(0)));
}

TEST_F(QueueKillTest, GetMany) {
  std::optional<Queue<int>> queue;
  std::array<int, 4> deaths_after = {};  // by how many had been gotten
  Run({.prepare =
           [&] {
             queue.emplace(QueueOptions{.capacity_bytes = 4096});
             ASSERT_OK(queue->PutMany(std::vector{0, 1, 2}));
             ASSERT_OK(queue->Put(3));
           },
       .op = [&] { queue->GetMany(3).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_LE(queue->qsize(), 4u);
             const int done = 4 - static_cast<int>(queue->qsize());
             ASSERT_LE(done, 3);
             if (point.completed()) {
               EXPECT_EQ(done, 3);
             }
             ++deaths_after[done];
             for (int i = done; i < 4; ++i) {
               EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(i));
             }
             ExpectWorks(*queue, 4);
           },
       .stride = kOutOfLineStride});
  EXPECT_THAT(deaths_after, Each(Gt(0)));
}

// A record that fits into one region only, which the dying consumer may have
// been about to leave. Without its contents, so that each instruction counts.
TEST_F(QueueKillTest, GetOfALargeRecord) {
  using ipc_internal::Ring;
  using ipc_internal::RingResult;
  std::optional<Ring> ring;
  Outcomes outcomes;
  const auto put = [&ring] {
    return ring->Put(
        20'000, [](std::byte*, uint32_t) { return true; },
        Deadline::After(kStranded));
  };
  const auto get = [&ring] {
    return ring->Get([](std::span<const std::byte>, uint32_t) {},
                     Deadline::After(kStranded));
  };
  Run({.prepare =
           [&] {
             ring = Ring::Create(
                        {.name = "test",
                         .capacity_bytes = 4096,
                         .growth = ipc_internal::RingGrowth::kForLargeRecords,
                         .large_bytes = 65536})
                        .value();
             ASSERT_EQ(put(), RingResult::kDone);
           },
       .op = [&] { get(); },
       .check =
           [&](const KillPoint& point) {
             const bool gotten = !ring->HasRecord();
             outcomes.Saw(gotten, point);
             if (!gotten) {
               ASSERT_EQ(get(), RingResult::kDone);
             }
             for (int i = 0; i < 3; ++i) {
               ASSERT_EQ(put(), RingResult::kDone);
               ASSERT_EQ(get(), RingResult::kDone);
             }
           }});
}

// ---- Items with descriptors.

class QueueKillDescriptorTest : public QueueKillTest {
 protected:
  using Item = std::pair<int, UniqueFd>;

  // Its descriptor is one of a pipe that holds the number.
  static Item NewItem(char number) {
    int ends[2];
    MP_PCHECK(pipe2(ends, O_CLOEXEC) == 0) << "pipe2";
    const UniqueFd writer(ends[1]);
    MP_PCHECK(write(writer.get(), &number, 1) == 1) << "write";
    return {number, UniqueFd(ends[0])};
  }
  void ExpectNext(char number) {
    absl::StatusOr<Item> item = queue_->Get(kStranded);
    ASSERT_OK(item);
    EXPECT_EQ(item->first, number);
    char held = 0;
    EXPECT_EQ(read(item->second.get(), &held, 1), 1);
    EXPECT_EQ(held, number);
  }

  std::optional<Queue<Item>> queue_;
  Outcomes outcomes_;
};

TEST_F(QueueKillDescriptorTest, Put) {
  Item second;
  Run({.prepare =
           [&] {
             queue_.emplace();
             ASSERT_OK(queue_->Put(NewItem(1)));
             second = NewItem(2);
           },
       .op = [&] { queue_->Put(second).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK(queue_->Put(NewItem(3), kStranded));
             ExpectNext(1);
             const size_t left = queue_->qsize();
             EXPECT_THAT(left, AnyOf(1u, 2u));
             outcomes_.Saw(left == 2, point);
             if (left == 2) ExpectNext(2);
             ExpectNext(3);
             ASSERT_OK(queue_->Put(NewItem(4), kStranded));
             ExpectNext(4);
           }});
}

TEST_F(QueueKillDescriptorTest, Get) {
  Run({.prepare =
           [&] {
             queue_.emplace();
             for (const char i : {1, 2, 3}) ASSERT_OK(queue_->Put(NewItem(i)));
           },
       .op = [&] { queue_->Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const size_t left = queue_->qsize();
             EXPECT_THAT(left, AnyOf(2u, 3u));
             outcomes_.Saw(left == 2, point);
             if (left == 3) ExpectNext(1);
             ExpectNext(2);
             ExpectNext(3);
             ASSERT_OK(queue_->Put(NewItem(4), kStranded));
             ExpectNext(4);
           }});
}

// ---- Strings that run over the end of the memory.

class QueueKillWrapTest : public QueueKillTest {
 protected:
  static std::string Text(char first, size_t size) {
    std::string text(size, ' ');
    for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(first + i);
    return text;
  }

  // Leaves one short string before, and the place of the next such that it
  // starts at the end of the memory and ends at the beginning.
  void Prepare() {
    queue_.emplace(QueueOptions{.capacity_bytes = 4096});
    size_t capacity = 0;
    while (queue_->PutNowait("").ok()) capacity += 16;
    while (queue_->GetNowait().ok()) {
    }
    ASSERT_OK(queue_->Put(Text('a', capacity - 600)));
    ASSERT_OK(queue_->Put(before_));
    ASSERT_OK(queue_->Get());
  }

  const std::string before_ = "before";
  const std::string after_ = "after";
  const std::string wrapped_ = Text('b', 1000);
  std::optional<Queue<std::string>> queue_;
  Outcomes outcomes_;
};

TEST_F(QueueKillWrapTest, Put) {
  Run({.prepare = [&] { Prepare(); },
       .op = [&] { queue_->Put(wrapped_).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK(queue_->Put(after_, kStranded));
             EXPECT_THAT(queue_->GetNowait(), IsOkAndHolds(before_));
             const bool put = queue_->qsize() == 2;
             outcomes_.Saw(put, point);
             if (put) {
               EXPECT_THAT(queue_->GetNowait(), IsOkAndHolds(wrapped_));
             }
             EXPECT_THAT(queue_->GetNowait(), IsOkAndHolds(after_));
             ExpectWorks(*queue_, wrapped_);
           }});
}

TEST_F(QueueKillWrapTest, Get) {
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(queue_->Put(wrapped_));
             ASSERT_OK(queue_->Put(after_));
             EXPECT_THAT(queue_->Get(), IsOkAndHolds(before_));
           },
       // Leaves the heap with memory for the string, or it does not take the
       // same way each time.
       .setup = [&] { std::string(wrapped_).clear(); },
       .op = [&] { queue_->Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool gotten = queue_->qsize() == 1;
             outcomes_.Saw(gotten, point);
             if (!gotten) {
               EXPECT_THAT(queue_->Get(kStranded), IsOkAndHolds(wrapped_));
             }
             EXPECT_THAT(queue_->Get(kStranded), IsOkAndHolds(after_));
             ExpectWorks(*queue_, wrapped_);
           }});
}

// Strings for which the queue gets memory, and gives it back.
class QueueKillGrowthTest : public QueueKillTest {
 protected:
  static std::string Text(char c, size_t size) { return std::string(size, c); }

  // Fills the memory that the queue has from the beginning.
  void Prepare() {
    queue_.emplace();
    ASSERT_OK(queue_->Put(first_));
  }
  void ExpectGet(const std::string& expected) {
    const absl::StatusOr<std::string> item = queue_->Get(kStranded);
    ASSERT_OK(item);
    EXPECT_TRUE(*item == expected);
  }

  size_t ReservedBytes() const {
    return std::get<0>(HandleAccess::Parts(*queue_)).reserved_bytes();
  }

  const std::string first_ = Text('a', 65'000);
  const std::string second_ = Text('b', 2000);
  const std::string after_ = Text('c', 3000);
  std::optional<Queue<std::string>> queue_;
  Outcomes outcomes_;
};

TEST_F(QueueKillGrowthTest, Put) {
  Run({.prepare = [&] { Prepare(); },
       .op = [&] { queue_->Put(second_).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK(queue_->Put(after_, kStranded));
             ExpectGet(first_);
             const bool put = queue_->qsize() == 2;
             outcomes_.Saw(put, point);
             if (put) ExpectGet(second_);
             ExpectGet(after_);
             ExpectWorks(*queue_, second_);
           }});
}

// Goes to the next region.
TEST_F(QueueKillGrowthTest, Get) {
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(queue_->Put(second_));
             ASSERT_OK(queue_->Put(after_));
             ExpectGet(first_);
           },
       .setup = [&] { std::string(second_).clear(); },
       .op = [&] { queue_->Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool gotten = queue_->qsize() == 1;
             outcomes_.Saw(gotten, point);
             if (!gotten) ExpectGet(second_);
             ExpectGet(after_);
             ExpectWorks(*queue_, first_);
           },
       .stride = 5});
}

// Leaves the queue empty, which goes back to where it began and gives a large
// region back.
TEST_F(QueueKillGrowthTest, LastGet) {
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(queue_->Put(Text('b', 70'000'000)));
             ASSERT_OK(queue_->Put(after_));
             ExpectGet(first_);
             ASSERT_OK(queue_->Get());
           },
       .setup = [&] { std::string(after_).clear(); },
       .op = [&] { queue_->Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool gotten = queue_->Empty();
             outcomes_.Saw(gotten, point);
             if (point.completed()) {
               EXPECT_LT(ReservedBytes(), size_t{64} << 20);
             }
             if (!gotten) ExpectGet(after_);
             ExpectWorks(*queue_, first_);
             ASSERT_OK(queue_->Put(first_));
             ASSERT_OK(queue_->Put(second_));
             ExpectGet(first_);
             ExpectGet(second_);
           },
       .stride = 101});
}

// The same where a producer had died before it could say where it had gone.
TEST_F(QueueKillGrowthTest, LastGetAfterADeadProducer) {
  Run({.prepare =
           [&] {
             Prepare();
             ASSERT_OK(queue_->Put(second_));
             ipc_internal::RingTestPeer::ProducersAreBehind(*queue_);
             ExpectGet(first_);
           },
       .setup = [&] { std::string(second_).clear(); },
       .op = [&] { queue_->Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             const bool gotten = queue_->Empty();
             outcomes_.Saw(gotten, point);
             ASSERT_OK(queue_->Put(after_));
             if (!gotten) ExpectGet(second_);
             ExpectGet(after_);
             ExpectWorks(*queue_, first_);
           },
       .stride = 5});
}

// ---- Somebody sleeps on the other side.

// One consumer survives all deaths: after each it gets the item, if there is
// one, and the next.
TEST_F(QueueKillTest, PutWithSleepingConsumer) {
  constexpr int kVictims = 1'000'000;
  Queue<int> queue;
  const SharedPage<Log> log;
  auto consumer = ChildProcess::Start([&] {
    for (;;) {
      const absl::StatusOr<int> item = queue.Get();
      if (!item.ok()) return;
      log->Add(*item);
    }
  });
  int next = 0;  // of the items that the parent puts
  int seen = 0;  // of the log
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             AwaitSurvivor([&] { return queue.Empty(); });
             ASSERT_TRUE(consumer.WaitUntilAsleep());
             seen = log->count;
           },
       .op = [&] { queue.Put(kVictims + next).IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             ASSERT_OK(queue.Put(next, kStranded));
             log->Await(seen + 1);
             const bool put = log->items[seen] == kVictims + next;
             outcomes.Saw(put, point);
             if (put) log->Await(++seen + 1);
             EXPECT_EQ(log->items[seen], next);
             ++seen;
             ++next;
           }});
  queue.Close();
  consumer.ExpectExit();
  EXPECT_EQ(log->count, seen);
}

// One producer survives all deaths: whenever an item has been gotten, it puts
// the next.
class QueueKillProducerTest : public QueueKillTest {
 protected:
  void RunGet(int64_t claim_after_nanos);
};

void QueueKillProducerTest::RunGet(int64_t claim_after_nanos) {
  constexpr size_t kMaxsize = 2;
  Queue<int> queue(kMaxsize);
  const SharedPage<std::atomic<int>> put;
  auto producer = ChildProcess::Start([&] {
    ipc_internal::RingTestPeer::SetClaimAfter(claim_after_nanos);
    while (queue.Put(*put).ok()) ++*put;
  });
  const auto await_full = [&] { AwaitSurvivor([&] { return queue.Full(); }); };
  int next = 0;  // the oldest in the queue
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             await_full();
             ASSERT_TRUE(producer.WaitUntilAsleep());
             // Not each run of the stepper is checked.
             next = *put - static_cast<int>(kMaxsize);
           },
       .op = [&] { queue.Get().IgnoreError(); },
       .check =
           [&](const KillPoint& point) {
             // Without help, if there is room.
             await_full();
             ASSERT_OK_AND_ASSIGN(const int item, queue.Get(kStranded));
             EXPECT_THAT(item, AnyOf(next, next + 1));
             outcomes.Saw(item == next + 1, point);
             EXPECT_THAT(queue.Get(kStranded), IsOkAndHolds(item + 1));
           }});
  queue.Close();
  producer.ExpectExit();
}

TEST_F(QueueKillProducerTest, Get) { RunGet(kNever); }
TEST_F(QueueKillProducerTest, GetAfterAClaim) { RunGet(0); }

// ---- Close.

TEST_F(QueueKillTest, Close) {
  std::optional<Queue<int>> queue;
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             queue.emplace(QueueOptions{.capacity_bytes = 4096});
             ASSERT_OK(queue->Put(1));
           },
       .op = [&] { queue->Close(); },
       .check =
           [&](const KillPoint& point) {
             const bool closed = queue->closed();
             outcomes.Saw(closed, point);
             const absl::Status put = queue->Put(2, kStranded);
             if (closed) {
               EXPECT_THAT(put,
                           StatusIs(absl::StatusCode::kFailedPrecondition));
             } else {
               EXPECT_OK(put);
             }
             EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(1));
             if (!closed) {
               EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(2));
             }
             queue->Close();
             EXPECT_THAT(queue->Get(kStranded),
                         StatusIs(absl::StatusCode::kOutOfRange));
           }});
}

// One sleeps on each of two queues, which one operation closes. They come out
// if a queue has been closed, although the one who should have woken them is
// dead; and if not, they come out for the next who closes it.
TEST_F(QueueKillTest, CloseWithSleepers) {
  std::optional<Queue<int>> empty;
  std::optional<Queue<int>> full;
  std::vector<ChildProcess> sleepers;
  Run({.prepare =
           [&] {
             // What the counting run has left.
             for (ChildProcess& sleeper : sleepers) sleeper.ExpectExit();
             sleepers.clear();
             empty.emplace(QueueOptions{.capacity_bytes = 4096});
             full.emplace(/*maxsize=*/1);
             ASSERT_OK(full->Put(1));
             sleepers.push_back(ChildProcess::Start([&] {
               EXPECT_THAT(empty->Get(),
                           StatusIs(absl::StatusCode::kOutOfRange));
             }));
             sleepers.push_back(ChildProcess::Start([&] {
               EXPECT_THAT(full->Put(2),
                           StatusIs(absl::StatusCode::kFailedPrecondition));
             }));
             for (ChildProcess& sleeper : sleepers) {
               ASSERT_TRUE(sleeper.WaitUntilAsleep());
             }
           },
       .op =
           [&] {
             empty->Close();
             full->Close();
           },
       .check =
           [&](const KillPoint&) {
             if (!empty->closed()) empty->Close();
             if (!full->closed()) full->Close();
             for (ChildProcess& sleeper : sleepers) {
               EXPECT_EQ(sleeper.Wait(kStranded), testing::ExitStatus::Code(0))
                   << "stranded";
             }
           },
       // New sleepers for each take their time; Close above has them all.
       .stride = 3});
}

// ---- The victim waits, and is killed on its way to sleep, asleep and after.

// In the victim: the kill stepper finds it asleep in its first slice, however
// long the way there takes.
void SleepLong() { ParkSlices::SetFirstForTest(3600'000'000'000); }

TEST_F(QueueKillTest, GetThatWaits) {
  std::optional<Queue<int>> queue;
  bool put = false;
  Outcomes outcomes;
  Run({.prepare =
           [&] {
             queue.emplace(QueueOptions{.capacity_bytes = 4096});
             put = false;
           },
       .setup = SleepLong,
       .op = [&] { queue->Get().IgnoreError(); },
       .unblock =
           [&] {
             ASSERT_OK(queue->Put(1));
             put = true;
           },
       .check =
           [&](const KillPoint& point) {
             const bool gotten = put && queue->Empty();
             outcomes.Saw(gotten, point);
             if (put && !gotten) {
               EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(1));
             }
             ExpectWorks(*queue, 2);
           },
       .stride = 3 * kOutOfLineStride});
}

// The victim waits for room; after its death that is for others. Its way must
// not depend on the time.
class QueueKillFullTest : public QueueKillTest {
 protected:
  void RunPut(int64_t claim_after_nanos, bool spins, int64_t stride) {
    std::optional<Queue<int>> queue;
    bool gotten = false;
    Outcomes outcomes;
    Run({.prepare =
             [&] {
               queue.emplace(/*maxsize=*/1);
               ASSERT_OK(queue->Put(1));
               gotten = false;
             },
         .setup =
             [&] {
               SleepLong();
               ipc_internal::RingTestPeer::SetClaimAfter(claim_after_nanos);
               if (!spins) SetAvailableProcessorsForTest(1);
             },
         .op = [&] { queue->Put(2).IgnoreError(); },
         .unblock =
             [&] {
               EXPECT_THAT(queue->GetNowait(), IsOkAndHolds(1));
               gotten = true;
             },
         .check =
             [&](const KillPoint& point) {
               if (!gotten) {
                 EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(1));
               }
               const bool put = !queue->Empty();
               outcomes.Saw(put, point);
               if (put) {
                 EXPECT_THAT(queue->Get(kStranded), IsOkAndHolds(2));
               }
               ExpectWorks(*queue, 3);
             },
         .stride = stride});
  }
};

// A spin has tens of thousands.
TEST_F(QueueKillFullTest, Spins) { RunPut(kNever, /*spins=*/true, 101); }
TEST_F(QueueKillFullTest, Sleeps) { RunPut(kNever, false, kOutOfLineStride); }
TEST_F(QueueKillFullTest, Claims) { RunPut(0, false, kOutOfLineStride); }

}  // namespace
}  // namespace mp
