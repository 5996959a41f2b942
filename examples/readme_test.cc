// What README.md shows is what is built and tested.

#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace mp::examples {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The contents of the first ```cpp block.
std::string FirstProgram(const std::string& markdown) {
  const std::string open = "```cpp\n";
  const size_t begin = markdown.find(open);
  if (begin == markdown.npos) return "no ```cpp block";
  const size_t end = markdown.find("```", begin + open.size());
  return markdown.substr(begin + open.size(), end - begin - open.size());
}

TEST(ReadmeTest, FirstProgramIsTheOneThatIsTested) {
  EXPECT_EQ(FirstProgram(ReadFile("README.md")),
            ReadFile("examples/first_program.cc"));
}

}  // namespace
}  // namespace mp::examples
