#include "mp/testing/kill_stepper.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/debugging/symbolize.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/testing/child.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/victim.h"

namespace mp::testing_internal {
namespace {

using ::mp::testing::ExitStatus;
using ::mp::testing::KillPoint;
using ::mp::testing::KillReport;
using ::mp::testing::KillSteps;
using ::mp::testing::SharedPage;
using ::mp::testing::SleepingIn;

// What the child tells the parent.
struct Control {
  enum Phase { kSetup, kOperation, kDone };
  std::atomic<Phase> phase;
  std::atomic<int> ptrace_errno;
  std::atomic<bool> assertion_failed;
};

// Without raise(), which would block signals around it.
void StopSelf() { syscall(SYS_tgkill, getpid(), gettid(), SIGSTOP); }

// One hardware breakpoint of a traced child: its other processes and threads do
// not have it, and no code is changed.
#if defined(__x86_64__)
bool SetDebugRegister(pid_t pid, int number, uintptr_t value) {
  const size_t offset = offsetof(struct user, u_debugreg) +
                        static_cast<size_t>(number) * sizeof(uintptr_t);
  return ptrace(PTRACE_POKEUSER, pid, reinterpret_cast<void*>(offset),
                reinterpret_cast<void*>(value)) == 0;
}
// Stops the child whenever it is about to execute the instruction there.
bool SetBreakpoint(pid_t pid, uintptr_t address) {
  constexpr uintptr_t kEnableFirst = 1;
  return SetDebugRegister(pid, 0, address) &&
         SetDebugRegister(pid, 7, kEnableFirst);
}
void ClearBreakpoint(pid_t pid) { SetDebugRegister(pid, 7, 0); }
#else
bool SetBreakpoint(pid_t, uintptr_t) { return false; }
void ClearBreakpoint(pid_t) {}
#endif

// Blocks SIGCHLD while it exists, so that a stop of the child can be awaited
// with a timeout.
class BlockSigchld {
 public:
  BlockSigchld() {
    sigemptyset(&sigchld_);
    sigaddset(&sigchld_, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &sigchld_, &before_);
  }
  BlockSigchld(const BlockSigchld&) = delete;
  BlockSigchld& operator=(const BlockSigchld&) = delete;
  ~BlockSigchld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  // Waits for news of a child, but not long. False if there was none.
  bool WaitForNews() const {
    const timespec pause = {.tv_sec = 0, .tv_nsec = 1'000'000};
    return sigtimedwait(&sigchld_, nullptr, &pause) == SIGCHLD;
  }

 private:
  sigset_t sigchld_;
  sigset_t before_;
};

// A child that executes the operation, from fork to death.
class Tracee final : public Victim {
 public:
  Tracee(const KillSteps& steps, Control* control)
      : steps_(steps), control_(control) {
    control_->phase = Control::kSetup;
    control_->ptrace_errno = 0;
    control_->assertion_failed = false;
    pid_ = ForkForTest([&] { return Run(); });
  }
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;
  ~Tracee() override { Kill(); }

  pid_t pid() const override { return pid_; }

  // Waits for the beginning of the operation.
  bool Begin() override {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0) {
      MP_PCHECK(errno == EINTR) << "waitpid";
    }
    if (!WIFSTOPPED(status)) {
      reaped_ = true;
      error_ = control_->ptrace_errno != 0
                   ? ErrnoStatus(control_->ptrace_errno,
                                 "this process may not trace its children: "
                                 "ptrace(PTRACE_TRACEME)")
                   : Ended("before the operation", status);
      return false;
    }
    if (ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_EXITKILL) != 0) {
      error_ = ErrnoStatus(errno, "ptrace(PTRACE_SETOPTIONS)");
      return false;
    }
    return true;
  }

  Event Step() override { return Resume(PTRACE_SINGLESTEP); }
  Event Continue() override { return Resume(PTRACE_CONT); }

  Event Unblock() override {
    steps_.unblock();
    const Event event = Await(steps_.stranded_after);
    if (event != Event::kAsleep) return event;
    error_ = absl::DeadlineExceededError(absl::StrFormat(
        "stranded: still asleep %s after unblock(), in system call %s",
        absl::FormatDuration(steps_.stranded_after), SleepingIn(pid_)));
    return Event::kFailed;
  }

  // And reaps it.
  void Kill() override {
    if (std::exchange(reaped_, true)) return;
    kill(pid_, SIGKILL);
    int status = 0;
    do {
      while (waitpid(pid_, &status, 0) < 0) {
        MP_PCHECK(errno == EINTR) << "waitpid";
      }
    } while (WIFSTOPPED(status));
  }

