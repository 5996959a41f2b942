#include "mp/ipc/wait.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/base/fork_handlers.h"
#include "mp/base/futex.h"
#include "mp/base/unique_fd.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"

namespace mp {
namespace ipc_internal {
namespace {

// How often gates are looked at that cannot be slept on.
constexpr int64_t kGlanceNanos = 10'000'000;

// How long a sender may take for a Send that has been announced already. It is
// done within a microsecond unless it is stopped.
constexpr int64_t kSenderPatienceNanos = 10'000'000;

// A look at so many objects costs about as much as the pause before it.
constexpr size_t kLooksPerPause = 8;

// A descriptor that ends a poll() in another thread of this process. A forked
// child has no such thread, so it closes what it has inherited.
class WakeDescriptor {
 public:
  // Not valid, with errno set, if there is none left.
  WakeDescriptor() {
    Registry& registry = Registry::Get();
    const std::lock_guard lock(registry.mutex);
    fd_ = AboveStandardStreams(UniqueFd(eventfd(0, EFD_CLOEXEC)));
    if (fd_) registry.fds.push_back(fd_.get());
  }
  WakeDescriptor(const WakeDescriptor&) = delete;
  WakeDescriptor& operator=(const WakeDescriptor&) = delete;
  ~WakeDescriptor() {
    if (!fd_) return;
    Registry& registry = Registry::Get();
    const std::lock_guard lock(registry.mutex);
    std::erase(registry.fds, fd_.get());
    fd_.reset();
  }

  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  void Wake() const {
    MP_PCHECK(eventfd_write(fd_.get(), 1) == 0) << "eventfd_write";
  }

 private:
  struct Registry {
    std::mutex mutex;
    std::vector<int> fds;

    // Lives to the end of the process, whatever still waits then.
    static Registry& Get() {
      static Registry& registry = *new Registry;
      return registry;
    }
    Registry() {
      AddForkHandlers({.before = [] { Get().mutex.lock(); },
                       .in_parent = [] { Get().mutex.unlock(); },
                       .in_child =
                           [] {
                             for (const int fd : Get().fds)
                               UniqueFd{fd}.reset();
                             Get().fds.clear();
                             Get().mutex.unlock();
                           }});
    }
  };
  // Before main(), while no other thread can fork.
  static const Registry& made_before_main_;

