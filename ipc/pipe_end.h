// PipeEnd: one end of a pipe, as one process has it. The engine of
// mp::Connection; use that.
//
// Messages travel through rings in shared memory, one for each direction. A
// connected pair of sockets lies beside them, one for each end. They carry no
// message. They are
//
//   - the kernel's own notice of the end of file: it hangs up when the last
//     process that has the other end closes it or dies;
//   - the descriptor for poll() and the like: a byte in the socket means that
//     there may be a message (the signal of mp/ipc/ring.h).
//
// Nobody sleeps on a socket but who polls from outside: a futex wakes faster,
// and does not draw the sleeper to the waker's processor. A sleeper is woken
// when the one who was last seen on the other side dies or leaves. If there is
// none, it looks at the socket before each slice of its sleep (mp/shm/park.h).

#ifndef MP_IPC_PIPE_END_H_
#define MP_IPC_PIPE_END_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/ring.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/segment.h"
#include "mp/shm/wait_source.h"

namespace mp::ipc_internal {

// In front of each message.
struct Frame {
  static constexpr uint32_t kVersion = 1;

  uint32_t version;
  uint32_t type;
};

// Bytes that are no T, as SendBytes() sends them.
inline constexpr uint32_t kRawBytes = 0;

// Tells types apart within a program.
template <class T>
constexpr uint32_t TypeMark() {
  const uint64_t hash = LayoutFingerprint(__PRETTY_FUNCTION__, 0, 0);
  return static_cast<uint32_t>(hash >> 32 ^ hash) | 1;  // not kRawBytes
}

absl::Status TooLong(size_t size, size_t maxlength);

class PipeEnd {
 public:
  using Pair = std::pair<std::shared_ptr<PipeEnd>, std::shared_ptr<PipeEnd>>;

  // If not duplex, the first one receives and the second one sends. Errors
  // name the system call.
  static absl::StatusOr<Pair> CreatePair(bool duplex);

  PipeEnd(std::optional<Ring> in, std::optional<Ring> out,
          std::shared_ptr<const UniqueFd> socket);
  // Before anybody else has the end: what is to be closed with it.
  void SetCarrier(std::shared_ptr<const UniqueFd> carrier) {
    carrier_ = std::move(carrier);
  }
  PipeEnd(const PipeEnd&) = delete;
  PipeEnd& operator=(const PipeEnd&) = delete;
  ~PipeEnd();

  // Sends `size` bytes that `FillResult write(Ring& out, std::span<std::byte>,
  // absl::Status& error)` writes as Ring::Put() says; if it aborts, `error` is
  // returned.
  template <class Write>
  absl::Status Send(uint32_t type, size_t size, const Write& write,
                    Deadline deadline);

  // Calls `bool use(std::span<const std::byte>, absl::Status& error)` with the
  // next message and removes that. If it is of another type, or `use` returns
  // false, it stays, and the error is returned. `removed` as for Ring::Get().
  template <class Use, class Removed = Ring::DoNothing>
  absl::Status Recv(uint32_t type, const Use& use, Deadline deadline,
                    const Removed& removed = {});

  // Whether Recv() would not wait: for a message, or the end of the file.
  absl::StatusOr<bool> Poll(Deadline deadline);

  // Ready when Poll() would return true.
  static WaitSource ToWaitSource(std::shared_ptr<PipeEnd> end);

  // See Connection.
  absl::StatusOr<int> fileno();
  void Close();
  bool closed() const { return closed_.load(std::memory_order_acquire); }

  // For a StatusOr without a result yet: to copy one costs less than to make
  // one.
  const absl::Status& nothing_yet() const { return nothing_yet_; }

  // What this end consists of.
  const std::optional<Ring>& in() const { return in_; }
  const std::optional<Ring>& out() const { return out_; }
  // Null after Close().
  std::shared_ptr<const UniqueFd> socket() const {
    return closed() ? nullptr : socket_;
  }

 private:
  // Whether the call is possible at all. The number of departures is read
  // first: a Close() by another thread either counts as one more or is seen.
  ABSL_ATTRIBUTE_ALWAYS_INLINE absl::Status CheckSend(uint64_t& departures) {
    if (ABSL_PREDICT_FALSE(!out_.has_value())) return SendError();
    departures = out_->departures();
    if (ABSL_PREDICT_FALSE(closed())) return SendError();
    out_->SetProducer(Liveness::Self(), departures);
    // A system call would tell for certain. It is made if nobody is known to be
    // there. (Before the message goes: who gets it may leave at once.)
    const Token receiver = out_->consumer();
    if (ABSL_PREDICT_FALSE(receiver == kNoToken ||
                           Liveness::IsDead(receiver)) &&
        HungUp()) {
      return BrokenPipe();
    }
    return absl::OkStatus();
  }
  ABSL_ATTRIBUTE_ALWAYS_INLINE absl::Status CheckRecv(uint64_t& departures) {
    if (ABSL_PREDICT_FALSE(!in_.has_value())) return RecvError();
    departures = in_->departures();
    if (ABSL_PREDICT_FALSE(closed())) return RecvError();
    in_->SetConsumer(Liveness::Self(), departures);
    return absl::OkStatus();
  }
  // That this process is here still, if others have left since the number of
  // departures was read.
  void SayAgain(Ring& ring, void (Ring::*say)(Token, uint64_t));
  static PipeEnd& Of(void* end) { return *static_cast<PipeEnd*>(end); }
  absl::Status SendError() const;
  absl::Status RecvError() const;
  static absl::Status BrokenPipe();

