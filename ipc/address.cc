#include "mp/ipc/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mp/base/check.h"

namespace mp {
namespace ipc_internal {
namespace {

constexpr size_t kUnixHead = offsetof(sockaddr_un, sun_path);

absl::Status NoAddress(const Address& address, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("no address: ", address.ToString(), ": ", why));
}

absl::StatusOr<SocketAddress> ToUnix(const Address& address) {
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  const std::string& name = address.name();
  // One byte is the zero before an abstract name or after a path.
  if (name.empty() || name.size() >= sizeof(to.sun_path)) {
    return NoAddress(address, absl::StrCat("a path or a name has 1 to ",
                                           sizeof(to.sun_path) - 1, " bytes"));
  }
  const bool abstract = address.kind() == Address::Kind::kAbstract;
  if (!abstract && name.find('\0') != name.npos) {
    return NoAddress(address, "a path has no zero byte");
  }
  memcpy(to.sun_path + (abstract ? 1 : 0), name.data(), name.size());
  SocketAddress result;
  memcpy(&result.bytes, &to, sizeof(to));
  result.size = static_cast<socklen_t>(kUnixHead + 1 + name.size());
  return result;
}

absl::StatusOr<SocketAddress> ToTcp(const Address& address) {
  const std::string& host = address.name();
  SocketAddress result;
  sockaddr_in v4 = {};
  if (inet_pton(AF_INET, host == "localhost" ? "127.0.0.1" : host.c_str(),
                &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(address.port());
    memcpy(&result.bytes, &v4, sizeof(v4));
    result.size = sizeof(v4);
    return result;
  }
  sockaddr_in6 v6 = {};
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(address.port());
    memcpy(&result.bytes, &v6, sizeof(v6));
    result.size = sizeof(v6);
    return result;
  }
  return NoAddress(address,
                   "a host is a numeric address or \"localhost\"; names are "
                   "not looked up");
}

Address FromUnix(const SocketAddress& address) {
  sockaddr_un from = {};
  memcpy(&from, &address.bytes, std::min<size_t>(address.size, sizeof(from)));
  const size_t size =
      address.size > kUnixHead
          ? std::min<size_t>(address.size - kUnixHead, sizeof(from.sun_path))
          : 0;
  if (size == 0) return Address::Unix("");
  if (from.sun_path[0] == '\0') {
    return Address::Abstract(std::string(from.sun_path + 1, size - 1));
  }
  return Address::Unix(
      std::string(from.sun_path, strnlen(from.sun_path, size)));
}

}  // namespace

absl::StatusOr<SocketAddress> ToSocketAddress(const Address& address) {
  switch (address.kind()) {
    case Address::Kind::kUnix:
    case Address::Kind::kAbstract:
      return ToUnix(address);
    case Address::Kind::kTcp:
      return ToTcp(address);
    case Address::Kind::kFresh:
      break;
  }
  return NoAddress(address, "only a Listener can choose one");
}

Address FromSocketAddress(const SocketAddress& address) {
  char host[INET6_ADDRSTRLEN] = "";
  if (address.bytes.ss_family == AF_INET) {
    sockaddr_in v4;
    memcpy(&v4, &address.bytes, sizeof(v4));
    inet_ntop(AF_INET, &v4.sin_addr, host, sizeof(host));
    return Address::Tcp(host, ntohs(v4.sin_port));
  }
  if (address.bytes.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    memcpy(&v6, &address.bytes, sizeof(v6));
    inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof(host));
    return Address::Tcp(host, ntohs(v6.sin6_port));
  }
  return FromUnix(address);
}

Address FreshAddress() {
  std::string random(16, '\0');
  MP_PCHECK(getrandom(random.data(), random.size(), 0) ==
            static_cast<ssize_t>(random.size()))
      << "getrandom";
  return Address::Abstract(absl::StrCat("mp-", absl::BytesToHexString(random)));
}

}  // namespace ipc_internal

std::string Address::ToString() const {
  switch (kind_) {
    case Kind::kFresh:
      return "fresh";
    case Kind::kUnix:
      return absl::StrCat("unix:", absl::CEscape(name_));
    case Kind::kAbstract:
      return absl::StrCat("abstract:", absl::CEscape(name_));
    case Kind::kTcp:
      break;
  }
  const bool v6 = name_.find(':') != name_.npos;
  return absl::StrCat("tcp:", v6 ? "[" : "", name_, v6 ? "]:" : ":", port_);
}

}  // namespace mp
