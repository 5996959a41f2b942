// Address: where a Listener waits for connections (mp/ipc/listener.h).
//
//   mp::Address::Unix("/run/app/control")  a socket in the file system
//   mp::Address::Abstract("app.control")   a name that leaves no file
//   mp::Address::Tcp("127.0.0.1", 0)       a port; 0 lets the kernel choose
//   mp::Address()                          for a Listener: a fresh abstract
//   name
//
// Who can connect: to a socket in the file system, who may write to its file
// and search its folders; to an abstract name, every process of the network
// namespace; to a port, whoever reaches the host. The last two need an authkey.
//
// A host is a numeric IPv4 or IPv6 address, or "localhost", which is 127.0.0.1;
// names are not looked up. A path or a name has 1 to 107 bytes. An address that
// is none is an error where it is used. In Python, the address of an abstract
// name is a string that begins with a zero character.

#ifndef MP_IPC_ADDRESS_H_
#define MP_IPC_ADDRESS_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace mp {

class Address {
 public:
  enum class Kind { kFresh, kUnix, kAbstract, kTcp };

  Address() = default;
  static Address Unix(std::string path) {
    return Address(Kind::kUnix, std::move(path), 0);
  }
  static Address Abstract(std::string name) {
    return Address(Kind::kAbstract, std::move(name), 0);
  }
  static Address Tcp(std::string host, uint16_t port) {
    return Address(Kind::kTcp, std::move(host), port);
  }

  Kind kind() const { return kind_; }
  // The path, the name or the host. Empty for the other end of a Unix
  // connection, which has no address.
  const std::string& name() const { return name_; }
  uint16_t port() const { return port_; }
  // For people: "unix:/run/app/control", "abstract:app.control",
  // "tcp:127.0.0.1:4321", "tcp:[::1]:4321".
  std::string ToString() const;

  friend bool operator==(const Address&, const Address&) = default;

 private:
  Address(Kind kind, std::string name, uint16_t port)
      : kind_(kind), name_(std::move(name)), port_(port) {}

  Kind kind_ = Kind::kFresh;
  std::string name_;
  uint16_t port_ = 0;
};

namespace ipc_internal {

// As system calls have it.
struct SocketAddress {
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
  const sockaddr* get() const {
    return reinterpret_cast<const sockaddr*>(&bytes);
  }

  sockaddr_storage bytes = {};
  socklen_t size = sizeof(bytes);
};

// InvalidArgument if it is none; a fresh one has to be chosen first.
absl::StatusOr<SocketAddress> ToSocketAddress(const Address& address);
Address FromSocketAddress(const SocketAddress& address);

// An abstract name that nobody guesses.
Address FreshAddress();

}  // namespace ipc_internal
}  // namespace mp

#endif  // MP_IPC_ADDRESS_H_
