#include "mp/examples/word_counts.h"

#include <span>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mp::examples {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

WordCounts CountsOf(std::string text) {
  WordCounts counts;
  counts.AddText(text);
  return counts;
}

TEST(WordCountsTest, LettersOnlyInLowerCase) {
  const WordCounts counts = CountsOf("The cat, the C3PO: don't! caf\xC3\xA9\n");
  EXPECT_THAT(counts.All(),
              UnorderedElementsAre(Pair("the", 2), Pair("cat", 1), Pair("c", 1),
                                   Pair("po", 1), Pair("don", 1), Pair("t", 1),
                                   Pair("caf", 1)));
  EXPECT_EQ(counts.words(), 8U);
  EXPECT_EQ(counts.different(), 7U);
  EXPECT_EQ(counts.letters(), 3U + 3 + 1 + 2 + 3 + 1 + 3);
}

TEST(WordCountsTest, EveryByteButLettersSeparates) {
  for (int c = 0; c < 256; ++c) {
    const char byte = static_cast<char>(c);
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    EXPECT_EQ(IsLetter(byte), letter) << c;
    EXPECT_EQ(CountsOf(std::string("x") + byte + "y").words(), letter ? 1U : 2U)
        << c;
  }
}

TEST(WordCountsTest, NoWords) {
  EXPECT_THAT(CountsOf("").All(), IsEmpty());
  EXPECT_THAT(CountsOf(" 12-3\n").All(), IsEmpty());
}

TEST(WordCountsTest, MostFrequentIsOrdered) {
  const WordCounts counts = CountsOf("b a c b a d b");
  EXPECT_THAT(counts.MostFrequent(3),
              ElementsAre(Pair("b", 3), Pair("a", 2), Pair("c", 1)));
  EXPECT_THAT(
      counts.MostFrequent(100),
      ElementsAre(Pair("b", 3), Pair("a", 2), Pair("c", 1), Pair("d", 1)));
  EXPECT_THAT(counts.MostFrequent(0), IsEmpty());
}

TEST(WordCountsTest, AddingTheCountsOfPartsGivesTheWhole) {
  WordCounts sum;
  for (const char* part : {"one two two", "", "Two three"}) {
    for (const auto& [word, count] : CountsOf(part).All()) sum.Add(word, count);
  }
  EXPECT_TRUE(sum == CountsOf("one two two Two three"));
  EXPECT_FALSE(sum == CountsOf("one two two two"));
}

}  // namespace
}  // namespace mp::examples
