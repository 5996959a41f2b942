#include "mp/pool/task_board.h"

#include <limits>

#include "gtest/gtest.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

class TaskBoardTest : public mp::testing::ProcessTest {};

TEST_F(TaskBoardTest, TaskIsItsIndexAndItsNumberAndNeverZero) {
  constexpr uint32_t kMost = std::numeric_limits<uint32_t>::max();
  for (const uint32_t index : {0u, 1u, kMost - 1}) {
    for (const uint32_t number : {0u, 1u, kMost}) {
      const uint64_t task = PackTask(index, number);
      EXPECT_NE(task, 0u);
      EXPECT_EQ(IndexOfTask(task), index);
      EXPECT_EQ(NumberOfTask(task), number);
    }
  }
}

TEST_F(TaskBoardTest, NumbersGoOnWhereTheRingBeginsAnew) {
  constexpr uint64_t kAll = uint64_t{1} << 32;
  for (const uint64_t near : {kAll / 2, kAll - 1, kAll, 5 * kAll + 7}) {
    for (const int64_t distance : {-0x7fffffffl, -1l, 0l, 1l, 0x7fffffffl}) {
      const uint64_t number = near + static_cast<uint64_t>(distance);
      EXPECT_EQ(FullNumber(near, static_cast<uint32_t>(number)), number)
          << near << " " << distance;
    }
  }
}

TEST_F(TaskBoardTest, MarkIsOfOneTaskOnly) {
  ASSERT_OK_AND_ASSIGN(const TaskBoard board, TaskBoard::Create(4096, 4096));
  Notices& notices = *board.notices;
  const uint64_t task = PackTask(3, 7);
  EXPECT_FALSE(notices.IsMarked(task));
  EXPECT_TRUE(notices.Mark(task));
  EXPECT_TRUE(notices.IsMarked(task));
  EXPECT_FALSE(notices.IsMarked(PackTask(3, 8)));
  EXPECT_FALSE(notices.IsMarked(PackTask(4, 7)));
  EXPECT_FALSE(notices.Mark(PackTask(4, 7))) << "the place is taken";
  EXPECT_TRUE(notices.IsMarked(task));
  notices.Unmark(task);
  EXPECT_FALSE(notices.IsMarked(task));
  EXPECT_TRUE(notices.Mark(PackTask(4, 7)));
}

TEST_F(TaskBoardTest, BacklogIsDueWhenNoTaskIsInTheRing) {
  ASSERT_OK_AND_ASSIGN(TaskBoard board, TaskBoard::Create(4096, 4096));
  EXPECT_FALSE(board.BacklogIsDue());
  board.notices->set_backlog(true);
  EXPECT_TRUE(board.BacklogIsDue());
  const auto fill = [](std::byte*, uint32_t) { return true; };
  ASSERT_EQ(board.tasks.Put(8, fill, Deadline::Now()),
            ipc_internal::RingResult::kDone);
  EXPECT_FALSE(board.BacklogIsDue());
  board.notices->set_backlog(false);
  EXPECT_FALSE(board.BacklogIsDue());
}

}  // namespace
}  // namespace mp::pool_internal
