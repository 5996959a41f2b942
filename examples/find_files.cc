#include "mp/examples/find_files.h"

#include <filesystem>
#include <system_error>
#include <utility>

namespace mp::examples {
namespace {

namespace fs = std::filesystem;

void AddFile(const fs::directory_entry& entry, FoundFiles& found) {
  std::error_code error;
  const uint64_t size = entry.file_size(error);
  if (error) {
    found.skipped[entry.path().string()] = error.message();
    return;
  }
  found.files.push_back({entry.path().string(), size});
  found.bytes += size;
}

// Adds the files of one folder to `found` and its folders to `folders`.
void ListFolder(const fs::path& folder, FoundFiles& found,
                std::vector<fs::path>& folders) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::error_code ignored;  // what has gone meanwhile is nothing to count
    const fs::file_status status = entry->symlink_status(ignored);
    if (fs::is_directory(status)) folders.push_back(entry->path());
    if (fs::is_regular_file(status)) AddFile(*entry, found);
  }
  if (error) found.skipped[folder.string()] = error.message();
}

}  // namespace

FoundFiles FindFiles(const std::vector<std::string>& paths) {
  FoundFiles found;
  std::vector<fs::path> folders;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::directory_entry entry(path, error);
    const fs::file_status status = entry.symlink_status(error);
    if (fs::is_directory(status)) {
      folders.push_back(path);
    } else if (fs::is_regular_file(status)) {
      AddFile(entry, found);
    } else {
      found.skipped[path] =
          error ? error.message() : "neither a file nor a folder";
    }
  }
  while (!folders.empty()) {
    const fs::path folder = std::move(folders.back());
    folders.pop_back();
    ListFolder(folder, found, folders);
  }
  return found;
}

}  // namespace mp::examples
