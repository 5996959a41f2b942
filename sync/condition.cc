#include "mp/sync/condition.h"

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/shm/slab.h"

namespace mp {

Condition::Condition(std::shared_ptr<InPlaceCondition> state, AnyLock lock)
    : state_(std::move(state)), lock_(std::move(lock)) {}

absl::StatusOr<Condition> Condition::CreateWith(AnyLock lock) {
  absl::StatusOr<std::shared_ptr<InPlaceCondition>> state =
      MakeShared<InPlaceCondition>();
  if (!state.ok()) return state.status();
  return Condition(*std::move(state), std::move(lock));
}

absl::StatusOr<Condition> Condition::Create() {
  absl::StatusOr<RLock> lock = RLock::Create();
  if (!lock.ok()) return lock.status();
  return CreateWith(*std::move(lock));
}

absl::StatusOr<Condition> Condition::Create(Lock lock) {
  return CreateWith(std::move(lock));
}

absl::StatusOr<Condition> Condition::Create(RLock lock) {
  return CreateWith(std::move(lock));
}

Condition::Condition() : Condition(ValueOrDie(Create())) {}

Condition::Condition(Lock lock)
    : Condition(ValueOrDie(Create(std::move(lock)))) {}

Condition::Condition(RLock lock)
    : Condition(ValueOrDie(Create(std::move(lock)))) {}

AcquireResult Condition::Told(AcquireResult result) {
  if (result == kOwnerDied) state_->NotifyAll();
  return result;
}

// Clang's analysis cannot follow the lock into a lambda.

AcquireResult Condition::Acquire() {
  return Told(std::visit(
      [](auto& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS { return lock.Acquire(); },
      lock_));
}

AcquireResult Condition::Acquire(absl::Duration timeout) {
  return Told(std::visit(
      [timeout](auto& lock)
          ABSL_NO_THREAD_SAFETY_ANALYSIS { return lock.Acquire(timeout); },
      lock_));
}

absl::Status Condition::Release() {
  return std::visit(
      [](auto& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS { return lock.Release(); },
      lock_);
}

void Condition::unlock() {
  std::visit([](auto& lock) ABSL_NO_THREAD_SAFETY_ANALYSIS { lock.unlock(); },
             lock_);
}

void Condition::CheckOwned(const char* call) const {
  MP_CHECK(std::visit(
      [](auto& lock) { return InPlaceCondition::Owns(*lock.state_); }, lock_))
      << call << " without holding the condition's lock";
}

AcquireResult Condition::WaitUntil(Deadline deadline) {
  CheckOwned("Wait()");
  return std::visit(
      // If the repair callback threw, the caller would not hold the lock.
      [this, deadline](auto& lock) noexcept {
        return lock.Repaired(state_->WaitUntil(*lock.state_, deadline));
      },
      lock_);
}

int Condition::Notify(int count) {
  CheckOwned("Notify()");
  return state_->Notify(count);
}

int Condition::NotifyAll() {
  CheckOwned("NotifyAll()");
  return state_->NotifyAll();
}

void Condition::set_repair(std::function<void()> repair) {
  std::visit([&repair](auto& lock) { lock.set_repair(std::move(repair)); },
             lock_);
}

std::string Condition::ToString() const {
  return absl::StrCat(
      "Condition(",
      std::visit([](const auto& lock) { return lock.ToString(); }, lock_), ", ",
      state_->waiters(), ")");
}

}  // namespace mp
