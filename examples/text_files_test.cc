#include "mp/examples/text_files.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/files_test_util.h"
#include "mp/examples/word_counts.h"
#include "mp/testing/status_matchers.h"

namespace mp::examples {
namespace {

using ::mp::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

namespace fs = std::filesystem;

// A folder of its own for each test.
class TextFilesTest : public FilesTest {
 protected:
  // The words of bytes [begin, end) of a file. Each piece must hold whole
  // words.
  static std::vector<std::string> WordsIn(const FileRange& range) {
    TextReader reader;
    EXPECT_OK(reader.Open(range));
    std::vector<std::string> words;
    while (true) {
      const absl::StatusOr<std::span<char>> piece = reader.Next();
      EXPECT_OK(piece);
      if (!piece.ok() || piece->empty()) return words;
      std::string word;
      for (const char c : *piece) {
        if (IsLetter(c)) {
          word += c;
        } else if (!word.empty()) {
          words.push_back(std::move(word));
          word.clear();
        }
      }
      if (!word.empty()) words.push_back(std::move(word));
    }
  }
};

// Wherever a file is cut, each word is in one part, and whole.
TEST_F(TextFilesTest, RangesNeitherLoseNorShareWords) {
  const std::string text = "ab  cde\nf. ghijklm";
  const std::string path = Write("a", text);
  const std::vector<std::string> words = {"ab", "cde", "f", "ghijklm"};
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t j = i; j <= text.size(); ++j) {
      std::vector<std::string> seen;
      for (const auto& [begin, end] :
           {std::pair(size_t{0}, i), {i, j}, {j, text.size()}}) {
        for (std::string& word : WordsIn({path, begin, end})) {
          seen.push_back(std::move(word));
        }
      }
      EXPECT_EQ(seen, words) << "cut at " << i << " and " << j;
    }
  }
}

// Longer than the reader's buffer in every way.
TEST_F(TextFilesTest, LongTextsAndLongWords) {
  const std::string longest(1'000'000, 'x');
  std::string text;
  std::vector<std::string> words;
  for (size_t i = 0; i < 200'000; ++i) {
    words.push_back(std::string(1 + i % 13, static_cast<char>('a' + i % 26)));
    if (i % 50'000 == 77) words.push_back(longest);
  }
  for (const std::string& word : words) text += word + "\n";
  const std::string path = Write("a", text);
  EXPECT_TRUE(WordsIn({path, 0, text.size()}) == words);

  // A range that begins and ends within the longest word has none.
  const size_t middle = text.find(longest) + 500'000;
  EXPECT_THAT(WordsIn({path, middle, middle + 100'000}), IsEmpty());
}

TEST_F(TextFilesTest, ANewRangeMayBeginAtThePosition) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "abc de fghi ";
  const std::string path = Write("a", text);
  size_t count = 0;
  for (FileRange range = {path, 0, text.size()}; range.begin < range.end;) {
    TextReader reader;
    ASSERT_OK(reader.Open(range));
    ASSERT_OK_AND_ASSIGN(const std::span<char> piece, reader.Next());
    WordCounts counts;
    counts.AddText(piece);
    count += counts.words();
    range.begin = reader.position();
  }
  EXPECT_EQ(count, 300'000U);
}

TEST_F(TextFilesTest, BinaryIsANulNearTheBegin) {
  std::string text(8192, 'x');
  TextReader reader;
  EXPECT_OK(reader.Open({Write("text", text + '\0'), 0, 10}));
  text.back() = '\0';
  const std::string path = Write("binary", text + std::string(9000, 'x'));
  // Also for a range far behind it.
  for (const uint64_t begin : {0, 10'000}) {
    EXPECT_THAT(reader.Open({path, begin, begin + 10}),
                StatusIs(absl::StatusCode::kInvalidArgument, "binary"));
  }
}

TEST_F(TextFilesTest, UnreadableFiles) {
  TextReader reader;
  EXPECT_THAT(reader.Open({Path("missing"), 0, 10}),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(reader.Open({"/proc/self/mem", 0, 10}).ok());
  fs::create_symlink(Write("a", "text"), Path("link"));
  EXPECT_FALSE(reader.Open({Path("link"), 0, 10}).ok());
}

TEST_F(TextFilesTest, FilesThatHaveBecomeShorter) {
  const std::string path = Write("a", "one two");
  EXPECT_THAT(WordsIn({path, 0, 1000}), ElementsAre("one", "two"));
  EXPECT_THAT(WordsIn({path, 500, 1000}), IsEmpty());
}

}  // namespace
}  // namespace mp::examples
