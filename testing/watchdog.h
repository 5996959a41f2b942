// Bounds a test: nothing may hang for ever, least of all a test about hanging.
//
//   Watchdog watchdog("what is being done", absl::Seconds(10));
//
// ProcessTest arms one for every test. At its end the processes of the test and
// where they sleep are printed, all of them are killed, and the binary aborts.

#ifndef MP_TESTING_WATCHDOG_H_
#define MP_TESTING_WATCHDOG_H_

#include <string>

#include "absl/time/time.h"
#include "mp/testing/supervisor.h"

namespace mp::testing {

// Armed from construction to destruction. They nest: an inner one can only
// shorten, and the outer one is armed again when it goes. Children do not
// inherit it. No thread, timer or signal of the test process is used, so it
// works however the test blocks; see mp/testing/supervisor.h for where there is
// none.
class Watchdog {
 public:
  // Without Bazel, what one test may take. Under Bazel the limit is the
  // target's timeout (TEST_TIMEOUT) minus a margin for all its tests together,
  // and this is not used.
  static constexpr absl::Duration kDefaultLimit = absl::Seconds(50);

  // `what` is printed when it expires. The limit is the default one.
  explicit Watchdog(const std::string& what);
  Watchdog(const std::string& what, absl::Duration limit);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

 private:
  testing_internal::Alarm previous_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_WATCHDOG_H_
