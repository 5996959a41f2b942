#include "mp/ipc/zero_copy_queue.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/loans.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/wait.h"
#include "mp/shm/handle.h"
#include "mp/shm/park.h"
#include "mp/testing/child.h"
#include "mp/testing/fail_system_call.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::FailSystemCall;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::SharedPage;
using ::mp::testing::StatusIs;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The loans behind a queue.
template <class T>
ipc_internal::Loans LoansOf(const ZeroCopyQueue<T>& queue) {
  return std::get<0>(HandleAccess::Parts(queue)).loans();
}

class ZeroCopyQueueTest : public testing::ProcessTest {
 protected:
  // Reserves `count` places at once and gives them back.
  template <class T>
  static void ExpectFreeLoans(ZeroCopyQueue<T>& queue, size_t count) {
    std::vector<Reservation<T>> all;
    for (size_t i = 0; i < count; ++i) {
      absl::StatusOr<Reservation<T>> place =
          queue.Reserve(1, absl::ZeroDuration());
      ASSERT_OK(place);
      all.push_back(*std::move(place));
    }
    EXPECT_THAT(queue.Reserve(1, absl::ZeroDuration()),
                StatusIs(absl::StatusCode::kDeadlineExceeded));
  }
};

// As in queue_test.
class PatientZeroCopyQueueTest : public ZeroCopyQueueTest {
 protected:
  PatientZeroCopyQueueTest() { ParkSlices::SetFirstForTest(3600'000'000'000); }
  ~PatientZeroCopyQueueTest() override { ParkSlices::SetFirstForTest(0); }
};

TEST_F(ZeroCopyQueueTest, WrittenAndReadInPlace) {
  ZeroCopyQueue<int> queue;
  absl::StatusOr<Reservation<int>> place = queue.Reserve(1000);
  ASSERT_OK(place);
  ASSERT_EQ(place->size(), 1000u);
  int* const address = place->data().data();
  std::iota(place->data().begin(), place->data().end(), 7);
  EXPECT_TRUE(queue.Empty());
  ASSERT_OK(place->Commit());
  EXPECT_EQ(queue.qsize(), 1u);
  EXPECT_THAT(place->data(), IsEmpty());
  EXPECT_THAT(place->Commit(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(queue.qsize(), 1u);

  absl::StatusOr<Borrowed<int>> item = queue.Borrow();
  ASSERT_OK(item);
  EXPECT_TRUE(queue.Empty());
  ASSERT_EQ(item->size(), 1000u);
  EXPECT_EQ(item->data().data(), address);
  EXPECT_EQ(item->data().front(), 7);
  EXPECT_EQ(item->data().back(), 1006);
  item->Release();
  EXPECT_THAT(item->data(), IsEmpty());
  EXPECT_EQ(LoansOf(queue).taken(), 0u);

  // The same memory again.
  place = queue.Reserve(500);
  ASSERT_OK(place);
  EXPECT_EQ(place->data().data(), address);
}

TEST_F(ZeroCopyQueueTest, FirstInFirstOutWithCopies) {
  ZeroCopyQueue<char> queue;
  for (char c = 'a'; c < 'g'; ++c) {
    ASSERT_OK(queue.Put(std::vector<char>(static_cast<size_t>(c - 'a'), c)));
  }
  for (char c = 'a'; c < 'g'; ++c) {
    absl::StatusOr<std::vector<char>> item = queue.Get();
    ASSERT_OK(item);
    EXPECT_EQ(item->size(), static_cast<size_t>(c - 'a'));
    EXPECT_THAT(*item, Each(c));
  }
  EXPECT_THAT(queue.Get(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(ZeroCopyQueueTest, ShrinkSendsLess) {
  ZeroCopyQueue<int> queue;
  absl::StatusOr<Reservation<int>> place = queue.Reserve(10);
  ASSERT_OK(place);
  std::iota(place->data().begin(), place->data().end(), 0);
  place->Shrink(3);
  ASSERT_OK(place->Commit());
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(0, 1, 2)));
}

TEST_F(ZeroCopyQueueTest, WhatIsDroppedWasNeverPut) {
  ZeroCopyQueue<int> queue({.loans = 1});
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(queue.Reserve(100, absl::ZeroDuration()));
  }
  EXPECT_TRUE(queue.Empty());
  ExpectFreeLoans(queue, 1);
}

TEST_F(ZeroCopyQueueTest, LoansAreWrittenQueuedOrRead) {
  ZeroCopyQueue<int> queue({.loans = 3});
  absl::StatusOr<Reservation<int>> written = queue.Reserve(1);
  ASSERT_OK(written);
  ASSERT_OK(queue.Put(std::vector{1}));
  ASSERT_OK(queue.Put(std::vector{2}));
  std::optional<Borrowed<int>> read = queue.Borrow().value();
  EXPECT_THAT(queue.Reserve(1, absl::Milliseconds(1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("all 3 loans are out")));
  read.reset();
  ASSERT_OK(queue.Reserve(1, absl::ZeroDuration()));
}

TEST_F(ZeroCopyQueueTest, FullWithALimit) {
  ZeroCopyQueue<int> queue({.maxsize = 1});
  ASSERT_OK(queue.Put(std::vector{1}));
  EXPECT_TRUE(queue.Full());
  absl::StatusOr<Reservation<int>> place = queue.Reserve(1);
  ASSERT_OK(place);
  place->data()[0] = 2;
  EXPECT_THAT(place->Commit(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(1)));
  ASSERT_OK(place->Commit(absl::ZeroDuration()));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(2)));
}

TEST_F(ZeroCopyQueueTest, AbsurdSizes) {
  EXPECT_THAT(ZeroCopyQueue<int>::Create({.loans = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ZeroCopyQueue<int>::Create({.loans = 4097}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ZeroCopyQueue<int64_t> queue;
  EXPECT_THAT(queue.Reserve(size_t{1} << 30),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(queue.Reserve(SIZE_MAX / 4),  // times 8 it would be small
              StatusIs(absl::StatusCode::kInvalidArgument));
  absl::StatusOr<Reservation<int64_t>> nothing = queue.Reserve(0);
  ASSERT_OK(nothing);
  ASSERT_OK(nothing->Commit());
  EXPECT_THAT(queue.Get(), IsOkAndHolds(IsEmpty()));
}

TEST_F(ZeroCopyQueueTest, NoMemory) {
  ZeroCopyQueue<char> queue({.loans = 1});
  ASSERT_OK(queue.Put(std::vector<char>(4096, 'x')));
  ChildProcess child = ChildProcess::Start([queue]() mutable {
    FailSystemCall(SYS_fallocate, ENOSPC);
    EXPECT_THAT(queue.Get(), IsOkAndHolds(Each('x')));
    EXPECT_THAT(
        queue.Reserve(1 << 20),
        StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("fallocate")));
    EXPECT_OK(queue.Put(std::vector<char>(4096, 'y')));  // there is that much
  });
  child.ExpectExit();
  EXPECT_THAT(queue.Get(), IsOkAndHolds(Each('y')));
}

// An item that has no room in a process stays for others.
TEST_F(ZeroCopyQueueTest, NoRoomToMapIt) {
  ZeroCopyQueue<char> queue;
  ChildProcess child = ChildProcess::Start([queue]() mutable {
    FailSystemCall(SYS_mmap, ENOMEM);
    EXPECT_THAT(queue.Borrow(), StatusIs(absl::StatusCode::kResourceExhausted,
                                         HasSubstr("mmap")));
  });
  ASSERT_OK(queue.Put(std::vector<char>(4096, 'x')));
  child.ExpectExit();
  EXPECT_THAT(queue.Get(absl::ZeroDuration()), IsOkAndHolds(Each('x')));
}

TEST_F(ZeroCopyQueueTest, MemoryThatNobodyUsesGoes) {
  constexpr size_t kBytes = size_t{16} << 20;
  ZeroCopyQueue<char> queue({.loans = 16});
  std::vector<Reservation<char>> places;
  for (int i = 0; i < 10; ++i) {
    absl::StatusOr<Reservation<char>> place = queue.Reserve(kBytes);
    ASSERT_OK(place);
    place->data().back() = 'x';
    places.push_back(*std::move(place));
  }
  EXPECT_GE(LoansOf(queue).reserved_bytes(), 10 * kBytes);
  places.clear();
  EXPECT_LE(LoansOf(queue).reserved_bytes(), ipc_internal::Loans::kIdleBytes);
  EXPECT_GT(LoansOf(queue).reserved_bytes(), 0u);
  // And comes again.
  for (int i = 0; i < 10; ++i) {
    absl::StatusOr<Reservation<char>> place = queue.Reserve(kBytes);
    ASSERT_OK(place);
    place->data().back() = 'y';
    places.push_back(*std::move(place));
  }
  EXPECT_GE(LoansOf(queue).reserved_bytes(), 10 * kBytes);
}

TEST_F(ZeroCopyQueueTest, Close) {
  ZeroCopyQueue<int> queue;
  absl::StatusOr<Reservation<int>> place = queue.Reserve(1);
  ASSERT_OK(place);
  ASSERT_OK(queue.Put(std::vector{1}));
  queue.Close();
  EXPECT_TRUE(queue.closed());
  EXPECT_THAT(place->Commit(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.Reserve(1),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(1)));
  EXPECT_THAT(queue.Borrow(), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST_F(PatientZeroCopyQueueTest, CanBeWaitedFor) {
  ZeroCopyQueue<int> queue;
  EXPECT_THAT(Wait({queue}, absl::ZeroDuration()), IsOkAndHolds(IsEmpty()));
  ChildProcess child = ChildProcess::Start(
      [&] { EXPECT_THAT(Wait({queue}), IsOkAndHolds(ElementsAre(0u))); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  ASSERT_OK(queue.Put(std::vector{1}));
  child.ExpectExit();
}

TEST_F(PatientZeroCopyQueueTest, CloseWakesWhoWaitsForALoan) {
  ZeroCopyQueue<int> queue({.loans = 1});
  absl::StatusOr<Reservation<int>> only = queue.Reserve(1);
  ASSERT_OK(only);
  ChildProcess child = ChildProcess::Start([queue]() mutable {
    EXPECT_THAT(queue.Reserve(1),
                StatusIs(absl::StatusCode::kFailedPrecondition));
  });
  ASSERT_TRUE(child.WaitUntilAsleep());
  queue.Close();
  child.ExpectExit();
}

TEST_F(PatientZeroCopyQueueTest, GivingBackWakesWhoWaitsForALoan) {
  ZeroCopyQueue<int> queue({.loans = 2});
  std::optional<Reservation<int>> first = queue.Reserve(1).value();
  std::optional<Reservation<int>> second = queue.Reserve(1).value();
  auto wait = [queue]() mutable { EXPECT_OK(queue.Reserve(1)); };
  ChildProcess a = ChildProcess::Start(wait);
  ChildProcess b = ChildProcess::Start(wait);
  ASSERT_TRUE(a.WaitUntilAsleep());
  ASSERT_TRUE(b.WaitUntilAsleep());
  first.reset();  // for one of them, and then the other
  a.ExpectExit();
  b.ExpectExit();
}

// ---- Other processes.

TEST_F(ZeroCopyQueueTest, TravelsThroughAQueue) {
  Queue<ZeroCopyQueue<int>> queues;
  ChildProcess child = ChildProcess::Start([queues]() mutable {
    absl::StatusOr<ZeroCopyQueue<int>> queue = queues.Get();
    ASSERT_OK(queue);
    EXPECT_OK(queue->Put(std::vector{1, 2, 3}));
  });
  ZeroCopyQueue<int> queue;  // younger than the child
  ASSERT_OK(queues.Put(queue));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(1, 2, 3)));
  child.ExpectExit();
}

TEST_F(ZeroCopyQueueTest, InheritedReservationsAreHarmless) {
  ZeroCopyQueue<int> queue({.loans = 2});
  absl::StatusOr<Reservation<int>> place = queue.Reserve(1);
  ASSERT_OK(place);
  ASSERT_OK(queue.Put(std::vector{1}));
  absl::StatusOr<Borrowed<int>> item = queue.Borrow();
  ASSERT_OK(item);
  ChildProcess child = ChildProcess::Start([&place, &item] {
    EXPECT_THAT(place->Commit(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                          HasSubstr("another process")));
    const Reservation<int> gone = *std::move(place);
    item->Release();
  });
  child.ExpectExit();
  EXPECT_EQ(LoansOf(queue).taken(), 2u);
  EXPECT_TRUE(queue.Empty());
  EXPECT_THAT(item->data(), ElementsAre(1));
  ASSERT_OK(place->Commit());
}

TEST_F(ZeroCopyQueueTest, LoansOfTheDeadComeBack) {
  ZeroCopyQueue<int> queue({.loans = 4});
  ASSERT_OK(queue.Put(std::vector{1}));
  ASSERT_OK(queue.Put(std::vector{2}));
  const SharedPage<std::atomic<bool>> ready;
  ChildProcess child = ChildProcess::Start([&] {
    absl::StatusOr<Borrowed<int>> read = queue.Borrow();
    absl::StatusOr<Reservation<int>> written = queue.Reserve(1);
    ASSERT_OK(queue.Put(std::vector{3}));
    *ready = true;
    pause();
  });
  while (!*ready) std::this_thread::yield();
  EXPECT_THAT(queue.Reserve(1, absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  child.Kill();
  child.ExpectSignal(SIGKILL);
  // Two are on the way, one of them sent by the victim.
  ExpectFreeLoans(queue, 2);
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(2)));
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(3)));
  ExpectFreeLoans(queue, 4);
}

TEST_F(PatientZeroCopyQueueTest, ADeathWakesWhoWaitsForALoan) {
  ZeroCopyQueue<int> queue({.loans = 2});
  const SharedPage<std::atomic<bool>> ready;
  ChildProcess owner = ChildProcess::Start([&] {
    // One on the way, which is of no use to who waits.
    ASSERT_OK(queue.Put(std::vector{1}));
    absl::StatusOr<Reservation<int>> place = queue.Reserve(1);
    *ready = true;
    pause();
  });
  while (!*ready) std::this_thread::yield();
  ChildProcess waiter = ChildProcess::Start([&] {
    EXPECT_OK(queue.Reserve(1));
    EXPECT_EQ(queue.qsize(), 1u);
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  owner.Kill();
  owner.ExpectSignal(SIGKILL);
  waiter.ExpectExit();
}

// Its sender is dead, and whoever waits for a loan sleeps until it is gotten.
TEST_F(PatientZeroCopyQueueTest, AnItemOfTheDeadStaysUntilItIsGotten) {
  ZeroCopyQueue<int> queue({.loans = 1});
  ChildProcess sender =
      ChildProcess::Start([&] { ASSERT_OK(queue.Put(std::vector{1})); });
  sender.ExpectExit();
  EXPECT_THAT(queue.Reserve(1, absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  ChildProcess waiter =
      ChildProcess::Start([&] { EXPECT_OK(queue.Reserve(1)); });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  EXPECT_THAT(queue.Get(), IsOkAndHolds(ElementsAre(1)));
  waiter.ExpectExit();
}

// The items of many, each whole and seen once, by way of few loans.
TEST_F(PatientZeroCopyQueueTest, ManyProducersAndConsumers) {
  constexpr int kProcesses = 3;
  constexpr uint32_t kItems = 2000;  // of each producer
  ZeroCopyQueue<uint32_t> queue({.loans = 5});
  const SharedPage<std::atomic<uint64_t>> sum;
  std::vector<ChildProcess> producers;
  std::vector<ChildProcess> consumers;
  for (int i = 0; i < kProcesses; ++i) {
    producers.push_back(ChildProcess::Start([&] {
      for (uint32_t n = 1; n <= kItems; ++n) {
        absl::StatusOr<Reservation<uint32_t>> place =
            queue.Reserve(1 + n % 5000);
        ASSERT_OK(place);
        std::fill(place->data().begin(), place->data().end(), n);
        ASSERT_OK(place->Commit());
      }
    }));
    consumers.push_back(ChildProcess::Start([&] {
      for (;;) {
        absl::StatusOr<Borrowed<uint32_t>> item = queue.Borrow();
        if (absl::IsOutOfRange(item.status())) return;
        ASSERT_OK(item);
        const uint32_t n = item->data().front();
        ASSERT_EQ(item->size(), 1 + n % 5000);
        ASSERT_THAT(item->data(), Each(Eq(n)));
        *sum += n;
      }
    }));
  }
  for (ChildProcess& producer : producers) producer.ExpectExit();
  queue.Close();
  for (ChildProcess& consumer : consumers) consumer.ExpectExit();
  EXPECT_EQ(*sum, uint64_t{kProcesses} * kItems * (kItems + 1) / 2);
  EXPECT_EQ(LoansOf(queue).taken(), 0u);
}

}  // namespace
}  // namespace mp
