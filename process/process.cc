#include "mp/process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio_ext.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <typeinfo>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/code_place.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/base/exception.h"
#include "mp/base/spin.h"
#include "mp/base/unique_fd.h"
#include "mp/process/child.h"
#include "mp/process/cpu_quota.h"
#include "mp/process/forkserver.h"
#include "mp/process/identity.h"
#include "mp/process/lifeline.h"
#include "mp/process/process_tree.h"
#include "mp/process/program.h"
#include "mp/process/start_message.h"
#include "mp/process/start_method.h"
#include "mp/process/this_process.h"
#include "mp/shm/liveness.h"

namespace mp {
namespace {

using process_internal::Assignment;
using process_internal::EntryPoint;
using process_internal::HoldLifeline;
using process_internal::Identity;
using process_internal::Parcel;
using process_internal::PrintMessage;
using process_internal::Received;
using process_internal::Record;
using process_internal::Role;
using process_internal::StartMessage;
using process_internal::Task;
using process_internal::ThisProcess;
using process_internal::Unpack;

static_assert(kExitCodeUnknown == process_internal::kUnknownExitCode);

// A child that does nothing spends half its time on page faults: one for each
// page that it is the first to write to since the fork, and one for each part
// of the program and its libraries that it runs. So what every child does goes
// through syscall(), writes little, and looks before it leaps.

// Holds back all signals of the calling thread. In the parent no handler reaps
// the child before its pidfd is open; in the child none runs too early.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    MP_CHECK(pthread_sigmask(SIG_SETMASK, &all, &before_) == 0);
  }
  ~SignalsBlocked() { Restore(); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  const sigset_t& before() const { return before_; }
  void Restore() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  // The same for the child.
  void RestoreInChild() {
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, _NSIG / 8);
  }

 private:
  sigset_t before_;
};

// Whether standard input is the null device already, as in a service.
bool StdinIsNull() {
  struct stat status;
  return fstat(STDIN_FILENO, &status) == 0 && S_ISCHR(status.st_mode) &&
         status.st_rdev == makedev(1, 3);
}

// Two processes must not fight over the same input.
void ReplaceStdin() {
  // The string is on the stack: a literal would be on a page of its own.
  const char path[] = "/dev/null";
  syscall(SYS_close, STDIN_FILENO);
  if (syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) < 0) {
    memfd_create("mp:stdin", 0);  // in a bare chroot: just as empty
  }
  // What the parent has read ahead. Most often there is nothing to write to.
  if (stdin->_IO_read_ptr != stdin->_IO_read_end) __fpurge(stdin);
}

// What other threads of the parent have written since the streams were flushed
// is the parent's to write.
void DropInheritedOutput() {
  for (std::FILE* file : {stdout, stderr}) {
    if (file->_IO_write_ptr != file->_IO_write_base) __fpurge(file);
  }
}

std::string ExitCodeName(int code) {
  const char* signal = code < 0 ? sigabbrev_np(-code) : nullptr;
  return signal ? absl::StrCat("-SIG", signal) : absl::StrCat(code);
}

// Runs what there is to run, and ends the process. noexcept: whatever happens,
// a forked child does not unwind into Start's caller.
template <typename Body>
[[noreturn]] void RunInChild(Body body) noexcept {
  int code = EXIT_FAILURE;
  try {
    code = body();
  } catch (...) {
    // pthread_exit() in the only thread unwinds, too, though with no exception.
    // That must not be dropped: it ends here.
    if (std::current_exception() == nullptr) {
      process_internal::LeaveChild(EXIT_SUCCESS);
    }
    PrintMessage(absl::StrCat("uncaught ", DescribeCurrentException()));
  }
  process_internal::LeaveChild(code);
}

// The life of a process that was started by another method than fork.
[[noreturn]] void RunReceived(std::vector<UniqueFd> descriptors,
                              bool fresh) noexcept {
  Received received = ValueOrDie(Unpack(std::move(descriptors)));
  if (received.lifeline) HoldLifeline(received.lifeline.release());
  MP_CHECK_OK(Liveness::Adopt(std::move(received.liveness_table)));
  if (fresh) {
    ThisProcess::Get().Assume(std::move(received.identity));
  } else {
    auto record = std::make_shared<Record>();
    record->identity = std::move(received.identity);
    // For the life of the process.
    ThisProcess::Become(new ThisProcess(std::move(record)));
  }
  const sigset_t mask = process_internal::BitsToMask(received.signal_mask);
  MP_CHECK(pthread_sigmask(SIG_SETMASK, &mask, nullptr) == 0);
  RunInChild([&received] {
    const absl::StatusOr<CodeAddress> entry = CodeAt(received.task.entry);
    const absl::StatusOr<int> code =
        entry.ok() ? reinterpret_cast<EntryPoint>(*entry)(
                         received.task.arguments, received.attachments)
                   : entry.status();
    return code.ok() ? *code : process_internal::ReportStatus(code.status());
  });
}

