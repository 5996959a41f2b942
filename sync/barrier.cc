#include "mp/sync/barrier.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/slab.h"

namespace mp {

Barrier::Barrier(std::shared_ptr<BarrierState> state,
                 std::shared_ptr<const Action> action, absl::Duration timeout)
    : state_(std::move(state)), action_(std::move(action)), timeout_(timeout) {}

absl::StatusOr<Barrier> Barrier::Create(int parties,
                                        std::function<void()> action,
                                        absl::Duration timeout) {
  if (parties < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a barrier for ", parties, " parties"));
  }
  absl::StatusOr<std::shared_ptr<BarrierState>> state =
      MakeSharedWithArray<BarrierState, BarrierState::Entry>(
          static_cast<size_t>(parties), static_cast<uint32_t>(parties));
  if (!state.ok()) return state.status();
  return Barrier(*std::move(state),
                 action == nullptr
                     ? nullptr
                     : std::make_shared<const Action>(std::move(action)),
                 timeout);
}

Barrier::Barrier(int parties, std::function<void()> action,
                 absl::Duration timeout)
    : Barrier(ValueOrDie(Create(parties, std::move(action), timeout))) {}

absl::StatusOr<int> Barrier::Wait(absl::Duration timeout) {
  const int place = state_->Wait(action_.get(), Deadline::After(timeout));
  if (place == kBarrierBroken) return absl::AbortedError("broken barrier");
  if (place == kBarrierTimedOut) {
    return absl::DeadlineExceededError(absl::StrCat(
        "not all ", parties(), " parties of a barrier came in time"));
  }
  return place;
}

std::string Barrier::ToString() const {
  if (broken()) return "Barrier(broken)";
  return absl::StrCat("Barrier(waiters=", n_waiting(), "/", parties(), ")");
}

}  // namespace mp
