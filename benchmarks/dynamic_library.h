// A library that is looked for when the program runs, not when it is built, so
// that one program runs where the library is installed and where it is not.
//
//   absl::StatusOr<DynamicLibrary> zmq =
//       DynamicLibrary::Open("libzmq.so.5", "libzmq5");
//   if (!zmq.ok()) return zmq.status();  // "skipped: not installed: libzmq5"
//   auto* const send =
//       zmq->Function<int(void*, const void*, size_t, int)>("zmq_send");
//
// For optional peers of benchmarks, with the few functions that these call. The
// caller vouches for their types: nothing checks them.

#ifndef MP_BENCHMARKS_DYNAMIC_LIBRARY_H_
#define MP_BENCHMARKS_DYNAMIC_LIBRARY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mp::benchmarks {

// What a benchmark reports whose peer is missing: that the Debian package is.
absl::Status NotInstalled(const std::string& package);

class DynamicLibrary {
 public:
  // Whether libraries that are loaded later find this one's symbols.
  enum class Symbols { kLocal, kGlobal };

  // Loads the library with that file name, until the program ends. If there is
  // none, NotInstalled(package).
  static absl::StatusOr<DynamicLibrary> Open(const char* file,
                                             const std::string& package,
                                             Symbols symbols = Symbols::kLocal);

  // Abort if the library has no such symbol: it is another version then.
  template <class F>
  F* Function(const char* name) const {
    return reinterpret_cast<F*>(Find(name));
  }
  void* Find(const char* name) const;

 private:
  explicit DynamicLibrary(void* handle) : handle_(handle) {}

  void* handle_;
};

}  // namespace mp::benchmarks

#endif  // MP_BENCHMARKS_DYNAMIC_LIBRARY_H_
