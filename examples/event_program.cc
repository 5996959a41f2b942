// Two processes wait for an event: one until it is set, however long that
// takes, the other only for a moment.

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "mp/examples/programs.h"
#include "mp/process/process.h"
#include "mp/sync/event.h"

namespace mp::examples {
namespace {

void WaitForEvent(mp::Event& event) {
  Print("patient: waits");
  event.Wait();
  Print(absl::StrCat("patient: ", event.ToString()));
}

void WaitForEventWithTimeout(mp::Event& event, absl::Duration timeout) {
  Print("impatient: waits");
  if (!event.Wait(timeout)) Print("impatient: gives up");
}

}  // namespace

void EventProgram() {
  mp::Event event;
  mp::Process patient(WaitForEvent, event);
  mp::Process impatient(WaitForEventWithTimeout, event, absl::Milliseconds(50));
  OrDie(patient.Start());
  OrDie(impatient.Start());
  OrDie(impatient.Join());
  Print("main: sets the event");
  event.Set();
  OrDie(patient.Join());
  Print("over");
}

}  // namespace mp::examples
