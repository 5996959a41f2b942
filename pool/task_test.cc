#include "mp/pool/task.h"

#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
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
  absl::Status TooLarge(size_t) const override {
    return absl::ResourceExhaustedError("too large");
  }

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
  for (const T& item : items) EXPECT_THAT(AppendItem(item, input), IsOk());
  return input;
}

TEST(MapTaskTest, ResultsComeInOrderAndInParts) {
  const auto longer = [](const std::string& s) { return s + s; };
  using Task = MapTask<PassItem, decltype(longer), std::string>;
  // Three results of which two fill a part.
  const std::vector<std::string> items = {
      "a", std::string(PartWriter::kPartSize / 2, 'b'), "c"};
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
  MapTask<PassItem, decltype(fail), int>::Run(
      MapInput(fail, std::vector{0, 1, 2, 3}), output);
  EXPECT_THAT(output.ends,
              ElementsAre(StatusIs(absl::StatusCode::kNotFound, "first")));
  EXPECT_EQ(calls, 4);
}

TEST(MapTaskTest, ItemsBehindAnExceptionAreDoneToo) {
  static int calls;
  calls = 0;
  const auto fail = [](int n) {
    ++calls;
    if (n == 1) throw std::out_of_range("one");
    return n;
  };
  RecordingOutput output;
  MapTask<PassItem, decltype(fail), int>::Run(
      MapInput(fail, std::vector{0, 1, 2, 3}), output);
  EXPECT_THAT(output.ends,
              ElementsAre(StatusIs(absl::StatusCode::kUnknown,
                                   ::testing::HasSubstr("out_of_range: one"))));
  EXPECT_EQ(calls, 4);
}

TEST(MapTaskTest, ResultThatIsTooLargeIsTheError) {
  const auto text = [](size_t size) { return std::string(size, 'x'); };
  RecordingOutput output;
  MapTask<PassItem, decltype(text), size_t>::Run(
      MapInput(text, std::vector<size_t>{1, size_t{2} << 20, 3}), output);
  EXPECT_THAT(
      output.ends,
      ElementsAre(StatusIs(absl::StatusCode::kResourceExhausted, "too large")));
}

TEST(MapTaskTest, TupleIsSpreadOverTheParameters) {
  using Item = std::tuple<int, int>;
  RecordingOutput output;
  MapTask<SpreadItem, int (*)(int, int), Item>::Run(
      MapInput(&Difference, std::vector<Item>{{5, 3}, {1, 4}}), output);
  ASSERT_THAT(output.ends, ElementsAre(IsOk()));
  std::vector<int> results;
  ASSERT_THAT(ReadItems(output.parts[0], results), IsOk());
  EXPECT_THAT(results, ElementsAre(2, -3));
}

TEST(StreamTaskTest, EachItemHasItsOwnOutcome) {
  const auto work = [](int n) -> absl::StatusOr<std::string> {
    if (n == 1) return absl::NotFoundError("gone");
    if (n == 2) throw std::out_of_range("two");
    if (n == 3) return std::string(size_t{2} << 20, 'x');
    return std::to_string(n);
  };
  using Task = StreamTask<PassItem, decltype(work), int>;
  RecordingOutput output;
  Task::Run(MapInput(work, std::vector{0, 1, 2, 3, 4}), output);
  ASSERT_THAT(output.ends, ElementsAre(IsOk()));
  std::vector<absl::StatusOr<std::string>> outcomes;
  for (const auto& part : output.parts) {
    ASSERT_THAT(ReadItems(part, outcomes), IsOk());
  }
  using ::mp::testing::IsOkAndHolds;
  EXPECT_THAT(
      outcomes,
      ElementsAre(IsOkAndHolds("0"),
                  StatusIs(absl::StatusCode::kNotFound, "gone"),
                  StatusIs(absl::StatusCode::kUnknown,
                           ::testing::HasSubstr("out_of_range: two")),
                  StatusIs(absl::StatusCode::kResourceExhausted, "too large"),
                  IsOkAndHolds("4")));
}

TEST(StreamTaskTest, FunctionsWithoutResultsHaveStatuses) {
  const auto work = [](int n) {
    if (n == 1) throw 1;
  };
  using Task = StreamTask<PassItem, decltype(work), int>;
  RecordingOutput output;
  Task::Run(MapInput(work, std::vector{0, 1}), output);
  ASSERT_THAT(output.ends, ElementsAre(IsOk()));
  std::vector<absl::Status> outcomes;
  ASSERT_THAT(ReadItems(output.parts[0], outcomes), IsOk());
  EXPECT_THAT(outcomes, ElementsAre(IsOk(), StatusIs(absl::StatusCode::kUnknown,
                                                     ::testing::_)));
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
