#include "mp/shm/liveness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/fork_handlers.h"
#include "mp/base/process_identity.h"
#include "mp/shm/segment.h"

namespace mp {
namespace {

using Slot = shm_internal::LivenessSlot;

constexpr uint32_t kSlots = Slot::kCount;
constexpr uint32_t kIndexBits = std::countr_zero(kSlots);
constexpr uint32_t kMaxGeneration = (kTokenLimit >> kIndexBits) - 1;
static_assert(std::has_single_bit(kSlots));
static_assert(kMaxLiveProcesses == kSlots - 1);  // slot 0 is nobody's

struct Table {
  uint64_t pid_namespace;      // that of all processes in it; 0 if unknown
  std::atomic<uint32_t> next;  // where the search for a free slot begins
  Slot slots[kSlots];
};

constexpr uint64_t kLayout = LayoutFingerprint("liveness", 2, sizeof(Table));

ProcessIdentity IdentityIn(const Slot& slot) {
  return {
      .pid = slot.pid.load(std::memory_order_relaxed),
      .alive_at_nanos = slot.alive_at_nanos.load(std::memory_order_relaxed)};
}

// Names the calling process's, 0 if the kernel does not tell.
uint64_t PidNamespace() {
  struct stat info;
  return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

absl::StatusOr<std::shared_ptr<Segment>> CreateTable() {
  absl::StatusOr<std::shared_ptr<Segment>> segment = Segment::Create(
      {.name = "liveness", .layout = kLayout, .size = sizeof(Table)});
  if (!segment.ok()) return segment.status();
  auto* table = new ((*segment)->data()) Table;
  table->pid_namespace = PidNamespace();
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  for (Slot& slot : table->slots) {
    pthread_mutex_init(&slot.life, &attributes);
  }
  pthread_mutexattr_destroy(&attributes);
  return segment;
}

// Whether the process `pid` is in one of two states that the certificate shows
// and a pidfd does not, given that its first thread held the certificate and
// does not any more. It has called exec: the same process, but nothing of the
// program that used shared objects is left. Or it is on its way out (taking
// apart a large address space is slow), and no other thread is left.
bool HasLeft(pid_t pid) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/%d/stat", pid);
  const UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return false;
  char text[1024];
  const ssize_t size = read(fd.get(), text, sizeof(text) - 1);
  if (size <= 0) return false;
  text[size] = '\0';
  // After the program's name, which may contain anything: state, five fields,
  // the kernel's PF_* flags, ten fields, the number of threads. See proc(5).
  const char* const name_end = strrchr(text, ')');
  char state = 0;
  unsigned flags = 0;
  long threads = 0;
  if (name_end == nullptr ||
      sscanf(name_end,
             ") %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
             "%*d %ld",
             &state, &flags, &threads) != 3) {
    return false;
  }
  if (threads == 1) return true;
  // With other threads left, an exiting first thread proves nothing: it may
  // have called pthread_exit().
  constexpr unsigned kExiting = 0x4;  // PF_EXITING
  return state != 'Z' && state != 'X' && (flags & kExiting) == 0;
}

// Whether the process that filled the slot is proven dead. Call only when no
// thread of it held `life` after the other fields were read.
bool ProvenDead(const ProcessIdentity& identity, pid_t holder) {
  return IsProvablyDead(identity) ||
         (holder == identity.pid && HasLeft(identity.pid));
}

// Locks the slot's certificate if nobody else holds it. A process that dies
// here leaves the slot free for the next one.
bool TryHold(Slot& slot) {
  const int error = pthread_mutex_trylock(&slot.life);
  if (error == EOWNERDEAD) pthread_mutex_consistent(&slot.life);
  return error == 0 || error == EOWNERDEAD;
}

}  // namespace

struct LivenessInternals {
  // Guards the rest; taken around fork() so that a child finds it free.
  std::mutex mutex;
  // The table's segment is the last one. The others, if there are any, stay
  // mapped until the process ends: threads may look at them until then.
  std::vector<std::shared_ptr<Segment>> segments;
  std::atomic<Table*> table{nullptr};
  std::atomic<Slot*> own_slot{nullptr};
  // Whether there was a table to pass on at the last fork(), and why this
  // process inherited none.
  absl::Status fork_status;
  absl::Status not_inherited;

  LivenessInternals() {
    AddForkHandlers({.before = [] { Get().BeforeFork(); },
                     .in_parent = [] { Get().AfterFork(); },
                     .in_child = [] { Get().InForkedChild(); }});
  }

  // Never destroyed: other threads may still run at exit.
  static LivenessInternals& Get() {
    static auto* const internals = new LivenessInternals;
    return *internals;
  }

