// Connection: one end of a pipe between processes (mp/ipc/pipe.h), or of a
// socket between programs (mp/ipc/listener.h, which says what is different
// there).
//
//   auto [ours, theirs] = mp::Pipe<std::string>();
//   mp::Process worker([theirs = theirs]() mutable {
//     absl::StatusOr<std::string> question = theirs.Recv();
//     if (question.ok()) theirs.Send("forty-two").IgnoreError();
//   });
//   MP_CHECK_OK(worker.Start());
//   theirs.Close();  // this process's copy: see "End of file"
//   MP_CHECK_OK(ours.Send("what is six by seven?"));
//   absl::StatusOr<std::string> answer = ours.Recv();
//
// A Connection is a handle: cheap to copy, every copy means the same end, in
// this process and in those that inherit it or get it as an argument. T is
// anything the codec takes (mp/ipc/codec.h). Messages arrive whole, in order,
// each once. Any number of threads and processes may send and receive at one
// end; each message goes to one of the receivers.
//
// Handles and descriptors in messages: the receiver has the same object, even
// if the sender is gone by then. The kernel keeps them on the way, but not
// without limit: a direction with some 270 messages that hold handles counts as
// full, and so does one whose user has as many of them on the way as a process
// may have descriptors (ulimit -n). One message may hold up to 253.
//
// Besides messages of type T, any connection carries raw bytes: what SendBytes
// sends, RecvBytes or RecvBytesInto receives.
//
// End of file: when the last process that had the other end has closed it, or
// died in whatever way, Recv gives what was sent before and then OutOfRange.
// Send gives FailedPrecondition ("broken pipe"). Who waits is woken at once if
// that last process was the last to use its end, and nobody has closed a copy
// since; otherwise within a quarter of a second. A forked child inherits both
// ends, as with Python and with pipe(2): close the copies that are not used, or
// the process that has both will wait for itself. An end that is on the way in
// a message counts as the receiver's.
//
// Blocking: Recv waits for a message. Send waits while some 80 KiB are on the
// way; a message of more than 64 KiB waits for a moment at which none is, then
// has memory of its own, up to 4 GiB. Who has waited for 10 ms is next, as in
// mp/ipc/queue.h. All take a timeout.
// Waiters spin for a few microseconds while that helps
// (mp/shm/adaptive_spin.h), then sleep.
//
// If a process dies, at whatever instruction: a Send or Recv it was in has
// happened as a whole or not at all, all other messages are intact, and nobody
// waits for it. A message it had received is gone with it.
//
// A codec of your own runs while other senders, or receivers, wait: it must not
// use the connection. If it throws, nothing was sent, or the message stays.
//
// Memory ordering: what process X did before it sent a message is visible to
// process Y after Y received it.
//
// Errors, by code:
//   DeadlineExceeded    the timeout passed
//   OutOfRange          Recv: end of file
//   FailedPrecondition  broken pipe; this end of a one-way pipe cannot do that;
//                       the connection was closed by this process. A call that
//                       waits in another thread ends so
//   InvalidArgument     Send: the message cannot be encoded, or is too large.
//                       Recv: the next message is of another kind, or longer
//                       than the caller wants; it stays where it is
//   ResourceExhausted   no memory, or no room for another descriptor; nothing
//                       happened. The message names the system call
//   DataLoss            the bytes are no T, or the pipe contradicts itself:
//                       somebody wrote into its memory
//
// Threads: all calls are safe from any thread. Fork: a child uses what it
// inherits. Not for signal handlers.
//
// Differs from Python's: a message that is too long for the receiver's buffer
// stays instead of breaking the connection; large messages and many senders are
// safe; Send to nobody fails also if nobody has ever received.

#ifndef MP_IPC_CONNECTION_H_
#define MP_IPC_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/carrier.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/pipe_end.h"
#include "mp/ipc/ring.h"
#include "mp/ipc/socket_end.h"
#include "mp/shm/handle.h"
#include "mp/shm/wait_source.h"

namespace mp {

namespace ipc_internal {
struct SocketConnection;
}  // namespace ipc_internal

template <class T>
class Connection {
  static_assert(Encodable<T>,
                "mp: this type cannot be sent to another process; "
                "mp/ipc/codec.h says what can and how to add a type");

 public:
  // Zero or less tries once without waiting, with the error DeadlineExceeded.
  absl::Status Send(const T& message,
                    absl::Duration timeout = absl::InfiniteDuration()) {
    if (ABSL_PREDICT_FALSE(end_ == nullptr)) {
      return SendToSocket(message, timeout);
    }
    return end_->Send(
        kType, Carrier::Size(message),
        [&](ipc_internal::Ring& out, std::span<std::byte> to,
            absl::Status& error) {
          return carrier_.Write(out, message, to, error);
        },
        Deadline::After(timeout));
  }
  absl::StatusOr<T> Recv(absl::Duration timeout = absl::InfiniteDuration()) {
    if (ABSL_PREDICT_FALSE(end_ == nullptr)) return RecvFromSocket(timeout);
    return RecvFromRing(timeout);
  }

