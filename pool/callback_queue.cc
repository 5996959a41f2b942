#include "mp/pool/callback_queue.h"

#include <iostream>

#include "absl/cleanup/cleanup.h"
#include "mp/base/exception.h"

namespace mp::pool_internal {
namespace {

// Whose callback the calling thread runs.
thread_local const CallbackQueue* running_callback_of = nullptr;

}  // namespace

void CallbackQueue::Add(std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  callbacks_.push_back(std::move(callback));
  has_any_.store(true, std::memory_order_release);
}

bool CallbackQueue::RunsHere() const {
  return running_callback_of == this && !ended();
}

void CallbackQueue::RunAll() {
  for (;;) {
    std::function<void()> callback;
    {
      const std::lock_guard lock(mutex_);
      if (callbacks_.empty()) {
        has_any_.store(false, std::memory_order_relaxed);
        return;
      }
      callback = std::move(callbacks_.front());
      callbacks_.pop_front();
    }
    const absl::Cleanup restore =
        [before = std::exchange(running_callback_of, this)] {
          running_callback_of = before;
        };
    try {
      callback();
    } catch (...) {
      // As in Python, nobody is there to catch it; the pool goes on.
      std::cerr << "mp::Pool: a callback threw " << DescribeCurrentException()
                << "\n";
    }
  }
}

void CallbackQueue::End() {
  RunAll();
  ended_.store(true, std::memory_order_release);
  FenceBeforeNotify();
  end_gate_.NotifyAll();
  // Who posts one from now on, runs it; this is for who did just before.
  RunAll();
}

absl::Status CallbackQueue::WaitForEnd(Deadline deadline) {
  const auto has_ended = [this] { return ended(); };
  if (RunsHere()) {
    return absl::FailedPreconditionError(
        "a callback of a pool waits for the pool's end, which waits for it");
  }
  if (end_gate_.Wait(end_spin_, has_ended, deadline)) return absl::OkStatus();
  return absl::DeadlineExceededError("the pool's workers have not ended");
}

}  // namespace mp::pool_internal
