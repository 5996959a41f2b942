// RobustSemaphore: what is behind mp::Semaphore in shared memory, a semaphore
// with accounts. Internal to sync.
//
// A permit is taken anonymously, or on account: then it is written down that
// this process has it, and when the process dies, whoever needs a permit next
// takes it back. In between, a permit must neither vanish nor double, at
// whatever instruction somebody is killed, though the semaphore's word and the
// account are two words that change one after the other.
//
// So transfers between the two are made under a lock, one at a time, and after
// this protocol:
//
//   1. write down the intent: which account, what it will hold, and what bit 31
//      of the semaphore's word, the mark, will be;
//   2. change the word by one compare-and-swap: take or give the permits, and
//      turn the mark over;
//   3. write the account;
//   4. erase the intent.
//
// Only transfers turn the mark. So who finds the lock's holder dead, and an
// intent, knows by the mark whether step 2 has happened; if it has, it does
// step 3, which may be done twice. Anonymous permits need neither lock nor
// protocol: they come and go by compare-and-swaps that leave the mark alone.
// (That the object itself tells whether an operation took effect is the idea of
// recoverable objects: H. Attiya, O. Ben-Baruch, D. Hendler, "Nesting-safe
// recoverable linearizability", 2018.)

#ifndef MP_SYNC_ROBUST_SEMAPHORE_H_
#define MP_SYNC_ROBUST_SEMAPHORE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <type_traits>

#include "absl/base/optimization.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_semaphore.h"

namespace mp {

// Followed in memory by its accounts, zero-filled.
template <class Platform>
class BasicRobustSemaphore {
 public:
  // One process's: how many permits it has, and its token. 0 if free.
  using Account = typename Platform::template Atomic<uint64_t>;

  static constexpr uint32_t kMaxValue =
      BasicInPlaceSemaphore<Platform>::kMaxValue;

  // REQUIRES: value <= max <= kMaxValue, 0 < accounts.
  BasicRobustSemaphore(uint32_t value, uint32_t max, uint32_t accounts)
      : semaphore_(value), max_(max), account_count_(accounts) {}
  BasicRobustSemaphore(const BasicRobustSemaphore&) = delete;
  BasicRobustSemaphore& operator=(const BasicRobustSemaphore&) = delete;

  uint32_t value() const { return semaphore_.value(); }
  uint32_t max() const { return max_; }

  // ---- Anonymous permits.

  bool TryAcquire() { return semaphore_.TryAcquire(); }

  // Waits for a permit until the deadline; an expired one tries once. Takes
  // permits back from the dead.
  bool AcquireUntil(Deadline deadline) {
    if (ABSL_PREDICT_TRUE(TryAcquire())) return true;
    return WaitUntil([this] { return TryAcquire(); }, deadline);
  }

  // False, and nothing done, if there would be more than max().
  bool Release(uint32_t permits) { return semaphore_.Release(permits, max_); }

  // ---- Permits on the account of the calling process.

  // As AcquireUntil(). While all accounts are other processes', there is no
  // permit for this one.
  bool LockUntil(Deadline deadline) {
    const auto take = [this, deadline] { return TakeOnAccount(deadline); };
    return take() || WaitUntil(take, deadline);
  }

  // Gives one back; false, and nothing done, if this process has none.
  bool Unlock() {
    {
      Hold hold(*this, Deadline::Infinite());
      Account* const account = Find([](uint64_t content) {
        return OwnerOf(content) == Platform::Self() && PermitsOf(content) > 0;
      });
      if (account == nullptr) return false;
      GiveBack(*account, 1);
    }
    NotifySleepers();
    return true;
  }

 private:
  using Semaphore = BasicInPlaceSemaphore<Platform>;

  // How long a call that must not block waits for a transfer of another process
  // to end, which takes some ten nanoseconds unless that process does not run.
  static constexpr absl::Duration kTransferTime = absl::Milliseconds(1);

