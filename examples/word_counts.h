// WordCounts: how often each word occurs in a text.
//
// A word is a run of ASCII letters, as long as possible, in lower case: what
//   LC_ALL=C tr -cs A-Za-z '\n' | LC_ALL=C tr A-Z a-z
// prints. Everything else separates words.

#ifndef MP_EXAMPLES_WORD_COUNTS_H_
#define MP_EXAMPLES_WORD_COUNTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace mp::examples {

bool IsLetter(char c);

// A word and how often it occurs.
using WordCount = std::pair<std::string, uint64_t>;

class WordCounts {
 public:
  // Counts the words of `text`, which becomes lower case on the way.
  void AddText(std::span<char> text);
  void Add(absl::string_view word, uint64_t count);

  // All words, in any order.
  std::vector<WordCount> All() const;
  // The `n` most frequent ones, or all if there are less; the most frequent
  // first, equally frequent ones in the order of the alphabet.
  std::vector<WordCount> MostFrequent(size_t n) const;

  // How many words there are, and how many different ones.
  uint64_t words() const { return words_; }
  size_t different() const { return counts_.size(); }
  // The letters of the different words, for a bound on the size of All().
  size_t letters() const { return letters_; }

  friend bool operator==(const WordCounts&, const WordCounts&) = default;

 private:
  uint64_t words_ = 0;
  size_t letters_ = 0;
  absl::flat_hash_map<std::string, uint64_t> counts_;
};

}  // namespace mp::examples

#endif  // MP_EXAMPLES_WORD_COUNTS_H_
