// What a child needs to know that has inherited nothing: who it is and what it
// is to run. Written by the parent into memory of its own descriptor, which
// goes to the child together with those that the arguments need.

#ifndef MP_PROCESS_START_MESSAGE_H_
#define MP_PROCESS_START_MESSAGE_H_

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/code_place.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/attachments.h"
#include "mp/process/identity.h"

namespace mp::process_internal {

// The function that runs in the child and what it is called with, for
// EntryPoint to decode.
struct Task {
  CodePlace entry;
  std::vector<std::byte> arguments;
};
// The exit code, or why there is nothing that can be run.
using EntryPoint = absl::StatusOr<int> (*)(std::span<const std::byte>,
                                           IncomingDescriptors&);

struct StartMessage {
  Identity identity;
  Task task;
  uint64_t signal_mask = 0;  // as the kernel has it
  // Of the task, which keeps them open.
  OutgoingDescriptors attachments;
};

// A message that is ready to go, with the descriptors that go with it.
class Parcel {
 public:
  // Errors name the system call.
  static absl::StatusOr<Parcel> Pack(const StartMessage& message);

  // Valid as long as the parcel and the arguments of the task are.
  const std::vector<int>& descriptors() const { return descriptors_; }

 private:
  std::vector<UniqueFd> own_;
  std::vector<int> descriptors_;
};

// The other side.
struct Received {
  Identity identity;
  Task task;
  uint64_t signal_mask = 0;
  UniqueFd liveness_table;
  UniqueFd lifeline;  // if the child is daemonic
  IncomingDescriptors attachments;
};
absl::StatusOr<Received> Unpack(std::vector<UniqueFd> descriptors);

// The calling thread's, as a number and back.
uint64_t MaskToBits(const sigset_t& mask);
sigset_t BitsToMask(uint64_t bits);

}  // namespace mp::process_internal

#endif  // MP_PROCESS_START_MESSAGE_H_
