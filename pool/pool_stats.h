// PoolStats: what a pool and each of its workers are doing.
//
//   std::cout << pool.Stats();
//
//   4 workers, 12 tasks wait, 4 run
//     PoolWorker-1  pid 4711     1.2s  97.1% busy      310 tasks
//     PoolWorker-7  pid 4733     0.3s  99.0% busy       85 tasks  2 restarts
//     ...

#ifndef MP_POOL_POOL_STATS_H_
#define MP_POOL_POOL_STATS_H_

#include <sys/types.h>

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace mp {

struct WorkerStats {
  std::string name = {};
  pid_t pid = 0;  // 0 for a thread
  // How long it has been ready for tasks: zero while it is being started, or
  // its initializer runs.
  absl::Duration alive = absl::ZeroDuration();
  // Of that, the time in which it slept for want of a task; the rest it was
  // busy. A wait that was too short for sleep counts as busy.
  absl::Duration idle = absl::ZeroDuration();
  // Those that this worker has done, whatever their outcome. A chunk of a map
  // is one task.
  int64_t tasks = 0;
  // Workers that were here before it: that died, left, or were not needed.
  int64_t restarts = 0;

  absl::Duration busy() const { return alive - idle; }
  // From 0 to 1.
  double busy_share() const {
    return alive > absl::ZeroDuration() ? absl::FDivDuration(busy(), alive) : 0;
  }
};

struct PoolStats {
  int64_t waiting = 0;  // tasks that no worker has taken yet
  int64_t running = 0;  // workers that have a task
  // Those that are there at the moment. Not one that is about to be started, or
  // has left because it was idle.
  std::vector<WorkerStats> workers = {};
};

// Lines as above.
std::ostream& operator<<(std::ostream& out, const PoolStats& stats);

}  // namespace mp

#endif  // MP_POOL_POOL_STATS_H_
