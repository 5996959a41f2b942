#include "mp/base/code_place.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace mp {
namespace {

int Answer() { return 42; }

TEST(CodePlaceTest, FunctionOfTheProgram) {
  const auto place = PlaceOfCode(&Answer);
  ASSERT_TRUE(place.ok()) << place.status();
  const auto code = CodeAt(*place);
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(reinterpret_cast<int (*)()>(*code)(), 42);
}

TEST(CodePlaceTest, CapturelessLambda) {
  int (*const lambda)() = [] { return 7; };
  const auto code = CodeAt(PlaceOfCode(lambda).value());
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(reinterpret_cast<int (*)()>(*code)(), 7);
}

TEST(CodePlaceTest, FunctionOfALibrary) {
  // Through the loader, as the program may have an entry of its own for it.
  void* const function = dlsym(RTLD_DEFAULT, "abs");
  ASSERT_NE(function, nullptr);
  const auto place = PlaceOfCode(reinterpret_cast<CodeAddress>(function));
  ASSERT_TRUE(place.ok()) << place.status();
  const auto code = CodeAt(*place);
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(reinterpret_cast<int (*)(int)>(*code)(-3), 3);
}

TEST(CodePlaceTest, WhatIsNoCode) {
  static int data = 0;
  EXPECT_EQ(PlaceOfCode(reinterpret_cast<CodeAddress>(&data)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  void* const generated = mmap(nullptr, 4096, PROT_READ | PROT_EXEC,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(generated, MAP_FAILED);
  EXPECT_EQ(
      PlaceOfCode(reinterpret_cast<CodeAddress>(generated)).status().code(),
      absl::StatusCode::kFailedPrecondition);
  munmap(generated, 4096);
}

TEST(CodePlaceTest, AnotherBuildIsRefused) {
  CodePlace place = PlaceOfCode(&Answer).value();
  ++place.fingerprint;
  EXPECT_EQ(CodeAt(place).status().code(),
            absl::StatusCode::kFailedPrecondition);
  place = PlaceOfCode(&Answer).value();
  place.offset = uint64_t{1} << 40;
  EXPECT_EQ(CodeAt(place).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(CodePlaceTest, LibraryThatDoesNotLoad) {
  CodePlace place = PlaceOfCode(&Answer).value();
  place.module = "/nowhere/libnothing.so";
  const absl::Status status = CodeAt(place).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("libnothing.so"), absl::string_view::npos)
      << status;
}

}  // namespace
}  // namespace mp
