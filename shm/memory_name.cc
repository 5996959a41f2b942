#include "mp/shm/memory_name.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"

namespace mp {
namespace {

// The sockets that hold this process's names. A forked child closes its copies,
// or it would keep names whose owner has ended.
class OwnSockets {
 public:
  static OwnSockets& Get() {
    static auto* const sockets = new OwnSockets;  // outlives every thread
    return *sockets;
  }

  uint64_t NewId() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ++last_id_;
  }
  void Add(uint64_t id, UniqueFd socket) {
    const std::lock_guard<std::mutex> lock(mutex_);
    sockets_.emplace(id, std::move(socket));
  }
  // False if there are none.
  bool Remove(uint64_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return sockets_.erase(id) > 0;
  }

 private:
  OwnSockets() {
    pthread_atfork([] { Get().mutex_.lock(); }, [] { Get().mutex_.unlock(); },
                   [] {
                     Get().sockets_.clear();
                     Get().mutex_.unlock();
                   });
  }

  std::mutex mutex_;
  uint64_t last_id_ = 0;
  std::multimap<uint64_t, UniqueFd> sockets_;
};

// Made before main(), while no other thread can fork: a child forked while the
// static in Get() is initialised would wait for that for ever.
[[maybe_unused]] const OwnSockets& made_before_main = OwnSockets::Get();

absl::StatusOr<std::string> Escape(std::string_view name) {
  std::string escaped = absl::CHexEscape(ToAbsl(name));
  if (name.empty() || name.find('\0') != std::string_view::npos ||
      escaped.size() > MemoryName::kMaxSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", escaped,
                     "\" is no name for shared memory: it must have from 1 to ",
                     MemoryName::kMaxSize, " characters, and no NUL"));
  }
  return escaped;
}

// Names in the abstract namespace, without the NUL that they begin with. They
// carry the user's id, so that users do not get in each other's way.
std::string UniqueAddress(const std::string& escaped) {
  return absl::StrCat("mp/name/", geteuid(), "/", escaped);
}
std::string LocationPrefix() { return absl::StrCat("mp/at/", geteuid(), "/"); }

// A socket with this address in the abstract namespace.
absl::StatusOr<UniqueFd> Bind(const std::string& address) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return ErrnoStatus(errno, "socket(AF_UNIX)");
  sockaddr_un where = {.sun_family = AF_UNIX, .sun_path = {}};
  static_assert(sizeof(where.sun_path) == 108);
  std::copy(address.begin(), address.end(), where.sun_path + 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                           address.size());
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&where), size) !=
      0) {
    return ErrnoStatus(errno, absl::StrCat("bind(@", address, ")"));
  }
  return socket;
}

std::string SegmentNameOf(const std::string& escaped) {
  return absl::StrCat("named:", escaped);
}

// What /proc shows of the descriptor, which must be read before it is opened:
// if the owner has ended, it may be anything by now.
absl::StatusOr<UniqueFd> OpenSegment(const std::string& path,
                                     const std::string& escaped) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = readlink(path.c_str(), target.data(), target.size());
  if (size < 0) return ErrnoStatus(errno, absl::StrCat("readlink(", path, ")"));
  const std::string_view found(target.data(), static_cast<size_t>(size));
  if (found !=
      absl::StrCat("/memfd:mp:", SegmentNameOf(escaped), " (deleted)")) {
    return absl::NotFoundError(absl::StrCat(path, " is another's by now"));
  }
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return ErrnoStatus(errno, absl::StrCat("open(", path, ")"));
  return fd;
}

}  // namespace

absl::StatusOr<MemoryName> MemoryName::Claim(std::string_view name) {
  absl::StatusOr<std::string> escaped = Escape(name);
  if (!escaped.ok()) return escaped.status();
  absl::StatusOr<UniqueFd> socket = Bind(UniqueAddress(*escaped));
  if (!socket.ok()) {
    // Of the codes of bind(), this is the one for an address in use.
    if (!absl::StrContains(socket.status().message(), "EADDRINUSE")) {
      return socket.status();
    }
    return absl::AlreadyExistsError(socket.status().message());
  }
  const uint64_t id = OwnSockets::Get().NewId();
  OwnSockets::Get().Add(id, *std::move(socket));
  return MemoryName(*std::move(escaped), id);
}

absl::Status MemoryName::Publish(int fd) {
  absl::StatusOr<UniqueFd> socket =
      Bind(absl::StrCat(LocationPrefix(), getpid(), "/", fd, "/", escaped_));
  if (!socket.ok()) return socket.status();
  OwnSockets::Get().Add(id_, *std::move(socket));
  return absl::OkStatus();
}

bool MemoryName::GiveUp() {
  return id_ != 0 && OwnSockets::Get().Remove(std::exchange(id_, 0));
}

std::string MemoryName::SegmentName() const { return SegmentNameOf(escaped_); }

absl::StatusOr<UniqueFd> MemoryName::Open(std::string_view name) {
  const absl::StatusOr<std::string> escaped = Escape(name);
  if (!escaped.ok()) return escaped.status();
  std::ifstream sockets("/proc/self/net/unix");
  if (!sockets) return ErrnoStatus(errno, "open(/proc/self/net/unix)");
  // "... @mp/at/UID/PID/FD/NAME"
  const std::string prefix = absl::StrCat(" @", LocationPrefix());
  for (std::string line; std::getline(sockets, line);) {
    const size_t at = line.find(prefix);
    if (at == std::string::npos) continue;
    const std::string location = line.substr(at + prefix.size());
    const size_t first = location.find('/');
    const size_t second = location.find('/', first + 1);
    if (second == std::string::npos ||
        location.substr(second + 1) != *escaped) {
      continue;
    }
    return OpenSegment(
        absl::StrCat("/proc/", location.substr(0, first), "/fd/",
                     location.substr(first + 1, second - first - 1)),
        *escaped);
  }
  return absl::NotFoundError(
      absl::StrCat("no shared memory is named \"", *escaped, "\""));
}

}  // namespace mp
