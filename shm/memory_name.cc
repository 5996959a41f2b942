#include "mp/shm/memory_name.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"
#include "mp/base/fork_handlers.h"

namespace mp {
namespace {

// The sockets that hold a name. Members go in reverse order: who finds the
// location may rely on the name.
struct Sockets {
  UniqueFd name;
  UniqueFd location;
};

// Those of this process. A forked child closes its copies, or it would keep
// names whose owner has ended; so sockets are made with the mutex held.
class OwnSockets {
 public:
  static OwnSockets& Get() {
    static auto* const sockets = new OwnSockets;  // outlives every thread
    return *sockets;
  }

  // The id that it has from now on.
  absl::StatusOr<uint64_t> BindName(const std::string& address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    absl::StatusOr<UniqueFd> socket = Bind(address);
    if (!socket.ok()) return socket.status();
    sockets_[++last_id_].name = *std::move(socket);
    return last_id_;
  }
  absl::Status BindLocation(uint64_t id, const std::string& address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto sockets = sockets_.find(id);
    if (sockets == sockets_.end()) {
      return absl::FailedPreconditionError("the name is not this process's");
    }
    absl::StatusOr<UniqueFd> socket = Bind(address);
    if (!socket.ok()) return socket.status();
    sockets->second.location = *std::move(socket);
    return absl::OkStatus();
  }
  // False if there are none.
  bool Remove(uint64_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return sockets_.erase(id) > 0;
  }

 private:
  OwnSockets() {
    AddForkHandlers({.before = [] { Get().mutex_.lock(); },
                     .in_parent = [] { Get().mutex_.unlock(); },
                     .in_child =
                         [] {
                           Get().sockets_.clear();
                           Get().mutex_.unlock();
                         }});
  }

  // A socket with this address in the abstract namespace.
  static absl::StatusOr<UniqueFd> Bind(const std::string& address);

  std::mutex mutex_;
  uint64_t last_id_ = 0;  // 0 is nobody's
  std::map<uint64_t, Sockets> sockets_;
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

absl::StatusOr<UniqueFd> OwnSockets::Bind(const std::string& address) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return ErrnoStatus(errno, "socket(AF_UNIX)");
  sockaddr_un where = {.sun_family = AF_UNIX, .sun_path = {}};
  static_assert(sizeof(where.sun_path) == 108);
  std::copy(address.begin(), address.end(), where.sun_path + 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                           address.size());
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&where), size) ==
      0) {
    return socket;
  }
  const int error = errno;
  absl::Status status =
      ErrnoStatus(error, absl::StrCat("bind(@", address, ")"));
  if (error != EADDRINUSE) return status;
  return absl::AlreadyExistsError(status.message());
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
  // Any user may bind any address.
  struct stat info;
  if (fstat(fd.get(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fstat(", path, ")"));
  }
  if (info.st_uid != geteuid()) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, " belongs to user ", info.st_uid));
  }
  return fd;
}

}  // namespace

absl::StatusOr<MemoryName> MemoryName::Claim(std::string_view name) {
  absl::StatusOr<std::string> escaped = Escape(name);
  if (!escaped.ok()) return escaped.status();
  const absl::StatusOr<uint64_t> id =
      OwnSockets::Get().BindName(UniqueAddress(*escaped));
  if (!id.ok()) return id.status();
  return MemoryName(*std::move(escaped), *id);
}

absl::Status MemoryName::Publish(int fd) {
  return OwnSockets::Get().BindLocation(
      id_, absl::StrCat(LocationPrefix(), getpid(), "/", fd, "/", escaped_));
}

bool MemoryName::GiveUp() { return OwnSockets::Get().Remove(id_); }

std::string MemoryName::SegmentName() const { return SegmentNameOf(escaped_); }

absl::StatusOr<UniqueFd> MemoryName::Open(std::string_view name) {
  const absl::StatusOr<std::string> escaped = Escape(name);
  if (!escaped.ok()) return escaped.status();
  std::ifstream sockets("/proc/self/net/unix");
  if (!sockets) return ErrnoStatus(errno, "open(/proc/self/net/unix)");
  // "... @mp/at/UID/PID/FD/NAME". The first one that leads anywhere: there may
  // be another for a moment, of an owner that has just given the name up.
  absl::Status status = absl::NotFoundError(
      absl::StrCat("no shared memory is named \"", *escaped, "\""));
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
    absl::StatusOr<UniqueFd> fd = OpenSegment(
        absl::StrCat("/proc/", location.substr(0, first), "/fd/",
                     location.substr(first + 1, second - first - 1)),
        *escaped);
    if (fd.ok()) return fd;
    status = fd.status();
  }
  return status;
}

}  // namespace mp
