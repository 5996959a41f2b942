#include "mp/benchmarks/peer_benchmark_util.h"

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/benchmarks/dynamic_library.h"
#include "mp/ipc/message_benchmark_util.h"

namespace mp::benchmarks {

void RegisterPeer(const std::string& name, const absl::Status& there,
                  std::function<void(benchmark::State&)> run) {
  ipc_benchmark::Register(
      name, [there, run = std::move(run)](benchmark::State& state) {
        if (there.ok()) {
          run(state);
        } else {
          state.SkipWithError(std::string(there.message()).c_str());
        }
      });
}

absl::Status FindProgram(const std::string& program,
                         const std::string& package) {
  const char* const path = getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access((folder + "/" + program).c_str(), X_OK) == 0) {
      return absl::OkStatus();
    }
  }
  return NotInstalled(package);
}

TemporaryDirectory::TemporaryDirectory()
    : path_(std::filesystem::temp_directory_path() / "mp-benchmark-XXXXXX") {
  MP_PCHECK(mkdtemp(path_.data()) != nullptr) << "mkdtemp";
}

TemporaryDirectory::~TemporaryDirectory() {
  std::filesystem::remove_all(path_);
}

}  // namespace mp::benchmarks
