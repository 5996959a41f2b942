#include "mp/shm/wait_source.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "mp/shm/gate.h"

namespace mp {
namespace {

// A class as mp::Event is one.
class Door {
 public:
  void Open() {
    state_->open = true;
    FenceBeforeNotify();
    state_->gate.Notify();
  }

 private:
  struct State {
    std::atomic<bool> open{false};
    WaitSource::Gate gate;
  };

  friend struct ::mp::WaitAccess;
  WaitSource wait_source() const {
    static constexpr WaitSource::Kind kKind = {
        .check =
            [](void* object, uint32_t& mark) {
              mark = 5;
              return static_cast<State*>(object)->open
                         ? absl::FailedPreconditionError("open already")
                         : absl::OkStatus();
            },
        .ready =
            [](void* object, uint32_t mark) {
              return mark == 5 && static_cast<State*>(object)->open;
            },
        .gate = [](void* object) -> WaitSource::Gate& {
          return static_cast<State*>(object)->gate;
        },
        .descriptor = nullptr};
    return {state_, &kKind};
  }

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

template <class T>
concept CanBeWaitedFor = requires(const T& object) {
  WaitAccess::Source(object);
};
static_assert(CanBeWaitedFor<Door>);
static_assert(!CanBeWaitedFor<int>);
static_assert(!CanBeWaitedFor<std::shared_ptr<Door>>);

TEST(WaitSourceTest, TellsAboutTheObjectAndKeepsItsState) {
  auto door = std::make_unique<Door>();
  const WaitSource source = WaitAccess::Source(*door);
  const WaitSource::Kind& kind = *source.kind;
  void* const object = source.object.get();
  uint32_t mark = 0;
  EXPECT_TRUE(kind.check(object, mark).ok());
  EXPECT_FALSE(kind.ready(object, mark));
  const WaitSource::Gate::Ticket ticket = kind.gate(object).BeforeSleep();
  EXPECT_EQ(ticket.word->load(), ticket.expected);
  door->Open();
  door.reset();
  EXPECT_TRUE(kind.ready(object, mark));
  EXPECT_NE(ticket.word->load(), ticket.expected);
  EXPECT_TRUE(kind.gate(object).AfterSleep(ticket));
  EXPECT_FALSE(kind.check(object, mark).ok());
}

TEST(WaitSourceTest, MovedHandleHasNone) {
  Door door;
  const Door moved = std::move(door);
  // NOLINTNEXTLINE(bugprone-use-after-move)
  EXPECT_EQ(WaitAccess::Source(door).object, nullptr);
  EXPECT_NE(WaitAccess::Source(moved).object, nullptr);
}

}  // namespace
}  // namespace mp
