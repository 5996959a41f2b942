#include "mp/base/fork_handlers.h"

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "mp/base/check.h"

namespace mp {
namespace {

// No lock and no heap: these run between fork() and what comes next.
constinit std::array<ForkHandlers, 16> registry = {};
constinit std::atomic<size_t> registered{0};

void Run(void (*const handler)()) {
  if (handler != nullptr) handler();
}

}  // namespace

void AddForkHandlers(const ForkHandlers& handlers) {
  const size_t index = registered.load(std::memory_order_relaxed);
  MP_CHECK(index < registry.size()) << "too many fork handlers";
  registry[index] = handlers;
  // Release: who sees the number sees the handlers.
  registered.store(index + 1, std::memory_order_release);
  if (index > 0) return;
  MP_CHECK(pthread_atfork(&RunBeforeFork, &RunInParentAfterFork,
                          &RunInChildAfterFork) == 0);
}

void RunBeforeFork() {
  for (size_t i = registered.load(std::memory_order_acquire); i > 0; --i) {
    Run(registry[i - 1].before);
  }
}

void RunInParentAfterFork() {
  const size_t size = registered.load(std::memory_order_acquire);
  for (size_t i = 0; i < size; ++i) Run(registry[i].in_parent);
}

void RunInChildAfterFork() {
  const size_t size = registered.load(std::memory_order_acquire);
  for (size_t i = 0; i < size; ++i) Run(registry[i].in_child);
}

}  // namespace mp
