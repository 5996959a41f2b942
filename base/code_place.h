// Where a function is, as something that another process can find it by.
//
// The loader puts the program and its libraries at other addresses in every
// process that is started afresh. So a place is a module (the program or a
// shared library) and an offset into it, together with a fingerprint by which
// another build of the module is noticed.
//
//   absl::StatusOr<CodePlace> place = PlaceOfCode(&Work);
//   ... in another process that runs the same program ...
//   absl::StatusOr<CodeAddress> work = CodeAt(*place);

#ifndef MP_BASE_CODE_PLACE_H_
#define MP_BASE_CODE_PLACE_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

namespace mp {

// Any function, to be cast back to its type before it is called.
using CodeAddress = void (*)();

struct CodePlace {
  std::string module;  // its path; empty for the program
  uint64_t fingerprint = 0;
  uint64_t offset = 0;
};

// FailedPrecondition if the address is in no loaded module, as in code that was
// generated at run time.
absl::StatusOr<CodePlace> PlaceOfCode(CodeAddress address);

template <class R, class... Args>
absl::StatusOr<CodePlace> PlaceOfCode(R (*function)(Args...)) {
  return PlaceOfCode(reinterpret_cast<CodeAddress>(function));
}

// A library that this process has not loaded is loaded, as the other one had it
// (dlopen(3)). FailedPrecondition if that fails or it is another build.
absl::StatusOr<CodeAddress> CodeAt(const CodePlace& place);

// ---- many functions

// A stretch of the code of a process: its addresses, and the place of the
// first.
struct CodeRange {
  uint64_t begin = 0;
  uint64_t size = 0;
  CodePlace place;
};

// All the code that this process has loaded at the moment.
std::vector<CodeRange> LoadedCode();

// Finds functions by their addresses in another process that runs the same
// program. For one thread.
class ForeignCode {
 public:
  // The addresses are those of this process.
  ForeignCode() = default;
  // `there` is LoadedCode() of the other process.
  explicit ForeignCode(std::vector<CodeRange> there);

  // The same function in this process. Costs nothing if the addresses are this
  // process's, and a look into a table for one that was asked for before.
  // FailedPrecondition if the other process had no code there, or as CodeAt().
  absl::StatusOr<CodeAddress> Find(uint64_t address) {
    if (there_.empty()) return reinterpret_cast<CodeAddress>(address);
    return FindInTable(address);
  }

 private:
  absl::StatusOr<CodeAddress> FindInTable(uint64_t address);

  std::vector<CodeRange> there_;
  std::unordered_map<uint64_t, CodeAddress> found_;
};

}  // namespace mp

#endif  // MP_BASE_CODE_PLACE_H_
