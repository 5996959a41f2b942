// Four workers, and permits for three of them at a time: at most three are
// between "acquire" and "release". A worker that is killed there would give its
// permit back, because a guard holds it.

#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/examples/programs.h"
#include "mp/process/process.h"
#include "mp/sync/semaphore.h"

namespace mp::examples {
namespace {

void Worker(mp::Semaphore& semaphore, int i) {
  const std::string name = mp::CurrentProcess().name;
  const std::scoped_lock permit(semaphore);
  Print(absl::StrCat(name, " acquire"));
  absl::SleepFor(i * absl::Milliseconds(20));
  Print(absl::StrCat(name, " release"));
}

}  // namespace

void SemaphoreProgram() {
  mp::Semaphore semaphore(3);
  std::vector<mp::Process> workers;
  for (int i = 0; i < 4; ++i) workers.emplace_back(Worker, semaphore, i);
  for (mp::Process& worker : workers) OrDie(worker.Start());
  for (mp::Process& worker : workers) OrDie(worker.Join());
  Print("over");
}

}  // namespace mp::examples
