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

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/base/exception.h"
#include "mp/base/spin.h"
#include "mp/base/unique_fd.h"
#include "mp/process/child.h"
#include "mp/process/this_process.h"

namespace mp {
namespace {

using process_internal::Record;
using process_internal::ThisProcess;

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

// One write, so that messages of several processes do not mix.
void PrintMessage(const std::string& message) {
  process_internal::FlushStandardStreams();
  const std::string line = absl::StrFormat(
      "Process %s (pid %d): %s\n", CurrentProcess().name, getpid(), message);
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, line.data(), line.size());
}

// A child whose pidfd could not be opened.
void Discard(pid_t pid) {
  kill(pid, SIGKILL);  // not reaped yet, so the pid is still its own
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::string ExitCodeName(int code) {
  const char* signal = code < 0 ? sigabbrev_np(-code) : nullptr;
  return signal ? absl::StrCat("-SIG", signal) : absl::StrCat(code);
}

}  // namespace

int process_internal::ReportStatus(const absl::Status& status) {
  if (status.ok()) return EXIT_SUCCESS;
  PrintMessage(status.ToString());
  return EXIT_FAILURE;
}

Process::Process() : Process(ProcessOptions()) {}

Process::Process(ProcessOptions options) : record_(std::make_shared<Record>()) {
  ThisProcess& self = ThisProcess::Get();
  record_->creator = &self;
  record_->creator_pid = getpid();
  record_->identity = self.NextIdentity();
  record_->name = options.name.empty()
                      ? absl::StrCat("Process-", record_->identity)
                      : std::move(options.name);
  record_->daemon = options.daemon.value_or(self.record().daemon);
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
  if (self.record().daemon) {
    return absl::FailedPreconditionError(absl::StrCat(
        "process ", name(), " cannot be started: ", self.record().name,
        " is daemonic, and such processes have no children"));
  }
  process_internal::RegisterExitHandler();
  if (absl::Status status = Fork(); !status.ok()) return status;
  self.Add(record_);
  // Descriptors among the arguments close here: only the child has them now.
  target_.reset();
  return absl::OkStatus();
}

absl::Status Process::Fork() {
  // Made here, on the stack, so that the child need not.
  ThisProcess child_self(record_);
  const bool replace_stdin = !StdinIsNull();
  process_internal::FlushStandardStreams();
  SignalsBlocked signals;
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "fork");
  if (pid == 0) {
    ThisProcess::Become(&child_self);
    if (replace_stdin) ReplaceStdin();
    signals.RestoreInChild();
    RunInChild();
  }
  UniqueFd pidfd = process_internal::OpenPidfd(pid);
  // ESRCH: it has run, ended, and been reaped by somebody else.
  if (!pidfd && errno != ESRCH) {
    const int error = errno;
    Discard(pid);
    return ErrnoStatus(error, "pidfd_open");
  }
  record().child.emplace(pid, std::move(pidfd));
  return absl::OkStatus();
}

// noexcept: whatever happens, the child does not unwind into Start's caller.
void Process::RunInChild() noexcept {
  int code = EXIT_FAILURE;
  try {
    code = Run();
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

std::optional<pid_t> Process::pid() const {
  if (record().child.has_value()) return record().child->pid();
  if (&record() == &ThisProcess::Get().record()) return getpid();
  return std::nullopt;
}

const std::string& Process::name() const { return record().name; }

void Process::set_name(std::string name) { record().name = std::move(name); }

bool Process::daemon() const { return record().daemon; }

absl::Status Process::set_daemon(bool daemon) {
  if (absl::Status status = CheckCreator(); !status.ok()) return status;
  if (record().child.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", name(), " has been started"));
  }
  record().daemon = daemon;
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
  closed->creator_pid = record_->creator_pid;
  closed->name = record_->name;
  closed->daemon = record_->daemon;
  closed->closed = true;
  record_ = std::move(closed);
  target_.reset();
  return absl::OkStatus();
}

std::string Process::ToString() const {
  const Record& record = this->record();
  std::string text = absl::StrCat("<Process name='", record.name, "'");
  if (pid().has_value()) absl::StrAppend(&text, " pid=", *pid());
  absl::StrAppend(&text, " parent=", record.creator_pid);
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
  return text + (record.daemon ? " daemon>" : ">");
}

void Exit(int code) {
  if (ThisProcess::Get().record().creator != nullptr) {
    process_internal::LeaveChild(code);
  }
  std::exit(code);
}

ProcessInfo CurrentProcess() {
  const Record& self = ThisProcess::Get().record();
  return ProcessInfo{.name = self.name, .pid = getpid(), .daemon = self.daemon};
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
  const Record& self = ThisProcess::Get().record();
  const pid_t now = getppid();
  // Zero: the parent is in another PID namespace and has no pid here.
  if (self.creator == nullptr || now == 0) return std::nullopt;
  UniqueFd pidfd = process_internal::OpenPidfd(self.creator_pid);
  // As long as it is the parent, the pid is its own. If it was not any more
  // after the pidfd had been opened, that may be somebody else's.
  if (getppid() != self.creator_pid) {
    pidfd = process_internal::ReadableForEver();
  }
  return Parent(self.creator->record().name, self.creator_pid,
                std::make_shared<UniqueFd>(std::move(pidfd)));
}

std::vector<Process> ActiveChildren() {
  std::vector<Process> processes;
  for (auto& record : ThisProcess::Get().LiveChildren()) {
    processes.push_back(Process(std::move(record)));
  }
  return processes;
}

int CpuCount() { return AvailableProcessors(); }

}  // namespace mp
