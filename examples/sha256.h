// SHA-256 of files, by a library of cryptography (libcrypto).

#ifndef MP_EXAMPLES_SHA256_H_
#define MP_EXAMPLES_SHA256_H_

#include <string>

#include "absl/status/statusor.h"

namespace mp::examples {

// The 64 hexadecimal digits, in lower case, of what is in a file. Reads it in
// pieces, so its size does not matter. Errors: what the system said.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

// A line as sha256sum prints it and as `sha256sum --check` takes it, with the
// line break. If a name has a backslash or a line break in it, the line begins
// with a backslash, and they are written as \\, \n and \r.
std::string ChecksumLine(const std::string& digest, const std::string& path);

}  // namespace mp::examples

#endif  // MP_EXAMPLES_SHA256_H_