  UniqueFd fd_;
};

[[maybe_unused]] const WakeDescriptor::Registry&
    WakeDescriptor::made_before_main_ = Registry::Get();

using PollEntries = absl::InlinedVector<pollfd, 8>;

// Ends early when a signal handler has run.
absl::Status Poll(PollEntries& entries, Deadline deadline) {
  if (poll(entries.data(), entries.size(), deadline.ToPollMillis()) >= 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  for (pollfd& entry : entries) entry.revents = 0;
  return error == EINTR ? absl::OkStatus() : ErrnoStatus(error, "poll");
}

// Threads that sleep until the first of them wakes, the caller among them.
class SleepTogether {
 public:
  explicit SleepTogether(Deadline deadline) : deadline_(deadline) {}
  SleepTogether(const SleepTogether&) = delete;
  SleepTogether& operator=(const SleepTogether&) = delete;

  // Sleeps while all of `words` hold what is expected, and in poll() with
  // `entries` if there are any. Does not, and returns false, if the system does
  // not give the threads or the descriptor for that.
  absl::StatusOr<bool> Run(std::span<const FutexExpectation> words,
                           PollEntries& entries);

 private:
  // So many, and one that ends the sleep.
  static constexpr size_t kWordsEach = kMaxFutexes - 1;

  struct Sleeper {
    SleepTogether* together = nullptr;
    std::vector<FutexExpectation> words;
    std::optional<pthread_t> thread;

    bool Sleep() const { return FutexWaitAny(words, together->deadline_); }
  };

  // Has no part in what is waited for, so whatever the process does meanwhile,
  // nothing depends on this thread. At the deadline all wake by themselves.
  static void* RunThread(void* sleeper) {
    const auto* const self = static_cast<const Sleeper*>(sleeper);
    if (self->Sleep()) self->together->End();
    return nullptr;
  }
  void End() {
    // A sleeper that is not asleep yet finds the word changed.
    ended_.store(1, std::memory_order_relaxed);
    FutexWake(ended_, kWakeAll);
    if (wake_poll_.has_value()) wake_poll_->Wake();
  }

  const Deadline deadline_;
  FutexWord ended_{0};
  std::optional<WakeDescriptor> wake_poll_;
};

absl::StatusOr<bool> SleepTogether::Run(std::span<const FutexExpectation> words,
                                        PollEntries& entries) {
  const bool polls = !entries.empty();
  if (polls && !wake_poll_.emplace().valid()) return false;
  std::vector<Sleeper> sleepers;
  for (size_t i = 0; i < words.size(); i += kWordsEach) {
    const auto part = words.subspan(i, std::min(kWordsEach, words.size() - i));
    sleepers.push_back({.together = this, .words = {}, .thread = {}});
    sleepers.back().words.assign(part.begin(), part.end());
    sleepers.back().words.push_back({&ended_, 0});
  }
  // Signals are for the other threads, which know what to do about them.
  sigset_t all, before;
  sigfillset(&all);
  MP_CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
  bool complete = true;
  for (size_t i = polls ? 0 : 1; i < sleepers.size() && complete; ++i) {
    pthread_t thread;
    complete = pthread_create(&thread, nullptr, &RunThread, &sleepers[i]) == 0;
    if (complete) sleepers[i].thread = thread;
  }
  MP_CHECK(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
  absl::Status error;
  if (complete && polls) {
    entries.push_back({.fd = wake_poll_->fd(), .events = POLLIN, .revents = 0});
    error = Poll(entries, deadline_);
    entries.pop_back();
  } else if (complete) {
    sleepers[0].Sleep();
  }
  End();
  for (const Sleeper& sleeper : sleepers) {
    if (sleeper.thread) MP_CHECK(pthread_join(*sleeper.thread, nullptr) == 0);
  }
  if (!error.ok()) return error;
  return complete;
}

absl::Status At(size_t place, const absl::Status& error) {
  return absl::Status(error.code(),
                      absl::StrCat("object ", place, ": ", error.message()));
}

}  // namespace

// One call of Wait().
class Waiter {
 public:
  Waiter(std::span<const Waitable> objects, Deadline deadline)
      : objects_(objects), deadline_(deadline), items_(objects.size()) {}

  absl::StatusOr<std::vector<size_t>> Run();

 private:
  using Kind = WaitSource::Kind;

  // What is known of an object.
  struct Item {
    uint32_t mark = 0;
    bool ready = false;
    // Of one with a gate: has got a wake-up that another may need.
    bool woken = false;
    // Of one with a descriptor: was readable, but not ready.
    bool readable = false;
    WaitSource::Gate::Ticket ticket;
  };

  const Kind* kind(size_t i) const { return objects_[i].source_.kind; }
  void* object(size_t i) const { return objects_[i].source_.object.get(); }
  bool HasGate(size_t i) const {
    return kind(i) != nullptr && kind(i)->gate != nullptr;
  }
  bool IsConnection(size_t i) const {
    return kind(i) != nullptr && kind(i)->gate == nullptr;
  }
  WaitSource::Gate& gate(size_t i) const { return kind(i)->gate(object(i)); }
  bool IsReady(size_t i) const {
    return kind(i)->ready(object(i), items_[i].mark);
  }

  absl::Status Check(size_t i) {
    if (kind(i)->check == nullptr) return absl::OkStatus();
    absl::Status error = kind(i)->check(object(i), items_[i].mark);
    return error.ok() ? error : At(i, error);
  }
  absl::Status CheckAll();

  // What is in shared memory, anew; all others are not ready.
  void LookAtMemory();
  // Makes entries for those that may be found ready by poll(), or all.
  enum class Which { kMayBeReady, kAll };
  void ListDescriptors(Which which);
  absl::Status UseEntries();
  // At everything.
  absl::Status Look();
  std::vector<size_t> Ready() const;

  // For as long as that has helped lately: whether something in shared memory
  // may be ready.
  bool Spin() const;

  absl::StatusOr<std::vector<size_t>> Sleep();
  absl::StatusOr<bool> PrepareConnections();
  absl::Status SleepOnce(ParkSlices& slices);

  const std::span<const Waitable> objects_;
  const Deadline deadline_;
  absl::InlinedVector<Item, 8> items_;
  PollEntries entries_;
  absl::InlinedVector<size_t, 8> entry_items_;  // whose they are
  bool may_have_threads_ = true;
};

absl::StatusOr<std::vector<size_t>> Waiter::Run() {
  if (objects_.empty() && deadline_.infinite()) {
    return absl::InvalidArgumentError("nothing to wait for, and no timeout");
  }
  if (absl::Status error = CheckAll(); !error.ok()) return error;
  if (absl::Status error = Look(); !error.ok()) return error;
  std::vector<size_t> ready = Ready();
  if (!ready.empty() || deadline_ == Deadline::Now()) return ready;
  if (Spin()) {
    if (absl::Status error = Look(); !error.ok()) return error;
    ready = Ready();
    if (!ready.empty()) return ready;
  }
  return Sleep();
}

absl::Status Waiter::CheckAll() {
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (kind(i) == nullptr) {
      if (objects_[i].fd_ >= 0) continue;
      return At(i, absl::InvalidArgumentError(
                       absl::StrCat("descriptor ", objects_[i].fd_)));
    }
    if (object(i) == nullptr) {
      return At(i, absl::InvalidArgumentError("an empty handle"));
    }
    if (absl::Status error = Check(i); !error.ok()) return error;
  }
  return absl::OkStatus();
}

// ---- Looking

void Waiter::LookAtMemory() {
  for (size_t i = 0; i < objects_.size(); ++i) {
    items_[i].ready = kind(i) != nullptr && IsReady(i);
  }
}

void Waiter::ListDescriptors(Which which) {
  entries_.clear();
  entry_items_.clear();
  for (size_t i = 0; i < objects_.size(); ++i) {
    int fd = objects_[i].fd_;
    if (kind(i) != nullptr) {
      const WaitSource::Descriptor* const descriptor = kind(i)->descriptor;
      if (descriptor == nullptr) continue;
      if (which == Which::kMayBeReady &&
          (items_[i].ready || !descriptor->may_have_hung_up(object(i)))) {
        continue;
      }
      fd = descriptor->fd(object(i));
    }
    entries_.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    entry_items_.push_back(i);
  }
}

absl::Status Waiter::UseEntries() {
  for (size_t k = 0; k < entries_.size(); ++k) {
    const int events = entries_[k].revents;
    if (events == 0) continue;
    const size_t i = entry_items_[k];
    Item& item = items_[i];
    if ((events & POLLNVAL) != 0) {
      return At(i, absl::InvalidArgumentError(absl::StrCat(
                       "descriptor ", entries_[k].fd, " is not open")));
    }
    if (kind(i) == nullptr || (events & (POLLHUP | POLLERR)) != 0 ||
        kind(i)->descriptor->make_unreadable == nullptr) {
      item.ready = true;
    } else if (!item.ready) {
      item.ready = IsReady(i);  // since the last look
      item.readable = !item.ready;
    }
  }
  return absl::OkStatus();
}

absl::Status Waiter::Look() {
  LookAtMemory();
  ListDescriptors(Which::kMayBeReady);
  if (entries_.empty()) return absl::OkStatus();
  if (absl::Status error = Poll(entries_, Deadline::Now()); !error.ok()) {
    return error;
  }
  return UseEntries();
}

std::vector<size_t> Waiter::Ready() const {
  std::vector<size_t> ready;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (items_[i].ready) ready.push_back(i);
  }
  return ready;
}

bool Waiter::Spin() const {
  absl::InlinedVector<size_t, 8> places;
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (kind(i) != nullptr) places.push_back(i);
  }
  if (places.empty()) return false;
  // What helped this thread, whatever it waited for.
  static constinit thread_local AdaptiveSpin<KernelPlatform, kSpinForPartner>
      spin;
  size_t next = 0;
  return spin.Until([&] {
    for (size_t k = std::min(places.size(), kLooksPerPause); k > 0; --k) {
      if (IsReady(places[next])) return true;
      next = next + 1 < places.size() ? next + 1 : 0;
    }
    return false;
  });
}

// ---- Sleeping

absl::StatusOr<std::vector<size_t>> Waiter::Sleep() {
  ParkSlices slices;
  for (;;) {
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (HasGate(i)) items_[i].ticket = gate(i).BeforeSleep();
    }
    // From here on, who makes something ready ends the sleep: the gates see to
    // it that a notifier wakes who sleeps on what they hold now, and a message
    // is there only where the socket is readable, whoever dies.
    LookAtMemory();
    absl::StatusOr<bool> may_sleep = PrepareConnections();
    absl::Status error = may_sleep.status();
    if (error.ok()) {
      if (*may_sleep && Ready().empty()) {
        ListDescriptors(Which::kAll);
        error = SleepOnce(slices);
        for (size_t i = 0; i < objects_.size(); ++i) {
          if (HasGate(i) && gate(i).AfterSleep(items_[i].ticket)) {
            items_[i].woken = true;
          }
        }
        LookAtMemory();
        if (error.ok()) error = UseEntries();
      } else {
        error = Look();
      }
    }
    std::vector<size_t> ready = Ready();
    if (error.ok() && ready.empty() && !deadline_.Expired()) continue;
    // Nothing has been taken, so what woke this process is there for others,
    // which may sleep: the notifier has woken this one in their place.
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (items_[i].woken && IsReady(i)) gate(i).Notify();
    }
    if (!error.ok()) return error;
    return ready;
  }
}

