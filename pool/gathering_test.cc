#include "mp/pool/gathering.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/pool/async_result.h"
#include "mp/pool/executor.h"
#include "mp/pool/pool_stats.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Runs nothing; for who waits.
class IdleExecutor final : public Executor {
 public:
  absl::StatusOr<TaskId> Submit(const TaskCode&, size_t, TaskOutput::Encoder,
                                std::shared_ptr<TaskSink>,
                                const TaskLimits&) override {
    return absl::UnimplementedError("");
  }
  bool Cancel(TaskId, CancelMode) override { return false; }
  size_t max_input_size() const override { return 0; }
  bool IsOpen() const override { return false; }
  int workers() const override { return 1; }
  absl::Status Resize(int) override { return absl::OkStatus(); }
  PoolStats Stats() const override { return {}; }
  std::vector<pid_t> pids() const override { return {}; }
  bool Wait(absl::FunctionRef<bool()> ready, BasicGate<KernelPlatform>& gate,
            Deadline deadline) override {
    return ready() || gate.Sleep(ready, deadline);
  }
  void Post(std::function<void()> callback) override { callback(); }
  void Close() override {}
  void Terminate() override {}
  absl::Status Join(Deadline) override { return absl::OkStatus(); }
};

std::span<const std::byte> Bytes(const std::vector<int>& numbers) {
  return std::as_bytes(std::span(numbers));
}

class GatheringTest : public ::testing::Test {
 protected:
  using State = ResultState<std::vector<int>>;

  const std::shared_ptr<IdleExecutor> executor_ =
      std::make_shared<IdleExecutor>();
  const std::shared_ptr<State> result_ = std::make_shared<State>(executor_);
  const std::shared_ptr<Gathering<int>> gathering_ =
      std::make_shared<Gathering<int>>(result_);
};

TEST_F(GatheringTest, ResultsAreInTheOrderOfTheChunks) {
  const auto first = gathering_->AddChunk(2);
  const auto second = gathering_->AddChunk(3);
  gathering_->AllSubmitted();
  second->Part(Bytes({3, 4}));
  second->Finish(Bytes({5}));
  EXPECT_FALSE(result_->ready());
  first->Finish(Bytes({1, 2}));
  ASSERT_TRUE(result_->ready());
  EXPECT_THAT(result_->outcome(), IsOkAndHolds(ElementsAre(1, 2, 3, 4, 5)));
}

// Or a Map of very many would keep something of each to its end.
TEST_F(GatheringTest, ForgetsChunksThatHaveEndedWhenOthersCome) {
  std::vector<std::weak_ptr<TaskSink>> chunks;
  auto slow = gathering_->AddChunk(1);
  for (int i = 1; i < 100; ++i) {
    const auto chunk = gathering_->AddChunk(1);
    chunks.push_back(chunk);
    chunk->Finish(Bytes({i}));
  }
  EXPECT_FALSE(chunks[0].expired()) << "the first one has not ended";
  slow->Finish(Bytes({0}));
  slow.reset();
  std::vector<int> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  for (int i = 100; i < 200; ++i) {
    gathering_->AddChunk(1)->Finish(Bytes({i}));
    expected.push_back(i);
  }
  for (const auto& chunk : chunks) EXPECT_TRUE(chunk.expired());
  gathering_->AllSubmitted();
  EXPECT_THAT(result_->outcome(), IsOkAndHolds(expected));
}

TEST_F(GatheringTest, AnErrorOfAForgottenChunkIsTheOutcome) {
  gathering_->AddChunk(1)->Finish(Bytes({0}));
  gathering_->AddChunk(1)->Fail(absl::DataLossError("one"));
  for (int i = 0; i < 10; ++i) gathering_->AddChunk(1)->Finish(Bytes({i}));
  gathering_->AddChunk(1)->Fail(absl::DataLossError("two"));
  gathering_->AllSubmitted();
  EXPECT_THAT(result_->outcome(),
              StatusIs(absl::StatusCode::kDataLoss, ::testing::Eq("one")));
}

