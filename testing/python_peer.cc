#include "mp/testing/python_peer.h"

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/base/unix_socket.h"

namespace mp::testing {
namespace {

// With `socket` as its standard input and output, or the inherited ones if that
// is negative. An errno, or 0.
int Start(const std::vector<std::string>& arguments, int socket, pid_t& pid) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  MP_CHECK(posix_spawn_file_actions_init(&actions) == 0);
  if (socket >= 0) {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
      MP_CHECK(posix_spawn_file_actions_adddup2(&actions, socket, fd) == 0);
    }
  }
  const int error =
      posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

int Reap(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0) MP_PCHECK(errno == EINTR) << "waitpid";
  return status;
}

}  // namespace

bool PythonPeer::Available() {
  static const bool available = [] {
    // With the lock that queues need, which not every system has.
    pid_t pid = -1;
    return Start({"python3", "-c", "import multiprocessing.synchronize"}, -1,
                 pid) == 0 &&
           Reap(pid) == 0;
  }();
  return available;
}

PythonPeer::PythonPeer(const std::string& script,
                       const std::vector<std::string>& args) {
  absl::StatusOr<std::array<UniqueFd, 2>> sockets =
      ConnectedSockets(SOCK_STREAM);
  MP_CHECK(sockets.ok()) << sockets.status().ToString();
  std::vector<std::string> arguments = {"python3", "-c", script};
  arguments.insert(arguments.end(), args.begin(), args.end());
  const int error = Start(arguments, (*sockets)[1].get(), pid_);
  MP_CHECK(error == 0) << "posix_spawnp(python3): errno " << error;
  socket_ = std::move((*sockets)[0]);
}

PythonPeer::~PythonPeer() {
  socket_.reset();
  const int status = Reap(pid_);
  MP_CHECK(status == 0) << "python3: wait status " << status;
}

std::vector<int64_t> PythonPeer::Run(int64_t count) {
  const std::string question = std::to_string(count) + "\n";
  const auto size = static_cast<ssize_t>(question.size());
  MP_PCHECK(SendWithDescriptors(socket_.get(),
                                std::as_bytes(std::span(question)), {}) == size)
      << "the Python program does not listen";
  std::string answer;
  while (!answer.ends_with('\n')) {
    std::array<char, 4096> piece;
    const ssize_t got = read(socket_.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    MP_CHECK(got > 0) << "the Python program has ended; its errors are above";
    answer.append(piece.data(), static_cast<size_t>(got));
  }
  std::vector<int64_t> numbers;
  std::istringstream stream(answer);
  for (int64_t number; stream >> number;) numbers.push_back(number);
  MP_CHECK(stream.eof() && !numbers.empty()) << "not numbers: " << answer;
  return numbers;
}

}  // namespace mp::testing