// Of a process that has nothing to run.
absl::StatusOr<int> RunNothing(std::span<const std::byte>,
                               IncomingDescriptors&) {
  return EXIT_SUCCESS;
}

}  // namespace

int process_internal::ReportStatus(const absl::Status& status) {
  if (status.ok()) return EXIT_SUCCESS;
  PrintMessage(status.ToString());
  return EXIT_FAILURE;
}

absl::Status process_internal::TargetCannotTravel() {
  return absl::InvalidArgumentError(
      "the target is neither a function nor a callable without captures, and "
      "only a fork has it");
}

absl::Status process_internal::ArgumentCannotTravel(size_t number) {
  return absl::InvalidArgumentError(
      absl::StrCat("argument ", number,
                   " of the target is of a type that cannot be sent to another "
                   "program (see mp/ipc/codec.h), and only a fork has it"));
}

absl::StatusOr<Task> process_internal::PackTask(
    EntryPoint entry, std::vector<std::byte> arguments) {
  absl::StatusOr<CodePlace> place =
      PlaceOfCode(reinterpret_cast<CodeAddress>(entry));
  if (!place.ok()) return place.status();
  return Task{.entry = *std::move(place), .arguments = std::move(arguments)};
}

void Init(int* argc, char*** argv) {
  process_internal::RememberArguments(*argc, *argv);
  std::optional<Assignment> assignment = process_internal::TakeAssignment();
  if (!assignment.has_value()) return;
  if (assignment->role == Role::kChild) {
    RunReceived(std::move(assignment->descriptors), /*fresh=*/true);
  }
  RunReceived(process_internal::ServeForks(std::move(assignment->descriptors)),
              /*fresh=*/false);
}

absl::Status SetStartMethod(StartMethod method, bool force) {
  if (ThisProcess::Get().SetDefaultMethod(method, force)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError("the start method has been set before");
}

StartMethod GetStartMethod() { return ThisProcess::Get().default_method(); }

std::vector<StartMethod> GetAllStartMethods() {
  std::vector<StartMethod> methods = {StartMethod::kFork, StartMethod::kSpawn,
                                      StartMethod::kForkserver};
  std::swap(methods[0],
            *std::find(methods.begin(), methods.end(), GetStartMethod()));
  return methods;
}

Process::Process() : Process(ProcessOptions()) {}

Process::Process(ProcessOptions options) : record_(std::make_shared<Record>()) {
  ThisProcess& self = ThisProcess::Get();
  record_->creator = &self;
  record_->method = options.start_method;
  Identity& identity = record_->identity;
  identity.path = self.NextPath();
  identity.name = options.name.empty() ? absl::StrCat("Process-", identity.path)
                                       : std::move(options.name);
  identity.daemon = options.daemon.value_or(self.identity().daemon);
  identity.authkey = self.authkey();
  identity.parent_pid = getpid();
  identity.parent_name = self.identity().name;
}

Process::Process(std::shared_ptr<Record> record) : record_(std::move(record)) {}

Process::Process(Process&&) noexcept = default;
Process& Process::operator=(Process&&) noexcept = default;
Process::~Process() = default;

Record& Process::record() const {
  MP_CHECK(record_ != nullptr) << "use of a moved-from mp::Process";
  return *record_;
}

bool Process::IsCreator() const {
  return record().creator == &ThisProcess::Get();
}

absl::Status Process::CheckCreator() const {
  if (record().closed) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", name(), " is closed"));
  }
  if (!IsCreator()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "process ", name(), " belongs to the process that created it"));
  }
  return absl::OkStatus();
}

absl::Status Process::CheckStarted() const {
  if (absl::Status status = CheckCreator(); !status.ok()) return status;
  if (!record().child.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", name(), " has not been started"));
  }
  return absl::OkStatus();
}

absl::Status Process::Start() {
  if (absl::Status status = CheckCreator(); !status.ok()) return status;
  if (record().child.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", name(), " has been started before"));
  }
  ThisProcess& self = ThisProcess::Get();
  if (self.identity().daemon) {
    return absl::FailedPreconditionError(absl::StrCat(
        "process ", name(), " cannot be started: ", self.identity().name,
        " is daemonic, and such processes have no children"));
  }
  process_internal::RegisterExitHandler();
  Identity& identity = record().identity;
  identity.default_method = self.default_method();
  identity.method = start_method();
  const absl::Status started =
      identity.method == StartMethod::kFork ? Fork() : StartAfresh();
  if (!started.ok()) {
    return absl::Status(started.code(),
                        absl::StrCat("process ", name(), " cannot be started: ",
                                     started.message()));
  }
  self.Add(record_);
  // Descriptors among the arguments close here: only the child has them now.
  target_.reset();
  return absl::OkStatus();
}

