#include "mp/base/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"

namespace mp {
namespace {

class UnixSocketTest : public ::testing::Test {
 protected:
  static bool AreSameFile(int a, int b) {
    struct stat first, second;
    return fstat(a, &first) == 0 && fstat(b, &second) == 0 &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
  }
  ssize_t Send(std::span<const int> fds) {
    return SendWithDescriptors(sockets_[0].get(), byte_, fds, MSG_DONTWAIT);
  }
  ssize_t Receive(std::vector<UniqueFd>& fds, int flags = 0) {
    return ReceiveWithDescriptors(sockets_[1].get(), byte_, fds,
                                  flags | MSG_DONTWAIT);
  }

  std::array<std::byte, 1> byte_ = {std::byte{'x'}};
  std::array<UniqueFd, 2> sockets_ = ConnectedSockets(SOCK_SEQPACKET).value();
};

TEST_F(UnixSocketTest, PairsAreConnectedAndCloseOnExec) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const absl::StatusOr<std::array<UniqueFd, 2>> pair = ConnectedSockets(type);
    ASSERT_TRUE(pair.ok()) << pair.status();
    for (const UniqueFd& socket : *pair) {
      EXPECT_GT(socket.get(), STDERR_FILENO);
      EXPECT_EQ(fcntl(socket.get(), F_GETFD), FD_CLOEXEC);
    }
    EXPECT_EQ(send((*pair)[0].get(), "a", 1, 0), 1);
    char byte = 0;
    EXPECT_EQ(recv((*pair)[1].get(), &byte, 1, 0), 1);
    EXPECT_EQ(byte, 'a');
  }
}

TEST_F(UnixSocketTest, DescriptorsArriveInOrder) {
  const std::array<int, 2> sent = {sockets_[0].get(), sockets_[1].get()};
  ASSERT_EQ(Send(sent), 1);
  ASSERT_EQ(Send({}), 1);
  std::vector<UniqueFd> came;
  for (const int flags : {int{MSG_PEEK}, 0}) {  // duplicates each time
    ASSERT_EQ(Receive(came, flags), 1);
  }
  ASSERT_EQ(came.size(), 4u);
  for (size_t i = 0; i < came.size(); ++i) {
    EXPECT_TRUE(AreSameFile(came[i].get(), sent[i % 2]));
    EXPECT_EQ(fcntl(came[i].get(), F_GETFD), FD_CLOEXEC);
  }
  ASSERT_EQ(Receive(came), 1);
  EXPECT_EQ(came.size(), 4u);
}

TEST_F(UnixSocketTest, TheMostDescriptors) {
  const std::vector<int> sent(kMaxDescriptorsPerMessage, sockets_[0].get());
  ASSERT_EQ(Send(sent), 1);
  std::vector<UniqueFd> came;
  ASSERT_EQ(Receive(came), 1);
  EXPECT_EQ(came.size(), sent.size());
}

TEST_F(UnixSocketTest, ErrorsAreThoseOfTheCall) {
  std::vector<UniqueFd> came;
  EXPECT_EQ(Receive(came), -1);
  EXPECT_EQ(errno, EAGAIN);
  sockets_[1].reset();
  EXPECT_EQ(Send({}), -1);  // and no SIGPIPE
  EXPECT_EQ(errno, EPIPE);
}

TEST_F(UnixSocketTest, NoRoomForWhatCame) {
  const std::vector<int> sent(3, sockets_[0].get());
  ASSERT_EQ(Send(sent), 1);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const UniqueFd next(fcntl(0, F_DUPFD_CLOEXEC, 0));
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(next.get()) + 2;  // room for one
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  std::vector<UniqueFd> came;
  const ssize_t size = Receive(came);
  const int error = errno;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(size, -1);
  EXPECT_EQ(error, EMFILE);
}

}  // namespace
}  // namespace mp