  absl::Status SendBytes(std::span<const std::byte> bytes,
                         absl::Duration timeout = absl::InfiniteDuration());
  absl::Status SendBytes(std::string_view bytes,
                         absl::Duration timeout = absl::InfiniteDuration()) {
    return SendBytes(std::as_bytes(std::span(bytes)), timeout);
  }
  absl::StatusOr<std::string> RecvBytes(
      absl::Duration timeout = absl::InfiniteDuration()) {
    return RecvBytes(std::numeric_limits<size_t>::max(), timeout);
  }
  // A message longer than `maxlength` is an error, and stays.
  absl::StatusOr<std::string> RecvBytes(
      size_t maxlength, absl::Duration timeout = absl::InfiniteDuration());
  // Into the beginning of `buffer`; returns how many. A message that does not
  // fit is an error that tells its length, and stays.
  absl::StatusOr<size_t> RecvBytesInto(
      std::span<std::byte> buffer,
      absl::Duration timeout = absl::InfiniteDuration());

  // Waits until Recv would not: there is a message, or the end of the file.
  // False if the timeout passed first; zero or less looks once. Takes nothing.
  absl::StatusOr<bool> Poll(absl::Duration timeout = absl::ZeroDuration()) {
    return end_ != nullptr ? end_->Poll(Deadline::After(timeout))
                           : socket_end_->Poll(Deadline::After(timeout));
  }

  // A descriptor for poll(), epoll and the like: readable, and POLLIN, while
  // there is a message or the end of the file; each message makes a new edge,
  // up to some 270 that wait. It may be readable for a moment without either:
  // look with Poll() or a timeout of zero. It says nothing about room for Send.
  // It remains the connection's; neither read nor write it. From the first call
  // on, each message to this end costs its sender a system call. A thread that
  // is in poll() with it keeps the end open until it returns.
  absl::StatusOr<int> fileno() {
    return end_ != nullptr ? end_->fileno() : socket_end_->fileno();
  }

  // Gives up this process's end, with all its copies here, as does the
  // destruction of the last copy. Closing twice is fine. The number of the
  // descriptor remains taken until the last copy goes.
  void Close() { end_ != nullptr ? end_->Close() : socket_end_->Close(); }
  bool closed() const {
    return end_ != nullptr ? end_->closed() : socket_end_->closed();
  }

  // The directions of this end.
  bool readable() const { return end_ == nullptr || end_->in().has_value(); }
  bool writable() const { return end_ == nullptr || end_->out().has_value(); }

  // Whether both are handles of the same end.
  friend bool operator==(const Connection& a, const Connection& b) {
    if (a.end_ == nullptr || b.end_ == nullptr) {
      return a.end_ == b.end_ &&
             (a.socket_end_ == b.socket_end_ ||
              (a.socket_end_ != nullptr && b.socket_end_ != nullptr &&
               a.socket_end_->state() == b.socket_end_->state()));
    }
    return a.end_->in() == b.end_->in() && a.end_->out() == b.end_->out();
  }

 private:
  template <class U>
  friend absl::StatusOr<std::pair<Connection<U>, Connection<U>>> CreatePipe(
      bool duplex);
  friend struct HandleAccess;
  friend struct WaitAccess;
  friend struct ipc_internal::SocketConnection;
  using Carrier = ipc_internal::Carrier<T>;

  static constexpr uint32_t kType = ipc_internal::TypeMark<T>();

  Connection(std::shared_ptr<ipc_internal::PipeEnd> end, Carrier carrier)
      : end_(std::move(end)), carrier_(std::move(carrier)) {
    end_->SetCarrier(carrier_.socket());
  }
  explicit Connection(std::shared_ptr<ipc_internal::SocketEnd> end)
      : socket_end_(std::move(end)) {}

  using SocketPart = std::optional<std::shared_ptr<ipc_internal::SocketState>>;
  Connection(std::optional<ipc_internal::Ring> in,
             std::optional<ipc_internal::Ring> out, DescriptorPart socket,
             SocketPart state, Carrier carrier = {})
      : carrier_(std::move(carrier)) {
    if (state.has_value() && *state != nullptr) {
      socket_end_ = std::make_shared<ipc_internal::SocketEnd>(
          std::move(socket.fd), *std::move(state));
    } else {
      end_ = std::make_shared<ipc_internal::PipeEnd>(
          std::move(in), std::move(out), std::move(socket.fd));
      end_->SetCarrier(carrier_.socket());
    }
  }
  auto parts() const {
    using Rings = std::optional<ipc_internal::Ring>;
    return std::tuple_cat(
        end_ != nullptr
            ? std::tuple(end_->in(), end_->out(),
                         DescriptorPart{end_->socket()}, SocketPart())
            : std::tuple(Rings(), Rings(),
                         DescriptorPart{socket_end_->socket()},
                         SocketPart(socket_end_->state())),
        carrier_.parts());
  }
  WaitSource wait_source() const {
    return end_ != nullptr || socket_end_ == nullptr
               ? ipc_internal::PipeEnd::ToWaitSource(end_)
               : ipc_internal::SocketEnd::ToWaitSource(socket_end_);
  }

