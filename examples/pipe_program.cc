// One process sends numbers and another receives them until the end of the
// file: over a pipe for both directions, and over one for a single direction.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mp/examples/programs.h"
#include "mp/ipc/pipe.h"
#include "mp/process/process.h"

namespace mp::examples {
namespace {

void Send(mp::Connection<int>& connection) {
  for (int number = 0; number < 3; ++number) OrDie(connection.Send(number));
}

void Receive(mp::Connection<int>& connection) {
  absl::StatusOr<int> number = connection.Recv();
  for (; number.ok(); number = connection.Recv()) {
    Print(absl::StrCat("received ", *number));
  }
  if (absl::IsOutOfRange(number.status())) {
    Print("end of file");
  } else {
    OrDie(number.status());
  }
}

}  // namespace

void PipeProgram() {
  for (const bool duplex : {true, false}) {
    Print(duplex ? "both ways:" : "one way:");
    auto [receiving_end, sending_end] = mp::Pipe<int>(duplex);
    mp::Process sender(Send, sending_end);
    mp::Process receiver(Receive, receiving_end);
    OrDie(sender.Start());
    // Before the receiver is forked: the file ends when nobody has the sending
    // end any more.
    sending_end.Close();
    OrDie(receiver.Start());
    OrDie(sender.Join());
    OrDie(receiver.Join());
  }
}

}  // namespace mp::examples
