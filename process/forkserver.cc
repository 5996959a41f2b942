#include "mp/process/forkserver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"
#include "mp/base/fork_handlers.h"
#include "mp/base/unix_socket.h"
#include "mp/process/child.h"
#include "mp/process/lifeline.h"
#include "mp/process/program.h"
#include "mp/process/this_process.h"
#include "mp/shm/segment.h"

namespace mp::process_internal {
namespace {

// ---- What client and server say to each other ----

// Shared by both. The kernel writes the pid of each child here.
struct Board {
  std::atomic<pid_t> child{0};
};
static_assert(sizeof(std::atomic<pid_t>) == sizeof(pid_t));
constexpr uint64_t kBoardLayout =
    LayoutFingerprint("forkserver", 1, sizeof(Board));

// A request comes in pieces, one message each, of as many descriptors as fit.
constexpr size_t kMaxPiece = kMaxDescriptorsPerMessage;

struct RequestPiece {
  uint32_t total;  // descriptors in all pieces
  // Which of the surroundings come first among them.
  bool has_directory;
  bool has_stdout;
  bool has_stderr;
};

struct Reply {
  int32_t error;  // errno of `call`, 0 if there is a child
  char call[28];
};

// Sends one message; errno on failure.
bool SendPiece(int socket, const RequestPiece& piece,
               std::span<const int> fds) {
  return SendWithDescriptors(socket, std::as_bytes(std::span(&piece, 1)),
                             fds) >= 0;
}

// Receives one; appends its descriptors. 0 at the end of the connection, 1 if
// there was one, -1 with errno if it was not whole.
int ReceivePiece(int socket, RequestPiece& piece, std::vector<UniqueFd>& fds) {
  const ssize_t size = ReceiveWithDescriptors(
      socket, std::as_writable_bytes(std::span(&piece, 1)), fds);
  if (size == 0) return 0;
  return size == sizeof(piece) ? 1 : -1;
}

// ---- The client ----

// What the copies of a server inherit from it, as it was when it was started.
struct Surroundings {
  std::array<uid_t, 3> users;
  std::array<gid_t, 3> groups;
  std::vector<gid_t> more_groups;
  uint64_t environment;

  static Surroundings Now() {
    Surroundings now;
    getresuid(&now.users[0], &now.users[1], &now.users[2]);
    getresgid(&now.groups[0], &now.groups[1], &now.groups[2]);
    now.more_groups.resize(
        static_cast<size_t>(std::max(getgroups(0, nullptr), 0)));
    now.more_groups.resize(static_cast<size_t>(
        std::max(getgroups(static_cast<int>(now.more_groups.size()),
                           now.more_groups.data()),
                 0)));
    uint64_t hash = 0;
    for (char** variable = environ; variable != nullptr && *variable != nullptr;
         ++variable) {
      hash = hash * 31 + std::hash<std::string_view>()(*variable);
    }
    now.environment = hash;
    return now;
  }
  friend bool operator==(const Surroundings&, const Surroundings&) = default;
};

class Client {
 public:
  // Made at the first call, and anew in a forked child, where a thread of the
  // parent may have held the lock of the old one.
  static Client& Get() {
    Client* client = current_.load(std::memory_order_acquire);
    if (client != nullptr) return *client;
    auto fresh = std::make_unique<Client>();
    if (current_.compare_exchange_strong(client, fresh.get(),
                                         std::memory_order_acq_rel)) {
      client = fresh.release();
    }
    return *client;
  }
  // The server is the parent's. The pointer leads to a whole one, or nowhere.
  static void AfterForkInChild() {
    Client* const inherited = current_.exchange(nullptr);
    if (inherited != nullptr) delete inherited->server_.exchange(nullptr);
  }