  // For a message to come, the quickest there is. An error that exists already
  // costs less than a new one.
  absl::StatusOr<T> NothingYet() const {
    if constexpr (PlainBytes<T> && sizeof(T) <= 256 &&
                  std::is_trivially_default_constructible_v<T>) {
      return absl::StatusOr<T>(absl::in_place);
    } else {
      return end_->nothing_yet();
    }
  }
  // Has one result, which therefore need not be moved.
  absl::StatusOr<T> RecvFromRing(absl::Duration timeout) {
    absl::StatusOr<T> message = NothingYet();
    uint64_t serial = 0;
    absl::Status failed = end_->Recv(
        kType,
        [&](std::span<const std::byte> bytes, absl::Status& error)
            ABSL_ATTRIBUTE_ALWAYS_INLINE {
              if (ABSL_PREDICT_TRUE(carrier_.Read(bytes, message, serial))) {
                return true;
              }
              error = message.status();
              return false;
            },
        Deadline::After(timeout), [&] { carrier_.Removed(serial); });
    if (ABSL_PREDICT_FALSE(!failed.ok())) message = std::move(failed);
    return message;
  }
  // Apart from the others, which must remain quick.
  absl::Status SendToSocket(const T& message, absl::Duration timeout);
  absl::StatusOr<T> RecvFromSocket(absl::Duration timeout);

  // Calls `use` with a raw message of at most `maxlength` bytes.
  template <class Use>
  absl::Status RecvRaw(size_t maxlength, Use use, absl::Duration timeout) {
    const auto take = [maxlength, &use](std::span<const std::byte> bytes,
                                        absl::Status& error) {
      if (bytes.size() > maxlength) {
        error = ipc_internal::TooLong(bytes.size(), maxlength);
        return false;
      }
      use(bytes);
      return true;
    };
    if (end_ != nullptr) {
      return end_->Recv(ipc_internal::kRawBytes, take,
                        Deadline::After(timeout));
    }
    return socket_end_->RecvBytes(
        [&take](std::span<const std::byte> bytes) {
          absl::Status error;
          take(bytes, error);
          return error;
        },
        Deadline::After(timeout));
  }

  // One of the two, the other one is null.
  std::shared_ptr<ipc_internal::PipeEnd> end_;
  std::shared_ptr<ipc_internal::SocketEnd> socket_end_;
  [[no_unique_address]] Carrier carrier_;
};

// ---- implementation ----

template <class T>
ABSL_ATTRIBUTE_NOINLINE absl::Status Connection<T>::SendToSocket(
    const T& message, absl::Duration timeout) {
  return socket_end_->Send(
      kType, EncodedSize(message),
      [&message](std::span<std::byte> to) {
        return ipc_internal::WithoutDescriptors(Encode(message, to));
      },
      Deadline::After(timeout));
}

template <class T>
ABSL_ATTRIBUTE_NOINLINE absl::StatusOr<T> Connection<T>::RecvFromSocket(
    absl::Duration timeout) {
  absl::StatusOr<T> message;
  absl::Status error = socket_end_->Recv(
      kType,
      [&message](std::span<const std::byte> bytes) {
        message = Decode<T>(bytes);
        return absl::OkStatus();
      },
      Deadline::After(timeout));
  if (!error.ok()) return error;
  return message;
}

template <class T>
absl::Status Connection<T>::SendBytes(std::span<const std::byte> bytes,
                                      absl::Duration timeout) {
  if (end_ == nullptr) {
    return socket_end_->SendBytes(bytes, Deadline::After(timeout));
  }
  return end_->Send(
      ipc_internal::kRawBytes, bytes.size(),
      [bytes](ipc_internal::Ring&, std::span<std::byte> to, absl::Status&) {
        if (!bytes.empty()) memcpy(to.data(), bytes.data(), bytes.size());
        return ipc_internal::FillResult::kFilled;
      },
      Deadline::After(timeout));
}

template <class T>
absl::StatusOr<std::string> Connection<T>::RecvBytes(size_t maxlength,
                                                     absl::Duration timeout) {
  std::string message;
  absl::Status error = RecvRaw(
      maxlength,
      [&message](std::span<const std::byte> bytes) {
        message.assign(reinterpret_cast<const char*>(bytes.data()),
                       bytes.size());
      },
      timeout);
  if (!error.ok()) return error;
  return message;
}

template <class T>
absl::StatusOr<size_t> Connection<T>::RecvBytesInto(std::span<std::byte> buffer,
                                                    absl::Duration timeout) {
  size_t size = 0;
  absl::Status error = RecvRaw(
      buffer.size(),
      [&](std::span<const std::byte> bytes) {
        size = bytes.size();
        if (size != 0) memcpy(buffer.data(), bytes.data(), size);
      },
      timeout);
  if (!error.ok()) return error;
  return size;
}

namespace ipc_internal {

// For who has made a socket.
struct SocketConnection {
  template <class T>
  static Connection<T> Make(std::shared_ptr<SocketEnd> end) {
    return Connection<T>(std::move(end));
  }
};

}  // namespace ipc_internal
}  // namespace mp

#endif  // MP_IPC_CONNECTION_H_
