#include "mp/benchmarks/dynamic_library.h"

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "mp/testing/status_matchers.h"

namespace mp::benchmarks {
namespace {

TEST(DynamicLibraryTest, FindsFunctionsAndObjects) {
  const absl::StatusOr<DynamicLibrary> math =
      DynamicLibrary::Open("libm.so.6", "libc6");
  ASSERT_OK(math.status());
  EXPECT_EQ(math->Function<double(double, int)>("ldexp")(3, 2), 12);

  const absl::StatusOr<DynamicLibrary> libc = DynamicLibrary::Open(
      "libc.so.6", "libc6", DynamicLibrary::Symbols::kGlobal);
  ASSERT_OK(libc.status());
  EXPECT_EQ(*static_cast<char***>(libc->Find("environ")), environ);
}

TEST(DynamicLibraryTest, NamesThePackageOfOneThatIsMissing) {
  const absl::Status status =
      DynamicLibrary::Open("libmp-is-not-there.so.1", "libmp1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "skipped: not installed: libmp1");
}

// What is there, but cannot be loaded, is not called missing.
TEST(DynamicLibraryTest, SaysWhatIsWrongWithOneThatIsThere) {
  const char* const directory = std::getenv("TEST_TMPDIR");
  ASSERT_NE(directory, nullptr);
  const std::string path = std::string(directory) + "/not_a_library.so";
  std::ofstream(path) << "text";
  const absl::Status status =
      DynamicLibrary::Open(path.c_str(), "libmp1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(status.message());
  EXPECT_TRUE(message.starts_with("skipped: " + path + ": ")) << message;
  EXPECT_EQ(message.find("not installed"), message.npos) << message;
}

TEST(DynamicLibraryDeathTest, EndsWhereAFunctionIsMissing) {
  const absl::StatusOr<DynamicLibrary> math =
      DynamicLibrary::Open("libm.so.6", "libc6");
  ASSERT_OK(math.status());
  EXPECT_DEATH(math->Find("mp_is_not_there"), "mp_is_not_there");
}

}  // namespace
}  // namespace mp::benchmarks