  absl::StatusOr<pid_t> Start(const std::vector<int>& descriptors) {
    const std::lock_guard lock(mutex_);
    constexpr int kAttempts = 5;
    for (int i = 0; i < kAttempts; ++i) {
      if (server() != nullptr &&
          server()->surroundings != Surroundings::Now()) {
        Stop();
      }
      if (server() == nullptr) {
        if (absl::Status status = Launch(); !status.ok()) return status;
        if (server() == nullptr) continue;
      }
      const absl::StatusOr<std::optional<pid_t>> child = Request(descriptors);
      if (!child.ok()) return child.status();
      if (child->has_value()) return **child;
    }
    return absl::UnavailableError(
        absl::StrCat("the forkserver was killed ", kAttempts,
                     " times in a row while it was to start a process"));
  }

 private:
  struct Server {
    Child process;
    UniqueFd socket;
    std::shared_ptr<Segment> board;
    Surroundings surroundings;

    Board& shared() const { return *reinterpret_cast<Board*>(board->data()); }
  };

  Server* server() const { return server_.load(std::memory_order_relaxed); }

  // OK without a server if that is gone again.
  absl::Status Launch();
  // Ends the server, if it has not ended, and forgets it.
  void Stop() {
    const std::unique_ptr<Server> old(server_.exchange(nullptr));
    // At the end of the connection it leaves by itself, also where this process
    // may not signal it any more because it has given up being root.
    old->socket.reset();
    old->process.Signal(SIGKILL).IgnoreError();
    old->process.WaitUntilReapable();
    old->process.Reap();
  }
  // Nothing if the server died without a child.
  absl::StatusOr<std::optional<pid_t>> Request(
      const std::vector<int>& descriptors);
  std::optional<pid_t> AfterItsDeath();

  // If a thread is about to start a process, that is not waited for: the server
  // dies with this process anyway, only nobody reaps it.
  void StopAtExit() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock() && server() != nullptr) Stop();
  }

  static std::atomic<Client*> current_;

  std::mutex mutex_;
  bool ends_with_this_process_ = false;
  std::atomic<Server*> server_{nullptr};  // changed with the lock held
};

constinit std::atomic<Client*> Client::current_{nullptr};

// Before main(), while no other thread can fork.
[[maybe_unused]] const bool registered =
    (AddForkHandlers({.in_child = &Client::AfterForkInChild}), true);

absl::Status Client::Launch() {
  absl::StatusOr<std::array<UniqueFd, 2>> sockets =
      ConnectedSockets(SOCK_SEQPACKET);
  if (!sockets.ok()) return sockets.status();
  auto& [ours, theirs] = *sockets;
  absl::StatusOr<std::shared_ptr<Segment>> board = Segment::Create(
      {.name = "forkserver", .layout = kBoardLayout, .size = sizeof(Board)});
  if (!board.ok()) return board.status();
  new ((*board)->data()) Board;
  absl::StatusOr<UniqueFd> lifeline = NewLifeline();
  if (!lifeline.ok()) return lifeline.status();
  sigset_t all;
  sigfillset(&all);
  Surroundings surroundings = Surroundings::Now();
  const absl::StatusOr<pid_t> pid = SpawnProgram(
      Role::kForkserver, {theirs.get(), (*board)->fd(), lifeline->get()}, all);
  if (!pid.ok()) return pid.status();
  UniqueFd pidfd = OpenPidfd(*pid);
  if (!pidfd && errno == ESRCH) return absl::OkStatus();  // gone again
  if (!pidfd) return DiscardWithoutPidfd(*pid);
  if (!ends_with_this_process_) {
    // The last to go, after all who may need it.
    ThisProcess::Get().finalizers().Add([this] { StopAtExit(); },
                                        std::numeric_limits<int>::min());
    RegisterExitHandler();
    ends_with_this_process_ = true;
  }
  server_.store(new Server{.process = Child(*pid, std::move(pidfd)),
                           .socket = std::move(ours),
                           .board = *std::move(board),
                           .surroundings = surroundings});
  return absl::OkStatus();
}

