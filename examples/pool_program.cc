// Three workers and four tasks: without waiting for them, then waiting for
// each.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/examples/programs.h"
#include "mp/pool/pool.h"

namespace mp::examples {
namespace {

constexpr int kMessages = 4;

void Work(const std::string& message) {
  Print("start: " + message);
  absl::SleepFor(absl::Milliseconds(100));
  Print("end: " + message);
}

// All at once: three tasks run, the fourth starts when one of them has ended.
void WithApplyAsync() {
  mp::Pool pool({.processes = 3});
  std::vector<mp::AsyncResult<void>> results;
  for (int i = 0; i < kMessages; ++i) {
    results.push_back(pool.ApplyAsync(Work, absl::StrCat("hello ", i)));
  }
  Print("main: goes on");
  pool.Close();
  Print("main: no more tasks");
  OrDie(pool.Join());
  for (const mp::AsyncResult<void>& result : results) OrDie(result.Get());
  Print("all done");
}

// One after the other: each call waits for its task.
void WithApply() {
  mp::Pool pool({.processes = 3});
  for (int i = 0; i < kMessages; ++i) {
    OrDie(pool.Apply(Work, absl::StrCat("hello ", i)));
  }
  Print("main: goes on");
  pool.Close();
  Print("main: no more tasks");
  OrDie(pool.Join());
  Print("all done");
}

}  // namespace

void PoolProgram() {
  Print("with ApplyAsync:");
  WithApplyAsync();
  Print("with Apply:");
  WithApply();
}

}  // namespace mp::examples