 private:
  // In the child.
  int Run() {
    if (steps_.setup) steps_.setup();
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) {
      control_->ptrace_errno = errno;
      return testing::kChildFailedCode;
    }
    const int failures = CountFailures();
    control_->phase = Control::kOperation;
    StopSelf();
    steps_.op();
    control_->phase = Control::kDone;
    control_->assertion_failed = CountFailures() != failures;
    StopSelf();
    return 0;  // never reached: the parent kills it
  }

  Event Resume(__ptrace_request request) {
    void* const signal = reinterpret_cast<void*>(std::exchange(signal_, 0));
    if (ptrace(request, pid_, nullptr, signal) != 0) {
      error_ = ErrnoStatus(errno, "ptrace, to resume the operation");
      return Event::kFailed;
    }
    return Await(steps_.asleep_after);
  }

  // Waits until the child stops, ends, or has slept for `patience`. A child
  // that is merely slow is waited for: the watchdog bounds it.
  Event Await(absl::Duration patience) {
    const BlockSigchld blocked;
    Deadline deadline = Deadline::Infinite();  // while it does not sleep
    std::string asleep_in;                     // the call, while it sleeps
    while (true) {
      int status = 0;
      const pid_t changed = waitpid(pid_, &status, WNOHANG);
      if (changed == pid_) return Classify(status);
      MP_PCHECK(changed == 0 || errno == EINTR) << "waitpid";
      if (blocked.WaitForNews()) continue;
      const std::string now = SleepingIn(pid_);
      if (now.empty() || now != asleep_in) {
        asleep_in = now;
        deadline =
            now.empty() ? Deadline::Infinite() : Deadline::After(patience);
      } else if (deadline.Expired()) {
        return Event::kAsleep;
      }
    }
  }

  Event Classify(int status) {
    if (!WIFSTOPPED(status)) {
      reaped_ = true;
      error_ = Ended("in the operation", status);
      return Event::kFailed;
    }
    const int signal = WSTOPSIG(status);
    switch (signal) {
      case SIGTRAP:
        return Event::kStopped;
      case SIGSTOP:
        if (control_->phase != Control::kDone) return Event::kStopped;
        if (!control_->assertion_failed) return Event::kDone;
        error_ = absl::AbortedError("an assertion failed in the operation");
        return Event::kFailed;
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

  absl::Status Ended(const char* when, int status) {
    return absl::AbortedError(
        absl::StrCat("the child ended ", when, ": ",
                     ::testing::PrintToString(ExitStatus::FromWait(status))));
  }

  const KillSteps& steps_;
  Control* const control_;
  pid_t pid_ = 0;
  bool reaped_ = false;
  int signal_ = 0;
};

// A run that nobody interrupted.
struct Trace {
  // What follows after n instructions.
  std::vector<uintptr_t> addresses;
  // How often a breakpoint at addresses[n] would have stopped the child until
  // then, since the beginning or the last sleep.
  std::vector<int64_t> hits;
  // The instructions that slept, counted from 1.
  std::set<int64_t> sleeps;

  int64_t size() const { return static_cast<int64_t>(addresses.size()) - 1; }
  uintptr_t address(int64_t n) const {
    return addresses[static_cast<size_t>(n)];
  }
};

class Stepper {
 public:
  explicit Stepper(const KillSteps& steps) : steps_(steps) {}

  absl::StatusOr<KillReport> Run() {
    const absl::Status status = RunWhole();
    if (!status.ok()) return status;
    report_.instructions = trace_.size();
    report_.sleeps = static_cast<int64_t>(trace_.sleeps.size());
    // Goes past the length of the first run if others are longer.
    bool completed = !report_.completed;
    for (int64_t n = steps_.first; n <= trace_.size() || !completed;
         n = Next(n)) {
      if (n > 2 * trace_.size() + 1000) {
        return absl::DeadlineExceededError(absl::StrFormat(
            "took %d instructions at first, but has not completed after %d",
            trace_.size(), n));
      }
      if (trace_.sleeps.count(n) > 0) {
        const absl::StatusOr<bool> asleep = RunTo(n, /*die_asleep=*/true);
        if (!asleep.ok()) return asleep.status();
        if (!report_.completed) break;
      }
      const absl::StatusOr<bool> awake = RunTo(n, /*die_asleep=*/false);
      if (!awake.ok()) return awake.status();
      if (report_.completed) completed = *awake;
    }
    return report_;
  }

 private:
  using Event = Victim::Event;
  using State = KillPoint::State;

  // Strides, but not over a sleep.
  int64_t Next(int64_t n) const {
    const auto sleep = trace_.sleeps.upper_bound(n);
    const int64_t next = n + steps_.stride;
    return sleep == trace_.sleeps.end() ? next : std::min(next, *sleep);
  }

  std::unique_ptr<Victim> NewVictim() const {
    if (steps_.victim) return FindVictim(steps_);
    return std::make_unique<Tracee>(steps_, control_.get());
  }

  // Traces the operation from its beginning to its end.
  absl::Status RunWhole() {
    trace_ = Trace();
    if (steps_.prepare) steps_.prepare();
    const std::unique_ptr<Victim> victim = NewVictim();
    Victim& child = *victim;
    if (!child.Begin()) return child.error();
    trace_.addresses.push_back(child.address());
    while (true) {
      if (trace_.size() >= steps_.max_instructions) {
        return absl::DeadlineExceededError(absl::StrCat(
            "the operation has not completed ",
            KillPoint{.instruction = trace_.size(), .address = child.address()}
                .ToString()));
      }
      Event event = child.Step();
      if (event == Event::kAsleep) {
        trace_.sleeps.insert(trace_.size() + 1);
        if (steps_.unblock) event = child.Unblock();
      }
      if (event == Event::kFailed) return Failed(child, trace_.size());
      if (event == Event::kDone) {
        report_.completed = true;
        break;
      }
      trace_.addresses.push_back(event == Event::kAsleep ? 0 : child.address());
      // Run() lets it die there, as at any other instruction.
      if (event == Event::kAsleep) break;
    }
    CountHits();
    return absl::OkStatus();
  }

  void CountHits() {
    std::unordered_map<uintptr_t, int64_t> hits;
    trace_.hits.assign(trace_.addresses.size(), 0);
    for (int64_t n = 1; n <= trace_.size(); ++n) {
      if (trace_.sleeps.count(n) > 0) hits.clear();
      // A string instruction is stepped round by round, but passes a breakpoint
      // once.
      if (trace_.address(n) == trace_.address(n - 1)) continue;
      trace_.hits[static_cast<size_t>(n)] = ++hits[trace_.address(n)];
    }
  }

  // One death after `n` instructions, or in the sleep of the n-th. Returns
  // whether the operation had completed.
  absl::StatusOr<bool> RunTo(int64_t n, bool die_asleep) {
    const auto passed_by = [&](const absl::StatusOr<bool>& completed) {
      return completed.ok() && *completed && n <= trace_.size();
    };
    absl::StatusOr<bool> completed = false;
    // One that is found is not alone: what others do at the same time may lead
    // it another way now and then.
    for (int tries = steps_.victim ? 3 : 1; tries > 0; --tries) {
      completed = TryRunTo(n, die_asleep, /*fast=*/true);
      if (!passed_by(completed)) return completed;
    }
    // It goes another way than when it was traced, perhaps because the heap
    // that the child inherits is another.
    const absl::Status status = RunWhole();
    if (!status.ok()) return status;
    completed = TryRunTo(n, die_asleep, /*fast=*/true);
    if (!passed_by(completed)) return completed;
    return TryRunTo(n, die_asleep, /*fast=*/false);
  }

  absl::StatusOr<bool> TryRunTo(int64_t n, bool die_asleep, bool fast) {
    if (steps_.prepare) steps_.prepare();
    const std::unique_ptr<Victim> victim = NewVictim();
    Victim& child = *victim;
    if (!child.Begin()) return child.error();
    int64_t position = 0;
    const Event event = Travel(&child, n, die_asleep, fast, &position);
    absl::Status status;
    switch (event) {
      case Event::kStopped:
        status = Die(&child, State::kRunning, position);
        break;
      case Event::kAsleep:
        status = Die(&child, State::kAsleep, position + 1);
        break;
      case Event::kDone:
        status = Die(&child, State::kCompleted, position);
        break;
      case Event::kFailed:
        status = Failed(child, position);
        break;
    }
    if (!status.ok()) return status;
    return event == Event::kDone;
  }

  // Leads the child from `*position`, which is 0, to `n`. Returns where it
  // stands: kStopped there, or something else earlier.
  Event Travel(Victim* child, int64_t n, bool die_asleep, bool fast,
               int64_t* position) {
    for (const int64_t sleep : trace_.sleeps) {
      if (sleep > n) break;
      const Event event = Walk(child, sleep - 1, fast, position);
      if (event != Event::kStopped) return event;
      const Event slept = StepOver(child, die_asleep && sleep == n, position);
      if (slept != Event::kStopped) return slept;
    }
    return Walk(child, n, fast, position);
  }

  // Leads it to `target` over instructions that did not sleep: with a
  // breakpoint as near as possible, then step by step.
  Event Walk(Victim* child, int64_t target, bool fast, int64_t* position) {
    const int64_t known = std::min(target, trace_.size());
    // The position to which a breakpoint leads with the fewest stops in all.
    int64_t best = *position;
    int64_t cost = known - *position;
    for (int64_t at = known; at > *position && known - at < cost; --at) {
      const int64_t hits = trace_.hits[static_cast<size_t>(at)];
      if (hits == 0 || trace_.address(at) == trace_.address(*position)) {
        continue;
      }
      if (hits + known - at < cost) {
        cost = hits + known - at;
        best = at;
      }
    }
    if (fast && best != *position) {
      const Event event = Jump(child, best, position);
      if (event != Event::kStopped) return event;
    }
    while (*position < target) {
      const Event event = StepOver(child, /*die_asleep=*/false, position);
      if (event != Event::kStopped) return event;
    }
    return Event::kStopped;
  }

  Event Jump(Victim* child, int64_t target, int64_t* position) {
    const uintptr_t address = trace_.address(target);
    if (!have_breakpoints_ || !SetBreakpoint(child->pid(), address)) {
      have_breakpoints_ = false;
      return Event::kStopped;
    }
    int64_t hits = 0;
    while (hits < trace_.hits[static_cast<size_t>(target)]) {
      Event event = child->Continue();
      if (event == Event::kAsleep && steps_.unblock) event = child->Unblock();
      if (event != Event::kStopped) return event;
      // Or a signal is about to be delivered.
      if (child->address() == address) ++hits;
    }
    ClearBreakpoint(child->pid());
    *position = target;
    return Event::kStopped;
  }

  Event StepOver(Victim* child, bool die_asleep, int64_t* position) {
    Event event = child->Step();
    if (event == Event::kAsleep && !die_asleep && steps_.unblock) {
      event = child->Unblock();
    }
    if (event == Event::kStopped) ++*position;
    return event;
  }

  // Kills and reaps the child where it stands and calls check().
  absl::Status Die(Victim* child, State state, int64_t n) {
    const KillPoint point = {
        .instruction = n,
        .state = state,
        .address = state == State::kAsleep ? 0 : child->address()};
    if (state != State::kCompleted) ++report_.deaths;
    if (state == State::kRunning &&
        (n > trace_.size() || trace_.address(n) != point.address)) {
      ++report_.diverged;
    }
    child->Kill();
    const int failures = CountFailures();
    steps_.check(point);
    if (CountFailures() == failures) return absl::OkStatus();
    return absl::AbortedError(
        absl::StrCat("the check failed for a child killed ", point.ToString()));
  }

  static absl::Status Failed(const Victim& child, int64_t n) {
    const KillPoint point = {.instruction = n, .address = child.address()};
    return absl::Status(child.error().code(),
                        absl::StrCat(std::string(child.error().message()), ", ",
                                     point.ToString()));
  }

  const KillSteps& steps_;
  const SharedPage<Control> control_;
  bool have_breakpoints_ = true;
  Trace trace_;
  KillReport report_;
};

// The name of the function there, or nothing.
std::string FunctionAt(uintptr_t address) {
  // In a child: the symbolizer keeps files open.
  const SharedPage<std::array<char, 512>> name;
  const pid_t child = ForkForTest([&] {
    const bool found = absl::Symbolize(reinterpret_cast<void*>(address),
                                       name->data(), name->size());
    return found ? 0 : 1;
  });
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    MP_PCHECK(errno == EINTR) << "waitpid";
  }
  return status == 0 ? name->data() : "";
}

}  // namespace

absl::StatusOr<KillReport> RunKillSteps(const KillSteps& steps) {
  return Stepper(steps).Run();
}

}  // namespace mp::testing_internal

namespace mp::testing {

std::string KillPoint::ToString() const {
  if (asleep()) return absl::StrCat("asleep in instruction ", instruction);
  std::string text = absl::StrFormat("after %d instructions", instruction);
  if (completed()) absl::StrAppend(&text, ", completed");
  const std::string function = testing_internal::FunctionAt(address);
  if (!function.empty()) absl::StrAppend(&text, ", in ", function);
  // What addr2line wants to know.
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(address), &info) != 0 &&
      info.dli_fname != nullptr) {
    absl::StrAppendFormat(
        &text, ", at %s+%#x", info.dli_fname,
        address - reinterpret_cast<uintptr_t>(info.dli_fbase));
  }
  return text;
}

KillReport KillAtEveryInstruction(const KillSteps& steps) {
  const absl::StatusOr<KillReport> report =
      testing_internal::RunKillSteps(steps);
  if (report.ok()) return *report;
  ADD_FAILURE() << "kill stepper: " << report.status().ToString();
  return KillReport();
}

}  // namespace mp::testing