absl::Status Process::Fork() {
  absl::StatusOr<UniqueFd> lifeline = UniqueFd();
  if (daemon()) lifeline = process_internal::NewLifeline();
  if (!lifeline.ok()) return lifeline.status();
  // Made here, on the stack, so that the child need not.
  ThisProcess child_self(record_);
  const bool replace_stdin = !StdinIsNull();
  process_internal::FlushStandardStreams();
  SignalsBlocked signals;
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "fork");
  if (pid == 0) {
    ThisProcess::Become(&child_self);
    DropInheritedOutput();
    if (*lifeline) HoldLifeline(lifeline->release());
    if (replace_stdin) ReplaceStdin();
    signals.RestoreInChild();
    RunInChild([this] { return Run(); });
  }
  return Watch(pid);
}

absl::Status Process::StartAfresh() {
  if (absl::Status status = process_internal::CanSpawnProgram(); !status.ok()) {
    return status;
  }
  StartMessage message;
  message.identity = record().identity;
  absl::StatusOr<Task> task = Pack(message.attachments);
  if (!task.ok()) return task.status();
  message.task = *std::move(task);
  process_internal::FlushStandardStreams();
  const SignalsBlocked signals;
  message.signal_mask = process_internal::MaskToBits(signals.before());
  const absl::StatusOr<Parcel> parcel = Parcel::Pack(message);
  if (!parcel.ok()) return parcel.status();
  const absl::StatusOr<pid_t> pid =
      start_method() == StartMethod::kSpawn
          ? process_internal::SpawnProgram(Role::kChild, parcel->descriptors(),
                                           signals.before())
          : process_internal::StartByForkserver(parcel->descriptors());
  if (!pid.ok()) return pid.status();
  return Watch(*pid);
}

absl::Status Process::Watch(pid_t pid) {
  UniqueFd pidfd = process_internal::OpenPidfd(pid);
  // ESRCH: it has run, ended, and been reaped by somebody else.
  if (!pidfd && errno != ESRCH) {
    return process_internal::DiscardWithoutPidfd(pid);
  }
  record().child.emplace(pid, std::move(pidfd));
  return absl::OkStatus();
}

absl::StatusOr<Task> Process::Pack(OutgoingDescriptors& descriptors) const {
  // Not a plain Process: nobody knows how its members travel.
  if (typeid(*this) != typeid(Process)) {
    return absl::InvalidArgumentError(
        "a subclass of mp::Process that is not an mp::PortableProcess can only "
        "be forked");
  }
  if (target_ != nullptr) return target_->Pack(descriptors);
  return process_internal::PackTask(&RunNothing, {});
}

void Process::BecomeSelf() {
  ThisProcess& self = ThisProcess::Get();
  self.GiveBackPath();
  record_ = self.shared_record();
}

int Process::Run() {
  // The memory is not freed: the process ends, and the heap would have to be
  // copied for it.
  const auto destroy = [](process_internal::Target* target) {
    target->~Target();
  };
  const std::unique_ptr<process_internal::Target, decltype(destroy)> target(
      target_.release(), destroy);
  return target ? target->Invoke() : EXIT_SUCCESS;
}

absl::Status Process::Join(absl::Duration timeout) const {
  if (absl::Status status = CheckStarted(); !status.ok()) return status;
  const absl::Status ended =
      ThisProcess::Get().Join(record(), Deadline::After(timeout));
  if (ended.ok()) return ended;
  return absl::Status(ended.code(),
                      absl::StrCat("join ", name(), ": ", ended.message()));
}

std::optional<int> Process::exitcode() const {
  if (!record().child.has_value() || !IsCreator()) return std::nullopt;
  return ThisProcess::Get().Look(record());
}

bool Process::IsAlive() const {
  const Record& record = this->record();
  if (record.child.has_value()) {
    return IsCreator() ? !exitcode().has_value() : !record.child->HasEnded();
  }
  return &record == &ThisProcess::Get().record();  // asked by itself
}

absl::Status Process::Signal(int signal) const {
  if (absl::Status status = CheckStarted(); !status.ok()) return status;
  return record().child->Signal(signal);
}

absl::Status Process::Terminate() const { return Signal(SIGTERM); }
absl::Status Process::Kill() const { return Signal(SIGKILL); }
absl::Status Process::Interrupt() const { return Signal(SIGINT); }