  // The table must exist before a fork for parent and child to share it. If it
  // cannot be made, the child must not make its own: a lock in memory that it
  // shares with its parent would take the parent for dead.
  void BeforeFork() {
    mutex.lock();
    fork_status = EnsureTable();
  }

  void AfterFork() { mutex.unlock(); }

  void InForkedChild() {
    Liveness::self_.store(kNoToken, std::memory_order_relaxed);
    Liveness::self_thread_ = 0;  // there is no other thread here
    own_slot.store(nullptr, std::memory_order_relaxed);
    not_inherited = fork_status;
    // A failure is reported by the first use of a shared object.
    (void)JoinLocked();
    mutex.unlock();
  }

  absl::Status EnsureTable() {
    if (table.load(std::memory_order_relaxed) != nullptr) {
      return absl::OkStatus();
    }
    if (!not_inherited.ok()) return not_inherited;
    absl::StatusOr<std::shared_ptr<Segment>> created = CreateTable();
    if (!created.ok()) return created.status();
    Adopt(*std::move(created));
    return absl::OkStatus();
  }

  void Adopt(std::shared_ptr<Segment> family) {
    if (Slot* const own = own_slot.exchange(nullptr)) {
      // Free for anybody, as if this process had never been there.
      own->token.store(kNoToken, std::memory_order_release);
      pthread_mutex_unlock(&own->life);
      Liveness::self_.store(kNoToken, std::memory_order_relaxed);
      Liveness::self_thread_ = 0;
    }
    not_inherited = absl::OkStatus();
    segments.push_back(std::move(family));
    auto* const adopted = reinterpret_cast<Table*>(segments.back()->data());
    Liveness::slots_.store(adopted->slots, std::memory_order_release);
    table.store(adopted, std::memory_order_release);
  }

  absl::Status JoinLocked() {
    if (own_slot.load(std::memory_order_relaxed) != nullptr) {
      return absl::OkStatus();
    }
    if (absl::Status status = EnsureTable(); !status.ok()) return status;
    Table& shared = *table.load(std::memory_order_relaxed);
    // Pids and the kernel's certificates mean other processes there.
    if (const uint64_t own = PidNamespace();
        own != shared.pid_namespace && own != 0 && shared.pid_namespace != 0) {
      return absl::FailedPreconditionError(
          "this process is in another PID namespace than the one that it has "
          "its shared objects from");
    }
    for (uint32_t i = 0; i < kSlots; ++i) {
      // Round robin, so that a slot and its generations last.
      const uint32_t index =
          shared.next.fetch_add(1, std::memory_order_relaxed) % kSlots;
      if (index != 0 && Claim(shared.slots[index], index)) {
        return absl::OkStatus();
      }
    }
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMaxLiveProcesses,
                     " live processes use shared objects together"));
  }

  bool Claim(Slot& slot, uint32_t index) {
    if (!TryHold(slot)) return false;
    // Nobody holds the certificate: its process has ended, or only the thread
    // that held it.
    if (slot.token.load(std::memory_order_relaxed) != kNoToken &&
        !ProvenDead(IdentityIn(slot),
                    slot.holder.load(std::memory_order_relaxed))) {
      pthread_mutex_unlock(&slot.life);
      return false;
    }
    // Release: who concludes from it that the old process is dead must see what
    // that has written. The fence: who sees a later field must not see an
    // earlier token. Dying in between leaves token 0, a free slot.
    slot.token.store(kNoToken, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_release);
    const ProcessIdentity self = SelfIdentity();
    slot.pid.store(self.pid, std::memory_order_relaxed);
    slot.alive_at_nanos.store(self.alive_at_nanos, std::memory_order_relaxed);
    const uint32_t generation =
        slot.generation.load(std::memory_order_relaxed) % kMaxGeneration + 1;
    slot.generation.store(generation, std::memory_order_relaxed);
    const Token token = (generation << kIndexBits) | index;
    slot.token.store(token, std::memory_order_release);
    own_slot.store(&slot, std::memory_order_relaxed);
    Settle(slot);
    // Nobody may find the token in a lock word and still see the slot as it
    // was: that looks like a dead holder. The fence orders this thread's
    // stores, and those of other threads follow their load of self_ because
    // they store what they loaded.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    Liveness::self_.store(token, std::memory_order_relaxed);
    return true;
  }

  // The calling thread holds own.life now. If it may end before the process, it
  // gives the certificate back, so that nobody has to find out whether it was
  // the process that ended.
  void Settle(Slot& own) {
    const auto thread = static_cast<pid_t>(syscall(SYS_gettid));
    // Release: who sees the new holder sees that it holds the certificate.
    own.holder.store(thread, std::memory_order_release);
    if (thread == getpid()) return;
    struct GiveBack {
      pid_t pid = getpid();
      ~GiveBack() {
        // A child forked by this thread has inherited the object but not the
        // certificate.
        if (pid != getpid()) return;
        pthread_mutex_unlock(
            &Get().own_slot.load(std::memory_order_relaxed)->life);
      }
    };
    thread_local GiveBack give_back;
    (void)give_back;
  }
};

