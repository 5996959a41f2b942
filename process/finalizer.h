// Finalizer: something to do once, at the latest when the process ends.
//
//   mp::Finalizer remove_directory([path] { RemoveAll(path); },
//                                  /*exit_priority=*/0);
//
// Runs its callback when it is called, when it is destroyed, or at the exit of
// the process, whichever is first. Children that are forked meanwhile have a
// copy that does nothing: the callback is for the process that made it.
//
// At the exit of a process, by a return from main(), exit(), mp::Exit(), or the
// end of a child's target, but not if it is killed or calls _exit():
//   1. finalizers with a priority of 0 or more run, the highest first, among
//      equals the last made first;
//   2. daemonic children get SIGTERM, and all children are joined;
//   3. the other finalizers that have a priority run in the same order.
//
// Thread-safe but for moves. A callback that throws in step 1 or 3 is reported
// on stderr.

#ifndef MP_PROCESS_FINALIZER_H_
#define MP_PROCESS_FINALIZER_H_

#include <functional>
#include <optional>

#include "mp/process/finalizer_registry.h"

namespace mp {

class Finalizer {
 public:
  // Does nothing.
  Finalizer() = default;
  // Without a priority it does not run at exit.
  explicit Finalizer(std::function<void()> callback,
                     std::optional<int> exit_priority = std::nullopt);
  Finalizer(Finalizer&& other) noexcept;
  Finalizer& operator=(Finalizer&& other) noexcept;
  ~Finalizer();

  // Runs the callback now. False if it has run, was cancelled, or is another
  // process's.
  bool operator()();
  // It will not run any more. False likewise.
  bool Cancel();
  // Whether it has yet to run, in this process.
  bool still_active() const;

 private:
  bool IsOfThisProcess() const;

  process_internal::FinalizerRegistry* registry_ = nullptr;
  process_internal::FinalizerRegistry::Key key_;
};

}  // namespace mp

#endif  // MP_PROCESS_FINALIZER_H_
