// Reading text files in pieces that cut no word in two.
//
// A file is binary if there is a NUL among its first 8192 bytes, and text
// otherwise; its name does not matter. In a shell, this tells:
//   head -c 8192 FILE | LC_ALL=C grep -qaP '\x00' && echo binary

#ifndef MP_EXAMPLES_TEXT_FILES_H_
#define MP_EXAMPLES_TEXT_FILES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mp::examples {

// A part of a file. Its words are those that begin in it, wherever they end, so
// neighbouring ranges neither lose nor share one.
struct FileRange {
  std::string path;
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t size() const { return end - begin; }
};

// Reads ranges, one after the other. It does not map the files into memory: if
// somebody shortened one meanwhile, that would end in a SIGBUS.
class TextReader {
 public:
  TextReader();
  TextReader(const TextReader&) = delete;
  TextReader& operator=(const TextReader&) = delete;
  ~TextReader();

  // Errors: what the system said; InvalidArgument if the file is binary.
  absl::Status Open(const FileRange& range);

  // The next piece: whole words and what is between them. Empty at the end. The
  // caller may change it; it is good until the next call.
  absl::StatusOr<std::span<char>> Next();

  // Where the next piece begins. What is left is the range from here.
  uint64_t position() const { return position_; }

 private:
  absl::Status CheckText();
  absl::Status SkipWordFromBefore();
  absl::StatusOr<size_t> ReadWord(size_t size);
  absl::StatusOr<size_t> Read(uint64_t offset, size_t size);
  size_t LeadingLetters(size_t size) const;
  void Close();

  int fd_ = -1;
  uint64_t position_ = 0;
  uint64_t end_ = 0;
  std::vector<char> buffer_;
};

}  // namespace mp::examples

#endif  // MP_EXAMPLES_TEXT_FILES_H_
