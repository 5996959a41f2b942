// An owned file descriptor: closed when its owner goes.
//
// A forked child inherits the descriptor and its own copy of the owner, so each
// process closes its own.

#ifndef MP_BASE_UNIQUE_FD_H_
#define MP_BASE_UNIQUE_FD_H_

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace mp {

class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership of `fd`; a negative one means none.
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }

  // Gives the descriptor to the caller.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

  // Closes the descriptor held, if any, and takes `fd`. An error of close() is
  // ignored: Linux has released the descriptor whatever it returns.
  void reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) ::close(old);
  }

 private:
  int fd_ = -1;
};

// The same or, in a program that has closed its standard streams, another
// descriptor, close-on-exec, in place of one that is theirs: what is printed
// would go there. None, with errno set, if there is none left.
inline UniqueFd AboveStandardStreams(UniqueFd fd) {
  if (!fd || fd.get() > STDERR_FILENO) return fd;
  return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
}

}  // namespace mp

#endif  // MP_BASE_UNIQUE_FD_H_
