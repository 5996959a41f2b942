// Assertions that stay on in every build.
//
//   MP_CHECK(index < size) << "index " << index;
//   MP_PCHECK(::close(fd) == 0) << "close";       // adds errno and its name
//
// A failed check prints file, line, the condition and the streamed message to
// standard error and aborts. Use it for misuse that no caller can handle and
// for invariants of shared memory; report what the environment can cause as an
// absl::Status instead (mp/base/errno_status.h). absl/log is not used because
// the Abseil that Debian 12 ships does not have it.

#ifndef MP_BASE_CHECK_H_
#define MP_BASE_CHECK_H_

#include <ostream>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/statusor.h"

#define MP_CHECK(condition)                                                 \
  ABSL_PREDICT_TRUE(condition)                                              \
  ? (void)0                                                                 \
  : ::mp::base_internal::Voidify() &                                        \
          ::mp::base_internal::CheckFailure(__FILE__, __LINE__, #condition, \
                                            false)                          \
              .stream()

#define MP_PCHECK(condition)                                                   \
  ABSL_PREDICT_TRUE(condition)                                                 \
  ? (void)0                                                                    \
  : ::mp::base_internal::Voidify() & ::mp::base_internal::CheckFailure(        \
                                         __FILE__, __LINE__, #condition, true) \
                                         .stream()

// Checks that an absl::Status is OK and prints it when it is not.
#define MP_CHECK_OK(expression)                                   \
  do {                                                            \
    const auto& mp_check_status = (expression);                   \
    MP_CHECK(mp_check_status.ok()) << mp_check_status.ToString(); \
  } while (false)

namespace mp::base_internal {

// Collects the message; its destructor prints it and aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition,
               bool with_errno);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure();

  std::ostream& stream();

 private:
  struct Message;
  // On the heap: a stream on the stack would give every function with a check a
  // large frame, with a stack protector, which the quick ones would feel.
  Message* message_;
};

// Turns `stream << a << b` into void with an operator that binds more loosely
// than << and more tightly than ?:.
struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace mp::base_internal

namespace mp {

// The value, which is there: for constructors, which cannot report an error.
template <class T>
T ValueOrDie(absl::StatusOr<T> value) {
  MP_CHECK_OK(value.status());
  return *std::move(value);
}

}  // namespace mp

#endif  // MP_BASE_CHECK_H_
