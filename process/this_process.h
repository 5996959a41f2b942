// What the library knows about the calling process: its name and place in the
// family, its children, and how it ends. Internal; the public face is
// mp/process/process.h.

#ifndef MP_PROCESS_THIS_PROCESS_H_
#define MP_PROCESS_THIS_PROCESS_H_

#include <sys/types.h>

#include <atomic>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mp/base/deadline.h"
#include "mp/process/child.h"

namespace mp::process_internal {

class ThisProcess;

// What all handles of one process share. `child` is set by Start and constant
// from then on; `name` and `daemon` are the users' to synchronise.
struct Record {
  // None in the record of a process that the library did not start.
  const ThisProcess* creator = nullptr;
  pid_t creator_pid = 0;
  std::string name;
  bool daemon = false;
  // The path of creation counters: "2" in the main process, "2:1" below it.
  std::string identity;
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

  // For a child that is about to be forked.
  explicit ThisProcess(std::shared_ptr<Record> record);
  ~ThisProcess();
  ThisProcess(const ThisProcess&) = delete;
  ThisProcess& operator=(const ThisProcess&) = delete;

  // In the child: makes `self` what Get() returns. Touches no lock, no heap.
  static void Become(ThisProcess* self);

  // Its own: who it is, and who started it.
  const Record& record() const { return *record_; }

  std::string NextIdentity();

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
  std::atomic<int> created_{0};
  std::atomic<Children*> children_{nullptr};  // made when there are any
};

// Flushes stdout, stderr, std::cout, std::cerr and std::clog. Errors, closed
// streams and exceptions of streams that throw are ignored.
void FlushStandardStreams();

// Registers, once, what happens to the children when this process ends through
// exit() or a return from main().
void RegisterExitHandler();

// The way out of a child: ends its children, flushes, and leaves without the
// exit handlers and static destructors that it has inherited.
[[noreturn]] void LeaveChild(int code) noexcept;

}  // namespace mp::process_internal

#endif  // MP_PROCESS_THIS_PROCESS_H_
