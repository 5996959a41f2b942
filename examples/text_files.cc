#include "mp/examples/text_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "mp/examples/word_counts.h"

namespace mp::examples {
namespace {

constexpr size_t kBinaryCheckSize = 8192;
// Large enough to make system calls cheap, small enough for the cache.
constexpr size_t kPieceSize = size_t{256} << 10;

absl::Status ErrnoStatus() { return absl::ErrnoToStatus(errno, "cannot read"); }

}  // namespace

TextReader::TextReader() : buffer_(kPieceSize) {}

TextReader::~TextReader() { Close(); }

absl::Status TextReader::Open(const FileRange& range) {
  Close();
  // If something else has taken the file's place: follow no link, and do not
  // wait for the other end of a pipe.
  fd_ =
      open(range.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd_ < 0) return ErrnoStatus();
  position_ = range.begin;
  end_ = range.end;
  if (absl::Status status = CheckText(); !status.ok()) return status;
  return SkipWordFromBefore();
}

absl::StatusOr<std::span<char>> TextReader::Next() {
  if (position_ >= end_) return std::span<char>();
  absl::StatusOr<size_t> size =
      Read(position_, std::min<uint64_t>(kPieceSize, end_ - position_));
  if (!size.ok()) return size.status();
  // The last word may go on after what was read: leave it for the next piece.
  size_t whole = *size;
  while (whole > 0 && IsLetter(buffer_[whole - 1])) --whole;
  if (whole == 0 && *size > 0) {  // there is nothing else
    size = ReadWord(*size);
    if (!size.ok()) return size.status();
    whole = *size;
  }
  position_ += whole;
  return std::span<char>(buffer_.data(), whole);
}

absl::Status TextReader::CheckText() {
  const absl::StatusOr<size_t> size = Read(0, kBinaryCheckSize);
  if (!size.ok()) return size.status();
  if (memchr(buffer_.data(), '\0', *size) != nullptr) {
    return absl::InvalidArgumentError("binary");
  }
  return absl::OkStatus();
}

// A word that begins before the range belongs to the range before this one.
absl::Status TextReader::SkipWordFromBefore() {
  if (position_ == 0) return absl::OkStatus();
  --position_;
  while (position_ < end_) {
    const absl::StatusOr<size_t> size =
        Read(position_, std::min<uint64_t>(kBinaryCheckSize, end_ - position_));
    if (!size.ok()) return size.status();
    const size_t letters = LeadingLetters(*size);
    position_ += letters;
    if (letters < *size || *size == 0) break;
  }
  return absl::OkStatus();
}

// Reads the word at position_, of which `size` letters are known, to its end,
// be that behind the range. Returns its length.
absl::StatusOr<size_t> TextReader::ReadWord(size_t size) {
  while (true) {
    const size_t wanted = 2 * size + 64;
    const absl::StatusOr<size_t> read = Read(position_, wanted);
    if (!read.ok()) return read.status();
    size = LeadingLetters(*read);
    if (size < *read || *read < wanted) return size;
  }
}

// Reads `size` bytes into the buffer, less only at the end of the file.
absl::StatusOr<size_t> TextReader::Read(uint64_t offset, size_t size) {
  if (buffer_.size() < size) buffer_.resize(size);
  size_t done = 0;
  while (done < size) {
    const ssize_t result = pread(fd_, buffer_.data() + done, size - done,
                                 static_cast<off_t>(offset + done));
    if (result == 0) break;
    if (result > 0) {
      done += static_cast<size_t>(result);
    } else if (errno != EINTR) {
      return ErrnoStatus();
    }
  }
  return done;
}

size_t TextReader::LeadingLetters(size_t size) const {
  return std::find_if_not(buffer_.begin(), buffer_.begin() + size, IsLetter) -
         buffer_.begin();
}

void TextReader::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

}  // namespace mp::examples
