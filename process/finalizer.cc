#include "mp/process/finalizer.h"

#include <utility>

#include "mp/base/check.h"
#include "mp/process/this_process.h"

namespace mp {

using process_internal::ThisProcess;

Finalizer::Finalizer(std::function<void()> callback,
                     std::optional<int> exit_priority)
    : registry_(&ThisProcess::Get().finalizers()) {
  MP_CHECK(callback != nullptr) << "a Finalizer without a callback";
  key_ = registry_->Add(std::move(callback), exit_priority);
  if (exit_priority.has_value()) process_internal::RegisterExitHandler();
}

Finalizer::Finalizer(Finalizer&& other) noexcept
    : registry_(std::exchange(other.registry_, nullptr)), key_(other.key_) {}

Finalizer& Finalizer::operator=(Finalizer&& other) noexcept {
  if (this == &other) return *this;
  (*this)();
  registry_ = std::exchange(other.registry_, nullptr);
  key_ = other.key_;
  return *this;
}

Finalizer::~Finalizer() { (*this)(); }

bool Finalizer::operator()() {
  if (!IsOfThisProcess()) return false;
  const auto callback = registry_->Take(key_);
  if (callback == nullptr) return false;
  callback();
  return true;
}

bool Finalizer::Cancel() {
  return IsOfThisProcess() && registry_->Take(key_) != nullptr;
}

bool Finalizer::still_active() const {
  return IsOfThisProcess() && registry_->Has(key_);
}

// A copy in a forked child still points to the parent's, whose lock a thread
// of the parent may hold.
bool Finalizer::IsOfThisProcess() const {
  return registry_ != nullptr && registry_ == &ThisProcess::Get().finalizers();
}

}  // namespace mp
