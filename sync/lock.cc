#include "mp/sync/lock.h"

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/shm/slab.h"
#include "mp/sync/owner_name.h"

namespace mp {

Lock::Lock(std::shared_ptr<InPlaceLock> state, StaysBehind)
    : state_(std::move(state)) {}

absl::StatusOr<Lock> Lock::Create() {
  absl::StatusOr<std::shared_ptr<InPlaceLock>> state =
      MakeShared<InPlaceLock>();
  if (!state.ok()) return state.status();
  return Lock(*std::move(state));
}

Lock::Lock() : Lock(ValueOrDie(Create())) {}

absl::Status Lock::Release() {
  if (state_->Release()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      state_->IsHeld() ? "Release() of a lock whose holder died; acquire it"
                       : "Release() of a lock that nobody holds");
}

std::string Lock::ToString() const {
  return absl::StrCat("Lock(owner=", sync_internal::OwnerName(state_->owner()),
                      ")");
}

}  // namespace mp
