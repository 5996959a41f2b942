#include "mp/ipc/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <mutex>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/authentication.h"
#include "mp/shm/segment.h"
#include "mp/shm/slab.h"

namespace mp {
namespace {

using ::mp::ipc_internal::FromSocketAddress;
using ::mp::ipc_internal::Handshake;
using ::mp::ipc_internal::SocketAddress;
using ::mp::ipc_internal::SocketEnd;

// Between looks whether the listener was closed meanwhile.
constexpr int64_t kSliceNanos = 250'000'000;

// New ones that are accepted before the others have their turn.
constexpr int kNewAtOnce = 16;

// For a Listener without a limit.
constexpr absl::Duration kForEver = absl::Hours(24 * 365);

// In shared memory.
struct Counts {
  std::atomic<uint64_t> refused{0};
};

absl::Status Closed() {
  return absl::FailedPreconditionError("the listener is closed");
}

// Whom accept() tells of has gone already, or never came.
bool IsOfOnePeer(int error) {
  switch (error) {
    case ECONNABORTED:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
      return true;
    default:
      return false;
  }
}

// Which file a path means, so that only that one is removed.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;

  static FileId Of(const std::string& path) {
    struct stat file = {};
    if (lstat(path.c_str(), &file) != 0) return {};
    return {.device = file.st_dev, .inode = file.st_ino};
  }
  friend bool operator==(const FileId&, const FileId&) = default;
};

// Somebody who has connected.
struct Peer {
  UniqueFd socket;
  Address from;
};

// Somebody who has yet to prove that it knows the key.
struct Stranger {
  Stranger(Peer who, const ipc_internal::HandshakeKey& key, int64_t nanos)
      : peer(std::move(who)),
        handshake(Handshake::Role::kListener, key),
        nanos_left(nanos) {}

  Peer peer;
  Handshake handshake;
  bool ready = true;    // something may have come
  int64_t nanos_left;   // when nobody is in Accept(), and otherwise
  int64_t expires = 0;  // when somebody is
};
using Strangers = std::vector<std::unique_ptr<Stranger>>;

// Those who wait while nobody is in Accept().
struct Waiting {
  pid_t process;
  Strangers strangers;
};

}  // namespace

