#include "mp/examples/count_words.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/examples/progress.h"
#include "mp/pool/pool.h"

namespace mp::examples {
namespace {

constexpr uint64_t kMinTaskBytes = uint64_t{1} << 20;
constexpr uint64_t kMaxTaskBytes = uint64_t{64} << 20;
// Tasks of many small files are bounded by the paths, which are what is sent.
constexpr size_t kMaxPathBytes = size_t{256} << 10;
// A worker with more to report than this stops and returns the rest of its
// task.
constexpr size_t kMaxResultBytes = size_t{4} << 20;
constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();
constexpr int kMaxDeaths = 5;

// ---- In any process

// About the size of the counts as a message.
size_t ResultBytes(const WordCounts& counts) {
  return counts.letters() + 16 * counts.different();
}

// Counts what it can of a range before the counts reach `limit`, at least a
// little. Returns the rest.
FileRange CountRange(const FileRange& range, size_t limit, TextReader& reader,
                     Totals& totals) {
  absl::Status status = reader.Open(range);
  while (status.ok()) {
    const absl::StatusOr<std::span<char>> text = reader.Next();
    status = text.status();
    if (!status.ok()) break;
    if (text->empty()) return {};
    totals.counts.AddText(*text);
    if (ResultBytes(totals.counts) >= limit) {
      return {range.path, reader.position(), range.end};
    }
  }
  totals.skipped[range.path] = std::string(status.message());
  return {};
}

// ---- In a worker

// What a task comes to.
struct Part {
  std::vector<WordCount> counts;
  Skipped skipped;
  std::vector<FileRange> rest;
};

// The task.
Part CountPart(const std::vector<FileRange>& ranges) {
  TextReader reader;
  Totals totals;
  Part part;
  for (const FileRange& range : ranges) {
    if (!part.rest.empty()) {
      part.rest.push_back(range);
      continue;
    }
    FileRange rest = CountRange(range, kMaxResultBytes, reader, totals);
    if (rest.begin < rest.end) part.rest.push_back(std::move(rest));
  }
  part.counts = totals.counts.All();
  part.skipped = std::move(totals.skipped);
  return part;
}

// ---- In the process that has the pool

uint64_t Bytes(const std::vector<FileRange>& ranges) {
  uint64_t bytes = 0;
  for (const FileRange& range : ranges) bytes += range.size();
  return bytes;
}

class PoolCounter {
 public:
  PoolCounter(mp::Pool& pool, const CountOptions& options)
      : pool_(pool), options_(options) {}

  absl::StatusOr<Totals> Run(const std::vector<File>& files) {
    TaskCutter cutter(files, pool_.processes());
    // So many tasks ahead that no worker waits, but not the whole input.
    const size_t window = 3 * static_cast<size_t>(pool_.processes());
    while (!cutter.done() || !tasks_.empty()) {
      while (!cutter.done() && tasks_.size() < window) Submit(cutter.Next());
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      if (absl::Status status = Finish(task); !status.ok()) return status;
    }
    return std::move(totals_);
  }

 private:
  struct Task {
    std::vector<FileRange> ranges;
    mp::AsyncResult<Part> result;
    int deaths;  // workers that this task has had and that died
  };

  void Submit(std::vector<FileRange> ranges, int deaths = 0) {
    mp::AsyncResult<Part> result = pool_.ApplyAsync(CountPart, ranges);
    tasks_.push_back({std::move(ranges), std::move(result), deaths});
  }

  // Waits for a task, and merges its result or does what its failure asks for.
  absl::Status Finish(Task& task) {
    absl::StatusOr<Part> part = std::move(task.result).Get();
    if (part.ok()) {
      Merge(task, *std::move(part));
    } else if (mp::IsWorkerDied(part.status())) {
      return Retry(task, part.status());
    } else if (absl::IsResourceExhausted(part.status())) {
      CountItHere(task);
    } else {
      return part.status();
    }
    return absl::OkStatus();
  }

  void Merge(const Task& task, Part part) {
    for (const auto& [word, count] : part.counts) {
      totals_.counts.Add(word, count);
    }
    totals_.skipped.merge(part.skipped);
    options_.on_progress(Bytes(task.ranges) - Bytes(part.rest));
    if (!part.rest.empty()) Submit(std::move(part.rest));
  }

  absl::Status Retry(Task& task, const absl::Status& error) {
    if (task.deaths + 1 == kMaxDeaths) return error;
    options_.on_warning(
        absl::StrCat("warning: ", std::string(error.message()), "; its ",
                     FormatBytes(static_cast<double>(Bytes(task.ranges))),
                     " are counted again"));
    Submit(std::move(task.ranges), task.deaths + 1);
    return absl::OkStatus();
  }

  // For a text with a word of megabytes: no result could carry it.
  void CountItHere(const Task& task) {
    TextReader reader;
    for (const FileRange& range : task.ranges) {
      CountRange(range, kNoLimit, reader, totals_);
    }
    options_.on_progress(Bytes(task.ranges));
  }

  mp::Pool& pool_;
  const CountOptions& options_;
  std::deque<Task> tasks_;  // under way, the oldest first
  Totals totals_;
};

}  // namespace

TaskCutter::TaskCutter(const std::vector<File>& files, int workers)
    : files_(files), workers_(workers) {
  for (const File& file : files) bytes_left_ += file.size;
}

std::vector<FileRange> TaskCutter::Next() {
  uint64_t room =
      std::clamp(bytes_left_ / (2 * workers_), kMinTaskBytes, kMaxTaskBytes);
  std::vector<FileRange> ranges;
  size_t path_bytes = 0;
  while (!done() && room > 0 && path_bytes < kMaxPathBytes) {
    const File& file = files_[next_];
    const uint64_t size = std::min(room, file.size - offset_);
    ranges.push_back({file.path, offset_, offset_ + size});
    path_bytes += file.path.size();
    room -= size;
    bytes_left_ -= size;
    offset_ += size;
    if (offset_ == file.size) {
      ++next_;
      offset_ = 0;
    }
  }
  return ranges;
}

Totals CountHere(const std::vector<File>& files, const CountOptions& options) {
  TextReader reader;
  Totals totals;
  for (const File& file : files) {
    CountRange({file.path, 0, file.size}, kNoLimit, reader, totals);
    options.on_progress(file.size);
  }
  return totals;
}

absl::StatusOr<Totals> CountInPool(const std::vector<File>& files,
                                   const CountOptions& options) {
  mp::PoolOptions pool_options;
  pool_options.processes = options.processes;
  pool_options.result_capacity_bytes = 4 * kMaxResultBytes;
  absl::StatusOr<mp::Pool> pool = mp::Pool::Create(pool_options);
  if (!pool.ok()) return pool.status();
  return PoolCounter(*pool, options).Run(files);
}

}  // namespace mp::examples
