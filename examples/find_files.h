// The files below some folders.

#ifndef MP_EXAMPLES_FIND_FILES_H_
#define MP_EXAMPLES_FIND_FILES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mp::examples {

struct File {
  std::string path;
  uint64_t size = 0;  // in bytes, when it was found
};

// Why a file or folder is left out, by its path.
using Skipped = std::map<std::string, std::string>;

struct FoundFiles {
  std::vector<File> files;
  uint64_t bytes = 0;
  Skipped skipped;
};

// The regular files at or below `paths`. Symbolic links are not followed; below
// `paths` they and sockets, pipes and devices are left out without a word.
FoundFiles FindFiles(const std::vector<std::string>& paths);

}  // namespace mp::examples

#endif  // MP_EXAMPLES_FIND_FILES_H_
