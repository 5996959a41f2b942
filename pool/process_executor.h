// The executor of mp::Pool: worker processes fed through shared memory.
//
//   submitters ──► tasks ring ──► workers ──► results ring ──► sinks
//
// All workers take tasks from one ring, so none waits behind a slow one. Three
// kinds of threads work in the pool's own process: submitters put tasks, and
// deliver results while they wait; the collector delivers those that nobody
// waits for; the supervisor waits for workers to die, settles what the dead one
// was doing and starts another.
//
// What the two sides share, and why each task has exactly one end, is in
// mp/pool/task_board.h; what runs in a worker, in mp/pool/worker_loop.h.
//
// Workers come and go. One that leaves, because it has done its number of tasks
// or was told to, does so without a claim, and so takes nothing with it.
// Workers that die again and again without having done anything are replaced
// ever more slowly; if it is the initializer that they die of, the pool fails.
//
// Each worker has a place, which its successor takes over. Only the supervisor
// tells workers to leave: those in places beyond the number that is wanted, and
// those that have waited for a task for too long. The place of the latter stays
// empty until more tasks wait than there are workers that do. The supervisor
// looks at that when a worker has left, and when a task has been submitted
// while a place is empty; so no task waits for a worker that is not there.

#ifndef MP_POOL_PROCESS_EXECUTOR_H_
#define MP_POOL_PROCESS_EXECUTOR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/pool/callback_queue.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/initializer.h"
#include "mp/pool/last_words.h"
#include "mp/pool/pool_stats.h"
#include "mp/pool/task_board.h"
#include "mp/pool/task_pace.h"
#include "mp/pool/timeline.h"
#include "mp/process/finalizer.h"
#include "mp/process/process.h"
#include "mp/process/start_method.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp::pool_internal {

class ProcessExecutor final : public Executor {
 public:
  static absl::StatusOr<std::unique_ptr<ProcessExecutor>> Create(
      const ExecutorOptions& options);

  // Terminates and joins. In a forked copy it does nothing: the workers are not
  // that process's.
  ~ProcessExecutor() override;

  absl::StatusOr<TaskId> Submit(const TaskCode& code, size_t size,
                                TaskOutput::Encoder encode,
                                std::shared_ptr<TaskSink> sink,
                                const TaskLimits& limits) override;
  bool Cancel(TaskId id, CancelMode mode) override;
  size_t max_input_size() const override;
  bool IsOpen() const override;
  int workers() const override;
  absl::Status Resize(int workers) override;
  PoolStats Stats() const override;
  std::vector<pid_t> pids() const override;
  bool Wait(absl::FunctionRef<bool()> ready, BasicGate<KernelPlatform>& gate,
            Deadline deadline) override;
  void Post(std::function<void()> callback) override;
  bool OnOwnThread() const override { return callbacks_.RunsHere(); }
  void Close() override;
  void Terminate() override;
  absl::Status Join(Deadline deadline) override;
  // Terminates, and waits until no thread is left that looks after workers. Of
  // exit(), which a callback may call as well.
  void EndAtExit();

 private:
  enum class State { kRunning, kClosing, kTerminated };

  // A task that has been submitted and has not ended. Its index in pending_
  // goes into the task's record and comes back with its results; its number in
  // the ring tells it from later tasks with the same index.
  struct Pending {
    std::shared_ptr<TaskSink> sink;  // null: the entry is free
    std::optional<uint64_t> number;  // empty: not in the ring yet
    uint32_t generation = 0;         // of the entry
    bool cancelled = false;          // the sink has been called
    bool marked = false;             // among the notices
    bool asked_to_stop = false;      // in some worker's claim
  };

  // Of a task, for the timeline.
  struct Trace {
    TaskCode code;
    int64_t submitted = 0;
  };

  struct Worker {
    std::shared_ptr<Claim> claim;
    std::shared_ptr<LastWords> last_words;
    Process process;
    bool running = false;
    bool sent_away = false;  // for having been idle; until it is started again
    int64_t launches = 0;
    // Those of the claim when it was started.
    uint64_t starts = 0;
    uint64_t done = 0;
  };

  // Deaths in a row in which something that grows has not grown.
  struct Row {
    void Count(uint64_t total_now) {
      length = total_now == total ? length + 1 : 1;
      total = total_now;
    }
    int length = 0;
    uint64_t total = 0;
  };

  ProcessExecutor(const ExecutorOptions& options, TaskBoard board);

  absl::Status Start(const ExecutorOptions& options);
  void UndoStart();
  absl::Status AddWorker();
  absl::Status StartWorker(size_t index);

