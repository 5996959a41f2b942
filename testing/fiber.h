// Fiber: a function with a stack of its own, which runs until it yields. For
// simulations in which thousands of schedules are tried: a switch costs a
// fraction of what one between threads does.
//
//   Fiber fiber([] {
//     first();
//     Fiber::Yield();
//     second();
//   });
//   fiber.Resume();   // first()
//   fiber.Resume();   // second()
//
// A fiber stays in the thread that made it. AddressSanitizer and
// ThreadSanitizer know of it; its stack of 256 KiB has no guard page.

#ifndef MP_TESTING_FIBER_H_
#define MP_TESTING_FIBER_H_

#include <functional>
#include <memory>

namespace mp::testing {

class Fiber {
 public:
  explicit Fiber(std::function<void()> body);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  // One that has not ended is dropped as if it had exited: see Exit().
  ~Fiber();

  // Goes on where the body yielded last, until it yields again or ends. Not
  // from within a fiber. REQUIRES: !ended().
  void Resume();

  // Whether the body has returned or exited.
  bool ended() const;

  // In a fiber: lets Resume() return.
  static void Yield();
  // In a fiber: ends it. No destructor runs, and what the body has on the heap
  // leaks, as in a process that is killed.
  [[noreturn]] static void Exit();

 private:
  struct State;

  const std::unique_ptr<State> state_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_FIBER_H_