absl::Status Process::KillTree() const {
  if (absl::Status status = CheckStarted(); !status.ok()) return status;
  const process_internal::Child& child = *record().child;
  // Its pid may be somebody else's now, and its children are not its own.
  if (child.HasEnded()) return absl::OkStatus();
  return process_internal::KillTree(child.pid(), child.pidfd());
}

std::optional<pid_t> Process::pid() const {
  if (record().child.has_value()) return record().child->pid();
  if (&record() == &ThisProcess::Get().record()) return getpid();
  return std::nullopt;
}

const std::string& Process::name() const { return record().identity.name; }

void Process::set_name(std::string name) {
  record().identity.name = std::move(name);
}

StartMethod Process::start_method() const {
  if (record().child.has_value() || !IsCreator()) {
    return record().identity.method;
  }
  return record().method.value_or(ThisProcess::Get().default_method());
}

std::string Process::authkey() const { return record().identity.authkey; }

void Process::set_authkey(std::string key) {
  record().identity.authkey = std::move(key);
}

bool Process::daemon() const { return record().identity.daemon; }

absl::Status Process::set_daemon(bool daemon) {
  if (absl::Status status = CheckCreator(); !status.ok()) return status;
  if (record().child.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", name(), " has been started"));
  }
  record().identity.daemon = daemon;
  return absl::OkStatus();
}

int Process::sentinel() const {
  return record().child.has_value() ? record().child->pidfd() : -1;
}

absl::Status Process::Close() {
  if (record().closed) return absl::OkStatus();
  if (absl::Status status = CheckCreator(); !status.ok()) return status;
  if (record().child.has_value() && !exitcode().has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", name(), " cannot be closed while it runs"));
  }
  // A new record, as other handles (of ActiveChildren) may share this one.
  auto closed = std::make_shared<Record>();
  closed->creator = record_->creator;
  closed->identity = record_->identity;
  closed->closed = true;
  record_ = std::move(closed);
  target_.reset();
  return absl::OkStatus();
}

std::string Process::ToString() const {
  const Record& record = this->record();
  std::string text = absl::StrCat("<Process name='", record.identity.name, "'");
  if (pid().has_value()) absl::StrAppend(&text, " pid=", *pid());
  absl::StrAppend(&text, " parent=", record.identity.parent_pid);
  if (record.closed) {
    absl::StrAppend(&text, " closed");
  } else if (!pid().has_value()) {
    absl::StrAppend(&text, " initial");
  } else if (IsAlive()) {
    absl::StrAppend(&text, " started");
  } else if (const std::optional<int> code = exitcode()) {
    absl::StrAppend(&text, " stopped exitcode=", ExitCodeName(*code));
  } else {
    absl::StrAppend(&text, " stopped");
  }
  return text + (record.identity.daemon ? " daemon>" : ">");
}

void Exit(int code) {
  if (ThisProcess::Get().IsChild()) process_internal::LeaveChild(code);
  std::exit(code);
}

ProcessInfo CurrentProcess() {
  const Identity& self = ThisProcess::Get().identity();
  return ProcessInfo{.name = self.name,
                     .pid = getpid(),
                     .daemon = self.daemon,
                     .start_method = self.method};
}

std::string Authkey() { return ThisProcess::Get().authkey(); }

void SetAuthkey(std::string key) {
  ThisProcess::Get().SetAuthkey(std::move(key));
}

bool Parent::IsAlive() const { return getppid() == pid_; }

absl::Status Parent::Join(absl::Duration timeout) const {
  if (!IsAlive()) return absl::OkStatus();
  if (sentinel() < 0) {
    return absl::ResourceExhaustedError("there was no descriptor to wait with");
  }
  return process_internal::WaitForEnd(sentinel(), Deadline::After(timeout));
}

std::optional<Parent> ParentProcess() {
  const ThisProcess& self = ThisProcess::Get();
  const pid_t now = getppid();
  // Zero: the parent is in another PID namespace and has no pid here.
  if (!self.IsChild() || now == 0) return std::nullopt;
  const Identity& identity = self.identity();
  UniqueFd pidfd = process_internal::OpenPidfd(identity.parent_pid);
  // As long as it is the parent, the pid is its own. If it was not any more
  // after the pidfd had been opened, that may be somebody else's.
  if (getppid() != identity.parent_pid) {
    pidfd = process_internal::ReadableForEver();
  }
  return Parent(identity.parent_name, identity.parent_pid,
                std::make_shared<UniqueFd>(std::move(pidfd)));
}

std::vector<Process> ActiveChildren() {
  std::vector<Process> processes;
  for (auto& record : ThisProcess::Get().LiveChildren()) {
    processes.push_back(Process(std::move(record)));
  }
  return processes;
}

int CpuCount() {
  return std::min(AvailableProcessors(), process_internal::CpuQuota());
}

}  // namespace mp
