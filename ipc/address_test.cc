#include "mp/ipc/address.h"

#include <netinet/in.h>
#include <sys/un.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/status_matchers.h"

namespace mp::ipc_internal {
namespace {

using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

TEST(AddressTest, ThereAndBack) {
  for (const Address& address : {
           Address::Unix("/run/app.sock"),
           Address::Unix("relative"),
           Address::Unix(std::string(107, 'x')),
           Address::Abstract("app"),
           Address::Abstract(std::string("a\0b\0", 4)),
           Address::Abstract(std::string(107, 'x')),
           Address::Tcp("127.0.0.1", 0),
           Address::Tcp("192.0.2.1", 65535),
           Address::Tcp("::1", 80),
       }) {
    ASSERT_OK_AND_ASSIGN(const SocketAddress system, ToSocketAddress(address));
    EXPECT_EQ(FromSocketAddress(system), address) << address.ToString();
  }
  ASSERT_OK_AND_ASSIGN(const SocketAddress localhost,
                       ToSocketAddress(Address::Tcp("localhost", 1)));
  EXPECT_EQ(FromSocketAddress(localhost), Address::Tcp("127.0.0.1", 1));
}

TEST(AddressTest, OfNobody) {
  SocketAddress unnamed;
  unnamed.bytes.ss_family = AF_UNIX;
  unnamed.size = offsetof(sockaddr_un, sun_path);
  EXPECT_EQ(FromSocketAddress(unnamed), Address::Unix(""));
}

TEST(AddressTest, ForPeople) {
  EXPECT_EQ(Address().ToString(), "fresh");
  EXPECT_EQ(Address::Unix("/run/app.sock").ToString(), "unix:/run/app.sock");
  EXPECT_EQ(Address::Abstract(std::string("a\0b", 3)).ToString(),
            "abstract:a\\000b");
  EXPECT_EQ(Address::Tcp("127.0.0.1", 4321).ToString(), "tcp:127.0.0.1:4321");
  EXPECT_EQ(Address::Tcp("::1", 4321).ToString(), "tcp:[::1]:4321");
}

// CPython: TestInvalidFamily.test_invalid_family.
TEST(AddressTest, NoAddresses) {
  const auto is_invalid =
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no address"));
  for (const Address& address : {
           Address(),
           Address::Unix(""),
           Address::Unix(std::string(108, 'x')),
           Address::Unix(std::string("a\0b", 3)),
           Address::Abstract(""),
           Address::Abstract(std::string(108, 'x')),
           Address::Tcp("", 1),
           Address::Tcp("example.org", 1),
           Address::Tcp("127.0.0.1.1", 1),
           Address::Tcp("[::1]", 1),
       }) {
    EXPECT_THAT(ToSocketAddress(address), is_invalid) << address.ToString();
  }
}

TEST(AddressTest, FreshOnesDiffer) {
  const Address one = FreshAddress();
  EXPECT_EQ(one.kind(), Address::Kind::kAbstract);
  EXPECT_OK(ToSocketAddress(one));
  EXPECT_NE(one, FreshAddress());
}

}  // namespace
}  // namespace mp::ipc_internal