namespace {

// Registers the fork handlers before main(), so that the table is shared by
// everything this program forks.
[[maybe_unused]] const LivenessInternals& registered = LivenessInternals::Get();

}  // namespace

absl::Status Liveness::Join() {
  if (self_.load(std::memory_order_relaxed) != kNoToken) {
    return absl::OkStatus();
  }
  LivenessInternals& internals = LivenessInternals::Get();
  const std::lock_guard<std::mutex> lock(internals.mutex);
  return internals.JoinLocked();
}

absl::StatusOr<int> Liveness::TableFd() {
  LivenessInternals& internals = LivenessInternals::Get();
  const std::lock_guard<std::mutex> lock(internals.mutex);
  if (absl::Status status = internals.EnsureTable(); !status.ok()) {
    return status;
  }
  return internals.segments.back()->fd();
}

absl::Status Liveness::Adopt(UniqueFd table) {
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Attach(std::move(table), kLayout);
  if (!segment.ok()) return segment.status();
  LivenessInternals& internals = LivenessInternals::Get();
  const std::lock_guard<std::mutex> lock(internals.mutex);
  internals.Adopt(*std::move(segment));
  return absl::OkStatus();
}

Token Liveness::JoinOrDie() {
  const absl::Status status = Join();
  MP_CHECK(status.ok()) << "cannot use shared objects: " << status.ToString();
  return self_.load(std::memory_order_relaxed);
}

uint64_t Liveness::NameThread() {
  static std::atomic<uint32_t> threads{0};
  self_thread_ = uint64_t{Self()} << 32 |
                 (threads.fetch_add(1, std::memory_order_relaxed) + 1);
  return self_thread_;
}

Liveness::Slot& Liveness::SlotOf(Token token) {
  Slot* const slots = slots_.load(std::memory_order_acquire);
  MP_CHECK(slots != nullptr) << "a shared object from another family";
  return slots[token % Slot::kCount];
}

bool Liveness::IsDeadSlow(Token token) {
  const Slot& slot = SlotOf(token);
  // A slot passes on only after its process is proven dead. Acquire, so that
  // the fields read next are not older than the token.
  if (slot.token.load(std::memory_order_acquire) != token) return true;
  const ProcessIdentity identity = IdentityIn(slot);
  const pid_t holder = slot.holder.load(std::memory_order_relaxed);
  // The fields belong to `token` only if it is still there after reading them,
  // and another thread of the process may have taken the certificate over.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (slot.token.load(std::memory_order_relaxed) != token) return true;
  return !Slot::Certifies(slot.life_word().load(std::memory_order_relaxed)) &&
         ProvenDead(identity, holder);
}

pid_t Liveness::Pid(Token token) {
  Slot& slot = SlotOf(token);
  if (slot.token.load(std::memory_order_acquire) != token) return 0;
  const pid_t pid = slot.pid.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return slot.token.load(std::memory_order_relaxed) == token ? pid : 0;
}

const FutexWord* Liveness::Watch(Token token, uint32_t* expected) {
  Slot& slot = SlotOf(token);
  FutexWord& life = slot.life_word();
  uint32_t value = life.load(std::memory_order_relaxed);
  // Without FUTEX_WAITERS the kernel marks the word but wakes nobody.
  while (Slot::Certifies(value) && (value & FUTEX_WAITERS) == 0) {
    if (life.compare_exchange_weak(value, value | FUTEX_WAITERS,
                                   std::memory_order_relaxed)) {
      value |= FUTEX_WAITERS;
    }
  }
  if (!Slot::Certifies(value)) return nullptr;
  *expected = value;
  return &life;
}

void Liveness::Rehome() {
  LivenessInternals& internals = LivenessInternals::Get();
  Slot* const own = internals.own_slot.load(std::memory_order_relaxed);
  if (own == nullptr ||
      Slot::Certifies(own->life_word().load(std::memory_order_relaxed))) {
    return;
  }
  const std::lock_guard<std::mutex> lock(internals.mutex);
  // Fails if another thread was first, or while somebody looks for a free slot
  // here; there is a next time.
  if (TryHold(*own)) internals.Settle(*own);
}

}  // namespace mp
