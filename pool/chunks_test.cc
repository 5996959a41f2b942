#include "mp/pool/chunks.h"

#include <array>
#include <cstddef>
#include <iterator>
#include <list>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/ipc/codec.h"
#include "mp/pool/executor.h"
#include "mp/pool/generated_range_test_util.h"
#include "mp/pool/task.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::IsOk;
using ::mp::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kMaxBytes = 4096;

void Ignore() {}

// The items of a chunk.
template <class T>
std::vector<T> ItemsOf(const Chunk& chunk) {
  std::vector<T> items;
  EXPECT_THAT(
      ReadItems(std::span(chunk.input).subspan(sizeof(uint64_t)), items),
      IsOk());
  EXPECT_EQ(items.size(), chunk.count);
  return items;
}

template <class How = PassItem, class Items>
auto MakeChunks(Items& items, size_t chunksize, size_t max_bytes = kMaxBytes) {
  return Chunks<How, void (*)(), Items>(&Ignore, items, chunksize, max_bytes);
}

template <class T>
std::vector<std::vector<T>> All(ChunkSource& chunks) {
  std::vector<std::vector<T>> all;
  Chunk chunk;
  while (chunks.Next(chunk)) {
    EXPECT_THAT(chunk.error, IsOk());
    all.push_back(ItemsOf<T>(chunk));
  }
  EXPECT_FALSE(chunks.Next(chunk)) << "still the end";
  return all;
}

TEST(ChunksTest, DefaultSizeIsAQuarterOfAWorkersShare) {
  EXPECT_EQ(DefaultChunkSize(0, 2), 1u);
  EXPECT_EQ(DefaultChunkSize(8, 2), 1u);
  EXPECT_EQ(DefaultChunkSize(9, 2), 2u);
  EXPECT_EQ(DefaultChunkSize(800, 2), 100u);
}

TEST(ChunksTest, OfPlainItemsInARow) {
  std::vector<int> items = {1, 2, 3, 4, 5};
  auto chunks = MakeChunks(items, 2);
  EXPECT_THAT(All<int>(chunks), ElementsAre(ElementsAre(1, 2),
                                            ElementsAre(3, 4), ElementsAre(5)));
}

TEST(ChunksTest, OfNothing) {
  std::vector<int> items;
  auto chunks = MakeChunks(items, 2);
  EXPECT_THAT(All<int>(chunks), IsEmpty());
  std::list<std::string> texts;
  auto more = MakeChunks(texts, 2);
  EXPECT_THAT(All<std::string>(more), IsEmpty());
}

TEST(ChunksTest, BeginWithTheFunction) {
  std::vector<int> items = {1};
  auto chunks = MakeChunks(items, 1);
  Chunk chunk;
  ASSERT_TRUE(chunks.Next(chunk));
  Reader reader(chunk.input);
  EXPECT_EQ(reader.Read<uint64_t>(), FunctionAddress(&Ignore));
}

TEST(ChunksTest, TextIsSentAsStrings) {
  const char* items[] = {"one", "two", "three"};
  auto chunks = MakeChunks(items, 2);
  EXPECT_THAT(All<std::string>(chunks),
              ElementsAre(ElementsAre("one", "two"), ElementsAre("three")));
}

TEST(ChunksTest, TuplesPairsAndArraysAreSentAsTuples) {
  std::vector<std::pair<int, const char*>> pairs = {{1, "one"}, {2, "two"}};
  auto chunks = MakeChunks<SpreadItem>(pairs, 5);
  EXPECT_THAT(
      (All<std::tuple<int, std::string>>(chunks)),
      ElementsAre(ElementsAre(std::tuple(1, "one"), std::tuple(2, "two"))));
  std::vector<std::array<int, 3>> arrays = {{1, 2, 3}};
  auto more = MakeChunks<SpreadItem>(arrays, 5);
  EXPECT_THAT((All<std::tuple<int, int, int>>(more)),
              ElementsAre(ElementsAre(std::tuple(1, 2, 3))));
  int x = 7;
  std::vector<std::tuple<int&, std::string>> references = {{x, "x"}};
  auto last = MakeChunks<SpreadItem>(references, 5);
  EXPECT_THAT((All<std::tuple<int, std::string>>(last)),
              ElementsAre(ElementsAre(std::tuple(7, "x"))));
}

TEST(ChunksTest, AreNotMuchLargerThanAQuarterOfTheMemory) {
  std::vector<uint64_t> numbers(1000, 7);
  auto chunks = MakeChunks(numbers, 1000);
  for (const auto& chunk : All<uint64_t>(chunks)) {
    EXPECT_LE(chunk.size(), kMaxBytes / 4 / sizeof(uint64_t));
  }
  std::list<std::string> texts(100, std::string(100, 'x'));
  auto more = MakeChunks(texts, 1000);
  size_t count = 0;
  for (const auto& chunk : All<std::string>(more)) {
    EXPECT_LE(chunk.size(), kMaxBytes / 4 / 100 + 1);
    count += chunk.size();
  }
  EXPECT_EQ(count, 100u);
}

// A large item behind small ones must not make their chunk too large.
TEST(ChunksTest, ItemThatDoesNotFitAnyMoreBeginsTheNext) {
  std::vector<std::string> items(6, "x");
  items[2] = std::string(kMaxBytes - 24, 'c');
  items[4] = std::string(2 * kMaxBytes, 'e');
  auto chunks = MakeChunks(items, 10);
  std::vector<std::vector<size_t>> sizes;
  for (const auto& chunk : All<std::string>(chunks)) {
    sizes.emplace_back();
    for (const std::string& text : chunk) sizes.back().push_back(text.size());
  }
  EXPECT_THAT(sizes, ElementsAre(ElementsAre(1, 1), ElementsAre(kMaxBytes - 24),
                                 ElementsAre(1), ElementsAre(2 * kMaxBytes),
                                 ElementsAre(1)));
}

