#include "mp/testing/gang.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <new>
#include <utility>

#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"

namespace mp::testing {
namespace {

constexpr int kMaxMembers = 64;
// Instead of a number of operations.
constexpr int64_t kLeave = -1;

}  // namespace

struct Gang::Shared {
  FutexWord round{0};
  FutexWord done{0};
  int64_t operations = 0;
  struct alignas(64) Member {
    int64_t begin = 0;
    int64_t end = 0;
  } members[kMaxMembers];
};

Gang::Gang(int size, Body body, std::function<void()> leave)
    : size_(size), leave_(std::move(leave)) {
  MP_CHECK(size > 0 && size <= kMaxMembers) << size;
  void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  MP_PCHECK(memory != MAP_FAILED) << "mmap";
  shared_ = new (memory) Shared;
  for (int member = 0; member < size; ++member) {
    const pid_t pid = fork();
    MP_PCHECK(pid >= 0) << "fork";
    if (pid == 0) Serve(member, body);
    pids_.push_back(pid);
  }
}

Gang::~Gang() {
  if (leave_ != nullptr) {
    StartRound(kLeave);
  } else {
    for (const pid_t pid : pids_) kill(pid, SIGKILL);
  }
  for (const pid_t pid : pids_) waitpid(pid, nullptr, 0);
  munmap(shared_, sizeof(Shared));
}

void Gang::Serve(int member, const Body& body) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (uint32_t round = 0;; ++round) {
    while (shared_->round.load(std::memory_order_acquire) == round) {
      FutexWait(shared_->round, round, Deadline::Infinite());
    }
    if (shared_->operations == kLeave) {
      leave_();
      _exit(0);
    }
    Shared::Member& self = shared_->members[member];
    self.begin = MonotonicNanos();
    body(member, shared_->operations);
    self.end = MonotonicNanos();
    shared_->done.fetch_add(1, std::memory_order_release);
    FutexWake(shared_->done, 1);
  }
}

void Gang::StartRound(int64_t operations) {
  shared_->operations = operations;
  shared_->done.store(0, std::memory_order_relaxed);
  shared_->round.fetch_add(1, std::memory_order_release);
  FutexWake(shared_->round, kWakeAll);
}

double Gang::Run(int64_t operations) {
  MP_CHECK(operations >= 0) << operations;
  StartRound(operations);
  for (;;) {
    const uint32_t done = shared_->done.load(std::memory_order_acquire);
    if (done == static_cast<uint32_t>(size_)) break;
    FutexWait(shared_->done, done, Deadline::After(absl::Seconds(1)));
    for (const pid_t pid : pids_) {
      siginfo_t info = {};
      MP_CHECK(waitid(P_PID, static_cast<id_t>(pid), &info,
                      WEXITED | WNOHANG | WNOWAIT) == 0 &&
               info.si_pid == 0)
          << "a member of the gang died: pid " << pid;
    }
  }
  int64_t begin = INT64_MAX;
  int64_t end = 0;
  for (int member = 0; member < size_; ++member) {
    begin = std::min(begin, shared_->members[member].begin);
    end = std::max(end, shared_->members[member].end);
  }
  return static_cast<double>(end - begin) * 1e-9;
}

}  // namespace mp::testing
