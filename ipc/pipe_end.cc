#include "mp/ipc/pipe_end.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"
#include "mp/base/unix_socket.h"

namespace mp::ipc_internal {
namespace {

// Two processes that talk to each other in turns stay within a page, and so
// within the fastest of their caches.
constexpr size_t kFirstBytes = size_t{4} << 10;
// Together with the smaller regions, that may be on the way.
constexpr size_t kLargeBytes = size_t{64} << 10;

absl::Status Closed() {
  return absl::FailedPreconditionError("the connection is closed");
}

}  // namespace

absl::Status TooLong(size_t size, size_t maxlength) {
  return absl::InvalidArgumentError(absl::StrCat("the next message has ", size,
                                                 " bytes, more than ",
                                                 maxlength, "; it stays"));
}

absl::StatusOr<PipeEnd::Pair> PipeEnd::CreatePair(bool duplex) {
  const RingOptions options = {.name = "pipe",
                               .capacity_bytes = kFirstBytes,
                               .growth = RingGrowth::kForLargeRecords,
                               .large_bytes = kLargeBytes};
  absl::StatusOr<Ring> to_first = Ring::Create(options);
  if (!to_first.ok()) return to_first.status();
  std::optional<Ring> to_second;
  if (duplex) {
    absl::StatusOr<Ring> ring = Ring::Create(options);
    if (!ring.ok()) return ring.status();
    to_second = *std::move(ring);
  }
  absl::StatusOr<std::array<UniqueFd, 2>> sockets =
      ConnectedSockets(SOCK_STREAM);
  if (!sockets.ok()) return sockets.status();
  const auto end = [](std::optional<Ring> in, std::optional<Ring> out,
                      UniqueFd& socket) {
    return std::make_shared<PipeEnd>(
        std::move(in), std::move(out),
        std::make_shared<const UniqueFd>(std::move(socket)));
  };
  return Pair(end(*to_first, to_second, (*sockets)[0]),
              end(to_second, *to_first, (*sockets)[1]));
}

PipeEnd::PipeEnd(std::optional<Ring> in, std::optional<Ring> out,
                 std::shared_ptr<const UniqueFd> socket)
    : in_(std::move(in)), out_(std::move(out)), socket_(std::move(socket)) {
  // After an error on the way here.
  if (in_.has_value() && !in_->valid()) in_.reset();
  if (out_.has_value() && !out_->valid()) out_.reset();
}

PipeEnd::~PipeEnd() {
  if (closed()) return;
  socket_.reset();
  carrier_.reset();
  Leave();
}

void PipeEnd::Leave() {
  if (in_.has_value()) in_->Leave(Liveness::Self());
  if (out_.has_value()) out_->Leave(Liveness::Self());
}

void PipeEnd::Close() {
  if (closed_.exchange(true, std::memory_order_acq_rel)) return;
  if (!in_.has_value() && !out_.has_value()) return;
  for (const auto& socket : {socket_, carrier_}) {
    if (socket == nullptr) continue;
    // Closes the socket and puts something harmless in its place. That fails in
    // a process that has lowered its limit of descriptors: then the socket goes
    // with the last copy of the handle.
    dup3((in_.has_value() ? in_ : out_)->fd(), socket->get(), O_CLOEXEC);
  }
  Leave();
}

void PipeEnd::SayAgain(Ring& ring, void (Ring::*say)(Token, uint64_t)) {
  for (;;) {
    const uint64_t departures = ring.departures();
    if (closed()) return;
    (ring.*say)(Liveness::Self(), departures);
    // Before the look at who has left: either that one sees this, or this one
    // sees that it has.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (ring.departures() == departures) break;
  }
  ring.WakeAll();  // who has gone to sleep meanwhile watches nobody
}

absl::StatusOr<int> PipeEnd::fileno() {
  if (closed()) return Closed();
  if (in_.has_value()) in_->RaiseSignalForEachRecord();
  return socket_->get();
}

// ---- Sending

absl::Status PipeEnd::SendError() const {
  return closed() ? Closed()
                  : absl::FailedPreconditionError(
                        "this end of a one-way pipe cannot send");
}

absl::Status PipeEnd::BrokenPipe() {
  return ErrnoStatus(EPIPE, "no process has the other end any more");
}

Token PipeEnd::LastReceiver() const {
  const Token receiver = out_->consumer();
  return receiver == kNoToken && in_.has_value() ? in_->producer() : receiver;
}

Token PipeEnd::LastSender() const {
  const Token sender = in_->producer();
  return sender == kNoToken && out_.has_value() ? out_->consumer() : sender;
}

bool PipeEnd::WatchPeer(Token peer, WatchList& list) const {
  if (closed()) return false;
  if (peer != kNoToken && !Liveness::IsDead(peer)) {
    list.Add(peer);  // which still has the other end
    return true;
  }
  // The kernel closes the sockets of the dead a little later.
  if (peer != kNoToken) list.ExpectChange();
  return !HungUp();
}

absl::Status PipeEnd::RaiseSignal() {
  const char byte = 0;
  // If there is no room for the byte, the socket is readable.
  if (send(socket_->get(), &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ||
      errno == EAGAIN) {
    out_->SignalRaised();
    return absl::OkStatus();
  }
  if (closed()) return Closed();
  return errno == EPIPE || errno == ECONNRESET ? BrokenPipe()
                                               : ErrnoStatus(errno, "send");
}

absl::Status PipeEnd::PutError(RingResult result, size_t size) const {
  switch (result) {
    case RingResult::kTimedOut:
      if (closed()) return Closed();
      if (HungUp()) return BrokenPipe();
      if (closed()) return Closed();  // just now, so HungUp() saw nothing
      return absl::DeadlineExceededError("the pipe stayed full");
    case RingResult::kTooLarge:
      return absl::InvalidArgumentError(
          absl::StrCat("a message of ", size, " encoded bytes: a pipe takes ",
                       out_->max_record_size() - sizeof(Frame), " at most"));
    default:
      return Ring::ErrorOf(result, "pipe");
  }
}

// ---- Receiving

absl::Status PipeEnd::RecvError() const {
  return closed() ? Closed()
                  : absl::FailedPreconditionError(
                        "this end of a one-way pipe cannot receive");
}

absl::Status PipeEnd::FrameError(std::span<const std::byte> record,
                                 uint32_t type) {
  Frame frame;
  if (record.size() < sizeof(frame)) {
    return absl::DataLossError("a message without a head");
  }
  memcpy(&frame, record.data(), sizeof(frame));
  if (frame.version != Frame::kVersion) {
    return absl::DataLossError(
        absl::StrCat("a message of version ", frame.version, ", not ",
                     Frame::kVersion, ": from another build of mp"));
  }
  if (frame.type == kRawBytes) {
    return absl::InvalidArgumentError(
        "the next message was sent by SendBytes(); receive it with RecvBytes() "
        "or RecvBytesInto()");
  }
  if (type == kRawBytes) {
    return absl::InvalidArgumentError(
        "the next message was sent by Send(); receive it with Recv()");
  }
  return absl::InvalidArgumentError(
      "the next message is of another type than this connection's");
}

absl::Status PipeEnd::GetError(RingResult result) const {
  switch (result) {
    case RingResult::kTimedOut:
      if (closed()) return Closed();
      // In this order: whoever hung up may have sent a message before.
      if (HungUp() && !in_->HasRecord()) {
        return absl::OutOfRangeError(
            "end of file: no message is left, and no process has the other end "
            "any more");
      }
      if (closed()) return Closed();  // just now, so HungUp() saw nothing
      return absl::DeadlineExceededError("no message came");
    default:
      return Ring::ErrorOf(result, "pipe");
  }
}

absl::StatusOr<bool> PipeEnd::Poll(Deadline deadline) {
  uint64_t departures = 0;
  if (absl::Status error = CheckRecv(departures); !error.ok()) return error;
  const bool ready = in_->AwaitRecord(deadline, [this](WatchList& list) {
    return WatchPeer(LastSender(), list);
  });
  if (ready || LowerSignalIfEmpty()) return true;
  const bool hung_up = HungUp();  // a message that came meanwhile is as good
  if (closed()) return Closed();
  return hung_up;
}

bool PipeEnd::HungUp() const {
  pollfd entry = {.fd = socket_->get(), .events = 0, .revents = 0};
  // A call that fails for lack of memory saw nothing.
  return poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
}

bool PipeEnd::LowerSignal(Deadline deadline) {
  return in_->LowerSignal(
      [this] {
        std::array<char, 4096> bytes;
        while (recv(socket_->get(), bytes.data(), bytes.size(), MSG_DONTWAIT) ==
               static_cast<ssize_t>(bytes.size())) {
        }
      },
      deadline);
}

WaitSource PipeEnd::ToWaitSource(std::shared_ptr<PipeEnd> end) {
  static constexpr WaitSource::Descriptor kDescriptor = {
      .fd = [](void* object) { return Of(object).socket_->get(); },
      .may_have_hung_up =
          [](void* object) {
            const Token peer = Of(object).LastSender();
            return peer == kNoToken || Liveness::IsDead(peer);
          },
      .may_be_readable =
          [](void* object) { return Of(object).in_->SignalIsRaised(); },
      .make_unreadable =
          [](void* object, Deadline deadline) {
            return Of(object).LowerSignal(deadline);
          }};
  static constexpr WaitSource::Kind kKind = {
      .check =
          [](void* object, uint32_t&) {
            uint64_t departures = 0;
            return Of(object).CheckRecv(departures);
          },
      .ready = [](void* object,
                  uint32_t) { return Of(object).in_->HasRecord(); },
      .gate = nullptr,
      .descriptor = &kDescriptor};
  return {std::move(end), &kKind};
}

}  // namespace mp::ipc_internal