struct Even {
  int n = 0;
};

}  // namespace
}  // namespace mp::pool_internal

template <>
struct mp::Codec<mp::pool_internal::Even> {
  static size_t Size(const pool_internal::Even&) { return sizeof(int); }
  static void Write(const pool_internal::Even& even, Writer& writer) {
    if (even.n % 2 != 0) return writer.Fail(absl::InvalidArgumentError("odd"));
    writer.Write(even.n);
  }
  static pool_internal::Even Read(Reader& reader) {
    return {reader.Read<int>()};
  }
};

namespace mp::pool_internal {
namespace {

TEST(ChunksTest, ItemThatCannotBeSentIsAChunkOfItsOwn) {
  std::vector<Even> items = {{0}, {2}, {3}, {5}, {6}};
  auto chunks = MakeChunks(items, 10);
  Chunk chunk;
  ASSERT_TRUE(chunks.Next(chunk));
  EXPECT_THAT(chunk.error, IsOk());
  EXPECT_EQ(ItemsOf<Even>(chunk).size(), 2u);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(chunks.Next(chunk));
    EXPECT_THAT(chunk.error,
                StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
    EXPECT_EQ(chunk.count, 1u);
  }
  ASSERT_TRUE(chunks.Next(chunk));
  EXPECT_THAT(chunk.error, IsOk());
  EXPECT_EQ(ItemsOf<Even>(chunk).size(), 1u);
  EXPECT_FALSE(chunks.Next(chunk));
}

TEST(ChunksTest, ExceptionOfTheRangeComesInItsPlace) {
  for (const int bad : {0, 1, 2, 3}) {
    GeneratedRange items([bad](int n) {
      if (n == bad) throw std::out_of_range("bad");
      return n;
    });
    auto chunks = MakeChunks(items, 2);
    Chunk chunk;
    std::vector<int> before;
    bool thrown = false;
    try {
      while (chunks.Next(chunk)) {
        for (const int n : ItemsOf<int>(chunk)) before.push_back(n);
      }
    } catch (const std::out_of_range&) {
      thrown = true;
    }
    EXPECT_TRUE(thrown);
    EXPECT_EQ(before.size(), static_cast<size_t>(bad));
    EXPECT_FALSE(chunks.Next(chunk)) << "it has ended";
  }
}

TEST(ChunksTest, ReadsNoItemBeforeItIsNeeded) {
  int made = 0;
  GeneratedRange items([&made](int n) {
    ++made;
    return n;
  });
  auto chunks = MakeChunks(items, 3);
  Chunk chunk;
  EXPECT_EQ(made, 0);
  ASSERT_TRUE(chunks.Next(chunk));
  EXPECT_EQ(made, 3);
  ASSERT_TRUE(chunks.Next(chunk));
  EXPECT_EQ(made, 6);
  EXPECT_THAT(ItemsOf<int>(chunk), ElementsAre(3, 4, 5));
}

// A range like std::views::istream reads the next item when it is incremented.
TEST(ChunksTest, DoesNotIncrementBeforeTheNextItemIsNeeded) {
  std::istringstream stream("1 2 3 4 5");
  struct Istream {
    std::istream_iterator<int> begin() const {
      return std::istream_iterator<int>(in);
    }
    std::istream_iterator<int> end() const { return {}; }
    std::istream& in;
  };
  Istream items{stream};
  auto chunks = MakeChunks(items, 2);
  Chunk chunk;
  ASSERT_TRUE(chunks.Next(chunk));
  EXPECT_THAT(ItemsOf<int>(chunk), ElementsAre(1, 2));
  int next = 0;
  stream >> next;
  EXPECT_EQ(next, 3);
  ASSERT_TRUE(chunks.Next(chunk));
  EXPECT_THAT(ItemsOf<int>(chunk), ElementsAre(4, 5));
  EXPECT_FALSE(chunks.Next(chunk));
}

TEST(HeldChunksTest, RefersToNamedRangesAndKeepsOthers) {
  using Named = HeldChunks<PassItem, void (*)(), std::vector<int>&>;
  using Const = HeldChunks<PassItem, void (*)(), const std::vector<int>&>;
  using Temporary = HeldChunks<PassItem, void (*)(), std::vector<int>>;
  using View = HeldChunks<PassItem, void (*)(), std::span<int>&>;
  static_assert(std::is_same_v<Named::Held, std::vector<int>&>);
  static_assert(std::is_same_v<Const::Held, const std::vector<int>&>);
  static_assert(std::is_same_v<Temporary::Held, std::vector<int>>);
  static_assert(std::is_same_v<View::Held, std::span<int>>);
  std::vector<int> items = {1, 2};
  Named named(&Ignore, items, 1, kMaxBytes);
  items[0] = 5;
  EXPECT_THAT(All<int>(named), ElementsAre(ElementsAre(5), ElementsAre(2)));
  Temporary temporary(&Ignore, std::move(items), 1, kMaxBytes);
  items = {7, 7};
  EXPECT_THAT(All<int>(temporary), ElementsAre(ElementsAre(5), ElementsAre(2)));
}

}  // namespace
}  // namespace mp::pool_internal
