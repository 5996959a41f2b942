#include "mp/pool/last_words.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include <algorithm>
#include <utility>

#include "absl/debugging/symbolize.h"

namespace mp::pool_internal {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS,  SIGFPE, SIGILL,
                            SIGABRT, SIGTRAP, SIGSYS};
constexpr size_t kHandlerStackSize = size_t{128} << 10;

// Whose words they are. Set once, before the handlers are.
constinit LastWords* words = nullptr;
constinit pid_t speaker = 0;
// The first thread that crashes speaks.
constinit std::atomic<bool> speaking{false};

const char* SignalName(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGFPE:
      return "SIGFPE";
    case SIGILL:
      return "SIGILL";
    case SIGABRT:
      return "SIGABRT";
    case SIGTRAP:
      return "SIGTRAP";
    default:
      return "SIGSYS";
  }
}

// The registers at the moment of the signal.
struct Registers {
  uintptr_t pc = 0;
  // Where the caller goes on, if a function has just been called: for a call of
  // what is no function.
  uintptr_t return_address = 0;
};

Registers RegistersOf(const ucontext_t& context) {
#if defined(__x86_64__)
  const auto& registers = context.uc_mcontext.gregs;
  const auto* const stack =
      reinterpret_cast<const uintptr_t*>(registers[REG_RSP]);
  return {.pc = static_cast<uintptr_t>(registers[REG_RIP]),
          .return_address = *stack};
#elif defined(__aarch64__)
  return {.pc = context.uc_mcontext.pc,
          .return_address = context.uc_mcontext.regs[30]};
#else
  return {};
#endif
}

// The functions that were called when the signal came, the innermost first.
class Stack {
 public:
  struct Frame {
    uintptr_t pc;
    bool is_return_address;
  };

  // In the handler of the signal.
  Stack() {
    _Unwind_Backtrace(
        [](_Unwind_Context* context, void* stack) {
          return static_cast<Stack*>(stack)->Add(context);
        },
        this);
  }

  const Frame* begin() const { return frames_; }
  const Frame* end() const { return frames_ + count_; }
  int size() const { return count_; }

 private:
  static constexpr int kMaxFrames = 40;

  _Unwind_Reason_Code Add(_Unwind_Context* context) {
    int before_instruction = 0;
    const uintptr_t pc = _Unwind_GetIPInfo(context, &before_instruction);
    // The frames of the handler come before the one that was interrupted.
    interrupted_ = interrupted_ || before_instruction != 0;
    if (interrupted_) frames_[count_++] = {pc, before_instruction == 0};
    return count_ < kMaxFrames ? _URC_NO_REASON : _URC_END_OF_STACK;
  }

  bool interrupted_ = false;
  int count_ = 0;
  Frame frames_[kMaxFrames];
};

void AppendFrame(uintptr_t pc, bool is_return_address) {
  words->Append("\n    ");
  words->AppendHex(pc);
  char name[256];
  // A return address may be that of the next function.
  const uintptr_t inside = is_return_address && pc > 0 ? pc - 1 : pc;
  if (absl::Symbolize(reinterpret_cast<const void*>(inside), name,
                      sizeof(name))) {
    words->Append(" ");
    words->Append(name);
  }
}

void Speak(int signal, const siginfo_t& info, const ucontext_t& context) {
  words->Append(SignalName(signal));
  if (info.si_code > 0 && signal != SIGABRT && signal != SIGSYS) {
    words->Append(" at address ");
    words->AppendHex(reinterpret_cast<uintptr_t>(info.si_addr));
  }
  const Stack stack;
  for (const Stack::Frame& frame : stack) {
    AppendFrame(frame.pc, frame.is_return_address);
  }
  // From what is no code, nobody finds the way back.
  if (stack.size() > 1) return;
  const Registers registers = RegistersOf(context);
  if (stack.size() == 0) AppendFrame(registers.pc, false);
  AppendFrame(registers.return_address, true);
}

void Handle(int signal, siginfo_t* info, void* context) {
  const bool from_outside = info->si_code <= 0 && info->si_pid != getpid();
  if (!from_outside && getpid() == speaker) {
    if (!speaking.exchange(true)) {
      Speak(signal, *info, *static_cast<const ucontext_t*>(context));
    } else {
      // Another thread has crashed as well, and this would cut it short. (Or it
      // is this one, in Speak().)
      const timespec while_it_speaks = {.tv_sec = 1, .tv_nsec = 0};
      nanosleep(&while_it_speaks, nullptr);
    }
  }
  // Blocked until this returns; then it is what it would have been.
  struct sigaction by_default = {};
  by_default.sa_handler = SIG_DFL;
  sigaction(signal, &by_default, nullptr);
  syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
}

void GiveThreadAHandlerStack() {
  stack_t present;
  if (sigaltstack(nullptr, &present) == 0 &&
      (present.ss_flags & SS_DISABLE) == 0) {
    return;  // it has one
  }
  void* const memory = mmap(nullptr, kHandlerStackSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;  // then not of an overflow
  stack_t stack = {};
  stack.ss_sp = memory;
  stack.ss_size = kHandlerStackSize;
  sigaltstack(&stack, nullptr);
}

}  // namespace

void LastWords::Append(const char* text) {
  uint32_t size = size_.load(std::memory_order_relaxed);
  for (; *text != '\0' && size < kMaxSize; ++text) {
    text_[size++].store(*text, std::memory_order_relaxed);
  }
  size_.store(size, std::memory_order_release);
}

void LastWords::AppendHex(uint64_t number) {
  char digits[2 * sizeof(number) + 3];
  char* digit = digits + sizeof(digits);
  *--digit = '\0';
  do {
    *--digit = "0123456789abcdef"[number % 16];
    number /= 16;
  } while (number != 0);
  *--digit = 'x';
  *--digit = '0';
  Append(digit);
}

std::string LastWords::Read() const {
  const size_t size =
      std::min<size_t>(size_.load(std::memory_order_acquire), kMaxSize);
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    const char c = text_[i].load(std::memory_order_relaxed);
    // Whoever can write to this memory may have done so.
    text[i] = c == '\n' || (c >= ' ' && c <= '~') ? c : '?';
  }
  return text;
}

void SpeakBeforeDying(std::shared_ptr<LastWords> last_words) {
  // For ever: the handlers stay.
  static const auto* const kept =
      new std::shared_ptr<LastWords>(std::move(last_words));
  words = kept->get();
  speaker = getpid();
  speaking = false;
  absl::InitializeSymbolizer(nullptr);
  GiveThreadAHandlerStack();
  for (const int signal : kSignals) {
    struct sigaction action = {};
    if (sigaction(signal, nullptr, &action) != 0 ||
        (action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL) {
      continue;
    }
    action.sa_sigaction = Handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace mp::pool_internal
