// What the tests of programs that work on files share.

#ifndef MP_EXAMPLES_FILES_TEST_UTIL_H_
#define MP_EXAMPLES_FILES_TEST_UTIL_H_

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mp/testing/process_test.h"

namespace mp::examples {

// The fixture. Has a folder, which goes with it.
class FilesTest : public testing::ProcessTest {
 protected:
  FilesTest()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                absl::StrCat("files_test.", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~FilesTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const {
    return (folder_ / name).string();
  }

  // Makes a file, with the folders that it is in; returns its path.
  std::string Write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(
        std::filesystem::path(Path(name)).parent_path());
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }

  // A tree of real text: the system's headers, or if there are none, what Bazel
  // has put beside the test.
  std::string RealTree() const {
    for (const char* tree : {"/usr/include/linux", "/usr/include/c++"}) {
      if (std::filesystem::is_directory(tree)) return tree;
    }
    std::filesystem::copy("examples", folder_,
                          std::filesystem::copy_options::recursive);
    return folder_.string();
  }

 private:
  const std::filesystem::path folder_;
};

}  // namespace mp::examples

#endif  // MP_EXAMPLES_FILES_TEST_UTIL_H_
