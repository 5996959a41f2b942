#include "mp/sync/event.h"

#include <utility>

#include "mp/base/check.h"
#include "mp/shm/slab.h"

namespace mp {

Event::Event(std::shared_ptr<InPlaceEvent> state) : state_(std::move(state)) {}

absl::StatusOr<Event> Event::Create() {
  absl::StatusOr<std::shared_ptr<InPlaceEvent>> state =
      MakeShared<InPlaceEvent>();
  if (!state.ok()) return state.status();
  return Event(*std::move(state));
}

Event::Event() : Event(ValueOrDie(Create())) {}

std::string Event::ToString() const {
  return IsSet() ? "Event(set)" : "Event(unset)";
}

}  // namespace mp
