// Finds what a piece of code left behind.
//
//   LeakCheck leaks;
//   { ... }
//   EXPECT_THAT(leaks.Compare(), IsEmpty());
//
// Looks at child processes (all descendants, also orphans and zombies),
// threads, open descriptors, mappings of shared memory, names in the POSIX
// shared memory file system, and files in TEST_TMPDIR. Memory is for the
// sanitizers.

#ifndef MP_TESTING_LEAK_CHECK_H_
#define MP_TESTING_LEAK_CHECK_H_

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace mp::testing {

// The library keeps one of each of these: at most one descriptor and one mapped
// file of each name may appear between two looks, and another one go.
//   mp:liveness  the table that tells the processes of a family who is alive
//   mp:slab      the slab that small shared objects are carved from at present
//   mp:lifeline  each end of the pipe that daemonic children die with; known by
//                its size of one page, which no other pipe has unless asked for
inline constexpr const char* kKept[] = {"memfd:mp:liveness", "memfd:mp:slab",
                                        "mp:lifeline, read end",
                                        "mp:lifeline, write end"};

// Takes a snapshot when constructed.
class LeakCheck {
 public:
  LeakCheck();

  // What exists now and did not then, or the other way round for descriptors
  // and mappings, one line each; empty if all is as it was. Processes and
  // threads that are about to end are given up to `grace` to do so.
  std::vector<std::string> Compare(
      absl::Duration grace = absl::Seconds(5)) const;

 private:
  // What there is, as text ("descriptor 5 -> pipe:[123]"), and how often.
  using Snapshot = std::map<std::string, int>;

  static Snapshot Take();
  std::vector<std::string> CompareOnce() const;

  Snapshot before_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_LEAK_CHECK_H_
