#include "mp/examples/picture.h"

#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <unistd.h>

#include <span>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/unique_fd.h"

namespace mp::examples {
namespace {

// An error of the library, not only a warning.
bool Failed(const png_image& image) { return PNG_IMAGE_FAILED(image); }

png_image Begin() {
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  return image;
}

absl::Status WriteFile(const std::string& path, std::span<const char> bytes) {
  const UniqueFd fd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  while (!bytes.empty()) {
    const ssize_t size = write(fd.get(), bytes.data(), bytes.size());
    if (size >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(size));
    } else if (errno != EINTR) {
      return absl::ErrnoToStatus(errno, absl::StrCat("write ", path));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Picture MakePicture(int width, int height) {
  MP_CHECK(1 <= width && width <= kMaxPictureSide) << width;
  MP_CHECK(1 <= height && height <= kMaxPictureSide) << height;
  return {width, height,
          std::vector<uint8_t>(static_cast<size_t>(kPixelBytes) *
                               static_cast<size_t>(width) *
                               static_cast<size_t>(height))};
}

absl::Status WritePng(const Picture& picture, const std::string& path) {
  png_image image = Begin();
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  MP_CHECK(picture.pixels.size() == PNG_IMAGE_SIZE(image));
  // Into memory first: what the library does with files after an error is to
  // delete them, devices as well.
  std::vector<char> bytes(PNG_IMAGE_PNG_SIZE_MAX(image));
  png_alloc_size_t size = bytes.size();
  png_image_write_to_memory(&image, bytes.data(), &size, 0,
                            picture.pixels.data(), 0, nullptr);
  if (Failed(image)) {
    return absl::UnknownError(absl::StrCat("libpng: ", image.message));
  }
  bytes.resize(size);
  return WriteFile(path, bytes);
}

absl::StatusOr<Picture> ReadPng(const std::string& path) {
  png_image image = Begin();
  png_image_begin_read_from_file(&image, path.c_str());
  if (Failed(image)) {
    return absl::UnknownError(absl::StrCat("libpng: ", image.message));
  }
  if (image.width > static_cast<png_uint_32>(kMaxPictureSide) ||
      image.height > static_cast<png_uint_32>(kMaxPictureSide)) {
    png_image_free(&image);
    return absl::InvalidArgumentError("the picture is too large");
  }
  image.format = PNG_FORMAT_RGB;
  Picture picture = MakePicture(static_cast<int>(image.width),
                                static_cast<int>(image.height));
  png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr);
  if (Failed(image)) {
    return absl::DataLossError(absl::StrCat("libpng: ", image.message));
  }
  return picture;
}

}  // namespace mp::examples
