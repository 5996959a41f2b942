#include "mp/examples/hash_files.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "mp/examples/sha256.h"
#include "mp/pool/pool.h"

namespace mp::examples {
namespace {

// Results come in the order of the files. While a large one is hashed, the
// other workers go on with those behind it: this many, some hundred bytes each.
constexpr size_t kAhead = 10'000;
constexpr int kMaxDeaths = 5;

// The task.
absl::StatusOr<std::string> HashFile(const File& file) {
  return Sha256OfFile(file.path);
}

}  // namespace

void HashHere(const std::vector<File>& files, const HashOptions& options) {
  for (const File& file : files) options.on_result(file, HashFile(file));
}

absl::Status HashInPool(const std::vector<File>& files,
                        const HashOptions& options) {
  absl::StatusOr<mp::Pool> pool =
      mp::Pool::Create({.processes = options.processes});
  if (!pool.ok()) return pool.status();
  auto file = files.begin();
  for (absl::StatusOr<std::string>& digest :
       pool->Imap(HashFile, files, 1, kAhead)) {
    for (int deaths = 1;
         mp::IsWorkerDied(digest.status()) && deaths < kMaxDeaths; ++deaths) {
      options.on_warning(
          absl::StrCat("warning: ", std::string(digest.status().message()),
                       "; ", file->path, " is read again"));
      digest = pool->Apply(HashFile, *file);
    }
    options.on_result(*file++, digest);
  }
  return absl::OkStatus();
}

}  // namespace mp::examples