  bool IsForkedCopy() const { return Liveness::Self() != board_.owner; }
  struct Waiting;
  bool PutTask(const Waiting& task, size_t size, TaskOutput::Encoder encode,
               absl::Status* error);
  void PutBacklog();
  size_t DeliverResults();
  int64_t NapNanos() const;
  bool NapAt(BasicGate<KernelPlatform>& gate, absl::FunctionRef<bool()> ready,
             Deadline deadline);
  bool Lead(absl::FunctionRef<bool()> ready, BasicGate<KernelPlatform>& gate,
            Deadline deadline);
  void Collect();
  bool HasUrgentWork() const;
  bool NeedsCollector() const;
  bool MayGather(size_t delivered) const;
  bool LacksMemory() const;
  void Supervise();
  void SettleDeath(size_t index, int64_t noticed_nanos);
  void SettleClaim(size_t index, const std::string& name, pid_t pid,
                   int exitcode, int64_t noticed_nanos);
  bool HasBegun(uint32_t index) const;
  bool IsRemoved(const Pending& pending, uint32_t gotten) const;
  bool TakeBack(uint32_t index);
  void AskToStop(uint32_t index);
  bool KillWorkerOf(uint32_t index);
  uint64_t TaskOf(uint32_t index) const;
  void FreeEntry(uint32_t index);
  void TraceDeath(size_t place, uint32_t index);
  void CountIdleDeath(const Worker& worker, std::string_view name, pid_t pid,
                      int exitcode);
  bool NeedsWorkers() const;
  bool IsMissing(size_t index) const;
  int StartMissingWorkers();
  absl::Status StartMissing(size_t index);
  Deadline SendAway();
  void FailPool(absl::Status error);
  void FailAll(const absl::Status& error);
  std::shared_ptr<TaskSink> TakeSink(uint32_t index, Trace* trace = nullptr);
  void Interrupt();

  const Initializer initializer_;
  const int maxtasksperchild_;
  const size_t max_growth_bytes_;
  const std::vector<int> processors_;
  const absl::Duration idle_timeout_;
  const StartMethod start_method_;
  TaskBoard board_;
  std::unique_ptr<Timeline> timeline_;  // or null

  // Guards what submitters touch. Taken after delivery_mutex_.
  mutable InPlaceLock mutex_;
  State state_ = State::kRunning;
  absl::Status failure_;  // why there are no more tasks, if not OK
  std::vector<Pending> pending_;
  std::vector<uint32_t> free_;
  std::vector<Trace> traces_;  // as pending_, if there is a timeline
  // How many tasks have been put into the ring, and were removed when it was
  // looked at last. The ring counts modulo 2^32, which is too little for a task
  // that runs for hours.
  uint64_t put_ = 0;
  uint64_t removed_ = 0;
  // Tasks that found the ring full, oldest first; later ones queue behind them.
  struct Waiting {
    uint32_t index;
    TaskFunction run;
    LimitsHeader limits;
    std::unique_ptr<std::byte[]> input;
    size_t size = 0;
  };
  std::deque<Waiting> backlog_;
  bool no_memory_ = false;  // for the first of them
  // Those that are to be there, then those that are not needed any more. Grows
  // by the hand of the supervisor.
  std::vector<Worker> workers_;
  size_t wanted_ = 0;
  int sent_away_ = 0;     // of the workers
  bool recalls_ = false;  // the supervisor has been told that tasks wait

  // Held while results are taken from the ring and given to their sinks.
  InPlaceLock delivery_mutex_;
  AdaptiveSpin<KernelPlatform, kSpinForPartner> delivery_spin_;
  TaskPace pace_;
  // Of the threads in Wait(): whether there was any, since the collector looked
  // last; whether one of them, the leader, sleeps where results arrive; and how
  // many sleep elsewhere.
  std::atomic<bool> waited_{false};
  std::atomic<bool> led_{false};
  std::atomic<int> dozing_{0};
  // The collector's, when it leaves the results to others.
  BasicGate<KernelPlatform> collector_gate_;

  // The supervisor's.
  Row idle_deaths_;   // without a task done
  Row start_deaths_;  // without a worker started
  int64_t next_start_nanos_ = 0;

  UniqueFd wake_supervisor_;  // an eventfd
  std::mutex join_mutex_;
  std::thread collector_;
  std::thread supervisor_;
  CallbackQueue callbacks_;  // the collector's

  // A program that ends with pools open: their workers are daemons and get
  // killed, which must not look like deaths to be made good. Terminates the
  // pool first. The lock is held meanwhile.
  struct AtExit {
    std::mutex mutex;
    ProcessExecutor* executor = nullptr;
  };
  std::shared_ptr<AtExit> at_exit_;
  Finalizer finalizer_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_PROCESS_EXECUTOR_H_