  static constexpr uint32_t kMark = ~Semaphore::kValueMask;
  // Of the intent's target: an index of an account, and these. 0: no intent.
  static constexpr uint32_t kIntended = 1u << 30;
  static constexpr uint32_t kIndexMask = kIntended - 1;

  static constexpr Token OwnerOf(uint64_t content) {
    return static_cast<Token>(content);
  }
  static constexpr uint32_t PermitsOf(uint64_t content) {
    return static_cast<uint32_t>(content >> 32);
  }
  static constexpr uint64_t Content(Token owner, uint32_t permits) {
    return permits == 0 ? 0 : uint64_t{permits} << 32 | owner;
  }

  // The lock, with no transfer of a dead process left half done. A time limit
  // is the caller's, but no less than kTransferTime.
  class Hold {
   public:
    Hold(BasicRobustSemaphore& semaphore, Deadline deadline)
        : semaphore_(semaphore) {
      AcquireResult result = semaphore.lock_.AcquireUntil(deadline);
      if (!result) {
        result = semaphore.lock_.AcquireUntil(Deadline::After(kTransferTime));
      }
      if (result == kOwnerDied) semaphore.FinishTransfer();
      held_ = result != kTimedOut;
    }
    ~Hold() {
      if (held_) semaphore_.lock_.Release();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    explicit operator bool() const { return held_; }

   private:
    BasicRobustSemaphore& semaphore_;
    bool held_;
  };

  std::span<Account> accounts() {
    static_assert(sizeof(BasicRobustSemaphore) % alignof(Account) == 0);
    return {reinterpret_cast<Account*>(this + 1), account_count_};
  }

  // The first account that fits, beginning where this process had one last, as
  // a rule. Null if none does.
  template <class Fits>
  Account* Find(Fits fits) {
    const std::span<Account> all = accounts();
    const size_t first = Platform::Self() * size_t{0x9E3779B1} % all.size();
    for (size_t i = 0; i < all.size(); ++i) {
      Account& account =
          all[first + i < all.size() ? first + i : first + i - all.size()];
      if (fits(account.load(std::memory_order_relaxed))) return &account;
    }
    return nullptr;
  }

  bool TakeOnAccount(Deadline deadline) {
    if (value() == 0) return false;
    const Hold hold(*this, deadline);
    if (!hold) return false;
    const Token self = Platform::Self();
    // Two accounts of one process do no harm.
    Account* const account = Find([self](uint64_t content) {
      return content == 0 || OwnerOf(content) == self;
    });
    if (account == nullptr) return false;
    const uint32_t had = PermitsOf(account->load(std::memory_order_relaxed));
    // Before the permit is taken, so that who watches the holders sees this
    // process already.
    account->store(uint64_t{had} << 32 | self, std::memory_order_relaxed);
    const bool took = Transfer(*account, Content(self, had + 1),
                               [](uint32_t value) { return value - 1; });
    if (!took) account->store(Content(self, had), std::memory_order_relaxed);
    return took;
  }

  // With the lock held. If somebody released what it never had, there may be
  // more than max() now: the surplus is dropped.
  void GiveBack(Account& account, uint32_t permits) {
    const uint64_t content = account.load(std::memory_order_relaxed);
    Transfer(account, Content(OwnerOf(content), PermitsOf(content) - permits),
             [this, permits](uint32_t value) {
               return value + std::min(permits, max_ - value);
             });
  }

