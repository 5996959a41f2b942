// Processes: run a function in a process of its own, wait for it, see how it
// ended.
//
//   void Greet(std::string_view whom) { std::cout << "hello " << whom; }
//
//   mp::Process process(Greet, "world");
//   if (!process.Start().ok() || !process.Join().ok()) return 1;
//   std::cout << process.exitcode().value();  // 0
//
// For many short tasks use mp::Pool (mp/pool/pool.h), which starts its
// processes once. To run another program use posix_spawn.
//
// Start method. The child is a fork of the caller: it has a copy of everything,
// so any callable with any arguments will do and nothing is serialised. Only
// the calling thread exists in the child. This library takes no lock there that
// another thread could have held; other code in the child must see to that
// itself (the C library's heap and stdio do).
//
// The end. A child ends when its target returns, calls mp::Exit, or throws:
//   1. its own daemonic children get SIGTERM, then all its children are joined;
//   2. stdout, stderr, std::cout, std::cerr and std::clog are flushed;
//   3. it leaves with _exit().
// Destructors of static and thread-local objects and exit handlers do not run,
// as the child has inherited them all from its parent: they would write the
// parent's buffers once more and remove its temporary files. That goes for
// those that the child adds, too, so close in the target what is opened there.
// A child that calls std::exit() does run its own, and those that the parent
// registered after its first Start, and then takes the three steps.
// A program that starts children takes step 1 in an exit handler, registered at
// the first Start: it waits for its children when main() returns and in exit(),
// but not when it is killed or calls _exit().

#ifndef MP_PROCESS_PROCESS_H_
#define MP_PROCESS_PROCESS_H_

#include <sys/types.h>

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mp/base/unique_fd.h"

namespace mp {

class Process;

struct ProcessOptions {
  // What the process is called in messages; any text, need not be unique. If
  // empty "Process-N", where N counts the processes created by the caller, and
  // in a child that has itself such a number M "Process-M:N", and so on.
  std::string name = {};
  // A daemonic process is sent SIGTERM when its parent ends normally, instead
  // of being waited for, and may not start processes. (It is not a Unix
  // daemon.) By default as the creator.
  std::optional<bool> daemon = std::nullopt;
};

// The exit code of a child whose true one was taken by somebody else: by a
// waitpid(-1) in the same program, or by the kernel because the program ignores
// SIGCHLD.
inline constexpr int kExitCodeUnknown = 255;

namespace process_internal {

struct Record;

// What a process is to run, whatever its type.
class Target {
 public:
  virtual ~Target() = default;
  // Called at most once. Returns the exit code.
  virtual int Invoke() = 0;
};

// Prints a status that is not OK with the name of the process. The exit code.
int ReportStatus(const absl::Status& status);

template <typename Call>
int ExitCodeOf(Call call) {
  using Result = decltype(call());
  if constexpr (std::is_void_v<Result>) {
    call();
    return 0;
  } else if constexpr (std::is_same_v<Result, int>) {
    return call();
  } else {
    static_assert(
        std::is_same_v<std::remove_cvref_t<Result>, absl::Status>,
        "the target of an mp::Process returns void, int or absl::Status");
    return ReportStatus(call());
  }
}

template <typename F, typename... Args>
class BoundTarget final : public Target {
 public:
  template <typename F2, typename... Args2>
  explicit BoundTarget(F2&& f, Args2&&... args)
      : f_(std::forward<F2>(f)), args_(std::forward<Args2>(args)...) {}

  int Invoke() override {
    if constexpr (std::is_invocable_v<F, Args...>) {
      return ExitCodeOf([this]() -> decltype(auto) {
        return std::apply(std::move(f_), std::move(args_));
      });
    } else {
      static_assert(std::is_invocable_v<F&, Args&...>,
                    "the target of an mp::Process cannot be called with these "
                    "arguments");
      return ExitCodeOf(
          [this]() -> decltype(auto) { return std::apply(f_, args_); });
    }
  }