// Makes sockets unreadable, as they must be to sleep in poll(). False if there
// was a message. Most have nothing to do: after a sleep the socket of one that
// got no message is unreadable still.
absl::StatusOr<bool> Waiter::PrepareConnections() {
  bool may_sleep = true;
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (!IsConnection(i)) continue;
    // It may have been closed, and its descriptor be something else.
    if (absl::Status error = Check(i); !error.ok()) return error;
    const WaitSource::Descriptor& descriptor = *kind(i)->descriptor;
    if (items_[i].ready || descriptor.make_unreadable == nullptr ||
        (!items_[i].readable && !descriptor.may_be_readable(object(i)))) {
      continue;
    }
    items_[i].readable = false;
    if (descriptor.make_unreadable(object(i),
                                   deadline_.Sooner(kSenderPatienceNanos))) {
      may_sleep = false;
    }
  }
  return may_sleep;
}

absl::Status Waiter::SleepOnce(ParkSlices& slices) {
  Liveness::Rehome();
  absl::InlinedVector<FutexExpectation, 8> words;
  bool only_descriptors = true;
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (kind(i) != nullptr) only_descriptors = false;
    if (!HasGate(i)) continue;
    words.push_back({items_[i].ticket.word, items_[i].ticket.expected});
  }
  // Nobody but the kernel is needed for poll() to end. Otherwise, in slices: a
  // wake-up may be gone with a process that was killed.
  if (only_descriptors) return Poll(entries_, deadline_);
  const Deadline slice = deadline_.Sooner(slices.nanos());
  absl::Status error;
  if (words.empty()) {
    error = Poll(entries_, slice);
  } else {
    const std::span<const FutexExpectation> first(
        words.data(), std::min(words.size(), kMaxFutexes));
    const bool alone = entries_.empty() && first.size() == words.size() &&
                       (words.size() == 1 || HaveFutexWaitv());
    bool slept = true;
    if (alone) {
      FutexWaitAny(first, slice);
    } else if (may_have_threads_ && HaveFutexWaitv()) {
      const absl::StatusOr<bool> together =
          SleepTogether(slice).Run(words, entries_);
      if (!together.ok()) error = together.status();
      slept = together.value_or(true);
      may_have_threads_ = slept;
    } else {
      slept = false;
    }
    if (!slept) {
      const Deadline glance =
          deadline_.Sooner(std::min(slices.nanos(), kGlanceNanos));
      if (entries_.empty()) {
        FutexWaitAny(first, glance);
      } else {
        error = Poll(entries_, glance);
      }
    }
  }
  if (slice.Expired()) slices.Grow();
  return error;
}

}  // namespace ipc_internal

absl::StatusOr<std::vector<size_t>> Wait(std::span<const Waitable> objects,
                                         absl::Duration timeout) {
  return ipc_internal::Waiter(objects, Deadline::After(timeout)).Run();
}

}  // namespace mp
