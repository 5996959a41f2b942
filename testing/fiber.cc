#include "mp/testing/fiber.h"

#include <cxxabi.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>
#include <utility>
#include <vector>

#include "mp/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define MP_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MP_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define MP_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MP_TSAN 1
#endif
#endif

#ifdef MP_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef MP_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace mp::testing {
namespace {

// Enough for an assertion that fails, with sanitizers.
constexpr size_t kStackSize = size_t{256} << 10;

// Stacks are used again: a simulation needs millions of them.
struct Stack {
  std::unique_ptr<std::byte[]> memory;
  // AddressSanitizer's, where it keeps variables that it wants to find out
  // about when they are used after their function has returned.
  void* fake = nullptr;
};
thread_local std::vector<Stack> spare_stacks;

Stack TakeStack() {
  if (spare_stacks.empty()) {
    return {.memory = std::unique_ptr<std::byte[]>(new std::byte[kStackSize])};
  }
  Stack stack = std::move(spare_stacks.back());
  spare_stacks.pop_back();
#ifdef MP_ASAN
  // Of a fiber that exited, frames are left.
  ASAN_UNPOISON_MEMORY_REGION(stack.memory.get(), kStackSize);
#endif
  return stack;
}

// The exceptions that are being handled. The C++ runtime keeps them for each
// thread; they are a fiber's. (What is in there is set by the Itanium C++ ABI.)
struct Exceptions {
  void* caught = nullptr;
  unsigned uncaught = 0;
};

Exceptions& ExceptionsOfThread() {
  return *reinterpret_cast<Exceptions*>(abi::__cxa_get_globals());
}

}  // namespace

struct Fiber::State {
  std::function<void()> body;
  Stack stack = TakeStack();
  bool ended = false;
  ucontext_t context;
  ucontext_t resumer;
  Exceptions exceptions;
#ifdef MP_ASAN
  void* resumers_fake_stack = nullptr;
  const void* resumers_stack = nullptr;
  size_t resumers_stack_size = 0;
#endif
#ifdef MP_TSAN
  void* tsan = __tsan_create_fiber(0);
  void* resumers_tsan = nullptr;
#endif

  static inline thread_local State* running = nullptr;

  static void Main() {
    State& self = *running;
    self.Arrive();
    self.body();
    self.ended = true;
    self.SwitchBack();
  }

  // From the resumer to the fiber, and back.
  void SwitchTo() {
    running = this;
    std::swap(exceptions, ExceptionsOfThread());
#ifdef MP_ASAN
    __sanitizer_start_switch_fiber(&resumers_fake_stack, stack.memory.get(),
                                   kStackSize);
#endif
#ifdef MP_TSAN
    resumers_tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan, 0);
#endif
    MP_PCHECK(swapcontext(&resumer, &context) == 0) << "swapcontext";
#ifdef MP_ASAN
    __sanitizer_finish_switch_fiber(resumers_fake_stack, nullptr, nullptr);
#endif
    std::swap(exceptions, ExceptionsOfThread());
    running = nullptr;
  }
  void SwitchBack() {
#ifdef MP_ASAN
    __sanitizer_start_switch_fiber(&stack.fake, resumers_stack,
                                   resumers_stack_size);
#endif
#ifdef MP_TSAN
    __tsan_switch_to_fiber(resumers_tsan, 0);
#endif
    MP_PCHECK(swapcontext(&context, &resumer) == 0) << "swapcontext";
    Arrive();
  }
  // The first thing in the fiber after a switch.
  void Arrive() {
#ifdef MP_ASAN
    __sanitizer_finish_switch_fiber(stack.fake, &resumers_stack,
                                    &resumers_stack_size);
#endif
  }
};

Fiber::Fiber(std::function<void()> body) : state_(new State) {
  state_->body = std::move(body);
  MP_PCHECK(getcontext(&state_->context) == 0) << "getcontext";
  state_->context.uc_stack.ss_sp = state_->stack.memory.get();
  state_->context.uc_stack.ss_size = kStackSize;
  state_->context.uc_link = nullptr;
  makecontext(&state_->context, State::Main, 0);
}

Fiber::~Fiber() {
  spare_stacks.push_back(std::move(state_->stack));
#ifdef MP_TSAN
  __tsan_destroy_fiber(state_->tsan);
#endif
}

void Fiber::Resume() {
  MP_CHECK(State::running == nullptr && !state_->ended);
  state_->SwitchTo();
}

bool Fiber::ended() const { return state_->ended; }

void Fiber::Yield() {
  MP_CHECK(State::running != nullptr) << "not in a fiber";
  State::running->SwitchBack();
}

void Fiber::Exit() {
  MP_CHECK(State::running != nullptr) << "not in a fiber";
  State::running->ended = true;
  State::running->SwitchBack();
  abort();  // nobody resumes it
}

}  // namespace mp::testing