 private:
  F f_;
  std::tuple<Args...> args_;
};

template <typename F>
concept Callable = !std::same_as<std::remove_cvref_t<F>, ProcessOptions> &&
                   !std::derived_from<std::remove_cvref_t<F>, Process>;

}  // namespace process_internal

// A process that this one starts: a handle to watch and to control it.
//
// Movable, so a std::vector<Process> works. Destroying the handle neither ends
// the process nor waits for it, as in Python: a process that nobody joined is
// reaped by a later Start, or at the exit of the program, which waits for it.
//
// Only the process that created it may start, join, signal or close a Process.
// In a forked copy these fail with FailedPrecondition, while the accessors
// work: IsAlive() and sentinel() of a sibling, name() and pid() of oneself.
//
// Thread safety: Join, IsAlive, exitcode, the signals and the accessors may be
// called from several threads at once, other functions only with nothing else
// going on. A moved-from Process may only be assigned to and destroyed.
//
// A subclass may override Run() instead of passing a target, and keep what it
// needs in its members. It stays movable as long as they are, but not into a
// plain Process, which would lose its Run(): that does not compile.
// Keep different subclasses together as std::unique_ptr<Process>.
class Process {
 public:
  // Does nothing unless Run() is overridden.
  Process();
  explicit Process(ProcessOptions options);

  // Will call `target` with `args`. Both are moved or copied into the Process
  // here (as by std::thread; say std::ref to avoid the copy), and are destroyed
  // in this process when it has started and in the child after the call.
  // The call moves the arguments on. A target that takes an argument by
  // non-const reference gets all of them as lvalues instead, so that
  // `void Work(mp::Lock& lock)` can be written; what it changes there is the
  // child's copy.
  //
  // The target returns void (exit code 0), int (the exit code), or absl::Status
  // (if not OK it is printed to stderr and the exit code is 1).
  template <process_internal::Callable F, typename... Args>
  explicit Process(F&& target, Args&&... args)
      : Process(ProcessOptions(), std::forward<F>(target),
                std::forward<Args>(args)...) {}
  template <process_internal::Callable F, typename... Args>
  Process(ProcessOptions options, F&& target, Args&&... args)
      : Process(std::move(options)) {
    target_ = std::make_unique<
        process_internal::BoundTarget<std::decay_t<F>, std::decay_t<Args>...>>(
        std::forward<F>(target), std::forward<Args>(args)...);
  }

  Process(Process&&) noexcept;
  Process& operator=(Process&&) noexcept;
  template <std::derived_from<Process> Subclass>
  requires(!std::same_as<Subclass, Process>) Process(Subclass&&)
  = delete;  // would lose the subclass's Run()
  template <std::derived_from<Process> Subclass>
  requires(!std::same_as<Subclass, Process>) Process& operator=(Subclass&&) =
      delete;
  virtual ~Process();

  // Starts the process; does not wait until it runs. Once for each object, in
  // the process that created the object.
  //
  // The standard streams are flushed first, so that the child does not write
  // what the parent had buffered. (With std::ios::sync_with_stdio(false),
  // std::cout must not be used by another thread at this moment.)
  // The child's standard input is the null device. Signal handlers, the signal
  // mask and all descriptors are inherited; no handler runs in the child
  // before it is set up.
  //
  // FailedPrecondition on a second call, in a copy, or in a daemonic process.
  // Otherwise the system call that failed and its errno: fork or pidfd_open.
  // After such a failure no child is left, and Start may be called again.
  // Where there is no pidfd for it the child is killed, and may have begun.
  // Unimplemented on kernels before 5.4.
  absl::Status Start();

  // Waits until the process has ended. A timeout of zero or less looks once.
  // May be called again and by several threads at once. Does not wait for what
  // the process has itself started and left behind.
  //
  // DeadlineExceeded if it still runs after `timeout`; FailedPrecondition
  // before Start, after Close, and in other processes than the creator.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration()) const;

  // True from Start until the process has ended; for the process itself always.
  bool IsAlive() const;

