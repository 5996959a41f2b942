#include "mp/sync/rwlock.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "mp/base/check.h"
#include "mp/shm/liveness.h"
#include "mp/shm/slab.h"
#include "mp/sync/owner_name.h"

namespace mp {

RWLock::RWLock(std::shared_ptr<InPlaceRWLock> state, StaysBehind)
    : state_(std::move(state)) {}

absl::StatusOr<RWLock> RWLock::Create() {
  absl::StatusOr<std::shared_ptr<InPlaceRWLock>> state =
      MakeShared<InPlaceRWLock>();
  if (!state.ok()) return state.status();
  return RWLock(*std::move(state));
}

RWLock::RWLock() : RWLock(ValueOrDie(Create())) {}

absl::Status RWLock::Release() {
  if (state_->Release()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "Release() of a lock that this process does not hold");
}

absl::Status RWLock::ReleaseShared() {
  if (state_->ReleaseShared()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "ReleaseShared() of a lock that this process does not read under");
}

AcquireResult RWLock::RepairAndAcquireShared(Deadline deadline)
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  AcquireResult told = kAcquired;
  for (;;) {
    state_->ReleaseShared();
    const AcquireResult as_writer = AcquireUntil(deadline);
    if (as_writer == kTimedOut) return kTimedOut;
    if (as_writer == kOwnerDied) told = kOwnerDied;
    state_->Release();
    const AcquireResult as_reader = state_->AcquireSharedUntil(deadline);
    if (as_reader == kTimedOut) return kTimedOut;
    if (as_reader == kAcquired) return told;
    // Another writer has died in between.
  }
}

std::string RWLock::ToString() const {
  const std::vector<Token> readers = state_->readers();
  if (readers.empty()) {
    return absl::StrCat(
        "RWLock(owner=", sync_internal::OwnerName(state_->writer()), ")");
  }
  return absl::StrCat("RWLock(readers=",
                      absl::StrJoin(readers, ", ",
                                    [](std::string* out, Token token) {
                                      *out += sync_internal::OwnerName(token);
                                    }),
                      ")");
}

}  // namespace mp
