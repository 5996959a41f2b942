// A writer that does not wait while the queue is full, and a reader that does
// not wait while it is empty: that is an error, which they handle.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mp/examples/programs.h"
#include "mp/ipc/queue.h"
#include "mp/process/process.h"

namespace mp::examples {
namespace {

void Writer(mp::Queue<int>& queue) {
  for (int item = 1; item <= 3; ++item) {
    const absl::Status put = queue.PutNowait(item);
    if (put.ok()) {
      Print(absl::StrCat("writer: put ", item));
    } else if (absl::IsResourceExhausted(put)) {
      Print(absl::StrCat("writer: no room for ", item));
    } else {
      OrDie(put);
    }
  }
}

void Reader(mp::Queue<int>& queue) {
  absl::StatusOr<int> item = queue.GetNowait();
  for (; item.ok(); item = queue.GetNowait()) {
    Print(absl::StrCat("reader: got ", *item));
  }
  if (absl::IsUnavailable(item.status())) {
    Print("reader: the queue is empty");
  } else {
    OrDie(item.status());
  }
}

}  // namespace

void QueueProgram() {
  mp::Queue<int> queue(/*maxsize=*/2);
  mp::Process writer(Writer, queue);
  mp::Process reader(Reader, queue);

  // What was put stays when the writer has gone.
  OrDie(writer.Start());
  OrDie(writer.Join());
  OrDie(reader.Start());
  OrDie(reader.Join());
  Print("over");
}

}  // namespace mp::examples
