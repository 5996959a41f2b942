#include "mp/process/this_process.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/base/check.h"

namespace mp::process_internal {
namespace {

using RecordList = std::list<std::shared_ptr<Record>>;

// Fewer finished children than this may wait for the next sweep.
constexpr size_t kSweepMinimum = 16;

void OnExit(int status, void*) {
  ThisProcess& self = ThisProcess::Get();
  // Called in a child, exit() has run the handlers that are younger than this
  // one, its own among them. The older ones are the parent's.
  if (self.parent() != nullptr) LeaveChild(status);
  self.EndChildren();
}

}  // namespace

struct ThisProcess::Children {
  // Reaps those that have ended. REQUIRES: the lock.
  void Sweep();
  // REQUIRES: the lock.
  std::optional<int> Look(Record& record);

  std::mutex mutex;
  RecordList not_reaped;
  size_t sweep_at = kSweepMinimum;
};

// Not destroyed: exit handlers and other threads use them to the end.
constinit std::atomic<ThisProcess*> ThisProcess::current_{nullptr};
constinit std::atomic<ThisProcess*> ThisProcess::inherited_{nullptr};

ThisProcess& ThisProcess::Get() {
  ThisProcess* self = current_.load(std::memory_order_acquire);
  if (self != nullptr) return *self;
  auto fresh = std::unique_ptr<ThisProcess>(new ThisProcess());
  if (inherited_.load(std::memory_order_relaxed) == nullptr) {
    // Two threads may register it twice, which does no harm.
    MP_CHECK(pthread_atfork(nullptr, nullptr, &AfterForkInChild) == 0);
  }
  if (current_.compare_exchange_strong(self, fresh.get(),
                                       std::memory_order_acq_rel)) {
    self = fresh.release();
  }
  return *self;
}

// A process that nobody of the library started: the main one, or a copy that
// the program forked by itself, which keeps its name as in Python.
ThisProcess::ThisProcess()
    : pid_(getpid()),
      name_("MainProcess"),
      children_(std::make_unique<Children>()) {
  if (const ThisProcess* origin = inherited_.load(std::memory_order_relaxed)) {
    name_ = origin->name_;
    daemon_ = origin->daemon_;
    identity_ = origin->identity_;
  }
}

ThisProcess::ThisProcess(const Record& record, UniqueFd parent_pidfd)
    : name_(record.name),
      daemon_(record.daemon),
      identity_(record.identity),
      started_(true),
      parent_(record.creator),
      parent_pidfd_(std::move(parent_pidfd)),
      children_(std::make_unique<Children>()) {}

ThisProcess::~ThisProcess() = default;

void ThisProcess::AfterForkInChild() {
  ThisProcess* origin = current_.load(std::memory_order_relaxed);
  if (origin == nullptr) return;
  inherited_.store(origin, std::memory_order_relaxed);
  current_.store(nullptr, std::memory_order_relaxed);
}

void ThisProcess::Become(ThisProcess* self) {
  self->pid_ = getpid();
  // The grandparent's pidfd, which came along, is of no use here.
  if (const int fd = self->parent_->parent_pidfd(); fd >= 0) close(fd);
  current_.store(self, std::memory_order_release);
}

std::string ThisProcess::NextIdentity() {
  const int number = created_.fetch_add(1, std::memory_order_relaxed) + 1;
  return identity_.empty() ? absl::StrCat(number)
                           : absl::StrCat(identity_, ":", number);
}

std::optional<int> ThisProcess::Children::Look(Record& record) {
  const std::optional<int> code = record.child->Reap();
  if (code.has_value() && record.place.has_value()) {
    not_reaped.erase(*record.place);
    record.place.reset();
  }
  return code;
}

void ThisProcess::Children::Sweep() {
  for (auto it = not_reaped.begin(); it != not_reaped.end();) {
    const std::shared_ptr<Record> record = *it++;
    Look(*record);
  }
}

void ThisProcess::Add(const std::shared_ptr<Record>& record) {
  const std::lock_guard lock(children_->mutex);
  // Children that nobody joins are reaped here. Sweeping when their number has
  // doubled bounds the zombies at a constant cost for each start.
  if (children_->not_reaped.size() >= children_->sweep_at) {
    children_->Sweep();
    children_->sweep_at =
        std::max(kSweepMinimum, 2 * children_->not_reaped.size());
  }
  record->place =
      children_->not_reaped.insert(children_->not_reaped.end(), record);
}

std::optional<int> ThisProcess::Look(Record& record) {
  const std::lock_guard lock(children_->mutex);
  return children_->Look(record);
}

absl::Status ThisProcess::Join(Record& record, Deadline deadline) {
  while (true) {
    const absl::Status ended = WaitForEnd(record.child->pidfd(), deadline);
    if (!ended.ok()) return ended;
    if (Look(record).has_value()) return absl::OkStatus();
    // A child that another process traces has ended, but can be reaped only
    // when the tracer lets it go. There is nothing to wait on for that.
    if (deadline.Expired()) {
      return absl::DeadlineExceededError("held by the process that traces it");
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
}

std::vector<std::shared_ptr<Record>> ThisProcess::LiveChildren() {
  const std::lock_guard lock(children_->mutex);
  children_->Sweep();
  return {children_->not_reaped.begin(), children_->not_reaped.end()};
}

void ThisProcess::EndChildren() {
  // Again until there are none: other threads may still start some.
  for (auto records = LiveChildren(); !records.empty();
       records = LiveChildren()) {
    for (const auto& record : records) {
      // Fails only where a child has become somebody the caller may not
      // signal; it is waited for like the rest.
      if (record->daemon) record->child->Signal(SIGTERM).IgnoreError();
    }
    for (const auto& record : records) {
      Join(*record, Deadline::Infinite()).IgnoreError();
    }
  }
}

void FlushStandardStreams() {
  try {
    std::cout.flush();
    std::cerr.flush();
    std::clog.flush();
  } catch (const std::exception&) {
    // A stream that was told to throw. It remembers the error as well.
  }
  // Only these two, not fflush(nullptr): that waits for the lock of every
  // stream, and another thread may hold stdin's until somebody types a line.
  std::fflush(stdout);
  std::fflush(stderr);
}

void RegisterExitHandler() {
  // Not a function-local static: its guard could be held at a fork.
  static constinit std::atomic<bool> registered{false};
  if (registered.exchange(true, std::memory_order_relaxed)) return;
  MP_CHECK(on_exit(&OnExit, nullptr) == 0);
}

void LeaveChild(int code) noexcept {
  ThisProcess::Get().EndChildren();
  FlushStandardStreams();
  _exit(code);
}

}  // namespace mp::process_internal
