// SocketEnd: one end of a connection through a socket, as one process has it.
// The engine of an mp::Connection that came from a Listener or a Client; use
// that (mp/ipc/listener.h says how it differs from a pipe's).
//
// What goes through the socket is what CPython's connections send: a length of
// four bytes, most significant first, and the message; or, for 2^31 bytes and
// more, -1 and a length of eight bytes. In front of a value of type T, within
// the message, is the Frame of mp/ipc/pipe_end.h; raw bytes have none.
//
// A stream has no messages, so a process that stops half way through one must
// not let another go on in the middle. Processes that share an end therefore
// have a small state in shared memory: a robust lock for each direction, and
// notes about what is half done. Bytes are never read beyond the message that
// they belong to.

#ifndef MP_IPC_SOCKET_END_H_
#define MP_IPC_SOCKET_END_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/shm/wait_source.h"
#include "mp/sync/in_place_lock.h"

namespace mp::ipc_internal {

// Shared by all processes that have the same end.
struct SocketState {
  // Of the messages that are received and sent, which the holder may do.
  InPlaceLock in_lock;
  InPlaceLock out_lock;
  // Who has the beginning of the next message, or all of it, in its own memory:
  // the process's token and a number of its own; 0 if nobody.
  std::atomic<uint64_t> reader{0};
  // Whether the holder of out_lock may have sent a part of a message.
  std::atomic<bool> sending{false};
  // Somebody stopped half way, or the other side sends what is no message.
  std::atomic<bool> in_broken{false};
  std::atomic<bool> out_broken{false};
  // Of a message, without its length.
  uint64_t max_bytes = 0;
};

// Of a value that was encoded without a way for descriptors: says why, if it
// has some.
absl::Status WithoutDescriptors(absl::Status encoded);

class SocketEnd {
 public:
  // Errors: no memory or descriptor for the state.
  static absl::StatusOr<std::shared_ptr<SocketEnd>> Create(UniqueFd socket,
                                                           size_t max_bytes);
  SocketEnd(std::shared_ptr<const UniqueFd> socket,
            std::shared_ptr<SocketState> state);
  SocketEnd(const SocketEnd&) = delete;
  SocketEnd& operator=(const SocketEnd&) = delete;
  ~SocketEnd();

  // Sends a value of that type, of `size` bytes that `write` writes.
  absl::Status Send(uint32_t type, size_t size,
                    absl::FunctionRef<absl::Status(std::span<std::byte>)> write,
                    Deadline deadline);
  absl::Status SendBytes(std::span<const std::byte> bytes, Deadline deadline);

  using Use = absl::FunctionRef<absl::Status(std::span<const std::byte>)>;
  // Calls `use` with the next message and removes that. If it is not a value of
  // that type, or `use` returns an error, it stays, and the error is returned.
  absl::Status Recv(uint32_t type, Use use, Deadline deadline);
  // The same for any message, with the frame that it may have.
  absl::Status RecvBytes(Use use, Deadline deadline);

  // Whether there is a message, or at least its beginning, or the end of the
  // file.
  absl::StatusOr<bool> Poll(Deadline deadline);

  // The socket. Readable while bytes of a message are in the kernel, or at the
  // end of the file; not for a message that an error has left here.
  absl::StatusOr<int> fileno() const;
  // Whether a whole message is in this process's memory: Recv() will not wait,
  // whatever fileno() says.
  bool has_message() const {
    return whole_.load(std::memory_order_acquire) &&
           state_->reader.load(std::memory_order_relaxed) == self();
  }
  void Close();
  bool closed() const { return closed_.load(std::memory_order_acquire); }

  // For mp::Wait(): what Poll() says.
  static WaitSource ToWaitSource(std::shared_ptr<SocketEnd> end);

  // What this end consists of. The first is null after Close().
  std::shared_ptr<const UniqueFd> socket() const {
    return closed() ? nullptr : socket_;
  }
  const std::shared_ptr<SocketState>& state() const { return state_; }

 private:
  // Sends one message.
  absl::Status Write(std::span<const std::byte> head,
                     std::span<const std::byte> body, Deadline deadline);
  absl::Status WriteLocked(std::span<const std::byte> head,
                           std::span<const std::byte> body, Deadline deadline);
  absl::Status BreakOut(absl::Status why);
  absl::Status Receive(Use use, Deadline deadline);
  // Waits until in_lock is held and nobody else has the beginning of the next
  // message.
  absl::Status LockForReading(Deadline deadline);
  // Reads until the next message is here.
  absl::Status Fill(Deadline deadline);
  // Reads up to `wanted` bytes, at least one; OutOfRange at the end.
  absl::StatusOr<size_t> ReadSome(char* to, size_t wanted, Deadline deadline);
  absl::Status BreakIn(absl::Status why);
  // Forgets the message that is here, all or part of it.
  void Reset();
  // If this process goes while it has a part of a message.
  void Abandon();
  // False if the deadline or Close() came first.
  bool Await(short events, Deadline deadline) const;
  // How the reader is named in the state.
  uint64_t self() const;

  // The number stays taken until nobody uses this object any more, or a call in
  // another thread might touch a stranger's descriptor.
  const std::shared_ptr<const UniqueFd> socket_;  // not null
  const std::shared_ptr<SocketState> state_;      // not null
  const uint32_t serial_;                         // among those of this process
  std::atomic<bool> closed_{false};

  // The next message, as far as it is here. Guarded by state_->in_lock, and of
  // meaning only if this is the reader.
  char head_[12];
  size_t head_have_ = 0;
  std::string body_;
  size_t body_have_ = 0;
  std::atomic<bool> whole_{false};
};

}  // namespace mp::ipc_internal

#endif  // MP_IPC_SOCKET_END_H_
