// Exceptions as text, for messages to other processes and to people.

#ifndef MP_BASE_EXCEPTION_H_
#define MP_BASE_EXCEPTION_H_

#include <string>

namespace mp {

// The exception that is being handled: "std::runtime_error: no such file", or
// its type alone if it is no std::exception. Call it in a catch block.
std::string DescribeCurrentException();

}  // namespace mp

#endif  // MP_BASE_EXCEPTION_H_
