// Makes system calls fail on purpose, to see what the library then does.

#ifndef MP_TESTING_FAIL_SYSTEM_CALL_H_
#define MP_TESTING_FAIL_SYSTEM_CALL_H_

#include <cstdint>
#include <optional>

namespace mp::testing {

// Makes system call `number` fail with `error` in this process and in those
// that it starts, for ever: call it in a child. If `argument` is given, only
// where the first argument is another one. Aborts if the kernel has no seccomp.
void FailSystemCall(long number, int error,
                    std::optional<uint32_t> argument = std::nullopt);

}  // namespace mp::testing

#endif  // MP_TESTING_FAIL_SYSTEM_CALL_H_
