// What the library knows about the calling process: its name and place in the
// family, its children, and how it ends. Internal; the public face is
// mp/process/process.h.

#ifndef MP_PROCESS_THIS_PROCESS_H_
#define MP_PROCESS_THIS_PROCESS_H_

#include <sys/types.h>

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mp/base/deadline.h"
#include "mp/process/child.h"
#include "mp/process/finalizer_registry.h"
#include "mp/process/identity.h"
#include "mp/process/start_method.h"

namespace mp::process_internal {

class ThisProcess;

// What all handles of one process share. `child` is set by Start and constant
// from then on; the rest is the users' to synchronise.
struct Record {
  // Where it was created: this process, or one of which this is a copy.
  const ThisProcess* creator = nullptr;
  Identity identity;
  // If the creator's default is not to be used.
  std::optional<StartMethod> method;
  bool closed = false;
  // In the creator, and in children that were forked later.
  std::optional<Child> child;
  // Where the creator keeps it until it is reaped; guarded by its lock.
  std::optional<std::list<std::shared_ptr<Record>>::iterator> place;
};

// One object a process. A forked child gets a fresh one, so it never meets a
// lock that a thread of its parent held at the fork, does not take its parent's
// children for its own, and is told apart from the parent by the address even
// where the two have the same pid (in different PID namespaces).
//
// Thread-safe.
class ThisProcess {
 public:
  // Made at the first call, and anew after a fork by other means than ours.
  static ThisProcess& Get();

  // For a child that is about to be forked, or a copy of a template.
  explicit ThisProcess(std::shared_ptr<Record> record);
  ~ThisProcess();
  ThisProcess(const ThisProcess&) = delete;
  ThisProcess& operator=(const ThisProcess&) = delete;

  // In the child: makes `self` what Get() returns. Touches no lock, no heap.
  static void Become(ThisProcess* self);

  // Its own: who it is, and who started it.
  Record& record() const { return *record_; }
  const std::shared_ptr<Record>& shared_record() const { return record_; }
  const Identity& identity() const { return record_->identity; }
  // Whether the library started it.
  bool IsChild() const { return identity().parent_pid != 0; }
  // Whether it has not inherited what another process was to do at its exit.
  bool fresh() const { return fresh_; }
  // In a process that was started afresh: who it turns out to be.
  void Assume(Identity identity);

  // Of the next process that is created here. Takes a number, which can be
  // given back if nothing else was created since.
  std::string NextPath();
  void GiveBackPath() { created_.fetch_sub(1, std::memory_order_relaxed); }

  // How processes are started from here by default. Set: no error, but false,
  // if it was set before in this process, unless `force`.
  StartMethod default_method() const {
    return default_method_.load(std::memory_order_relaxed);
  }
  bool SetDefaultMethod(StartMethod method, bool force);

  // Made here unless it was inherited or set.
  std::string authkey();
  void SetAuthkey(std::string key);

  // A child that has been started and is in its record.
  void Add(const std::shared_ptr<Record>& record);
  // The exit code of a child, nothing while it runs. The one place where
  // children are reaped.
  std::optional<int> Look(Record& record);
  // Waits until the child has been reaped; DeadlineExceeded if it has not.
  absl::Status Join(Record& record, Deadline deadline);
  // Those that run, in the order of their start. Reaps the others.
  std::vector<std::shared_ptr<Record>> LiveChildren();
  // Sends SIGTERM to the daemonic children, then joins all.
  void EndChildren();

  FinalizerRegistry& finalizers() { return finalizers_; }
  // What an exit consists of: some finalizers, the children, the rest.
  void Finish();

 private:
  struct Children;

  ThisProcess();

  static void AfterForkInChild();

  Children& children();

  static const bool registered_;
  // The present process's object; none yet, or not since a fork.
  static std::atomic<ThisProcess*> current_;
  // What the process inherited at its last fork. Read only: its lock may be
  // held by a thread that does not exist here.
  static std::atomic<ThisProcess*> inherited_;

  const std::shared_ptr<Record> record_;
  const bool fresh_;
  std::atomic<int> created_{0};
  std::atomic<StartMethod> default_method_;
  std::atomic<bool> default_method_set_{false};
  std::mutex authkey_mutex_;
  FinalizerRegistry finalizers_;
  std::atomic<Children*> children_{nullptr};  // made when there are any
};

// Flushes stdout, stderr, std::cout, std::cerr and std::clog. Errors, closed
// streams and exceptions of streams that throw are ignored.
void FlushStandardStreams();

// Registers, once, that this process finishes when it ends through exit() or a
// return from main().
void RegisterExitHandler();

// One write to stderr, so that messages of several processes do not mix:
// "Process NAME (pid N): MESSAGE". Flushes the standard streams first.
void PrintMessage(const std::string& message);

// The way out of a child: finishes, flushes, and leaves; a fresh one
// by exit(), another without the exit handlers and static destructors that it
// has inherited.
[[noreturn]] void LeaveChild(int code) noexcept;

}  // namespace mp::process_internal

#endif  // MP_PROCESS_THIS_PROCESS_H_
