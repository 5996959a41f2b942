#include "mp/examples/picture.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/status_matchers.h"

namespace mp::examples {
namespace {

using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

class PictureTest : public ::testing::Test {
 protected:
  PictureTest()
      : path_((fs::path(::testing::TempDir()) /
               ("picture_test." + std::to_string(getpid())))
                  .string()) {}
  ~PictureTest() override { fs::remove(path_); }

  std::string Bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  void Overwrite(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
  }

  const std::string path_;
};

Picture Noise(int width, int height) {
  Picture picture = MakePicture(width, height);
  std::mt19937 random(7);
  for (uint8_t& byte : picture.pixels) byte = static_cast<uint8_t>(random());
  return picture;
}

TEST_F(PictureTest, ReadsWhatItWrote) {
  for (const auto& [width, height] :
       {std::pair(1, 1), {1, 100}, {100, 1}, {33, 17}, {640, 480}}) {
    const Picture picture = Noise(width, height);
    ASSERT_OK(WritePng(picture, path_));
    ASSERT_OK_AND_ASSIGN(const Picture read, ReadPng(path_));
    EXPECT_EQ(read.width, width);
    EXPECT_EQ(read.height, height);
    EXPECT_TRUE(read.pixels == picture.pixels) << width << " x " << height;
  }
}

TEST_F(PictureTest, ANewPictureIsBlack) {
  const Picture picture = MakePicture(3, 2);
  EXPECT_EQ(picture.pixels, std::vector<uint8_t>(18, 0));
}

// As the format's specification has it.
TEST_F(PictureTest, TheFileBeginsAsItShould) {
  ASSERT_OK(WritePng(Noise(0x123, 0x45), path_));
  const std::string begin(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\x23\0\0\0\x45\x8\x2", 26);
  EXPECT_EQ(Bytes().substr(0, 26), begin);
}

TEST_F(PictureTest, TheSamePictureIsTheSameFile) {
  ASSERT_OK(WritePng(Noise(60, 40), path_));
  const std::string first = Bytes();
  ASSERT_OK(WritePng(Noise(60, 40), path_));
  EXPECT_TRUE(Bytes() == first);
}

// Every byte is under a checksum, or is known.
TEST_F(PictureTest, AnyDamageIsNoticed) {
  ASSERT_OK(WritePng(Noise(9, 7), path_));
  const std::string bytes = Bytes();
  const size_t end = bytes.find("IEND") - 4;
  int other_pictures = 0;
  for (size_t i = 0; i < end; ++i) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    Overwrite(damaged);
    const absl::StatusOr<Picture> read = ReadPng(path_);
    // What a chunk of side information says may be ignored.
    if (read.ok() && *read != Noise(9, 7)) ++other_pictures;
  }
  EXPECT_EQ(other_pictures, 0);

  const size_t middle = (bytes.find("IDAT") + end) / 2;
  std::string damaged = bytes;
  damaged[middle] = static_cast<char>(damaged[middle] ^ 1);
  Overwrite(damaged);
  EXPECT_THAT(ReadPng(path_), StatusIs(absl::StatusCode::kDataLoss));
  Overwrite(bytes.substr(0, middle));
  EXPECT_THAT(ReadPng(path_), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(PictureTest, WhatIsNoPicture) {
  EXPECT_THAT(ReadPng(path_).status().ToString(),
              HasSubstr("libpng: No such file or directory"));
  Overwrite("text");
  EXPECT_FALSE(ReadPng(path_).ok());
  // As wide as no picture of ours.
  ASSERT_OK(WritePng(Noise(2, 2), path_));
  std::string bytes = Bytes();
  bytes[bytes.find("IHDR") + 5] = 1;
  Overwrite(bytes);
  EXPECT_FALSE(ReadPng(path_).ok());
}

TEST_F(PictureTest, AFileThatCannotBeMade) {
  EXPECT_THAT(WritePng(Noise(1, 1), path_ + "/missing/a.png"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("open ")));
}

TEST_F(PictureTest, ADiskThatIsFull) {
  EXPECT_THAT(
      WritePng(Noise(100, 100), "/dev/full"),
      StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("write ")));
  EXPECT_TRUE(fs::exists("/dev/full"));
}

}  // namespace
}  // namespace mp::examples
