// Keeps processes at work and kills random ones of them at random moments.
//
//   Storm storm({.kills = 1000});
//   storm.AddRole("producer", 2, [&](StormWorker&) { queue.Put(1).value(); });
//   storm.AddRole("consumer", 2, [&](StormWorker&) { queue.Get().value(); });
//   storm.Run();
//
// Finds what a storm finds: strandings and losses under contention, by luck.
// What must hold at every instruction, the kill stepper proves
// (mp/testing/kill_stepper.h).

#ifndef MP_TESTING_STORM_H_
#define MP_TESTING_STORM_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace mp::testing_internal {
struct StormPage;
class StormRun;
}  // namespace mp::testing_internal

namespace mp::testing {

struct StormOptions {
  // Times MP_STORM_FACTOR from the environment, if it is there.
  int kills = 1000;
  // The pause before each kill is random between these two.
  absl::Duration min_interval = absl::ZeroDuration();
  absl::Duration max_interval = absl::Milliseconds(2);
  // A worker that sleeps and has made no progress for this long is stranded.
  absl::Duration stall_limit = absl::Seconds(10);
  // Decides victims and intervals. 0 takes MP_STORM_SEED from the environment,
  // or else a new one. It is printed in either case; the processes themselves
  // run as they like, so it repeats a storm only roughly.
  uint64_t seed = 0;
};

// What a worker knows about itself, in its own process.
class StormWorker {
 public:
  // Which of all the workers of the storm: from 0, in the order of AddRole. A
  // worker that replaces a victim has its number.
  int number() const { return number_; }
  // How many with this number were killed before it.
  int generation() const { return generation_; }
  // To be called in long bodies; each return from the body counts by itself.
  void Progress();
  // Whether the storm is over. For bodies with a loop of their own.
  bool stopping() const;

 private:
  friend class testing_internal::StormRun;
  StormWorker(testing_internal::StormPage* page, int number, int generation)
      : page_(page), number_(number), generation_(generation) {}

  testing_internal::StormPage* const page_;
  const int number_;
  const int generation_;
};

// Somebody was killed.
struct StormKill {
  std::string role;
  int number = 0;  // of the worker
  pid_t pid = 0;
};

struct StormReport {
  uint64_t seed = 0;
  int kills = 0;
  // The progress of all workers, dead or alive.
  uint64_t progress = 0;
};

class Storm {
 public:
  explicit Storm(const StormOptions& options = {});

  // How many processes it will kill.
  int kills() const { return options_.kills; }

  // `count` processes that call `body` again and again. 64 of all roles at
  // most. A body that throws or fails an assertion fails the storm.
  void AddRole(const std::string& name, int count,
               std::function<void(StormWorker&)> body);

  // Called in the parent after each kill, when the victim has been reaped and
  // not yet been replaced. An assertion that fails there ends the storm.
  void OnKill(std::function<void(const StormKill&)> callback);

  // Called in the parent when the storm is over: makes sleeping workers come
  // out, for example closes the queue. Every worker must then finish its body
  // and end by itself. Without it, the workers are killed at the end.
  void OnStop(std::function<void()> callback);

  // Starts the workers, kills, replaces, and leaves no process. After the last
  // kill every worker must make progress once more. Fails the current test if
  // a worker is stranded or ends by itself. Not chosen as a victim is a worker
  // that has made no progress for a while, or not yet since it replaced one
  // that had made none: its death would hide that it is stranded or crashes.
  // Call it from the main thread, once.
  StormReport Run();

 private:
  friend class testing_internal::StormRun;
  struct Role {
    std::string name;
    int count;
    std::function<void(StormWorker&)> body;
  };

  StormOptions options_;
  std::vector<Role> roles_;
  std::function<void(const StormKill&)> on_kill_;
  std::function<void()> on_stop_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_STORM_H_
