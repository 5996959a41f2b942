#include "mp/sync/rlock.h"

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/shm/slab.h"
#include "mp/sync/owner_name.h"

namespace mp {

RLock::RLock(std::shared_ptr<InPlaceRLock> state, StaysBehind)
    : state_(std::move(state)) {}

absl::StatusOr<RLock> RLock::Create() {
  absl::StatusOr<std::shared_ptr<InPlaceRLock>> state =
      MakeShared<InPlaceRLock>();
  if (!state.ok()) return state.status();
  return RLock(*std::move(state));
}

RLock::RLock() : RLock(ValueOrDie(Create())) {}

absl::Status RLock::Release() {
  if (state_->Release()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "Release() of a lock that this thread does not hold");
}

std::string RLock::ToString() const {
  if (state_->IsOwned()) {
    return absl::StrCat("RLock(owner=me, ", state_->depth(), ")");
  }
  return absl::StrCat("RLock(owner=", sync_internal::OwnerName(state_->owner()),
                      ")");
}

}  // namespace mp
