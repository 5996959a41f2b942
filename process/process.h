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
// Start methods. The same line starts a process in each of three ways:
// - fork, the default: the child is a copy of the caller with all it has, so
//   any callable with any arguments will do and nothing is serialised. Only the
//   calling thread exists in the child. This library takes no lock there that
//   another thread could have held; other code in the child must see to that
//   itself (the C library's heap and stdio do).
// - spawn: this program is started afresh and has nothing of the caller's but
//   the arguments, the standard streams, environment and directory. Threads of
//   the caller do not matter, nor does its size.
// - forkserver: as spawn, but quick. A template, which is this program started
//   afresh once and kept at the beginning of main(), is copied. What
//   constructors of static objects have made is copied with it.
// The last two need mp::Init(&argc, &argv) at the beginning of main(). There,
// the target must be a function or a callable without captures, and arguments
// must be what mp/ipc/codec.h can send: values, and handles of shared objects
// (mp::Lock, mp::Queue...). Start() says what cannot go. Text literals and
// std::string_view go as text. Functions in shared libraries are found, too.
//
// The end. A child ends when its target returns, calls mp::Exit, or throws:
//   1. its own daemonic children get SIGTERM, then all its children are joined
//      (before and after that its finalizers run: mp/process/finalizer.h);
//   2. stdout, stderr, std::cout, std::cerr and std::clog are flushed;
//   3. it leaves with _exit().
// Destructors of static and thread-local objects and exit handlers do not run,
// as the child has inherited them all from its parent: they would write the
// parent's buffers once more and remove its temporary files. That goes for
// those that the child adds, too, so close in the target what is opened there.
// A child that calls std::exit() does run its own, and those that the parent
// registered after its first Start, and then takes the three steps.
// A spawned child has inherited nothing of the kind and leaves with exit().
// A program that starts children takes step 1 in an exit handler, registered at
// the first Start: it waits for its children when main() returns and in exit(),
// but not when it is killed or calls _exit().

#ifndef MP_PROCESS_PROCESS_H_
#define MP_PROCESS_PROCESS_H_

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/code_place.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/ipc/codec.h"
#include "mp/process/luggage.h"
#include "mp/process/start_message.h"
#include "mp/process/start_method.h"