struct Listener::State {
  State(Address at, ListenerOptions with, UniqueFd listening,
        std::shared_ptr<Counts> shared)
      : address(std::move(at)),
        options(std::move(with)),
        socket(std::move(listening)),
        counts(std::move(shared)),
        key({.bytes = options.authkey.value_or(""),
             .allow_md5 = options.allow_md5}) {
    if (address.kind() == Address::Kind::kUnix) {
      file = FileId::Of(address.name());
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { Close(); }

  absl::StatusOr<Peer> Accept(Deadline deadline);
  void Close();

  // Nothing if nobody is there.
  absl::StatusOr<std::optional<Peer>> AcceptOne();
  // Takes a number of new ones. One of them, if no key is needed.
  absl::StatusOr<std::optional<Peer>> AcceptSome(Strangers& strangers);
  // Goes on with the handshakes that can. The first who is through, if any.
  std::optional<Peer> Advance(Strangers& strangers);
  void RefuseTheLate(Strangers& strangers);
  void Refuse(const Stranger& stranger, const absl::Status& why);
  // Until somebody is ready, or may be late, or for a while.
  absl::Status Await(Strangers& strangers, Deadline deadline);

  Strangers Take();
  void GiveBack(Strangers strangers);

  const Address address;
  const ListenerOptions options;
  const pid_t creator = getpid();
  // The number stays taken until nobody uses this object any more, or a call in
  // another thread might touch a stranger's descriptor.
  const UniqueFd socket;
  const std::shared_ptr<Counts> counts;
  const ipc_internal::HandshakeKey key;
  FileId file;
  std::atomic<bool> closed{false};
  // A thread in Accept() takes them out, so none is ever seen half changed by a
  // child that is forked meanwhile.
  std::atomic<Waiting*> waiting{nullptr};
  std::mutex last_mutex;
  std::optional<Address> last;
};

absl::StatusOr<Listener> Listener::Create(const Address& address,
                                          ListenerOptions options) {
  const absl::StatusOr<SocketAddress> at = ipc_internal::ToSocketAddress(
      address.kind() == Address::Kind::kFresh ? ipc_internal::FreshAddress()
                                              : address);
  if (!at.ok()) return at.status();
  absl::StatusOr<std::shared_ptr<Counts>> counts = MakeShared<Counts>();
  if (!counts.ok()) return counts.status();
  const int family = at->bytes.ss_family;
  UniqueFd socket = AboveStandardStreams(UniqueFd(
      ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
  if (!socket) return ErrnoStatus(errno, "socket");
  const int on = 1;
  if (family != AF_UNIX && setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR,
                                      &on, sizeof(on)) != 0) {
    return ErrnoStatus(errno, "setsockopt(SO_REUSEADDR)");
  }
  if (bind(socket.get(), at->get(), at->size) != 0) {
    return ErrnoStatus(errno, absl::StrCat("bind(", address.ToString(), ")"));
  }
  SocketAddress bound;
  if (getsockname(socket.get(), bound.get(), &bound.size) != 0) {
    return ErrnoStatus(errno, "getsockname");
  }
  // From here on it removes the file.
  Listener listener(
      std::make_shared<State>(FromSocketAddress(bound), std::move(options),
                              std::move(socket), *std::move(counts)));
  if (listen(listener.state_->socket.get(), listener.state_->options.backlog) !=
      0) {
    return ErrnoStatus(errno, absl::StrCat("listen(", address.ToString(), ")"));
  }
  return listener;
}

Listener::Listener(std::shared_ptr<State> state) : state_(std::move(state)) {}

const Address& Listener::address() const { return state_->address; }

std::optional<Address> Listener::last_accepted() const {
  const std::lock_guard lock(state_->last_mutex);
  return state_->last;
}

uint64_t Listener::refused() const {
  return state_->counts->refused.load(std::memory_order_relaxed);
}

absl::StatusOr<int> Listener::fileno() const {
  if (closed()) return Closed();
  return state_->socket.get();
}

void Listener::Close() { state_->Close(); }

bool Listener::closed() const {
  return state_->closed.load(std::memory_order_acquire);
}

void Listener::State::Close() {
  if (closed.exchange(true, std::memory_order_acq_rel)) return;
  if (address.kind() == Address::Kind::kUnix && creator == getpid() &&
      file != FileId() && FileId::Of(address.name()) == file) {
    unlink(address.name().c_str());
  }
  // Closes the socket and puts something harmless in its place. That fails in a
  // process that has lowered its limit of descriptors: then the socket goes
  // with the last copy of the handle.
  dup3(Segment::Of(counts)->fd(), socket.get(), O_CLOEXEC);
  Take();
}

Strangers Listener::State::Take() {
  const std::unique_ptr<Waiting> taken(
      waiting.exchange(nullptr, std::memory_order_acq_rel));
  // Those of the process that this one was forked from remain there.
  if (taken == nullptr || taken->process != getpid()) return {};
  return std::move(taken->strangers);
}

void Listener::State::GiveBack(Strangers strangers) {
  while (!strangers.empty() && !closed.load(std::memory_order_acquire)) {
    auto mine = std::make_unique<Waiting>(
        Waiting{.process = getpid(), .strangers = std::move(strangers)});
    Waiting* none = nullptr;
    if (waiting.compare_exchange_strong(none, mine.get(),
                                        std::memory_order_acq_rel)) {
      mine.release();
      // Somebody may have closed it just before, and not seen these.
      if (closed.load(std::memory_order_acquire)) Take();
      return;
    }
    strangers = Take();  // another thread's; together, then
    std::move(mine->strangers.begin(), mine->strangers.end(),
              std::back_inserter(strangers));
  }
}

void Listener::State::Refuse(const Stranger& stranger,
                             const absl::Status& why) {
  // Also a child that was forked meanwhile has the socket.
  shutdown(stranger.peer.socket.get(), SHUT_RDWR);
  counts->refused.fetch_add(1, std::memory_order_relaxed);
  if (options.on_refused) options.on_refused(stranger.peer.from, why);
}

absl::StatusOr<std::optional<Peer>> Listener::State::AcceptOne() {
  for (;;) {
    SocketAddress from;
    UniqueFd accepted(
        accept4(socket.get(), from.get(), &from.size, SOCK_CLOEXEC));
    if (!accepted) {
      const int error = errno;
      if (error == EINTR) continue;
      if (error == EAGAIN || IsOfOnePeer(error)) return std::nullopt;
      if (closed.load(std::memory_order_acquire)) return Closed();
      return ErrnoStatus(error, "accept4");
    }
    accepted = AboveStandardStreams(std::move(accepted));
    if (!accepted) return ErrnoStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
    if (address.kind() == Address::Kind::kTcp) {
      // Messages are not to wait for the next ones. Fails if it has gone again.
      const int on = 1;
      setsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    return Peer{.socket = std::move(accepted), .from = FromSocketAddress(from)};
  }
}

absl::StatusOr<std::optional<Peer>> Listener::State::AcceptSome(
    Strangers& strangers) {
  const int64_t nanos =
      absl::ToInt64Nanoseconds(std::min(options.handshake_timeout, kForEver));
  for (int i = 0; i < kNewAtOnce; ++i) {
    absl::StatusOr<std::optional<Peer>> peer = AcceptOne();
    if (!peer.ok() || !peer->has_value()) return peer;
    if (!options.authkey.has_value()) return peer;
    if (strangers.size() >=
        static_cast<size_t>(std::max(1, options.max_handshakes))) {
      // The one that had the most time, of those who have no key so far.
      auto victim = std::find_if(
          strangers.begin(), strangers.end(),
          [](const auto& each) { return !each->handshake.proved(); });
      if (victim == strangers.end()) victim = strangers.begin();
      Refuse(**victim,
             absl::ResourceExhaustedError(
                 "more are in the middle of the handshake than may be"));
      strangers.erase(victim);
    }
    strangers.push_back(
        std::make_unique<Stranger>(**std::move(peer), key, nanos));
    strangers.back()->expires = MonotonicNanos() + nanos;
  }
  return std::nullopt;
}

std::optional<Peer> Listener::State::Advance(Strangers& strangers) {
  for (auto it = strangers.begin(); it != strangers.end();) {
    Stranger& stranger = **it;
    if (!std::exchange(stranger.ready, false)) {
      ++it;
      continue;
    }
    const absl::StatusOr<bool> done =
        stranger.handshake.Advance(stranger.peer.socket.get());
    if (done.ok() && !*done) {
      ++it;
      continue;
    }
    const std::unique_ptr<Stranger> gone = std::move(*it);
    it = strangers.erase(it);
    if (done.ok()) return std::move(gone->peer);
    Refuse(*gone, done.status());
  }
  return std::nullopt;
}

void Listener::State::RefuseTheLate(Strangers& strangers) {
  const int64_t now = MonotonicNanos();
  for (auto it = strangers.begin(); it != strangers.end();) {
    if ((*it)->expires > now) {
      ++it;
      continue;
    }
    const std::unique_ptr<Stranger> late = std::move(*it);
    it = strangers.erase(it);
    Refuse(*late, absl::DeadlineExceededError(absl::StrCat(
                      "it did not send ", ToAbsl(late->handshake.awaits()),
                      " in time")));
  }
}

absl::Status Listener::State::Await(Strangers& strangers, Deadline deadline) {
  std::vector<pollfd> polled;
  polled.push_back({.fd = socket.get(), .events = POLLIN, .revents = 0});
  deadline = deadline.Sooner(kSliceNanos);
  for (const auto& stranger : strangers) {
    polled.push_back({.fd = stranger->peer.socket.get(),
                      .events = stranger->handshake.awaited(),
                      .revents = 0});
    deadline = deadline.Sooner(stranger->expires - MonotonicNanos());
  }
  if (poll(polled.data(), polled.size(), deadline.ToPollMillis()) < 0) {
    return errno == EINTR ? absl::OkStatus() : ErrnoStatus(errno, "poll");
  }
  for (size_t i = 0; i < strangers.size(); ++i) {
    strangers[i]->ready = polled[i + 1].revents != 0;
  }
  return absl::OkStatus();
}

absl::StatusOr<Peer> Listener::State::Accept(Deadline deadline) {
  Strangers strangers = Take();
  const int64_t begin = MonotonicNanos();
  for (const auto& stranger : strangers) {
    stranger->expires = begin + stranger->nanos_left;
    stranger->ready = true;
  }
  const absl::Cleanup give_back = [&] {
    const int64_t end = MonotonicNanos();
    for (const auto& stranger : strangers) {
      stranger->nanos_left = stranger->expires - end;
    }
    GiveBack(std::move(strangers));
  };
  for (;;) {
    if (closed.load(std::memory_order_acquire)) return Closed();
    absl::StatusOr<std::optional<Peer>> accepted = AcceptSome(strangers);
    if (accepted.ok() && accepted->has_value()) return **std::move(accepted);
    if (std::optional<Peer> peer = Advance(strangers); peer.has_value()) {
      return *std::move(peer);
    }
    if (!accepted.ok()) return accepted.status();
    RefuseTheLate(strangers);
    if (deadline.Expired()) {
      return absl::DeadlineExceededError(strangers.empty()
                                             ? "nobody connected"
                                             : "nobody finished the handshake");
    }
    if (absl::Status error = Await(strangers, deadline); !error.ok()) {
      return error;
    }
  }
}

absl::StatusOr<std::shared_ptr<SocketEnd>> Listener::AcceptSocket(
    Deadline deadline) {
  // Even if a callback destroys the last handle.
  const std::shared_ptr<State> state = state_;
  absl::StatusOr<Peer> peer = state->Accept(deadline);
  if (!peer.ok()) return peer.status();
  absl::StatusOr<std::shared_ptr<SocketEnd>> end = SocketEnd::Create(
      std::move(peer->socket), state->options.max_message_bytes);
  if (end.ok()) {
    const std::lock_guard lock(state->last_mutex);
    state->last = std::move(peer->from);
  }
  return end;
}

}  // namespace mp
