#include "mp/sync/event.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
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

WaitSource Event::wait_source() const {
  static constexpr WaitSource::Kind kKind = {
      .check =
          [](void* object, uint32_t& mark) {
            mark = static_cast<InPlaceEvent*>(object)->Mark();
            return absl::OkStatus();
          },
      .ready =
          [](void* object, uint32_t mark) {
            return static_cast<InPlaceEvent*>(object)->WasSet(mark);
          },
      .gate = [](void* object) -> WaitSource::Gate& {
        return static_cast<InPlaceEvent*>(object)->gate();
      },
      .descriptor = nullptr};
  return {state_, &kKind};
}

std::string Event::ToString() const {
  return IsSet() ? "Event(set)" : "Event(unset)";
}

}  // namespace mp
