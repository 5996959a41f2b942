// Pictures as PNG files, by libpng.

#ifndef MP_EXAMPLES_PICTURE_H_
#define MP_EXAMPLES_PICTURE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mp::examples {

// Each pixel is three bytes: red, green, blue, as sRGB.
inline constexpr int kPixelBytes = 3;

// At most so many pixels wide and high.
inline constexpr int kMaxPictureSide = 16'384;

struct Picture {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;  // row by row from the top, without gaps

  friend bool operator==(const Picture&, const Picture&) = default;
};

// A black one. REQUIRES: 1 <= width, height <= kMaxPictureSide.
Picture MakePicture(int width, int height);

// What is written depends on nothing but the picture and the version of the
// library. Errors: what the system says; Unknown with what the library says.
absl::Status WritePng(const Picture& picture, const std::string& path);

// Errors: Unknown with what the library says; DataLoss if what is in the file
// is damaged.
absl::StatusOr<Picture> ReadPng(const std::string& path);

}  // namespace mp::examples

#endif  // MP_EXAMPLES_PICTURE_H_
