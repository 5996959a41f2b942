// Pipe: two connected ends for messages between processes.
//
//   auto [a, b] = mp::Pipe<int>();                  // both send and receive
//   auto [receiver, sender] = mp::Pipe<int>(false); // one way
//
// What the ends do is in mp/ipc/connection.h.

#ifndef MP_IPC_PIPE_H_
#define MP_IPC_PIPE_H_

#include <utility>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/ipc/carrier.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/pipe_end.h"

namespace mp {

// If not `duplex`, the first one only receives and the second one only sends.
// Errors: no memory or descriptor; the message names the system call.
template <class T>
absl::StatusOr<std::pair<Connection<T>, Connection<T>>> CreatePipe(
    bool duplex = true);

// The same, but aborts with the message.
template <class T>
std::pair<Connection<T>, Connection<T>> Pipe(bool duplex = true) {
  return ValueOrDie(CreatePipe<T>(duplex));
}

// ---- implementation ----

template <class T>
absl::StatusOr<std::pair<Connection<T>, Connection<T>>> CreatePipe(
    bool duplex) {
  absl::StatusOr<ipc_internal::PipeEnd::Pair> ends =
      ipc_internal::PipeEnd::CreatePair(duplex);
  if (!ends.ok()) return ends.status();
  absl::StatusOr<ipc_internal::Carrier<T>> carrier =
      ipc_internal::Carrier<T>::Create();
  if (!carrier.ok()) return carrier.status();
  auto [first, second] = carrier->Split();
  return std::pair(Connection<T>(std::move(ends->first), std::move(first)),
                   Connection<T>(std::move(ends->second), std::move(second)));
}

}  // namespace mp

#endif  // MP_IPC_PIPE_H_
