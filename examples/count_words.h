// Counts the words of many files: with a pool of processes, or without.

#ifndef MP_EXAMPLES_COUNT_WORDS_H_
#define MP_EXAMPLES_COUNT_WORDS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mp/examples/find_files.h"
#include "mp/examples/text_files.h"
#include "mp/examples/word_counts.h"

namespace mp::examples {

struct Totals {
  WordCounts counts;
  // Files that are binary or cannot be read. One that fails in the middle
  // counts up to there.
  Skipped skipped;

  friend bool operator==(const Totals&, const Totals&) = default;
};

struct CountOptions {
  int processes = 0;  // workers; 0 for as many as there are processors
  // Called by the counting process: so many bytes more are done.
  std::function<void(uint64_t bytes)> on_progress = [](uint64_t) {};
  // Something happened that the user should know. The result is right.
  std::function<void(const std::string& text)> on_warning =
      [](const std::string&) {};
};

// In this process.
Totals CountHere(const std::vector<File>& files,
                 const CountOptions& options = {});

// In a pool. A task whose worker dies is done again. Memory grows with the
// number of files and of different words, but not with the size of the text.
//
// Errors: no pool could be made; a task has killed one worker after the other.
absl::StatusOr<Totals> CountInPool(const std::vector<File>& files,
                                   const CountOptions& options = {});

// Cuts files into tasks. Each worker gets half of its share of what is left:
// the first tasks are large, as this process has to merge the result of each,
// and the last ones small, so that all workers end at about the same time.
class TaskCutter {
 public:
  TaskCutter(const std::vector<File>& files, int workers);

  bool done() const { return next_ == files_.size(); }
  // REQUIRES: !done().
  std::vector<FileRange> Next();

 private:
  const std::vector<File>& files_;
  const int workers_;
  uint64_t bytes_left_ = 0;
  size_t next_ = 0;      // the file of which
  uint64_t offset_ = 0;  // so much is in tasks
};

}  // namespace mp::examples

#endif  // MP_EXAMPLES_COUNT_WORDS_H_