TEST_F(GatheringTest, IsNotReadyBeforeAllAreSubmitted) {
  gathering_->AddChunk(1)->Finish(Bytes({1}));
  EXPECT_FALSE(result_->ready());
  gathering_->AllSubmitted();
  EXPECT_THAT(result_->outcome(), IsOkAndHolds(ElementsAre(1)));
}

TEST_F(GatheringTest, OfNoChunks) {
  gathering_->AllSubmitted();
  EXPECT_THAT(result_->outcome(), IsOkAndHolds(IsEmpty()));
}

TEST_F(GatheringTest, ErrorIsThatOfTheFirstChunkThatHasOne) {
  const auto first = gathering_->AddChunk(1);
  const auto second = gathering_->AddChunk(1);
  const auto third = gathering_->AddChunk(1);
  third->Fail(absl::DataLossError("third"));
  second->Fail(absl::NotFoundError("second"));
  gathering_->AllSubmitted();
  EXPECT_FALSE(result_->ready()) << "all the rest is done";
  first->Finish(Bytes({1}));
  EXPECT_THAT(result_->outcome(),
              StatusIs(absl::StatusCode::kNotFound, "second"));
}

TEST_F(GatheringTest, BrokenResultIsAnError) {
  const auto chunk = gathering_->AddChunk(1);
  gathering_->AllSubmitted();
  chunk->Finish(Bytes({1}).subspan(1));
  EXPECT_THAT(result_->outcome(),
              StatusIs(absl::StatusCode::kDataLoss, "a part of an item"));
}

TEST_F(GatheringTest, WaitsUntilFewAreUnderWay) {
  const auto first = gathering_->AddChunk(1);
  const auto second = gathering_->AddChunk(1);
  gathering_->Wait(*executor_, 2);
  std::thread worker([&] { first->Finish(Bytes({1})); });
  gathering_->Wait(*executor_, 1);
  worker.join();
  second->Finish(Bytes({2}));
  gathering_->Wait(*executor_, 0);
  gathering_->AllSubmitted();  // which lets go of the chunks
}

TEST_F(GatheringTest, ChunksEndInManyThreads) {
  constexpr int kChunks = 1000;
  std::vector<std::shared_ptr<TaskSink>> chunks;
  for (int i = 0; i < kChunks; ++i) chunks.push_back(gathering_->AddChunk(1));
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < kChunks; i += 4) {
        chunks[i]->Finish(Bytes({static_cast<int>(i)}));
      }
    });
  }
  gathering_->AllSubmitted();
  ASSERT_TRUE(result_->Wait(Deadline::Infinite()));
  for (std::thread& thread : threads) thread.join();
  ASSERT_THAT(result_->outcome(), IsOk());
  for (size_t i = 0; i < kChunks; ++i) {
    ASSERT_EQ((*result_->outcome())[i], static_cast<int>(i));
  }
}

TEST(VoidGatheringTest, HasAStatus) {
  const auto executor = std::make_shared<IdleExecutor>();
  const auto result = std::make_shared<ResultState<void>>(executor);
  const auto gathering = std::make_shared<Gathering<void>>(result);
  gathering->AddChunk(3)->Finish({});
  gathering->AllSubmitted();
  EXPECT_THAT(result->outcome(), IsOk());
}

// Nothing holds on to itself when all is done.
TEST(VoidGatheringTest, IsGoneWhenAllHaveEnded) {
  const auto executor = std::make_shared<IdleExecutor>();
  auto gathering = std::make_shared<Gathering<void>>(
      std::make_shared<ResultState<void>>(executor));
  const std::weak_ptr<Gathering<void>> watch = gathering;
  auto chunk = gathering->AddChunk(1);
  gathering->AllSubmitted();
  gathering.reset();
  EXPECT_FALSE(watch.expired());
  chunk->Finish({});
  chunk.reset();
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace mp::pool_internal
