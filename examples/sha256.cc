#include "mp/examples/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mp/base/unique_fd.h"

namespace mp::examples {
namespace {

// Large enough to make system calls cheap, small enough for the cache.
constexpr size_t kPieceSize = size_t{64} << 10;

absl::Status Refused() {
  return absl::InternalError("SHA-256: the library of cryptography refuses");
}

// What is left to read goes into the digest.
absl::Status AddRest(int fd, EVP_MD_CTX* digest) {
  std::array<char, kPieceSize> piece;
  while (true) {
    const ssize_t size = read(fd, piece.data(), piece.size());
    if (size == 0) return absl::OkStatus();
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return absl::ErrnoToStatus(errno, "cannot read");
    if (EVP_DigestUpdate(digest, piece.data(), static_cast<size_t>(size)) !=
        1) {
      return Refused();
    }
  }
}

}  // namespace

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  // If something else has taken the file's place: do not wait for the other end
  // of a pipe.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return absl::ErrnoToStatus(errno, "cannot open");
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(
      EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (digest == nullptr ||
      EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1) {
    return Refused();
  }
  if (absl::Status status = AddRest(fd.get(), digest.get()); !status.ok()) {
    return status;
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(digest.get(), bytes.data(), &size) != 1) {
    return Refused();
  }
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), size_t{size}));
}

std::string ChecksumLine(const std::string& digest, const std::string& path) {
  std::string name;
  for (const char c : path) {
    switch (c) {
      case '\\':
        name += "\\\\";
        break;
      case '\n':
        name += "\\n";
        break;
      case '\r':
        name += "\\r";
        break;
      default:
        name += c;
    }
  }
  return absl::StrCat(name.size() > path.size() ? "\\" : "", digest, "  ", name,
                      "\n");
}

}  // namespace mp::examples