absl::StatusOr<std::optional<pid_t>> Client::Request(
    const std::vector<int>& descriptors) {
  // The child is to have what a fork would give it.
  std::vector<int> all;
  RequestPiece piece = {};
  const UniqueFd directory = AboveStandardStreams(
      UniqueFd(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)));
  const auto add = [&all](int fd) {
    if (fcntl(fd, F_GETFD) < 0) return false;
    all.push_back(fd);
    return true;
  };
  piece.has_directory = add(directory.get());
  piece.has_stdout = add(STDOUT_FILENO);
  piece.has_stderr = add(STDERR_FILENO);
  all.insert(all.end(), descriptors.begin(), descriptors.end());
  piece.total = static_cast<uint32_t>(all.size());

  server()->shared().child.store(0, std::memory_order_relaxed);
  for (std::span<const int> rest(all);;) {
    const std::span<const int> now =
        rest.first(std::min(rest.size(), kMaxPiece));
    if (!SendPiece(server()->socket.get(), piece, now)) {
      if (errno == EPIPE || errno == ECONNRESET) return AfterItsDeath();
      const int error = errno;
      // It waits for the rest of the request.
      Stop();
      return ErrnoStatus(error, "sendmsg to the forkserver");
    }
    rest = rest.subspan(now.size());
    if (rest.empty()) break;
  }
  while (true) {
    std::array<pollfd, 2> either = {
        pollfd{.fd = server()->socket.get(), .events = POLLIN, .revents = 0},
        pollfd{
            .fd = server()->process.pidfd(), .events = POLLIN, .revents = 0}};
    if (poll(either.data(), either.size(), -1) < 0) {
      MP_PCHECK(errno == EINTR || errno == ENOMEM) << "poll(forkserver)";
      continue;
    }
    Reply reply;
    const ssize_t size =
        recv(server()->socket.get(), &reply, sizeof(reply), MSG_DONTWAIT);
    if (size == sizeof(reply)) {
      if (reply.error == 0) {
        const pid_t child =
            server()->shared().child.load(std::memory_order_relaxed);
        MP_CHECK(child > 0) << "a forkserver without a child";
        return child;
      }
      return ErrnoStatus(reply.error,
                         absl::StrCat(reply.call, " in the forkserver"));
    }
    if (size >= 0 || (errno != EAGAIN && errno != EINTR) ||
        either[1].revents != 0) {
      return AfterItsDeath();
    }
  }
}

// Its last clone is done or not done once the kernel says that it is dead.
std::optional<pid_t> Client::AfterItsDeath() {
  const std::shared_ptr<Segment> board = server()->board;
  Stop();
  const pid_t child = reinterpret_cast<Board*>(board->data())
                          ->child.load(std::memory_order_relaxed);
  if (child != 0) return child;
  return std::nullopt;
}

// ---- The server ----

// The first thread's cell with its thread id, which the C library's locks take
// for the owner. The kernel keeps it right across a clone if told where it is.
pid_t* ThreadIdCell() {
  pid_t* cell = nullptr;
  return prctl(PR_GET_TID_ADDRESS, &cell, 0, 0, 0) == 0 ? cell : nullptr;
}

// As fork(), but the child is the caller's parent's; `child` gets the pid
// before this returns, or the caller's death keeps it from that. In a process
// with one thread, so nothing of the C library's can be held. -1 with errno.
pid_t CloneSibling(std::atomic<pid_t>& child, pid_t* thread_id) {
  // Not inherited: the list by which the kernel finds what the dead held.
  void* robust_list = nullptr;
  size_t size = 0;
  if (syscall(SYS_get_robust_list, 0, &robust_list, &size) != 0) return -1;
  constexpr long kFlags = CLONE_PARENT | CLONE_PARENT_SETTID |
                          CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
  RunBeforeFork();
#if defined(__x86_64__)
  const long pid = syscall(SYS_clone, kFlags, nullptr, &child, thread_id, 0);
#elif defined(__aarch64__)
  const long pid = syscall(SYS_clone, kFlags, nullptr, &child, 0, thread_id);
#else
#error "the order of clone's arguments on this architecture"
#endif
  if (pid == 0) {
    // As fork() does it: the server's mutexes are not the child's.
    auto* const head = static_cast<robust_list_head*>(robust_list);
    head->list.next = &head->list;
    MP_PCHECK(syscall(SYS_set_robust_list, head, size) == 0)
        << "set_robust_list";
    RunInChildAfterFork();
  } else {
    const int error = errno;
    RunInParentAfterFork();
    errno = error;
  }
  return static_cast<pid_t>(pid);
}

