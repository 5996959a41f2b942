// Handlers around fork(), for what a fork must not catch half done.
//
// As pthread_atfork(3), and run by it; but they can also be run around a
// clone(2) that does not go through the C library. The forkserver makes its
// children that way (mp/process/forkserver.h).

#ifndef MP_BASE_FORK_HANDLERS_H_
#define MP_BASE_FORK_HANDLERS_H_

namespace mp {

// Each may be null. They run in the thread that forks; the child has no other.
struct ForkHandlers {
  void (*before)() = nullptr;
  void (*in_parent)() = nullptr;
  void (*in_child)() = nullptr;
};

// For the life of the program. `before` handlers run in the reverse order of
// their registration, the others in that order. Call before main() or with no
// other thread that may fork; a few can be registered in all.
void AddForkHandlers(const ForkHandlers& handlers);

// For who calls clone(2) instead of fork(): all handlers of one kind.
void RunBeforeFork();
void RunInParentAfterFork();
void RunInChildAfterFork();

}  // namespace mp

#endif  // MP_BASE_FORK_HANDLERS_H_
