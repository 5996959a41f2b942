#include "mp/pool/pool_stats.h"

#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace mp {

std::ostream& operator<<(std::ostream& out, const PoolStats& stats) {
  out << absl::StrFormat("%d workers, %d tasks wait, %d run\n",
                         stats.workers.size(), stats.waiting, stats.running);
  for (const WorkerStats& worker : stats.workers) {
    out << absl::StrFormat(
        "  %-14s %11s %8.1fs %5.1f%% busy %8d tasks", worker.name,
        worker.pid == 0 ? "thread" : absl::StrCat("pid ", worker.pid),
        absl::ToDoubleSeconds(worker.alive), 100 * worker.busy_share(),
        worker.tasks);
    if (worker.restarts > 0) out << "  " << worker.restarts << " restarts";
    out << "\n";
  }
  return out;
}

}  // namespace mp
