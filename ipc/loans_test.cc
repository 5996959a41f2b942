// What mp::ZeroCopyQueue does with them is in zero_copy_queue_test.

#include "mp/ipc/loans.h"

#include <signal.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;

constexpr size_t kMiB = size_t{1} << 20;

class LoansTest : public testing::ProcessTest {
 protected:
  // With what is said to be on the way.
  static absl::StatusOr<uint32_t> Take(
      Loans& loans, size_t bytes, const std::set<uint32_t>& on_the_way = {}) {
    return loans.Take(
        bytes, Deadline::Now(), [] { return false; },
        [&on_the_way](std::vector<bool>& marks) {
          for (const uint32_t block : on_the_way) marks[block] = true;
          return Loans::Marked::kAll;
        });
  }
};

TEST_F(LoansTest, BlocksAreTakenFromTheFirstOn) {
  Loans loans = Loans::Create(3).value();
  for (uint32_t i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const uint32_t block, Take(loans, 1));
    EXPECT_EQ(block, i);
  }
  EXPECT_THAT(Take(loans, 1), StatusIs(absl::StatusCode::kDeadlineExceeded));
  loans.GiveBack(1);
  ASSERT_OK_AND_ASSIGN(const uint32_t block, Take(loans, 1));
  EXPECT_EQ(block, 1u);
}

// One that has memory, before the first one without.
TEST_F(LoansTest, BlocksWithMemoryComeFirst) {
  Loans loans = Loans::Create(3).value();
  ASSERT_OK(Take(loans, 1));
  ASSERT_OK(Take(loans, 20'000));
  loans.GiveBack(0);
  loans.GiveBack(1);
  ASSERT_OK_AND_ASSIGN(const uint32_t block, Take(loans, 10'000));
  EXPECT_EQ(block, 1u);
}

TEST_F(LoansTest, NoSuchBlock) {
  Loans loans = Loans::Create(3).value();
  ASSERT_OK(Take(loans, 4096));
  ASSERT_OK(loans.Map(0, 4096));
  EXPECT_THAT(loans.Map(0, 4097), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(loans.Map(3, 0), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(LoansTest, WhatTheDeadHadComesBackWithItsMemory) {
  constexpr uint32_t kBlocks = 12;
  Loans loans = Loans::Create(kBlocks).value();
  ChildProcess child = ChildProcess::Start([&] {
    for (uint32_t i = 0; i < kBlocks; ++i) ASSERT_OK(Take(loans, 20 * kMiB));
    raise(SIGKILL);
  });
  child.ExpectSignal(SIGKILL);
  EXPECT_EQ(loans.taken(), kBlocks);
  // All but two are of no use to anybody.
  ASSERT_OK(Take(loans, 1, /*on_the_way=*/{3, 5}));
  EXPECT_EQ(loans.taken(), 3u);
  EXPECT_LE(loans.reserved_bytes(), Loans::kIdleBytes + 3 * 20 * kMiB);
}

TEST_F(LoansTest, WhatCannotBeTold) {
  Loans loans = Loans::Create(1).value();
  ChildProcess child = ChildProcess::Start([&] {
    ASSERT_OK(Take(loans, 1));
    raise(SIGKILL);
  });
  child.ExpectSignal(SIGKILL);
  const auto take = [&loans](Loans::Marked marked) {
    return loans.Take(
        1, Deadline::Now(), [] { return false; },
        [marked](std::vector<bool>&) { return marked; });
  };
  EXPECT_THAT(take(Loans::Marked::kBusy),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(take(Loans::Marked::kCorrupted),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_OK(take(Loans::Marked::kAll));
}

TEST_F(LoansTest, GiveUp) {
  Loans loans = Loans::Create(1).value();
  EXPECT_THAT(loans.Take(
                  1, Deadline::Infinite(), [] { return true; },
                  [](std::vector<bool>&) { return Loans::Marked::kAll; }),
              StatusIs(absl::StatusCode::kCancelled));
}

// A child has the parent's loan no more when it has the block itself.
TEST_F(LoansTest, AnInheritedLoanIsNotTheChilds) {
  Loans loans = Loans::Create(1).value();
  ASSERT_OK_AND_ASSIGN(const uint32_t block, Take(loans, 1));
  std::optional<Loan> loan(std::in_place, loans, block,
                           loans.Map(block, 1).value(), 1);
  ChildProcess child = ChildProcess::Start([&] {
    while (loans.taken() != 0) {
    }
    ASSERT_OK(Take(loans, 1));
    EXPECT_FALSE(loan->IsOwn());
    loan.reset();
    EXPECT_EQ(loans.taken(), 1u);
  });
  loan.reset();
  child.ExpectExit();
}

TEST_F(LoansTest, LimitOfTheSizeOfFiles) {
  ChildProcess child = ChildProcess::Start([] {
    const rlimit little = {.rlim_cur = 4 * kMiB, .rlim_max = 4 * kMiB};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
    Loans loans = Loans::Create(16).value();
    EXPECT_GT(loans.max_bytes(), 0u);
    EXPECT_LT(loans.max_bytes(), kMiB);
    EXPECT_OK(Take(loans, loans.max_bytes()));
    EXPECT_THAT(Loans::Create(4096),
                StatusIs(absl::StatusCode::kResourceExhausted));
  });
  child.ExpectExit();
}

}  // namespace
}  // namespace mp::ipc_internal
