// The repository's own lint rules: what a compiler does not check and a
// reviewer should not have to. For layout see format_test.cc, for the
// compilers' own warnings tools/build_defs/cc.bzl.
//
// A rule is a few lines in lint.cc and a good and a bad sample in
// lint_rules_test.cc. Its message says what to do instead.

#ifndef MP_TOOLS_LINT_LINT_H_
#define MP_TOOLS_LINT_LINT_H_

#include <string>
#include <vector>

namespace mp::lint {

struct File {
  std::string path;  // relative to the repository, for example "sync/lock.h"
  std::string text;
};

struct Finding {
  std::string path;
  int line;  // from 1
  std::string message;
};

// "path:line: message", which editors understand.
std::string ToString(const Finding& finding);

// The same text with the contents of comments and of string and character
// literals replaced by spaces. Line breaks and #include paths stay.
std::string StripCode(const std::string& text);

// Rules that look at one file.
std::vector<Finding> CheckFile(const File& file);

// Rules that look at which files exist: tests and benchmarks beside the code.
std::vector<Finding> CheckCompanions(const std::vector<File>& files);

// Reads the regular files below `directory`, ordered by path, leaving out
// other repositories, build outputs and binaries.
std::vector<File> ReadTree(const std::string& directory);

}  // namespace mp::lint

#endif  // MP_TOOLS_LINT_LINT_H_
