// Checksums of many files: with a pool of processes, or without.

#ifndef MP_EXAMPLES_HASH_FILES_H_
#define MP_EXAMPLES_HASH_FILES_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/examples/find_files.h"

namespace mp::examples {

struct HashOptions {
  int processes = 0;  // workers; 0 for as many as there are processors
  // Called by the calling process for each file, in the order of the files: its
  // digest, see Sha256OfFile(), or why it has none.
  std::function<void(const File&, const absl::StatusOr<std::string>& digest)>
      on_result = [](const File&, const absl::StatusOr<std::string>&) {};
  // Something happened that the user should know. The result is right.
  std::function<void(const std::string& text)> on_warning =
      [](const std::string&) {};
};

// In this process.
void HashHere(const std::vector<File>& files, const HashOptions& options);

// In a pool: paths go to the workers, which read the files, and digests come
// back. A file whose worker dies is read again; if it has seen the deaths of
// several, that is its error.
//
// Errors: no pool could be made.
absl::Status HashInPool(const std::vector<File>& files,
                        const HashOptions& options);

}  // namespace mp::examples

#endif  // MP_EXAMPLES_HASH_FILES_H_
