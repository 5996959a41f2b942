#include "mp/ipc/socket_end.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <new>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"
#include "mp/ipc/pipe_end.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/segment.h"
#include "mp/shm/slab.h"

namespace mp::ipc_internal {
namespace {

constexpr size_t kShortHead = 4;
constexpr size_t kLongHead = 12;
constexpr size_t kMaxShortMessage = 0x7fffffff;

// Memory for a message is got as its bytes arrive, so much at first, and kept
// between messages up to that size.
constexpr size_t kFirstBytes = size_t{64} << 10;

// So much is read without a look at the clock, though it goes on to come.
constexpr size_t kBytesBetweenLooks = size_t{1} << 20;

// How often to look whether another process has received the rest of a message.
constexpr int kMillisBetweenLooks = 5;
// Several of these looks.
constexpr int64_t kCloseNanos = 20'000'000;

absl::Status Closed() {
  return absl::FailedPreconditionError("the connection is closed");
}

absl::Status BrokenPipe(int error) {
  return absl::FailedPreconditionError(absl::StrCat(
      "no process has the other end any more: sendmsg: ", ErrnoName(error)));
}

absl::Status OutBroken() {
  return absl::FailedPreconditionError(
      "broken pipe: a sender stopped in the middle of a message, so nothing "
      "more can be sent at this end");
}

absl::Status InBroken() {
  return absl::DataLossError(
      "a message was broken off, or was none, so nothing more can be received "
      "at this end");
}

absl::Status NoMessage() {
  return absl::DeadlineExceededError("no message came");
}
absl::Status RestDidNotCome() {
  return absl::DeadlineExceededError(
      "the rest of the next message did not come");
}

void PutBigEndian(uint64_t value, size_t size, std::byte* to) {
  for (size_t i = size; i-- > 0; value >>= 8) {
    to[i] = static_cast<std::byte>(value & 0xff);
  }
}

uint64_t GetBigEndian(const char* from, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value = value << 8 | static_cast<unsigned char>(from[i]);
  }
  return value;
}

// Writes what goes before a message of that length; returns how much it is.
size_t PutHead(size_t size, std::byte* to) {
  if (size <= kMaxShortMessage) {
    PutBigEndian(size, kShortHead, to);
    return kShortHead;
  }
  PutBigEndian(0xffffffff, kShortHead, to);
  PutBigEndian(size, kLongHead - kShortHead, to + kShortHead);
  return kLongHead;
}

absl::Status CheckFrame(std::span<const std::byte> message, uint32_t type) {
  Frame frame = {};
  if (message.size() >= sizeof(frame)) {
    memcpy(&frame, message.data(), sizeof(frame));
  }
  if (frame.version != Frame::kVersion) {
    return absl::InvalidArgumentError(
        "the next message was not sent by Send() of this version of mp; "
        "receive it with RecvBytes() or RecvBytesInto()");
  }
  if (frame.type != type) {
    return absl::InvalidArgumentError(
        "the next message is of another type than this connection's, or comes "
        "from a program that was built by another compiler");
  }
  return absl::OkStatus();
}

uint32_t NextSerial() {
  static constinit std::atomic<uint32_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

Token TokenOf(uint64_t reader) { return static_cast<Token>(reader >> 32); }

SocketEnd& Of(void* object) { return *static_cast<SocketEnd*>(object); }

}  // namespace

absl::Status WithoutDescriptors(absl::Status encoded) {
  if (!absl::IsUnimplemented(encoded)) return encoded;
  return absl::InvalidArgumentError(
      "mp: a handle or a descriptor cannot be sent to another program, through "
      "a connection from a Listener or a Client; through a Pipe it can");
}

absl::StatusOr<std::shared_ptr<SocketEnd>> SocketEnd::Create(UniqueFd socket,
                                                             size_t max_bytes) {
  absl::StatusOr<std::shared_ptr<SocketState>> state =
      MakeShared<SocketState>();
  if (!state.ok()) return state.status();
  (*state)->max_bytes = max_bytes;
  return std::make_shared<SocketEnd>(
      std::make_shared<const UniqueFd>(std::move(socket)), *std::move(state));
}

SocketEnd::SocketEnd(std::shared_ptr<const UniqueFd> socket,
                     std::shared_ptr<SocketState> state)
    : socket_(std::move(socket)),
      state_(std::move(state)),
      serial_(NextSerial()) {}

SocketEnd::~SocketEnd() { Abandon(); }

uint64_t SocketEnd::self() const {
  return uint64_t{Liveness::Self()} << 32 | serial_;
}

void SocketEnd::Close() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (closed_.exchange(true, std::memory_order_acq_rel)) return;
  // A thread that is in Recv() sees to it otherwise; another process has the
  // lock for a moment at a time.
  if (state_->in_lock.AcquireUntil(Deadline::Infinite().Sooner(kCloseNanos)) !=
      kTimedOut) {
    Abandon();
    state_->in_lock.Release();
  }
  // Closes the socket and puts something harmless in its place. That fails in a
  // process that has lowered its limit of descriptors: then the socket goes
  // with the last copy of the handle.
  dup3(Segment::Of(state_)->fd(), socket_->get(), O_CLOEXEC);
}