  // Tells who waits on the other side.
  void Leave();
  // Who was last seen at the other end in this direction, or else in the other
  // one.
  Token LastReceiver() const;
  Token LastSender() const;
  // For who waits: false if no process has the other end any more, or this one
  // closed its own. `peer` was last seen there.
  bool WatchPeer(Token peer, WatchList& list) const;
  // Makes the other end's socket readable.
  absl::Status RaiseSignal();
  absl::Status PutError(RingResult result, size_t size) const;

  // Whether the kernel says that no process has the other end any more.
  bool HungUp() const;
  // For who polls from outside. Whether a message has come after all, of which
  // no other edge will tell.
  bool LowerSignalIfEmpty() {
    return ABSL_PREDICT_FALSE(in_->RaisesSignalForEachRecord()) &&
           !in_->HasRecord() && LowerSignal(Deadline::Now());
  }
  bool LowerSignal(Deadline deadline);
  static bool HasFrame(std::span<const std::byte> record, uint32_t type) {
    Frame frame;
    if (ABSL_PREDICT_FALSE(record.size() < sizeof(frame))) return false;
    memcpy(&frame, record.data(), sizeof(frame));
    return frame.version == Frame::kVersion && frame.type == type;
  }
  static absl::Status FrameError(std::span<const std::byte> record,
                                 uint32_t type);
  absl::Status GetError(RingResult result) const;

  std::optional<Ring> in_;
  std::optional<Ring> out_;
  // The number stays taken until nobody uses this object any more, or a call in
  // another thread might touch a stranger's descriptor.
  std::shared_ptr<const UniqueFd> socket_;  // not null
  // For descriptors (mp/ipc/carrier.h); null if they cannot come.
  std::shared_ptr<const UniqueFd> carrier_;
  std::atomic<bool> closed_{false};
  const absl::Status nothing_yet_ = absl::UnknownError("");
};

// ---- implementation ----

template <class Write>
absl::Status PipeEnd::Send(uint32_t type, size_t size, const Write& write,
                           Deadline deadline) {
  uint64_t departures = 0;
  if (absl::Status error = CheckSend(departures);
      ABSL_PREDICT_FALSE(!error.ok())) {
    return error;
  }
  if (size > out_->max_record_size() - sizeof(Frame)) {
    return PutError(RingResult::kTooLarge, size);
  }
  absl::Status error;
  const RingResult result = out_->Put(
      sizeof(Frame) + size,
      [&](std::byte* to, uint32_t) ABSL_ATTRIBUTE_ALWAYS_INLINE {
        const Frame frame = {.version = Frame::kVersion, .type = type};
        memcpy(to, &frame, sizeof(frame));
        const FillResult written =
            write(*out_, std::span(to + sizeof(frame), size), error);
        if (ABSL_PREDICT_TRUE(written == FillResult::kFilled) &&
            ABSL_PREDICT_FALSE(out_->MustRaiseSignal())) {
          error = RaiseSignal();
          if (!error.ok()) return FillResult::kAborted;
        }
        return written;
      },
      deadline,
      [this](WatchList& list) { return WatchPeer(LastReceiver(), list); });
  if (ABSL_PREDICT_TRUE(result == RingResult::kDone)) {
    if (ABSL_PREDICT_FALSE(out_->departures() != departures)) {
      SayAgain(*out_, &Ring::SetProducer);
    }
    return absl::OkStatus();
  }
  if (closed()) return SendError();
  return error.ok() ? PutError(result, size) : error;
}

template <class Use, class Removed>
absl::Status PipeEnd::Recv(uint32_t type, const Use& use, Deadline deadline,
                           const Removed& removed) {
  uint64_t departures = 0;
  if (absl::Status error = CheckRecv(departures);
      ABSL_PREDICT_FALSE(!error.ok())) {
    return error;
  }
  if (deadline != Deadline::Now()) in_->SpinForRecord();
  absl::Status error;
  bool more = false;
  RingResult result;
  do {
    result = in_->Get(
        [&](std::span<const std::byte> record, uint32_t)
            ABSL_ATTRIBUTE_ALWAYS_INLINE {
              if (ABSL_PREDICT_FALSE(!HasFrame(record, type))) {
                error = FrameError(record, type);
                return absl::IsDataLoss(error);  // nobody can ever receive it
              }
              return use(record.subspan(sizeof(Frame)), error);
            },
        deadline,
        [this](WatchList& list) { return WatchPeer(LastSender(), list); },
        [&] {
          if (error.ok()) removed();
        });
    more = LowerSignalIfEmpty();
  } while (ABSL_PREDICT_FALSE(more) && result == RingResult::kTimedOut);
  if (ABSL_PREDICT_FALSE(!error.ok())) return error;
  if (ABSL_PREDICT_TRUE(result == RingResult::kDone)) {
    if (ABSL_PREDICT_FALSE(in_->departures() != departures)) {
      SayAgain(*in_, &Ring::SetConsumer);
    }
    return absl::OkStatus();
  }
  return GetError(result);
}

}  // namespace mp::ipc_internal

#endif  // MP_IPC_PIPE_END_H_
