#include "mp/testing/victim.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/testing/proc_info.h"

namespace mp::testing_internal {
namespace {

using ::mp::testing::KillSteps;
using ::mp::testing::SleepingIn;

constexpr int kHasEnded = -1;

// The signal that it has stopped with; 0 if, with WNOHANG, it has not; or
// kHasEnded. Takes nothing away from who waits for it.
int StopSignal(pid_t pid, int options) {
  siginfo_t info;
  info.si_pid = 0;
  while (waitid(P_PID, static_cast<id_t>(pid), &info,
                WSTOPPED | WEXITED | WNOWAIT | options) != 0) {
    if (errno == ECHILD) return kHasEnded;  // and been reaped
    MP_PCHECK(errno == EINTR) << "waitid";
  }
  if (info.si_pid == 0) return 0;
  const bool stopped =
      info.si_code == CLD_STOPPED || info.si_code == CLD_TRAPPED;
  // The second byte says which kind of stop it is.
  return stopped ? info.si_status & 0xff : kHasEnded;
}

class FoundVictim final : public Victim {
 public:
  explicit FoundVictim(const KillSteps& steps) : steps_(steps) {}
  ~FoundVictim() override { Kill(); }

  bool Begin() override {
    pid_ = steps_.victim();
    if (ptrace(PTRACE_SEIZE, pid_, nullptr, PTRACE_O_EXITKILL) != 0) {
      return Fail("ptrace(PTRACE_SEIZE)");
    }
    traced_ = true;
    if (ptrace(PTRACE_INTERRUPT, pid_, nullptr, nullptr) != 0) {
      return Fail("ptrace(PTRACE_INTERRUPT)");
    }
    const int signal = StopSignal(pid_, 0);
    if (signal == kHasEnded) {
      Ended();
      error_ = absl::AbortedError("the victim ended before the operation");
      return false;
    }
    if (signal != SIGTRAP) signal_ = signal;
    if (steps_.op) steps_.op();
    // Out of the call that it was stopped in, which begins anew: from there on
    // it does the same each time.
    if (!Resume(PTRACE_SINGLESTEP)) return false;
    const Event event = Await();
    if (event == Event::kStopped) return true;
    if (event != Event::kFailed) {
      error_ = absl::AbortedError("the operation is over before it has begun");
    }
    return false;
  }

  Event Step() override {
    // Only then is it waited for with an eye on it, which costs more.
    const bool may_sleep = MaySleepInNextInstruction();
    if (!Resume(PTRACE_SINGLESTEP)) return Event::kFailed;
    return may_sleep ? Await() : Classify(StopSignal(pid_, 0));
  }
  Event Continue() override {
    return Resume(PTRACE_CONT) ? Await() : Event::kFailed;
  }
  Event Unblock() override {
    steps_.unblock();
    unblocked_ = true;
    const Event event = Await();
    unblocked_ = false;
    return event;
  }

  void Kill() override {
    if (std::exchange(traced_, false)) kill(pid_, SIGKILL);
  }

  pid_t pid() const override { return pid_; }

 private:
  bool Fail(const char* call) {
    error_ = ErrnoStatus(errno, absl::StrCat(call, " of process ", pid_));
    return false;
  }

  void Ended() { traced_ = false; }

  bool MaySleepInNextInstruction() const {
#if defined(__x86_64__)
    constexpr long kSyscall = 0x050f;
    errno = 0;
    const long code = ptrace(PTRACE_PEEKTEXT, pid_,
                             reinterpret_cast<void*>(address()), nullptr);
    return errno != 0 || (code & 0xffff) == kSyscall;
#else
    return true;
#endif
  }

  bool Resume(__ptrace_request request) {
    void* const signal = reinterpret_cast<void*>(std::exchange(signal_, 0));
    return ptrace(request, pid_, nullptr, signal) == 0 ||
           Fail("ptrace, to resume the operation,");
  }

  // Waits until it stops or ends; or sleeps and has done all; or sleeps and
  // needs to be unblocked.
  Event Await() {
    const Deadline stranded = Deadline::After(steps_.stranded_after);
    Deadline asleep = Deadline::Infinite();  // while it does not sleep
    std::string asleep_in;                   // the call, while it sleeps
    for (long pause_nanos = 1'000;;
         pause_nanos = std::min(pause_nanos * 2, 1'000'000L)) {
      const int signal = StopSignal(pid_, WNOHANG);
      if (signal != 0) return Classify(signal);
      const timespec pause = {.tv_sec = 0, .tv_nsec = pause_nanos};
      nanosleep(&pause, nullptr);
      if (pause_nanos < 500'000) continue;
      const std::string now = SleepingIn(pid_);
      if (now.empty() || now != asleep_in) {
        asleep_in = now;
        asleep = now.empty() ? Deadline::Infinite()
                             : Deadline::After(steps_.asleep_after);
        continue;
      }
      if (!asleep.Expired()) continue;
      if (steps_.done()) return Event::kDone;
      if (steps_.unblock && !unblocked_) return Event::kAsleep;
      if (stranded.Expired()) {
        error_ = absl::DeadlineExceededError(absl::StrFormat(
            "stranded: has slept for %s in system call %s and is not done",
            absl::FormatDuration(steps_.stranded_after), now));
        return Event::kFailed;
      }
    }
  }

  Event Classify(int signal) {
    switch (signal) {
      case kHasEnded: {
        Ended();
        // What it has done last may take a moment to be seen.
        const Deadline deadline = Deadline::After(steps_.stranded_after);
        while (!steps_.done()) {
          if (deadline.Expired()) {
            error_ = absl::AbortedError("it ended, and has not done it");
            return Event::kFailed;
          }
          const timespec pause = {.tv_sec = 0, .tv_nsec = 100'000};
          nanosleep(&pause, nullptr);
        }
        return Event::kDone;
      }
      case SIGTRAP:
        return Event::kStopped;
      case SIGABRT:
      case SIGBUS:
      case SIGFPE:
      case SIGILL:
      case SIGSEGV:
      case SIGSYS:
        error_ = absl::AbortedError(
            absl::StrFormat("the operation crashed by signal %d (%s)", signal,
                            strsignal(signal)));
        return Event::kFailed;
      default:
        signal_ = signal;  // its own business: delivered when it goes on
        return Event::kStopped;
    }
  }

  const KillSteps& steps_;
  pid_t pid_ = 0;
  bool traced_ = false;  // and neither killed nor ended
  bool unblocked_ = false;
  int signal_ = 0;
};

}  // namespace

uintptr_t InstructionPointer(pid_t pid) {
  user_regs_struct registers = {};
  iovec out = {.iov_base = &registers, .iov_len = sizeof(registers)};
  ptrace(PTRACE_GETREGSET, pid, reinterpret_cast<void*>(NT_PRSTATUS), &out);
#if defined(__x86_64__)
  return registers.rip;
#elif defined(__aarch64__)
  return registers.pc;
#else
#error "the kill stepper knows x86-64 and AArch64"
#endif
}

std::unique_ptr<Victim> FindVictim(const KillSteps& steps) {
  return std::make_unique<FoundVictim>(steps);
}

}  // namespace mp::testing_internal
