#include "mp/testing/stepped_process.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/testing/proc_info.h"

namespace mp::testing {
namespace {

// The signal that it has stopped with; 0 if it runs, or, with WNOHANG, has not
// stopped yet; -1 if it has ended. Its end is left to who waits for that.
int StopSignal(pid_t pid, int options) {
  siginfo_t info;
  info.si_pid = 0;
  while (waitid(P_PID, static_cast<id_t>(pid), &info,
                WSTOPPED | WEXITED | WNOWAIT | options) != 0) {
    if (errno == ECHILD) return -1;  // reaped
    MP_PCHECK(errno == EINTR) << "waitid";
  }
  if (info.si_pid == 0) return 0;
  switch (info.si_code) {
    case CLD_STOPPED:
    case CLD_TRAPPED:
      // Which kind of stop it is, is in the second byte.
      return info.si_status & 0xff;
    default:
      return -1;
  }
}

user_regs_struct Registers(pid_t pid) {
  user_regs_struct registers = {};
  iovec out = {.iov_base = &registers, .iov_len = sizeof(registers)};
  ptrace(PTRACE_GETREGSET, pid, reinterpret_cast<void*>(NT_PRSTATUS), &out);
  return registers;
}

uintptr_t NextInstruction(const user_regs_struct& registers) {
#if defined(__x86_64__)
  return registers.rip;
#elif defined(__aarch64__)
  return registers.pc;
#else
#error "knows x86-64 and AArch64"
#endif
}

}  // namespace

absl::StatusOr<SteppedProcess> SteppedProcess::Stop(pid_t pid) {
  if (ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_EXITKILL) != 0) {
    return ErrnoStatus(errno, absl::StrCat("ptrace(PTRACE_SEIZE, ", pid, ")"));
  }
  SteppedProcess process(pid);
  if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0) {
    return ErrnoStatus(errno, "ptrace(PTRACE_INTERRUPT)");
  }
  const int signal = StopSignal(pid, 0);
  if (signal < 0) {
    process.pid_ = 0;
    return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  }
  // Or the stop is still to come, with the first step.
  if (signal != SIGTRAP) process.signal_ = signal;
  process.address_ = NextInstruction(Registers(pid));
  return process;
}

SteppedProcess::SteppedProcess(SteppedProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      instructions_(other.instructions_),
      asleep_(other.asleep_),
      first_(other.first_),
      signal_(other.signal_),
      address_(other.address_) {}

SteppedProcess::~SteppedProcess() { Kill(); }

void SteppedProcess::Kill() {
  const pid_t pid = std::exchange(pid_, 0);
  if (pid != 0) kill(pid, SIGKILL);
}

KillPoint SteppedProcess::point() const {
  return {
      .instruction = instructions_,
      .state = asleep_ ? KillPoint::State::kAsleep : KillPoint::State::kRunning,
      .address = asleep_ ? 0 : address_};
}

// Only then is a step waited for with an eye on the process, which costs more.
bool SteppedProcess::MaySleepInNextInstruction() const {
#if defined(__x86_64__)
  constexpr long kSyscall = 0x050f;
  errno = 0;
  const long code =
      ptrace(PTRACE_PEEKTEXT, pid_, reinterpret_cast<void*>(address_), nullptr);
  return first_ || errno != 0 || (code & 0xffff) == kSyscall;
#else
  return true;
#endif
}

SteppedProcess::Event SteppedProcess::Step(absl::Duration patience) {
  MP_CHECK(pid_ != 0 && !asleep_) << "a step of a process that does not stand";
  const bool may_sleep = MaySleepInNextInstruction();
  void* const signal = reinterpret_cast<void*>(std::exchange(signal_, 0));
  first_ = false;
  ++instructions_;
  if (ptrace(PTRACE_SINGLESTEP, pid_, nullptr, signal) != 0) {
    MP_PCHECK(errno == ESRCH) << "ptrace(PTRACE_SINGLESTEP)";
    pid_ = 0;
    return Event::kEnded;
  }
  if (may_sleep) return Await(patience);
  signal_ = StopSignal(pid_, 0);
  return Stopped();
}

SteppedProcess::Event SteppedProcess::Await(absl::Duration patience) {
  Deadline deadline = Deadline::Infinite();  // while it does not sleep
  std::string asleep_in;                     // the call, while it sleeps
  for (long pause_nanos = 2'000;; pause_nanos *= 2) {
    signal_ = StopSignal(pid_, WNOHANG);
    if (signal_ != 0) return Stopped();
    if (pause_nanos > 1'000'000) {
      const std::string now = SleepingIn(pid_);
      if (now.empty() || now != asleep_in) {
        asleep_in = now;
        deadline =
            now.empty() ? Deadline::Infinite() : Deadline::After(patience);
      } else if (deadline.Expired()) {
        asleep_ = true;
        return Event::kAsleep;
      }
      pause_nanos = 500'000;
    }
    const timespec pause = {.tv_sec = 0, .tv_nsec = pause_nanos};
    nanosleep(&pause, nullptr);
  }
}

SteppedProcess::Event SteppedProcess::Stopped() {
  asleep_ = false;
  if (signal_ < 0) {
    pid_ = 0;
    return Event::kEnded;
  }
  if (signal_ == SIGTRAP) signal_ = 0;
  address_ = NextInstruction(Registers(pid_));
  return Event::kStopped;
}

}  // namespace mp::testing
