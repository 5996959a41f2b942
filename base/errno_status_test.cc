#include "mp/base/errno_status.h"

#include <errno.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace mp {
namespace {

TEST(ErrnoStatusTest, NamesTheError) {
  EXPECT_EQ(ErrnoName(EMFILE), "Too many open files (EMFILE, errno 24)");
}

TEST(ErrnoStatusTest, UnknownErrorKeepsItsNumber) {
  EXPECT_EQ(ErrnoName(99999), "unknown error (?, errno 99999)");
}

TEST(ErrnoStatusTest, SaysCallAndError) {
  const absl::Status status = ErrnoStatus(ENOENT, "open(/no/such/file)");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(),
            "open(/no/such/file): No such file or directory (ENOENT, errno 2)");
}

TEST(ErrnoStatusTest, ChoosesTheCanonicalCode) {
  EXPECT_EQ(ErrnoStatus(EMFILE, "call").code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EINVAL, "call").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrnoStatus(EPERM, "call").code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(ETIMEDOUT, "call").code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(ErrnoStatusTest, UsesOnlyTheCharactersOfTheView) {
  const std::string_view call = std::string_view("openat").substr(0, 4);
  EXPECT_EQ(ErrnoStatus(EIO, call).message().substr(0, 6), "open: ");
}

TEST(ErrnoStatusTest, ToAbslKeepsLengthAndZeroBytes) {
  const std::string text("a\0b", 3);
  const absl::string_view view = ToAbsl(text);
  EXPECT_EQ(view.data(), text.data());
  EXPECT_EQ(view.size(), 3u);
}

}  // namespace
}  // namespace mp