  // Sends SIGTERM, SIGKILL or SIGINT. A process that has ended already is not
  // an error. The process ends without flushing and leaves its own children
  // behind. It never hits another process that has got the same pid.
  // FailedPrecondition as for Join.
  absl::Status Terminate() const;
  absl::Status Kill() const;
  absl::Status Interrupt() const;

  // Nothing before Start and while the process runs. Then what it returned,
  // modulo 256 (the kernel keeps no more), or -N if signal N killed it, or 1
  // if an exception escaped (printed to stderr with the name of the process),
  // or kExitCodeUnknown.
  // Python's default handler makes SIGINT an exception (exit code 1); here it
  // is -SIGINT unless the program handles it.
  std::optional<int> exitcode() const;

  // The process id; nothing before Start and after Close.
  std::optional<pid_t> pid() const;
  std::optional<pid_t> ident() const { return pid(); }

  const std::string& name() const;
  // The running child does not learn of a change.
  void set_name(std::string name);

  bool daemon() const;
  // FailedPrecondition after Start or Close.
  absl::Status set_daemon(bool daemon);

  // A descriptor that becomes readable, for poll() and the like, when the
  // process has ended, and stays so; -1 before Start and after Close. Owned by
  // the handle. It is a pidfd: unlike Python's it does not wait for
  // grandchildren that outlive the process.
  int sentinel() const;

  // Releases the descriptor before the handle goes. The name remains.
  // FailedPrecondition while the process runs; may be called again.
  absl::Status Close();

  // For messages: <Process name='Process-1' pid=12 parent=11 stopped
  // exitcode=-SIGTERM daemon>, on one line.
  std::string ToString() const;

 protected:
  // Runs in the child; calls the target. The result is the exit code.
  virtual int Run();

 private:
  friend std::vector<Process> ActiveChildren();

  explicit Process(std::shared_ptr<process_internal::Record> record);

  process_internal::Record& record() const;
  bool IsCreator() const;
  // What the functions that only the creator may call return otherwise.
  absl::Status CheckCreator() const;
  absl::Status CheckStarted() const;
  absl::Status Signal(int signal) const;
  // The start method: on success there is a child, in the record.
  absl::Status Fork();
  [[noreturn]] void RunInChild() noexcept;

  std::shared_ptr<process_internal::Record> record_;
  std::unique_ptr<process_internal::Target> target_;
};

// Ends the calling process with `code`, from any thread and any depth: in a
// child with the three steps above, in the main process as std::exit(code).
// Like that it does not unwind: the caller's local objects are not destroyed.
[[noreturn]] void Exit(int code);

// Of the calling process: "MainProcess" if the library did not start it.
struct ProcessInfo {
  std::string name;
  pid_t pid = 0;
  bool daemon = false;
};
ProcessInfo CurrentProcess();

// The process that started this one: a copyable handle to watch it with.
class Parent {
 public:
  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }
  bool IsAlive() const;
  // Waits until the parent has ended. DeadlineExceeded if it has not.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration()) const;
  // Readable when the parent has ended. Owned by the handle and its copies; -1
  // if the process had no descriptor left.
  int sentinel() const { return pidfd_->get(); }

 private:
  friend std::optional<Parent> ParentProcess();
  Parent(std::string name, pid_t pid, std::shared_ptr<const UniqueFd> pidfd)
      : name_(std::move(name)), pid_(pid), pidfd_(std::move(pidfd)) {}

  std::string name_;
  pid_t pid_;
  std::shared_ptr<const UniqueFd> pidfd_;
};

// Nothing in a process that the library did not start, and where the parent is
// in another PID namespace. A parent that has ended is still a parent.
std::optional<Parent> ParentProcess();

// Further handles to the children of this process that are running, in the
// order of their start. Reaps those that have ended.
std::vector<Process> ActiveChildren();

// Processors that this process may use (its affinity mask), at least 1.
int CpuCount();

}  // namespace mp

#endif  // MP_PROCESS_PROCESS_H_
