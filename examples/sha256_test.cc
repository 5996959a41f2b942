#include "mp/examples/sha256.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::examples {
namespace {

using ::mp::testing::IsOkAndHolds;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

class Sha256Test : public testing::ProcessTest {
 protected:
  Sha256Test()
      : path_((fs::path(::testing::TempDir()) /
               ("sha256_test." + std::to_string(getpid())))
                  .string()) {}
  ~Sha256Test() override { fs::remove(path_); }

  const std::string& Write(const std::string& text) const {
    std::ofstream(path_, std::ios::binary) << text;
    return path_;
  }

  const std::string path_;
};

// The examples of FIPS 180-2, and of nothing.
TEST_F(Sha256Test, KnownAnswers) {
  EXPECT_THAT(Sha256OfFile(Write("")),
              IsOkAndHolds("e3b0c44298fc1c149afbf4c8996fb924"
                           "27ae41e4649b934ca495991b7852b855"));
  EXPECT_THAT(Sha256OfFile(Write("abc")),
              IsOkAndHolds("ba7816bf8f01cfea414140de5dae2223"
                           "b00361a396177a9cb410ff61f20015ad"));
  EXPECT_THAT(Sha256OfFile(Write(
                  "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
              IsOkAndHolds("248d6a61d20638b8e5c026930c3e6039"
                           "a33ce45964ff2167f6ecedd419db06c1"));
  // More than is read at once.
  EXPECT_THAT(Sha256OfFile(Write(std::string(1'000'000, 'a'))),
              IsOkAndHolds("cdc76e5c9914fb9281a1c7e284d73e67"
                           "f1809a48a497200e046d39ccc7112cd0"));
}

TEST_F(Sha256Test, WhatCannotBeRead) {
  EXPECT_THAT(Sha256OfFile(path_),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("cannot open: No such file")));
  // A regular file that nobody can read from its begin, not even root.
  EXPECT_THAT(Sha256OfFile("/proc/self/mem").status().ToString(),
              HasSubstr("cannot read: Input/output error"));
  EXPECT_FALSE(Sha256OfFile(::testing::TempDir()).ok());
}

TEST_F(Sha256Test, DoesNotWaitForAPipe) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_TRUE(Sha256OfFile(path_).ok());
}

TEST(ChecksumLineTest, EscapesNamesThatWouldBreakTheLine) {
  EXPECT_EQ(ChecksumLine("0a", "a b"), "0a  a b\n");
  EXPECT_EQ(ChecksumLine("0a", "a\nb"), "\\0a  a\\nb\n");
  EXPECT_EQ(ChecksumLine("0a", "a\\nb\r"), "\\0a  a\\\\nb\\r\n");
}

}  // namespace
}  // namespace mp::examples