absl::StatusOr<int> SocketEnd::fileno() const {
  if (closed()) return Closed();
  return socket_->get();
}

bool SocketEnd::Await(short events, Deadline deadline) const {
  ParkSlices slices;
  while (!closed()) {
    pollfd entry = {.fd = socket_->get(), .events = events, .revents = 0};
    const int ready =
        poll(&entry, 1,
             deadline == Deadline::Now()
                 ? 0
                 : deadline.Sooner(slices.nanos()).ToPollMillis());
    if (ready > 0) return true;
    if (deadline.Expired()) return false;
    if (ready == 0) slices.Grow();
  }
  return false;
}

// ---- Sending

absl::Status SocketEnd::Send(
    uint32_t type, size_t size,
    absl::FunctionRef<absl::Status(std::span<std::byte>)> write,
    Deadline deadline) {
  if (closed()) return Closed();
  const Frame frame = {.version = Frame::kVersion, .type = type};
  if (size > state_->max_bytes || sizeof(frame) > state_->max_bytes - size) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", size, " encoded bytes: at most ",
                     state_->max_bytes, " can go (max_message_bytes)"));
  }
  // Encoded before anything is sent: an error must not leave half a message.
  const size_t whole = sizeof(frame) + size;
  const std::unique_ptr<std::byte[]> body(new (std::nothrow) std::byte[whole]);
  if (body == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a message of ", whole, " bytes"));
  }
  memcpy(body.get(), &frame, sizeof(frame));
  absl::Status error = write(std::span(body.get() + sizeof(frame), size));
  if (!error.ok()) return error;
  return SendBytes(std::span<const std::byte>(body.get(), whole), deadline);
}

absl::Status SocketEnd::SendBytes(std::span<const std::byte> bytes,
                                  Deadline deadline) {
  if (closed()) return Closed();
  if (bytes.size() > state_->max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", bytes.size(), " bytes: at most ",
                     state_->max_bytes, " can go (max_message_bytes)"));
  }
  std::byte head[kLongHead];
  const size_t head_size = PutHead(bytes.size(), head);
  return Write(std::span<const std::byte>(head, head_size), bytes, deadline);
}

absl::Status SocketEnd::Write(
    std::span<const std::byte> head, std::span<const std::byte> body,
    Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const AcquireResult acquired = state_->out_lock.AcquireUntil(deadline);
  if (acquired == kTimedOut) {
    if (closed()) return Closed();
    return absl::DeadlineExceededError("others were sending at this end");
  }
  const absl::Cleanup release = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    state_->out_lock.Release();
  };
  if (acquired == kOwnerDied &&
      state_->sending.load(std::memory_order_relaxed)) {
    return BreakOut(OutBroken());
  }
  if (state_->out_broken.load(std::memory_order_relaxed)) return OutBroken();
  return WriteLocked(head, body, deadline);
}