namespace mp {

class Process;

struct ProcessOptions {
  // What the process is called in messages; any text, need not be unique. If
  // empty "Process-N", where N counts the processes created by the caller, and
  // in a child that has itself such a number M "Process-M:N", and so on.
  std::string name = {};
  // A daemonic process is sent SIGTERM when its parent ends normally, instead
  // of being waited for, and may not start processes. (It is not a Unix
  // daemon.) When its parent dies otherwise, killed by SIGKILL for example, it
  // is killed at once; not so if the program has closed descriptors that are
  // not its own, or if the process goes on as another program. By default as
  // the creator.
  std::optional<bool> daemon = std::nullopt;
  // By default as GetStartMethod() says when it is started.
  std::optional<StartMethod> start_method = std::nullopt;
};

// At the beginning of main(), before there are other threads: makes the start
// methods spawn and forkserver possible. In a process that was started so, it
// runs the target and does not return. Children get the arguments that main()
// got, not those that are left here when something has taken its own away.
//
// Children start with main(), like the program: what comes before this call is
// done again in each of them, unless it is a copy of the template.
void Init(int* argc, char*** argv);

// How this process starts others unless ProcessOptions say otherwise. Children
// inherit it. FailedPrecondition if it has been set in this process before,
// unless `force`.
absl::Status SetStartMethod(StartMethod method, bool force = false);
StartMethod GetStartMethod();
// The default first.
std::vector<StartMethod> GetAllStartMethods();

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
  // The same, to be invoked in another program. InvalidArgument if it cannot.
  virtual absl::StatusOr<Task> Pack(OutgoingDescriptors& descriptors) const = 0;
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

absl::Status TargetCannotTravel();
absl::Status ArgumentCannotTravel(size_t number);
absl::StatusOr<Task> PackTask(EntryPoint entry,
                              std::vector<std::byte> arguments);

// What a value is as bytes, with descriptors apart.
template <typename... T>
absl::StatusOr<std::vector<std::byte>> ToBytes(OutgoingDescriptors& descriptors,
                                               const T&... values) {
  std::vector<std::byte> bytes((size_t{0} + ... + EncodedSize(values)));
  Writer writer(bytes, &descriptors);
  (writer.Write(values), ...);
  if (absl::Status status = writer.Finish(); !status.ok()) return status;
  return bytes;
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

  absl::StatusOr<Task> Pack(OutgoingDescriptors& descriptors) const override {
    constexpr std::array<bool, sizeof...(Args)> kCanGo = {
        Encodable<typename Luggage<Args>::Type>...};
    constexpr size_t kFirstBad = static_cast<size_t>(
        std::find(kCanGo.begin(), kCanGo.end(), false) - kCanGo.begin());
    if constexpr (!kIsFunction<F> && !kIsStateless<F>) {
      return TargetCannotTravel();
    } else if constexpr (kFirstBad < kCanGo.size()) {
      return ArgumentCannotTravel(kFirstBad + 1);
    } else {
      CodePlace function;
      if constexpr (kIsFunction<F>) {
        absl::StatusOr<CodePlace> place = PlaceOfCode(f_);
        if (!place.ok()) return place.status();
        function = *std::move(place);
      }
      absl::StatusOr<std::vector<std::byte>> bytes = std::apply(
          [&](const Args&... args) {
            return ToBytes(descriptors, function, Luggage<Args>::Stow(args)...);
          },
          args_);
      if (!bytes.ok()) return bytes.status();
      return PackTask(&RunPacked, *std::move(bytes));
    }
  }

 private:
  static absl::StatusOr<int> RunPacked(std::span<const std::byte> bytes,
                                       IncomingDescriptors& descriptors) {
    Reader reader(bytes, &descriptors);
    const auto place = reader.Read<CodePlace>();
    // Braces: the arguments are read from left to right.
    std::tuple<typename Luggage<Args>::Type...> luggage{
        reader.Read<typename Luggage<Args>::Type>()...};
    if (absl::Status status = reader.Finish(); !status.ok()) return status;
    const auto call = [&luggage](F f) {
      return std::apply(
          [&f](auto&... args) {
            return BoundTarget(std::move(f), Luggage<Args>::Unstow(args)...)
                .Invoke();
          },
          luggage);
    };
    if constexpr (kIsFunction<F>) {
      const absl::StatusOr<CodeAddress> code = CodeAt(place);
      if (!code.ok()) return code.status();
      return call(reinterpret_cast<F>(*code));
    } else {
      return call(F());
    }
  }

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
  // what the parent had buffered; nor what other threads write meanwhile. (With
  // std::ios::sync_with_stdio(false), std::cout must not be used by another
  // thread at this moment.) The child's standard input is the null device.
  // Signal handlers, the signal mask and all descriptors are inherited; no
  // handler runs in the child before it is set up.
  //
  // FailedPrecondition on a second call, in a copy, in a daemonic process, or
  // if the start method needs mp::Init(). InvalidArgument if it cannot deliver
  // the target or an argument. Unavailable if the forkserver is killed again
  // and again. Otherwise the system call that failed and its errno: fork,
  // posix_spawn, clone, pidfd_open, memfd_create...
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

  // SIGKILLs the process and everything that descends from it, whoever started
  // that. They are stopped first, so that none gets away meanwhile. Not found
  // is what a descendant that has ended left behind. Needs /proc.
  absl::Status KillTree() const;

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

  // How it is or will be started.
  StartMethod start_method() const;

  // A secret that the family shares, for connections between its processes. The
  // main process makes one of 32 random bytes; children inherit it.
  std::string authkey() const;
  // The running child does not learn of a change.
  void set_authkey(std::string key);

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

  // What there is to run, for another program: the target.
  virtual absl::StatusOr<process_internal::Task> Pack(
      OutgoingDescriptors& descriptors) const;
  // In that program: this object is the running process.
  void BecomeSelf();

 private:
  friend std::vector<Process> ActiveChildren();

  explicit Process(std::shared_ptr<process_internal::Record> record);

  process_internal::Record& record() const;
  bool IsCreator() const;
  // What the functions that only the creator may call return otherwise.
  absl::Status CheckCreator() const;
  absl::Status CheckStarted() const;
  absl::Status Signal(int signal) const;
  // The start methods: on success there is a child, in the record.
  absl::Status Fork();
  absl::Status StartAfresh();
  absl::Status Watch(pid_t pid);

  std::shared_ptr<process_internal::Record> record_;
  std::unique_ptr<process_internal::Target> target_;
};

// The base of subclasses of Process that can be started by every method. The
// subclass can be made without arguments and sent by the codec: it names what
// its Run() needs in MpFields() (mp/ipc/codec.h).
//
//   class Worker : public mp::PortableProcess<Worker> {
//    public:
//     Worker() = default;
//     explicit Worker(mp::Queue<int> in) : in_(std::move(in)) {}
//
//    protected:
//     int Run() override;
//
//    private:
//     friend auto MpFields(Worker& worker) { return std::tie(worker.in_); }
//     std::optional<mp::Queue<int>> in_;
//   };
template <typename Subclass>
class PortableProcess : public Process {
 public:
  using Process::Process;

