#include "mp/sync/semaphore.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/shm/liveness.h"
#include "mp/shm/slab.h"

namespace mp {
namespace {

// Fewer would not make it smaller than two cache lines.
constexpr int kFewestAccounts = 9;

}  // namespace

absl::StatusOr<std::shared_ptr<RobustSemaphore>> Semaphore::NewState(int value,
                                                                     int max) {
  if (value < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a semaphore cannot begin with ", value, " permits"));
  }
  const int accounts = std::clamp(value, kFewestAccounts, kMaxLiveProcesses);
  return MakeSharedWithArray<RobustSemaphore, RobustSemaphore::Account>(
      static_cast<size_t>(accounts), static_cast<uint32_t>(value),
      static_cast<uint32_t>(max), static_cast<uint32_t>(accounts));
}

Semaphore::Semaphore(std::shared_ptr<RobustSemaphore> state)
    : state_(std::move(state)) {}

Semaphore::Semaphore(int value) : Semaphore(ValueOrDie(Create(value))) {}

absl::StatusOr<Semaphore> Semaphore::Create(int value) {
  absl::StatusOr<std::shared_ptr<RobustSemaphore>> state =
      NewState(value, kMaxValue);
  if (!state.ok()) return state.status();
  return Semaphore(*std::move(state));
}

absl::Status Semaphore::ReleaseError(int permits) const {
  if (permits < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("Release(", permits, ") of a semaphore"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("Release(", permits, ") of a semaphore that has ", value(),
                   " of at most ", state_->max(), " permits"));
}

void Semaphore::unlock() {
  MP_CHECK(state_->Unlock())
      << "unlock() of a semaphore by a process that has no permit of it";
}

std::string Semaphore::ToString() const {
  if (state_->max() == uint32_t{kMaxValue}) {
    return absl::StrCat("Semaphore(value=", value(), ")");
  }
  return absl::StrCat("BoundedSemaphore(value=", value(),
                      ", maxvalue=", state_->max(), ")");
}

BoundedSemaphore::BoundedSemaphore(int value)
    : BoundedSemaphore(ValueOrDie(Create(value))) {}

absl::StatusOr<BoundedSemaphore> BoundedSemaphore::Create(int value) {
  absl::StatusOr<std::shared_ptr<RobustSemaphore>> state =
      NewState(value, value);
  if (!state.ok()) return state.status();
  return BoundedSemaphore(*std::move(state));
}

}  // namespace mp