  // Changes the value, and with it the account. False, and nothing done, if
  // `change(value)` is more than max(); what is less than 0 is.
  template <class Change>
  bool Transfer(Account& account, uint64_t content, Change change) {
    uint32_t word = semaphore_.word_.load(std::memory_order_relaxed);
    const uint32_t mark = ~word & kMark;
    // Release: the last intent is erased before this one is written, and this
    // content is there before its target is.
    intended_content_.store(content, std::memory_order_release);
    intended_target_.store(
        mark | kIntended | static_cast<uint32_t>(&account - accounts().data()),
        std::memory_order_release);
    uint32_t value;
    do {
      value = change(word & Semaphore::kValueMask);
      if (value > max_) break;
      // Release: the intent is there before the mark turns. Acquire: the
      // account is not written before; and see InPlaceSemaphore::Acquire().
    } while (!semaphore_.word_.compare_exchange_weak(
        word, mark | value, std::memory_order_acq_rel,
        std::memory_order_relaxed));
    const bool possible = value <= max_;
    if (possible) account.store(content, std::memory_order_relaxed);
    // Release: the account is written before.
    intended_target_.store(0, std::memory_order_release);
    return possible;
  }

  // With the lock taken over from a dead holder, all of whose writes are
  // visible then.
  void FinishTransfer() {
    const uint32_t target = intended_target_.load(std::memory_order_relaxed);
    if (target == 0) return;
    const uint32_t word = semaphore_.word_.load(std::memory_order_relaxed);
    if (((word ^ target) & kMark) == 0) {
      accounts()[target & kIndexMask].store(
          intended_content_.load(std::memory_order_relaxed),
          std::memory_order_relaxed);
    }
    intended_target_.store(0, std::memory_order_release);
  }

  // Takes back what the dead have, if anything; true if it did.
  bool TakeBackFromTheDead(Deadline deadline) {
    const auto of_the_dead = [](uint64_t content) {
      return content != 0 && Platform::IsDead(OwnerOf(content));
    };
    // Without the lock, which is only for who finds somebody.
    if (Find(of_the_dead) == nullptr) return false;
    bool any = false;
    {
      const Hold hold(*this, deadline);
      if (!hold) return false;
      for (Account& account : accounts()) {
        const uint64_t content = account.load(std::memory_order_relaxed);
        if (!of_the_dead(content)) continue;
        GiveBack(account, PermitsOf(content));
        any = true;  // an account is free, if not a permit
      }
    }
    if (any) NotifySleepers();
    return any;
  }

  template <class Take>
  bool WaitUntil(Take take, Deadline deadline) {
    const auto watch_holders = [this](WatchList& list) {
      // Who saw the last permit taken sees the account that announced it.
      std::atomic_thread_fence(std::memory_order_acquire);
      return Find([&list](uint64_t content) {
               const Token owner = OwnerOf(content);
               list.Add(owner);
               return owner != kNoToken && Platform::IsDead(owner);
             }) == nullptr;
    };
    bool expired = deadline == Deadline::Now();
    for (;;) {
      if (TakeBackFromTheDead(deadline) && take()) break;
      if (expired) {
        // It may have been woken and then had no time for the transfer.
        semaphore_.PassOn();
        return false;
      }
      if (semaphore_.gate_.Wait(semaphore_.spin_, take, deadline,
                                watch_holders)) {
        break;
      }
      // Or somebody who has permits is dead.
      expired = deadline.Expired();
    }
    semaphore_.PassOn();
    return true;
  }

  void NotifySleepers() {
    // After the release of the lock.
    FenceBeforeNotifyAfterRmw();
    semaphore_.gate_.Notify();
  }

  Semaphore semaphore_;
  const uint32_t max_;
  const uint32_t account_count_;
  // Of transfers, and of the accounts.
  BasicInPlaceLock<Platform> lock_;
  typename Platform::template Atomic<uint64_t> intended_content_{0};
  typename Platform::template Atomic<uint32_t> intended_target_{0};
};

using RobustSemaphore = BasicRobustSemaphore<KernelPlatform>;

static_assert(std::is_standard_layout_v<RobustSemaphore>);
static_assert(std::is_trivially_destructible_v<RobustSemaphore>);

}  // namespace mp

#endif  // MP_SYNC_ROBUST_SEMAPHORE_H_