absl::Status SocketEnd::WriteLocked(std::span<const std::byte> head,
                                    std::span<const std::byte> body,
                                    Deadline deadline) {
  const size_t total = head.size() + body.size();
  size_t sent = 0;
  for (;;) {
    if (closed()) return sent == 0 ? Closed() : BreakOut(Closed());
    const std::span<const std::byte> rest_of_head =
        head.subspan(std::min(sent, head.size()));
    const std::span<const std::byte> rest_of_body =
        body.subspan(sent - (head.size() - rest_of_head.size()));
    iovec parts[] = {
        {.iov_base = const_cast<std::byte*>(rest_of_head.data()),
         .iov_len = rest_of_head.size()},
        {.iov_base = const_cast<std::byte*>(rest_of_body.data()),
         .iov_len = rest_of_body.size()},
    };
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = std::size(parts);
    // Before the first byte goes, or a death right after would not be seen.
    state_->sending.store(true, std::memory_order_relaxed);
    const ssize_t size =
        sendmsg(socket_->get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size >= 0) {
      sent += static_cast<size_t>(size);
      if (sent < total) continue;
      state_->sending.store(false, std::memory_order_relaxed);
      return absl::OkStatus();
    }
    const int error = errno;
    if (sent == 0) state_->sending.store(false, std::memory_order_relaxed);
    if (error == EINTR) continue;
    // Half a message cannot be taken back for a lack of memory that passes.
    const bool no_memory = error == ENOBUFS || error == ENOMEM;
    if (error == EAGAIN || (no_memory && sent != 0)) {
      if (no_memory) poll(nullptr, 0, kMillisBetweenLooks);
      if (Await(POLLOUT, deadline) || closed()) continue;
      if (sent == 0) {
        return absl::DeadlineExceededError("the socket stayed full");
      }
      return BreakOut(absl::DeadlineExceededError(absl::StrCat(
          "the socket stayed full after ", sent, " bytes of a message of ",
          total, ", so nothing more can be sent at this end")));
    }
    absl::Status status = closed() ? Closed()
                          : error == EPIPE || error == ECONNRESET
                              ? BrokenPipe(error)
                              : ErrnoStatus(error, "sendmsg");
    return sent == 0 ? status : BreakOut(std::move(status));
  }
}

absl::Status SocketEnd::BreakOut(absl::Status why) {
  state_->out_broken.store(true, std::memory_order_relaxed);
  state_->sending.store(false, std::memory_order_relaxed);
  // So that the other side does not wait for the rest. After Close() this is no
  // socket any more, and the end comes with the last process's.
  shutdown(socket_->get(), SHUT_WR);
  return why;
}

// ---- Receiving

absl::Status SocketEnd::BreakIn(absl::Status why) {
  state_->in_broken.store(true, std::memory_order_relaxed);
  Reset();
  return why;
}

void SocketEnd::Reset() {
  head_have_ = 0;
  body_have_ = 0;
  whole_.store(false, std::memory_order_release);
  if (body_.size() > kFirstBytes) body_ = std::string();
  state_->reader.store(0, std::memory_order_relaxed);
}

void SocketEnd::Abandon() {
  if (state_->reader.load(std::memory_order_relaxed) != self()) return;
  if (head_have_ != 0) {
    state_->in_broken.store(true, std::memory_order_relaxed);
  }
  Reset();
}

absl::Status SocketEnd::Recv(uint32_t type, Use use, Deadline deadline) {
  return Receive(
      [type, use](std::span<const std::byte> message) {
        absl::Status error = CheckFrame(message, type);
        return error.ok() ? use(message.subspan(sizeof(Frame))) : error;
      },
      deadline);
}

absl::Status SocketEnd::RecvBytes(Use use, Deadline deadline) {
  return Receive(use, deadline);
}

absl::Status SocketEnd::LockForReading(Deadline deadline)
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (;;) {
    if (state_->in_lock.AcquireUntil(deadline) == kTimedOut) {
      if (closed()) return Closed();
      return NoMessage();
    }
    absl::Status error;
    const uint64_t reader = state_->reader.load(std::memory_order_relaxed);
    if (closed()) {
      error = Closed();
    } else if (state_->in_broken.load(std::memory_order_relaxed)) {
      error = InBroken();
    } else if (reader == 0 || reader == self()) {
      return absl::OkStatus();
    } else if (Liveness::IsDead(TokenOf(reader))) {
      state_->in_broken.store(true, std::memory_order_relaxed);
      state_->reader.store(0, std::memory_order_relaxed);
      error = InBroken();
    }
    state_->in_lock.Release();
    if (!error.ok()) return error;
    if (deadline.Expired()) {
      return absl::DeadlineExceededError(
          "another process has the beginning of the next message");
    }
    poll(nullptr, 0, kMillisBetweenLooks);
  }
}

absl::Status SocketEnd::Receive(Use use, Deadline deadline)
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (closed()) return Closed();
  if (absl::Status error = LockForReading(deadline); !error.ok()) return error;
  const absl::Cleanup release = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (closed()) Abandon();
    state_->in_lock.Release();
  };
  if (absl::Status error = Fill(deadline); !error.ok()) return error;
  absl::Status error = use(std::as_bytes(std::span(body_.data(), body_have_)));
  if (error.ok()) Reset();
  return error;
}