 protected:
  absl::StatusOr<process_internal::Task> Pack(
      OutgoingDescriptors& descriptors) const override {
    absl::StatusOr<std::vector<std::byte>> bytes = process_internal::ToBytes(
        descriptors, static_cast<const Subclass&>(*this));
    if (!bytes.ok()) return bytes.status();
    return process_internal::PackTask(&RunPacked, *std::move(bytes));
  }

 private:
  static absl::StatusOr<int> RunPacked(std::span<const std::byte> bytes,
                                       IncomingDescriptors& descriptors) {
    Subclass process;
    PortableProcess& self = process;
    self.BecomeSelf();
    Reader reader(bytes, &descriptors);
    reader.ReadInto(process);
    if (absl::Status status = reader.Finish(); !status.ok()) return status;
    return self.Run();
  }
};

// A start method to make processes with, for code that is not to depend on the
// default:
//
//   const mp::Context spawn = mp::GetContext(mp::StartMethod::kSpawn);
//   mp::Process process = spawn.NewProcess(Work, "one");
class Context {
 public:
  explicit Context(StartMethod method) : method_(method) {}

  StartMethod start_method() const { return method_; }

  template <process_internal::Callable F, typename... Args>
  Process NewProcess(F&& target, Args&&... args) const {
    return NewProcess(ProcessOptions(), std::forward<F>(target),
                      std::forward<Args>(args)...);
  }
  // The context's method has precedence over the options'.
  template <process_internal::Callable F, typename... Args>
  Process NewProcess(ProcessOptions options, F&& target, Args&&... args) const {
    options.start_method = method_;
    return Process(std::move(options), std::forward<F>(target),
                   std::forward<Args>(args)...);
  }

 private:
  StartMethod method_;
};

inline Context GetContext(StartMethod method) { return Context(method); }
// Of the default method.
inline Context GetContext() { return Context(GetStartMethod()); }

// Ends the calling process with `code`, from any thread and any depth: in a
// child with the three steps above, in the main process as std::exit(code).
// Like that it does not unwind: the caller's local objects are not destroyed.
[[noreturn]] void Exit(int code);

// Of the calling process: "MainProcess" if the library did not start it.
struct ProcessInfo {
  std::string name;
  pid_t pid = 0;
  bool daemon = false;
  StartMethod start_method = StartMethod::kFork;  // by which it was started
};
ProcessInfo CurrentProcess();

// Of the calling process and of those that it creates from now on; see
// Process::authkey().
std::string Authkey();
void SetAuthkey(std::string key);

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

// Processors that this process may use: its affinity mask or, if that is less,
// the quota of its control group rounded up. At least 1.
int CpuCount();

}  // namespace mp

#endif  // MP_PROCESS_PROCESS_H_