// All pieces. 0 at the end of the connection, 1 if it is whole, -1 with errno.
int ReceiveRequest(int socket, RequestPiece& piece,
                   std::vector<UniqueFd>& fds) {
  size_t expected = 0;
  int error = 0;
  do {
    const int got = ReceivePiece(socket, piece, fds);
    if (got == 0) return 0;
    if (got < 0) error = errno;
    expected += std::min<size_t>(piece.total - expected, kMaxPiece);
  } while (expected < piece.total);
  if (error == 0 && fds.size() == piece.total) return 1;
  errno = error != 0 ? error : EBADMSG;
  return -1;
}

// Puts the surroundings in their place; leaves the descriptors of the task.
void MoveIn(const RequestPiece& piece, std::vector<UniqueFd>& fds) {
  auto next = fds.begin();
  if (piece.has_directory) {
    MP_PCHECK(fchdir(next->get()) == 0) << "fchdir to the parent's directory";
    ++next;
  }
  for (const auto& [has, fd] : {std::pair(piece.has_stdout, STDOUT_FILENO),
                                std::pair(piece.has_stderr, STDERR_FILENO)}) {
    if (has) {
      MP_PCHECK(dup2(next->get(), fd) == fd) << "dup2";
      ++next;
    } else {
      close(fd);
    }
  }
  fds.erase(fds.begin(), next);
}

}  // namespace

absl::StatusOr<pid_t> StartByForkserver(const std::vector<int>& descriptors) {
  return Client::Get().Start(descriptors);
}

std::vector<UniqueFd> ServeForks(std::vector<UniqueFd> descriptors) {
  MP_CHECK(descriptors.size() == 3) << "a forkserver with other descriptors";
  const UniqueFd socket = std::move(descriptors[0]);
  const std::shared_ptr<Segment> board =
      ValueOrDie(Segment::Attach(std::move(descriptors[1]), kBoardLayout));
  const UniqueFd lifeline = std::move(descriptors[2]);
  HoldLifeline(lifeline.get());
  std::atomic<pid_t>& child = reinterpret_cast<Board*>(board->data())->child;
  pid_t* const thread_id = ThreadIdCell();
  // The kernel must not have to fetch the page when it stores a pid there: it
  // would not for a process that is being killed.
  mlock(board->data(), sizeof(Board));
  // Its copies have inherited what is to be done at its exit.
  RegisterExitHandler();
  // What constructors and main() have printed so far is this process's. From
  // now on it keeps nothing open or busy that is the parent's.
  FlushStandardStreams();
  const UniqueFd null =
      AboveStandardStreams(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)));
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) dup2(null.get(), fd);
  [[maybe_unused]] const int moved = chdir("/");
  while (true) {
    RequestPiece piece = {};
    std::vector<UniqueFd> fds;
    Reply reply = {};
    const auto failed = [&reply](const char* call, int error) {
      reply.error = error;
      strncpy(reply.call, call, sizeof(reply.call) - 1);
    };
    switch (ReceiveRequest(socket.get(), piece, fds)) {
      case 0:
        _exit(0);  // the parent has another server, or none
      case 1:
        if (thread_id == nullptr) {
          failed("prctl(PR_GET_TID_ADDRESS)", EINVAL);
          break;
        }
        // The page must be there when the kernel stores into it.
        child.store(0, std::memory_order_relaxed);
        switch (CloneSibling(child, thread_id)) {
          case 0:
            prctl(PR_SET_NAME, program_invocation_short_name);
            MoveIn(piece, fds);
            return fds;
          case -1:
            failed("clone", errno);
        }
        break;
      default:
        failed("recvmsg", errno);
    }
    while (send(socket.get(), &reply, sizeof(reply), MSG_NOSIGNAL) < 0 &&
           errno == EINTR) {
    }
  }
}

}  // namespace mp::process_internal
