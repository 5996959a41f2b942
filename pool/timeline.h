// Writes what a pool's workers did, and when, to a file in the Trace Event
// format, which ui.perfetto.dev, chrome://tracing and Speedscope open. Internal
// to the executors; for what a user sees of it, see docs/timeline.md.
//
// Each worker's place in the pool is a track. On it there are the workers that
// held it, one after the other, as slices from start to end, and in these their
// tasks, named after their functions. A counter shows how many tasks wait.
//
// Events gather in memory for a tenth of a second. A file that was not
// finished, as its program was killed, lacks these and the closing bracket,
// which the format allows.
//
// Format: "Trace Event Format", Google, 2016 (the JSON array form).

#ifndef MP_POOL_TIMELINE_H_
#define MP_POOL_TIMELINE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"
#include "mp/pool/executor.h"
#include "mp/sync/in_place_lock.h"

namespace mp::pool_internal {

// Safe to use from several threads. Times are those of CLOCK_MONOTONIC, in
// nanoseconds.
class Timeline {
 public:
  // Writes to `path` anew. Errors: open.
  static absl::StatusOr<std::unique_ptr<Timeline>> Create(
      const std::string& path);
  // What has not been written is dropped: see Finish().
  ~Timeline() = default;

  struct Task {
    TaskCode code;
    int64_t submitted = 0;
    int64_t begin = 0;
    int64_t end = 0;
    std::string_view outcome;  // "done", "failed", "worker died"
  };
  void AddTask(size_t place, const Task& task);
  // Each worker that was started ends before another is started in its place.
  void StartWorker(size_t place, std::string_view name, pid_t pid);
  void EndWorker(size_t place, std::string_view how);
  void CountWaiting(size_t tasks);

  // Writes what is left, ends workers that have not been ended, and closes the
  // file. The last call.
  void Finish();

 private:
  explicit Timeline(UniqueFd file);

  void Event(std::string_view phase, std::string_view name, size_t place,
             int64_t at, std::string_view more);
  const std::string& NameOf(const TaskCode& code);
  void WriteIfDue();
  void Write();

  InPlaceLock mutex_;
  UniqueFd file_;
  std::string text_;
  int64_t written_at_ = 0;
  int64_t counted_at_ = 0;
  std::vector<bool> in_use_;  // the places in which a worker is
  std::map<std::pair<uint64_t, const char*>, std::string> names_;
};

// What people call it: "Square", or "main::{lambda(int)#1}" (GCC's name).
std::string DisplayName(const TaskCode& code);

}  // namespace mp::pool_internal

#endif  // MP_POOL_TIMELINE_H_
