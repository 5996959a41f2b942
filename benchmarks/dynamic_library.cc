#include "mp/benchmarks/dynamic_library.h"

#include <dlfcn.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/check.h"

namespace mp::benchmarks {

absl::Status NotInstalled(const std::string& package) {
  return absl::NotFoundError("skipped: not installed: " + package);
}

absl::StatusOr<DynamicLibrary> DynamicLibrary::Open(const char* file,
                                                    const std::string& package,
                                                    Symbols symbols) {
  void* const handle =
      dlopen(file, RTLD_NOW | (symbols == Symbols::kGlobal ? RTLD_GLOBAL : 0));
  if (handle != nullptr) return DynamicLibrary(handle);
  const std::string error = dlerror();
  // It names the file, which may be one that this library needs.
  if (error.starts_with(std::string(file) + ": cannot open")) {
    return NotInstalled(package);
  }
  return absl::FailedPreconditionError("skipped: " + error);
}

void* DynamicLibrary::Find(const char* name) const {
  void* const symbol = dlsym(handle_, name);
  MP_CHECK(symbol != nullptr) << dlerror();
  return symbol;
}

}  // namespace mp::benchmarks