absl::Status SocketEnd::Fill(Deadline deadline) {
  if (state_->reader.load(std::memory_order_relaxed) == 0) {
    // What may be here was another process's, from before a fork.
    Reset();
    state_->reader.store(self(), std::memory_order_relaxed);
  }
  const absl::Cleanup give_back = [this] {
    if (head_have_ == 0) Reset();
  };
  size_t look_again_at = body_have_ + kBytesBetweenLooks;
  while (!whole_.load(std::memory_order_relaxed)) {
    // What is known of the length.
    size_t head_size = kShortHead;
    uint64_t size = 0;
    if (head_have_ >= kShortHead) {
      size = GetBigEndian(head_, kShortHead);
      if (size == 0xffffffff) {
        head_size = kLongHead;
        if (head_have_ == kLongHead) {
          size = GetBigEndian(head_ + kShortHead, kLongHead - kShortHead);
        }
      } else if (size > kMaxShortMessage) {
        return BreakIn(absl::DataLossError(
            "a message with a negative length: the other side does not speak "
            "the protocol"));
      }
    }
    if (head_have_ < head_size) {
      absl::StatusOr<size_t> got =
          ReadSome(head_ + head_have_, head_size - head_have_, deadline);
      if (!got.ok()) return got.status();
      head_have_ += *got;
      continue;
    }
    if (size > state_->max_bytes) {
      return BreakIn(absl::DataLossError(absl::StrCat(
          "a message of ", size, " bytes: at most ", state_->max_bytes,
          " can be received (max_message_bytes)")));
    }
    if (body_have_ == size) {
      whole_.store(true, std::memory_order_release);
      break;
    }
    if (body_have_ == body_.size() || body_.size() > size) {
      const size_t room =
          std::min<uint64_t>(size, std::max(kFirstBytes, 2 * body_have_));
      try {
        body_.resize(room);
      } catch (const std::exception&) {  // bad_alloc, length_error
        return absl::ResourceExhaustedError(
            absl::StrCat("no memory for a message of ", size, " bytes"));
      }
    }
    absl::StatusOr<size_t> got = ReadSome(body_.data() + body_have_,
                                          body_.size() - body_have_, deadline);
    if (!got.ok()) return got.status();
    body_have_ += *got;
    if (body_have_ >= look_again_at && body_have_ < size) {
      if (deadline.Expired()) return RestDidNotCome();
      look_again_at = body_have_ + kBytesBetweenLooks;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> SocketEnd::ReadSome(char* to, size_t wanted,
                                           Deadline deadline) {
  for (;;) {
    if (closed()) return Closed();
    const ssize_t got = recv(socket_->get(), to, wanted, MSG_DONTWAIT);
    if (got > 0) return static_cast<size_t>(got);
    const int error = got == 0 ? 0 : errno;
    if (error == EINTR) continue;
    if (error == EAGAIN) {
      if (head_have_ == 0) {
        // Whoever dies here has taken nothing.
        state_->reader.store(0, std::memory_order_relaxed);
      }
      const bool ready = Await(POLLIN, deadline);
      state_->reader.store(self(), std::memory_order_relaxed);
      if (ready || closed()) continue;
      return head_have_ == 0 ? NoMessage() : RestDidNotCome();
    }
    if (closed()) return Closed();
    if (error != 0 && error != ECONNRESET) {
      return ErrnoStatus(error, "recv");
    }
    const std::string how =
        error == 0 ? "" : absl::StrCat(": recv: ", ErrnoName(error));
    if (head_have_ == 0) {
      return absl::OutOfRangeError(absl::StrCat(
          "end of file: no message is left, and no process has the other end "
          "any more",
          how));
    }
    return BreakIn(absl::DataLossError(absl::StrCat(
        "the end of the file came in the middle of a message", how)));
  }
}

absl::StatusOr<bool> SocketEnd::Poll(Deadline deadline) {
  if (closed()) return Closed();
  if (has_message() || state_->in_broken.load(std::memory_order_relaxed)) {
    return true;
  }
  const bool ready = Await(POLLIN, deadline);
  if (closed()) return Closed();
  return ready;
}

WaitSource SocketEnd::ToWaitSource(std::shared_ptr<SocketEnd> end) {
  static constexpr WaitSource::Descriptor kDescriptor = {
      .fd = [](void* object) { return Of(object).socket_->get(); },
      .may_have_hung_up = [](void*) { return true; },
      .may_be_readable = nullptr,
      .make_unreadable = nullptr};
  static constexpr WaitSource::Kind kKind = {
      .check = [](void* object,
                  uint32_t&) { return Of(object).fileno().status(); },
      .ready =
          [](void* object, uint32_t) {
            const SocketEnd& self = Of(object);
            return self.has_message() ||
                   self.state_->in_broken.load(std::memory_order_relaxed);
          },
      .gate = nullptr,
      .descriptor = &kDescriptor};
  return {std::move(end), &kKind};
}

}  // namespace mp::ipc_internal
