// A function of the test, run in a forked child.
//
//   auto child = ChildProcess::Start([&] {
//     lock.Acquire();
//     EXPECT_EQ(*count, 1);
//     return 0;
//   });
//   ASSERT_TRUE(child.WaitUntilAsleep());
//   child.Kill();
//   child.ExpectSignal(SIGKILL);
//
// For tests of anything but mp::Process itself: it does nothing but fork, so a
// broken product cannot break it.

#ifndef MP_TESTING_CHILD_H_
#define MP_TESTING_CHILD_H_

#include <signal.h>
#include <sys/types.h>

#include <optional>
#include <ostream>
#include <type_traits>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"

namespace mp::testing {

// How a process ended: with an exit code, or by a signal.
struct ExitStatus {
  int code = 0;    // meaningful if signal == 0
  int signal = 0;  // 0 if it exited by itself

  bool exited() const { return signal == 0; }

  static ExitStatus Code(int code) { return {.code = code, .signal = 0}; }
  static ExitStatus Signal(int signal) { return {.code = 0, .signal = signal}; }
  // From the status word of waitpid().
  static ExitStatus FromWait(int status);

  friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
  friend std::ostream& operator<<(std::ostream& os, const ExitStatus& status);
};

// The exit code of a child in which an exception escaped or a GoogleTest
// assertion failed, whatever the function returned.
inline constexpr int kChildFailedCode = 99;

// A forked child of the test.
//
// In the child: the function runs, the standard streams are flushed, and the
// process ends with _exit(): neither destructors nor exit handlers of the test
// run twice, and it never returns into the test. What fails there is printed to
// standard error and makes the exit code kChildFailedCode. The child is killed
// by the kernel when the thread that started it ends, so start children from
// the main thread.
//
// In the parent: the object reaps exactly its own child. Its destructor kills a
// child that still lives. An object that a child inherited does nothing there.
class ChildProcess {
 public:
  // Forks a child that runs `body`, which returns its exit code or nothing (0).
  template <typename Body>
  [[nodiscard]] static ChildProcess Start(Body&& body) {
    if constexpr (std::is_void_v<std::invoke_result_t<Body&>>) {
      return Fork([&body] {
        body();
        return 0;
      });
    } else {
      return Fork(body);
    }
  }

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  // Stays the same after the child has been reaped.
  pid_t pid() const { return pid_; }
  // A pidfd of the child, readable once it has ended.
  int pidfd() const { return pidfd_.get(); }
  // Whether it is neither a zombie nor reaped. A stopped child is alive.
  bool IsAlive() const;

  // Sends `signal`; a child that has ended stays as it is.
  void Kill(int signal = SIGKILL);
  // Stops every thread of the child and returns when they stand still; false
  // if the child ended before.
  bool Stop();
  void Continue();

  // Waits until the child's first thread sleeps in a system call and stays
  // there, at least for some milliseconds. False if the child ended before.
  // Proves that it sleeps, not on what.
  bool WaitUntilAsleep();

  // Waits until the child has ended and reaps it. Nothing if `timeout` passed.
  // Later calls return the same.
  std::optional<ExitStatus> Wait(
      absl::Duration timeout = absl::InfiniteDuration());

  // Wait for the end (the watchdog bounds it) and fail the test, without
  // stopping it, unless it is the expected one.
  void ExpectExit(int code = 0);
  void ExpectSignal(int signal);

 private:
  ChildProcess(pid_t pid, UniqueFd pidfd);

  static ChildProcess Fork(absl::FunctionRef<int()> body);
  void Finish();

  pid_t owner_ = 0;
  pid_t pid_ = 0;
  UniqueFd pidfd_;
  std::optional<ExitStatus> status_;
};

}  // namespace mp::testing

namespace mp::testing_internal {

// Forks a child as ChildProcess does and returns its pid; the caller reaps it.
pid_t ForkForTest(absl::FunctionRef<int()> body);

// How many assertions of the running test have failed, in this process and
// before it was forked.
int CountFailures();

}  // namespace mp::testing_internal

#endif  // MP_TESTING_CHILD_H_
