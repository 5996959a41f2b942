#include "mp/base/code_place.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cstdint>
#include <vector>

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

// What another process would have said that has everything loaded higher up.
std::vector<CodeRange> CodeOfAnother(uint64_t distance) {
  std::vector<CodeRange> ranges = LoadedCode();
  for (CodeRange& range : ranges) range.begin += distance;
  return ranges;
}
uint64_t AddressOf(int (*function)()) {
  return reinterpret_cast<uintptr_t>(function);
}
int Question() { return 6; }

TEST(ForeignCodeTest, OwnAddressesAreAsTheyAre) {
  ForeignCode code;
  EXPECT_EQ(code.Find(AddressOf(&Answer)).value(),
            reinterpret_cast<CodeAddress>(&Answer));
}

TEST(ForeignCodeTest, FunctionsAreFoundFromTheAddressesOfAnother) {
  constexpr uint64_t kDistance = 0x12345000;
  ForeignCode code(CodeOfAnother(kDistance));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(code.Find(AddressOf(&Answer) + kDistance).value(),
              reinterpret_cast<CodeAddress>(&Answer));
    EXPECT_EQ(code.Find(AddressOf(&Question) + kDistance).value(),
              reinterpret_cast<CodeAddress>(&Question));
    void* const in_library = dlsym(RTLD_DEFAULT, "abs");
    EXPECT_EQ(
        code.Find(reinterpret_cast<uintptr_t>(in_library) + kDistance).value(),
        reinterpret_cast<CodeAddress>(in_library));
  }
}

TEST(ForeignCodeTest, WhatTheOtherHadNotLoadedIsAnError) {
  std::vector<CodeRange> ranges = LoadedCode();
  ASSERT_FALSE(ranges.empty());
  ranges.resize(1);
  ranges[0].begin = 0x1000;
  ranges[0].size = 0x10;
  ForeignCode code(ranges);
  EXPECT_EQ(code.Find(0xfff).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code.Find(0x1010).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ForeignCodeTest, AnotherBuildIsRefused) {
  std::vector<CodeRange> ranges = LoadedCode();
  for (CodeRange& range : ranges) ++range.place.fingerprint;
  ForeignCode code(ranges);
  EXPECT_EQ(code.Find(AddressOf(&Answer)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace mp
