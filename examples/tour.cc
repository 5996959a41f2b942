// A tour of the library: runs the programs of this folder and says what they
// show, and what happens when a process is killed.

#include <signal.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/examples/programs.h"
#include "mp/ipc/queue.h"
#include "mp/pool/pool.h"
#include "mp/process/process.h"
#include "mp/sync/lock.h"

namespace mp::examples {
namespace {

void Heading(const std::string& title, const std::string& text) {
  Print(absl::StrCat("\n== ", title, "\n", text, "\n"));
}

void HoldForEver(mp::Lock& lock, mp::Queue<bool>& held) {
  lock.Acquire();
  OrDie(held.Put(true));
  while (true) absl::SleepFor(absl::Hours(1));
}

void KilledHolder() {
  mp::Lock lock;
  mp::Queue<bool> held;
  mp::Process holder(HoldForEver, lock, held);
  OrDie(holder.Start());
  OrDie(held.Get().status());
  Print(absl::StrCat("holder: has the lock, process ", *holder.pid()));

  OrDie(holder.Kill());
  const absl::Time killed = absl::Now();
  const mp::AcquireResult result = lock.Acquire();
  const absl::Duration waited = absl::Now() - killed;
  Print(absl::StrCat("main: kill -9 ", *holder.pid()));
  Print(absl::StrFormat("main: has the lock %.1f ms later; the holder %s",
                        absl::ToDoubleMilliseconds(waited),
                        result == mp::kOwnerDied ? "died" : "released it"));
  OrDie(holder.Join());
  OrDie(lock.Release());
}

int SquareUnlessThree(int x) {
  if (x == 3) raise(SIGKILL);
  return x * x;
}

void KilledWorker() {
  mp::Pool pool({.processes = 2});
  std::vector<mp::AsyncResult<int>> squares;
  for (int x = 1; x <= 5; ++x) {
    squares.push_back(pool.ApplyAsync(SquareUnlessThree, x));
  }
  int x = 0;
  for (const mp::AsyncResult<int>& square : squares) {
    const absl::StatusOr<int> result = square.Get();
    Print(absl::StrCat("the square of ", ++x, ": ",
                       result.ok() ? absl::StrCat(*result)
                                   : std::string(result.status().message())));
  }
}

void Tour() {
  Print("Python's multiprocessing, for C++: processes that work together.");

  Heading("1 of 5: Process and Lock (examples/lock_program.cc)",
          "Two processes append five lines each to one file, line by line. "
          "Each holds the\nlock meanwhile, so their lines do not mix.");
  LockProgram();

  Heading("2 of 5: the holder of a lock is killed",
          "With most locks between processes everybody would now wait for "
          "ever. Here the\nnext one gets the lock and is told.");
  KilledHolder();

  Heading("3 of 5: Queue (examples/queue_program.cc)",
          "A writer puts into a queue for two items, without waiting. It ends, "
          "then a\nreader gets what is there. Full and empty are errors that "
          "the program handles.");
  QueueProgram();

  Heading("4 of 5: Pool (examples/pool_program.cc)",
          "Three workers, four tasks. With ApplyAsync three tasks run at a "
          "time and the\nprogram goes on meanwhile; with Apply it waits for "
          "each.");
  PoolProgram();

  Heading("5 of 5: a worker of a pool is killed",
          "Its task fails and says why. The others do not notice, and the pool "
          "has a new\nworker.");
  KilledWorker();

  Heading("That was the tour",
          "Count the words of your files: tools/bazel run //examples:wordcount "
          "-- --compare PATH\nThe headers are the manual: sync/lock.h, "
          "ipc/queue.h, process/process.h, pool/pool.h");
}

}  // namespace
}  // namespace mp::examples

int main() { mp::examples::Tour(); }
