#include "mp/pool/task.h"

#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/pool/executor.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::ElementsAre;

// Keeps what a task puts out.
class RecordingOutput final : public TaskOutput {
 public:
  void Part(size_t size, Encoder encode) override {
    parts.emplace_back(size);
    ASSERT_THAT(encode(parts.back()), IsOk());
  }
  void Finish(size_t size, Encoder encode) override {
    Part(size, encode);
    ends.push_back(absl::OkStatus());
  }
  void Fail(const absl::Status& error) override { ends.push_back(error); }
  size_t max_size() const override { return size_t{1} << 20; }

  std::vector<std::vector<std::byte>> parts;
  std::vector<absl::Status> ends;
};

int Difference(int a, int b) { return a - b; }

template <class F, class... A>
RecordingOutput RunApply(F function, const A&... arguments) {
  using Task = ApplyTask<F, A...>;
  std::vector<std::byte> input(Task::InputSize(arguments...));
  EXPECT_THAT(Task::EncodeInput(function, input, arguments...), IsOk());
  RecordingOutput output;
  Task::Run(input, output);
  return output;
}

TEST(ApplyTaskTest, CallsAFunctionWithItsArgumentsInOrder) {
  const RecordingOutput output = RunApply(&Difference, 10, 4);
  ASSERT_THAT(output.ends, ElementsAre(IsOk()));
  ASSERT_EQ(output.parts.size(), 1u);
  EXPECT_EQ(Decode<int>(output.parts[0]).value(), 6);
}

TEST(ApplyTaskTest, CallsALambdaWithoutCaptures) {
  const RecordingOutput output =
      RunApply([](const std::string& s) { return s + "?"; }, std::string("a"));
  ASSERT_EQ(output.parts.size(), 1u);
  EXPECT_EQ(Decode<std::string>(output.parts[0]).value(), "a?");
}

TEST(ApplyTaskTest, StatusOfTheFunctionIsTheTasks) {
  EXPECT_THAT(RunApply([]() -> absl::StatusOr<int> {
                return absl::NotFoundError("gone");
              }).ends,
              ElementsAre(StatusIs(absl::StatusCode::kNotFound, "gone")));
  const RecordingOutput fine = RunApply([] { return absl::OkStatus(); });
  EXPECT_THAT(fine.ends, ElementsAre(IsOk()));
}

TEST(ApplyTaskTest, HostileInputFailsTheTask) {
  using Task = ApplyTask<int (*)(int, int), int, int>;
  std::vector<std::byte> input(Task::InputSize(1, 2));
  ASSERT_THAT(Task::EncodeInput(&Difference, input, 1, 2), IsOk());
  input.pop_back();
  RecordingOutput output;
  Task::Run(input, output);
  EXPECT_THAT(output.ends,
              ElementsAre(StatusIs(absl::StatusCode::kDataLoss, ::testing::_)));
}

template <class F, class T>
std::vector<std::byte> MapInput(F function, const std::vector<T>& items) {
  std::vector<std::byte> input(sizeof(uint64_t));
  const uint64_t address = FunctionAddress(function);
  memcpy(input.data(), &address, sizeof(address));
  absl::Status error;
  for (const T& item : items) AppendItem(item, input, error);
  EXPECT_THAT(error, IsOk());
  return input;
}

TEST(MapTaskTest, ResultsComeInOrderAndInParts) {
  const auto longer = [](const std::string& s) { return s + s; };
  using Task = MapTask<decltype(longer), std::string>;
  // Three results of which two fill a part.
  const std::vector<std::string> items = {
      "a", std::string(Task::kPartSize / 2, 'b'), "c"};
  RecordingOutput output;
  Task::Run(MapInput(longer, items), output);
  ASSERT_THAT(output.ends, ElementsAre(IsOk()));
  EXPECT_EQ(output.parts.size(), 2u);
  std::vector<std::string> results;
  for (const auto& part : output.parts) {
    EXPECT_THAT(ReadItems(part, results), IsOk());
  }
  EXPECT_THAT(results, ElementsAre("aa", items[1] + items[1], "cc"));
}

TEST(MapTaskTest, FirstErrorOfAnItemFailsTheTaskAfterAllItems) {
  static int calls;
  calls = 0;
  const auto fail = [](int n) -> absl::Status {
    ++calls;
    if (n == 1) return absl::NotFoundError("first");
    if (n == 2) return absl::DataLossError("second");
    return absl::OkStatus();
  };
  RecordingOutput output;
  MapTask<decltype(fail), int>::Run(MapInput(fail, std::vector{0, 1, 2, 3}),
                                    output);
  EXPECT_THAT(output.ends,
              ElementsAre(StatusIs(absl::StatusCode::kNotFound, "first")));
  EXPECT_EQ(calls, 4);
}

TEST(TaskCallableTest, RefusesWhatCannotTravel) {
  int captured = 0;
  const auto capturing = [captured] { return captured; };
  const auto stateless = [] {};
  static_assert(TaskCallable<int (*)(int, int)>);
  static_assert(TaskCallable<std::remove_const_t<decltype(stateless)>>);
  static_assert(!TaskCallable<std::remove_const_t<decltype(capturing)>>);
  static_assert(std::is_same_v<TaskArgument<const char(&)[4]>, std::string>);
  static_assert(std::is_same_v<TaskArgument<const int&>, int>);
}

}  // namespace
}  // namespace mp::pool_internal
