// What runs in a worker process: it runs the initializer, then takes tasks,
// runs them and answers, until there are no more. Internal to the executor of
// processes.

#ifndef MP_POOL_WORKER_LOOP_H_
#define MP_POOL_WORKER_LOOP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "mp/base/code_place.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/ring.h"
#include "mp/pool/executor.h"
#include "mp/pool/initializer.h"
#include "mp/pool/kill_timer.h"
#include "mp/pool/last_words.h"
#include "mp/pool/task_board.h"
#include "mp/pool/task_control.h"

namespace mp::pool_internal {

// All that a worker is told.
struct WorkerPlan {
  static constexpr int kAnyProcessor = -1;

  TaskBoard board;
  std::shared_ptr<Claim> claim;
  std::shared_ptr<LastWords> last_words;
  Initializer initializer;
  int maxtasksperchild = 0;     // 0: without limit
  size_t max_growth_bytes = 0;  // 0: without limit
  int processor = kAnyProcessor;
  uint64_t place = 0;
  bool has_timeline = false;
  // Of the pool's process, unless the worker is a fork of it.
  std::vector<CodeRange> code;
};

// The target of a worker's process.
int RunWorker(WorkerPlan plan);

class WorkerLoop {
 public:
  explicit WorkerLoop(WorkerPlan plan)
      : plan_(std::move(plan)), code_(std::move(plan_.code)) {
    stop_.asked = &plan_.claim->asked_to_stop;
  }

  // Returns the exit code: of success if the pool is closed, or the worker has
  // done its number of tasks, has grown too much, or was told to leave; of
  // failure if the initializer failed, or the pool's process is dead.
  int Run();

 private:
  struct Taken;

  void ReportFailedInitializer(const absl::Status& error);
  ipc_internal::RingResult Take(Taken& taken);
  void AwaitVerdict();
  void Do(const Taken& taken);
  absl::Status Call(const Taken& taken, TaskOutput& output);
  absl::Status BeginLimits(const LimitsHeader& limits);
  void EndLimits();

  WorkerPlan plan_;
  ForeignCode code_;
  std::vector<std::byte> input_;  // of the task that runs
  TaskStop stop_;
  KillTimer kill_timer_;
};

}  // namespace mp::pool_internal

// For a worker that is started afresh.
template <>
struct mp::Codec<mp::pool_internal::WorkerPlan> {
  static size_t Size(const pool_internal::WorkerPlan& plan);
  static void Write(const pool_internal::WorkerPlan& plan, Writer& writer);
  static pool_internal::WorkerPlan Read(Reader& reader);
};

#endif  // MP_POOL_WORKER_LOOP_H_
