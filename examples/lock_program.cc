// Two processes write five lines each to one file. Each holds the lock while it
// does, so the lines of one are never between those of the other.

#include <errno.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/examples/programs.h"
#include "mp/process/process.h"
#include "mp/sync/lock.h"

namespace mp::examples {
namespace {

// One line at a time: without a lock another process could come in between.
void AppendFiveLines(const std::string& path, const std::string& line) {
  std::ofstream file(path, std::ios::app);
  for (int i = 0; i < 5; ++i) file << line << '\n' << std::flush;
}

// With scoped locking, which releases the lock however the block is left.
void Worker1(mp::Lock& lock, const std::string& path) {
  const std::scoped_lock hold(lock);
  AppendFiveLines(path, "worker1");
}

// With the calls that Python has.
void Worker2(mp::Lock& lock, const std::string& path) {
  lock.Acquire();
  AppendFiveLines(path, "worker2");
  OrDie(lock.Release());
}

// A new, empty file.
std::string TemporaryFile() {
  std::string path =
      (std::filesystem::temp_directory_path() / "lock-XXXXXX").string();
  const int fd = mkstemp(path.data());
  if (fd < 0) OrDie(absl::ErrnoToStatus(errno, absl::StrCat("create ", path)));
  close(fd);
  return path;
}

}  // namespace

void LockProgram() {
  mp::Lock lock;
  const std::string path = TemporaryFile();
  mp::Process worker1(Worker1, lock, path);
  mp::Process worker2(Worker2, lock, path);

  OrDie(worker1.Start());
  OrDie(worker2.Start());
  OrDie(worker1.Join());
  OrDie(worker2.Join());

  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) Print(line);
  std::filesystem::remove(path);
  Print("over");
}

}  // namespace mp::examples
