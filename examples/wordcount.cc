// Counts the words of all text files below the given paths, in parallel.
//
//   tools/bazel run //examples:wordcount -- --compare /usr/share/doc

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/examples/count_words.h"
#include "mp/examples/find_files.h"
#include "mp/examples/progress.h"
#include "mp/examples/text_files.h"
#include "mp/examples/word_counts.h"
#include "mp/process/process.h"

ABSL_FLAG(int, processes, 0,
          "worker processes; 0 for as many as there are processors");
ABSL_FLAG(int, top, 10, "how many of the most frequent words to print");
ABSL_FLAG(
    bool, compare, false,
    "do the same work without a pool, too; print the speed-up and whether "
    "the results are identical");
ABSL_FLAG(bool, verbose, false,
          "name all files that are skipped, not only the first ones");

namespace mp::examples {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSkippedShown = 5;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Measured {
  Totals totals;
  double seconds = 0;
};

// Runs CountHere or CountInPool with progress shown on standard error.
template <class Count>
absl::StatusOr<Measured> Measure(const FoundFiles& found, Count count) {
  Progress progress(
      std::cerr,
      isatty(STDERR_FILENO) ? Progress::Style::kBar : Progress::Style::kLines,
      found.bytes);
  CountOptions options;
  options.processes = absl::GetFlag(FLAGS_processes);
  options.on_progress = [&](uint64_t bytes) { progress.Add(bytes); };
  options.on_warning = [&](const std::string& text) { progress.Message(text); };
  const Clock::time_point start = Clock::now();
  absl::StatusOr<Totals> totals = count(found.files, options);
  if (!totals.ok()) return totals.status();
  return Measured{*std::move(totals), SecondsSince(start)};
}

// The files that were not skipped.
FoundFiles CountedFiles(const FoundFiles& found, const Totals& totals) {
  FoundFiles counted;
  counted.skipped = found.skipped;
  counted.skipped.insert(totals.skipped.begin(), totals.skipped.end());
  for (const File& file : found.files) {
    if (totals.skipped.contains(file.path)) continue;
    counted.files.push_back(file);
    counted.bytes += file.size;
  }
  return counted;
}

void PrintSkipped(const Skipped& skipped) {
  const size_t shown =
      absl::GetFlag(FLAGS_verbose) ? skipped.size() : kSkippedShown;
  size_t n = 0;
  for (const auto& [path, reason] : skipped) {
    if (n++ == shown) break;
    std::cerr << "skipped: " << path << ": " << reason << "\n";
  }
  if (skipped.size() > shown) {
    std::cerr << "skipped: " << skipped.size() - shown
              << " more; --verbose names them\n";
  }
}

void PrintTotals(const FoundFiles& counted, const WordCounts& counts) {
  const int top = std::max(0, absl::GetFlag(FLAGS_top));
  for (const auto& [word, count] :
       counts.MostFrequent(static_cast<size_t>(top))) {
    std::cout << absl::StrFormat("%7d %s\n", count, word);
  }
  std::cout << absl::StrFormat(
      "%d files, %d bytes, %d words, %d different; %d skipped\n",
      counted.files.size(), counted.bytes, counts.words(), counts.different(),
      counted.skipped.size());
}

void PrintTime(const std::string& what, double seconds, uint64_t bytes) {
  std::cout << absl::StrFormat(
      "%s: %.2f s, %s/s\n", what, seconds,
      FormatBytes(static_cast<double>(bytes) / seconds));
}

// Reads all files once, so that both of what is compared find them in memory.
void WarmUp(const std::vector<File>& files) {
  TextReader reader;
  for (const File& file : files) {
    if (!reader.Open({file.path, 0, file.size}).ok()) continue;
    absl::StatusOr<std::span<char>> text;
    do {
      text = reader.Next();
    } while (text.ok() && !text->empty());
  }
}

int Main(const std::vector<std::string>& paths) {
  const Clock::time_point start = Clock::now();
  const FoundFiles found = FindFiles(paths);
  const double finding_seconds = SecondsSince(start);
  const bool compare = absl::GetFlag(FLAGS_compare);
  if (compare) WarmUp(found.files);

  const absl::StatusOr<Measured> pool = Measure(found, CountInPool);
  if (!pool.ok()) {
    std::cerr << "wordcount: " << pool.status().ToString() << "\n";
    return EXIT_FAILURE;
  }
  const FoundFiles counted = CountedFiles(found, pool->totals);
  PrintSkipped(counted.skipped);
  PrintTotals(counted, pool->totals.counts);
  std::cout << absl::StrFormat("finding the files: %.2f s\n", finding_seconds);
  const int processes = absl::GetFlag(FLAGS_processes);
  PrintTime(
      absl::StrCat("pool of ", processes > 0 ? processes : mp::CpuCount()),
      pool->seconds, counted.bytes);
  if (!compare) return EXIT_SUCCESS;

  const absl::StatusOr<Measured> alone = Measure(found, CountHere);
  PrintTime("one process", alone->seconds, counted.bytes);
  const bool identical = alone->totals == pool->totals;
  std::cout << absl::StrFormat("speed-up %.2f, results %s\n",
                               alone->seconds / pool->seconds,
                               identical ? "identical" : "DIFFERENT");
  return identical ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace mp::examples

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "counts the words of the text files below PATH...");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() < 2) {
    std::cerr << "usage: wordcount [--processes=N] [--top=N] [--compare] "
                 "[--verbose] PATH...\n";
    return 2;
  }
  return mp::examples::Main({arguments.begin() + 1, arguments.end()});
}
