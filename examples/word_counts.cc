#include "mp/examples/word_counts.h"

#include <algorithm>
#include <array>

namespace mp::examples {
namespace {

// The lower-case letter for each byte that is a letter, 0 for all others.
constexpr std::array<char, 256> kLowerCase = [] {
  std::array<char, 256> table = {};
  for (int c = 'a'; c <= 'z'; ++c) {
    table[c] = static_cast<char>(c);
    table[c - 'a' + 'A'] = static_cast<char>(c);
  }
  return table;
}();

char LowerCase(char c) { return kLowerCase[static_cast<unsigned char>(c)]; }

bool MoreFrequent(const WordCount& a, const WordCount& b) {
  return a.second != b.second ? a.second > b.second : a.first < b.first;
}

}  // namespace

bool IsLetter(char c) { return LowerCase(c) != 0; }

void WordCounts::AddText(std::span<char> text) {
  char* const end = text.data() + text.size();
  for (char* at = text.data(); at != end;) {
    char* const word = at;
    while (at != end && IsLetter(*at)) {
      *at = LowerCase(*at);
      ++at;
    }
    if (at == word) {
      ++at;
    } else {
      Add(absl::string_view(word, at - word), 1);
    }
  }
}

void WordCounts::Add(absl::string_view word, uint64_t count) {
  words_ += count;
  // Makes a string of the word only if it is new.
  const auto [entry, is_new] = counts_.try_emplace(word, 0);
  entry->second += count;
  if (is_new) letters_ += word.size();
}

std::vector<WordCount> WordCounts::All() const {
  return std::vector<WordCount>(counts_.begin(), counts_.end());
}

std::vector<WordCount> WordCounts::MostFrequent(size_t n) const {
  std::vector<WordCount> words = All();
  n = std::min(n, words.size());
  std::partial_sort(words.begin(), words.begin() + n, words.end(),
                    MoreFrequent);
  words.resize(n);
  return words;
}

}  // namespace mp::examples
