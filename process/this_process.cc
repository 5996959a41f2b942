#include "mp/process/this_process.h"

#include <signal.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <limits>
#include <mutex>
#include <ostream>
#include <typeinfo>
#include <utility>

#ifdef __GLIBCXX__
#include <ext/stdio_sync_filebuf.h>
#endif

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/exception.h"
#include "mp/base/fork_handlers.h"

namespace mp::process_internal {
namespace {

using RecordList = std::list<std::shared_ptr<Record>>;

// Fewer finished children than this may wait for the next sweep.
constexpr size_t kSweepMinimum = 16;

// False only if the stream is as the program found it: what is written to it
// is then in the C library's buffer. Flushing it all the same would cost each
// child several page faults.
bool MayHoldText(const std::ostream& stream) {
#ifdef __GLIBCXX__
  const std::streambuf* const buffer = stream.rdbuf();
  return buffer != nullptr &&
         typeid(*buffer) != typeid(__gnu_cxx::stdio_sync_filebuf<char>);
#else
  return stream.rdbuf() != nullptr;
#endif
}

void OnExit(int status, void*) {
  ThisProcess& self = ThisProcess::Get();
  // Called in a child, exit() has run the handlers that are younger than this
  // one, its own among them. The older ones are the parent's.
  if (self.IsChild() && !self.fresh()) LeaveChild(status);
  self.Finish();
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

// Before main(), while no other thread can fork.
[[maybe_unused]] const bool ThisProcess::registered_ =
    (AddForkHandlers({.in_child = &AfterForkInChild}), true);

// Not destroyed: exit handlers and other threads use them to the end.
constinit std::atomic<ThisProcess*> ThisProcess::current_{nullptr};
constinit std::atomic<ThisProcess*> ThisProcess::inherited_{nullptr};

ThisProcess& ThisProcess::Get() {
  ThisProcess* self = current_.load(std::memory_order_acquire);
  if (self != nullptr) return *self;
  auto fresh = std::unique_ptr<ThisProcess>(new ThisProcess());
  if (current_.compare_exchange_strong(self, fresh.get(),
                                       std::memory_order_acq_rel)) {
    self = fresh.release();
  }
  return *self;
}

// A process that the library did not start: the main one, or a copy that the
// program forked by itself, which keeps its name as in Python.
ThisProcess::ThisProcess() : record_(std::make_shared<Record>()), fresh_(true) {
  Identity& identity = record_->identity;
  identity.name = "MainProcess";
  if (const ThisProcess* origin = inherited_.load(std::memory_order_relaxed)) {
    identity = origin->identity();
    identity.default_method = origin->default_method();
    identity.parent_pid = 0;
  }
  default_method_.store(identity.default_method, std::memory_order_relaxed);
}

ThisProcess::ThisProcess(std::shared_ptr<Record> record)
    : record_(std::move(record)),
      fresh_(false),
      default_method_(record_->identity.default_method) {}

void ThisProcess::Assume(Identity identity) {
  default_method_.store(identity.default_method, std::memory_order_relaxed);
  record_->identity = std::move(identity);
}

ThisProcess::~ThisProcess() { delete children_.load(); }

void ThisProcess::AfterForkInChild() {
  ThisProcess* origin = current_.load(std::memory_order_relaxed);
  if (origin == nullptr) return;
  inherited_.store(origin, std::memory_order_relaxed);
  current_.store(nullptr, std::memory_order_relaxed);
}

void ThisProcess::Become(ThisProcess* self) {
  current_.store(self, std::memory_order_release);
}

ThisProcess::Children& ThisProcess::children() {
  Children* children = children_.load(std::memory_order_acquire);
  if (children != nullptr) return *children;
  auto fresh = std::make_unique<Children>();
  if (children_.compare_exchange_strong(children, fresh.get(),
                                        std::memory_order_acq_rel)) {
    children = fresh.release();
  }
  return *children;
}

std::string ThisProcess::NextPath() {
  const int number = created_.fetch_add(1, std::memory_order_relaxed) + 1;
  return identity().path.empty() ? absl::StrCat(number)
                                 : absl::StrCat(identity().path, ":", number);
}

bool ThisProcess::SetDefaultMethod(StartMethod method, bool force) {
  if (default_method_set_.exchange(true) && !force) return false;
  default_method_.store(method, std::memory_order_relaxed);
  return true;
}

std::string ThisProcess::authkey() {
  const std::lock_guard lock(authkey_mutex_);
  std::string& key = record_->identity.authkey;
  if (key.empty()) {
    constexpr size_t kBytes = 32;
    key.resize(kBytes);
    MP_PCHECK(getrandom(key.data(), kBytes, 0) == ssize_t{kBytes})
        << "getrandom";
  }
  return key;
}

void ThisProcess::SetAuthkey(std::string key) {
  const std::lock_guard lock(authkey_mutex_);
  record_->identity.authkey = std::move(key);
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
  Children& mine = children();
  const std::lock_guard lock(mine.mutex);
  // Children that nobody joins are reaped here. Sweeping when their number has
  // doubled bounds the zombies at a constant cost for each start.
  if (mine.not_reaped.size() >= mine.sweep_at) {
    mine.Sweep();
    mine.sweep_at = std::max(kSweepMinimum, 2 * mine.not_reaped.size());
  }
  record->place = mine.not_reaped.insert(mine.not_reaped.end(), record);
}

std::optional<int> ThisProcess::Look(Record& record) {
  Children& mine = children();
  const std::lock_guard lock(mine.mutex);
  return mine.Look(record);
}

absl::Status ThisProcess::Join(Record& record, Deadline deadline) {
  while (true) {
    if (deadline.infinite()) {
      record.child->WaitUntilReapable();
    } else if (absl::Status ended = WaitForEnd(record.child->pidfd(), deadline);
               !ended.ok()) {
      return ended;
    }
    if (Look(record).has_value()) return absl::OkStatus();
    // It has ended, but can be reaped only when the process that traces it lets
    // it go. There is nothing to wait on for that with a timeout.
    if (deadline.Expired()) {
      return absl::DeadlineExceededError("held by the process that traces it");
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
}

std::vector<std::shared_ptr<Record>> ThisProcess::LiveChildren() {
  if (children_.load(std::memory_order_acquire) == nullptr) return {};
  Children& mine = children();
  const std::lock_guard lock(mine.mutex);
  mine.Sweep();
  return {mine.not_reaped.begin(), mine.not_reaped.end()};
}

void ThisProcess::EndChildren() {
  // Again until there are none: other threads may still start some.
  for (auto records = LiveChildren(); !records.empty();
       records = LiveChildren()) {
    for (const auto& record : records) {
      // Fails only where a child has become somebody the caller may not
      // signal; it is waited for like the rest.
      if (record->identity.daemon) record->child->Signal(SIGTERM).IgnoreError();
    }
    for (const auto& record : records) {
      Join(*record, Deadline::Infinite()).IgnoreError();
    }
  }
}

void ThisProcess::Finish() {
  const auto report = [] {
    PrintMessage(
        absl::StrCat("uncaught in a finalizer: ", DescribeCurrentException()));
  };
  if (finalizers_.used()) finalizers_.Run(0, report);
  EndChildren();
  if (finalizers_.used()) {
    finalizers_.Run(std::numeric_limits<int>::min(), report);
  }
}

void PrintMessage(const std::string& message) {
  FlushStandardStreams();
  const std::string line =
      absl::StrFormat("Process %s (pid %d): %s\n",
                      ThisProcess::Get().identity().name, getpid(), message);
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, line.data(), line.size());
}

void FlushStandardStreams() {
  try {
    for (std::ostream* stream : {&std::cout, &std::cerr, &std::clog}) {
      if (MayHoldText(*stream)) stream->flush();
    }
  } catch (const std::exception&) {
    // A stream that was told to throw. It remembers the error as well.
  }
  // Only these two, not fflush(nullptr): that waits for the lock of every
  // stream, and another thread may hold stdin's until somebody types a line.
  for (std::FILE* file : {stdout, stderr}) {
    // __fpending(), but that is another page fault.
    if (file->_IO_write_ptr != file->_IO_write_base) std::fflush(file);
  }
}

void RegisterExitHandler() {
  // Not a function-local static: its guard could be held at a fork.
  static constinit std::atomic<bool> registered{false};
  // Read first: after a fork, writing costs each start a page fault.
  if (registered.load(std::memory_order_relaxed) ||
      registered.exchange(true, std::memory_order_relaxed)) {
    return;
  }
  MP_CHECK(on_exit(&OnExit, nullptr) == 0);
}

void LeaveChild(int code) noexcept {
  ThisProcess& self = ThisProcess::Get();
  self.Finish();
  FlushStandardStreams();
  if (self.fresh()) std::exit(code);
  _exit(code);
}

}  // namespace mp::process_internal
