#include "mp/tools/lint/lint.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mp::lint {
namespace {

// ---- Which file is what

// In the order of dependency: each may use those before it. What comes after
// (testing, examples and so on) may use all of them, and none of them it.
constexpr std::array<std::string_view, 10> kModules = {
    "base", "shm",     "sync",     "ipc",        "process",
    "pool", "testing", "examples", "benchmarks", "tools"};
constexpr int kFirstNonLibraryModule = 6;

// The rank of the module that `path` is in, or -1.
int ModuleRank(std::string_view path) {
  const std::string_view top = path.substr(0, path.find('/'));
  const auto it = std::find(kModules.begin(), kModules.end(), top);
  if (it == kModules.end() || top == path) return -1;
  return static_cast<int>(it - kModules.begin());
}

std::string BaseName(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

bool IsHeader(std::string_view path) { return path.ends_with(".h"); }

bool IsCode(std::string_view path) {
  return IsHeader(path) || path.ends_with(".cc");
}

bool IsBuildFile(std::string_view path) {
  const std::string name = BaseName(path);
  return name == "BUILD" || name == "BUILD.bazel";
}

bool IsTest(std::string_view path) {
  static constexpr std::string_view kEnds[] = {
      "_test.cc",      "_test_util.h",      "_test_util.cc",     "_fuzzer.cc",
      "_benchmark.cc", "_benchmark_util.h", "_benchmark_util.cc"};
  return std::any_of(
      std::begin(kEnds), std::end(kEnds),
      [path](std::string_view end) { return path.ends_with(end); });
}

// Code that is linked into users' programs.
bool IsLibrary(std::string_view path) {
  const int rank = ModuleRank(path);
  return IsCode(path) && !IsTest(path) && rank >= 0 &&
         rank < kFirstNonLibraryModule;
}

bool IsIn(std::string_view path, std::initializer_list<std::string_view> dirs) {
  return std::any_of(dirs.begin(), dirs.end(), [path](std::string_view dir) {
    return path.starts_with(dir);
  });
}

// ---- Text

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
}

// The offset of `word` as a whole word in `line`, at or after `from`.
size_t FindWord(std::string_view line, std::string_view word, size_t from) {
  for (size_t at = line.find(word, from); at != line.npos;
       at = line.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !IsWordCharacter(line[at - 1])) &&
        (end == line.size() || !IsWordCharacter(line[end]))) {
      return at;
    }
  }
  return line.npos;
}

size_t SkipSpaces(std::string_view line, size_t at) {
  while (at < line.size() && line[at] == ' ') ++at;
  return at;
}

// The path of an #include with quotes on `line`.
std::optional<std::string> QuotedInclude(std::string_view line) {
  const size_t hash = SkipSpaces(line, 0);
  if (!line.substr(hash).starts_with("#include")) return std::nullopt;
  const size_t open = line.find('"');
  if (open == line.npos) return std::nullopt;
  const size_t close = line.find('"', open + 1);
  return std::string(line.substr(open + 1, close - open - 1));
}

// ---- Rules for one file. Each appends what it finds.

using Findings = std::vector<Finding>;

void Add(Findings& findings, const File& file, size_t line,
         std::string message) {
  findings.push_back({file.path, static_cast<int>(line), std::move(message)});
}

enum class Use {
  kCall,       // a call of a function of the C library
  kWord,       // the word, whatever is around it
  kQualified,  // a name with its namespace, such as std::endl
};

struct Ban {
  std::string_view name;
  Use use;
  std::string_view instead;
  bool (*applies)(std::string_view path);
};

bool Everywhere(std::string_view) { return true; }
bool InLibrary(std::string_view path) { return IsLibrary(path); }
// Where headers describe what lies in shared memory. A pool's front does not.
bool InSharedHeaders(std::string_view path) {
  return IsIn(path, {"shm/", "sync/", "ipc/"}) && IsHeader(path);
}
bool WhereNoProcessStarts(std::string_view path) {
  return !IsTest(path) && !IsIn(path, {"process/", "testing/", "benchmarks/"});
}
bool WhereNoProcessEnds(std::string_view path) {
  return IsLibrary(path) && !path.starts_with("process/");
}

constexpr std::string_view kStart =
    "start processes with mp::Process; below it, only process/ forks";
constexpr std::string_view kExit =
    "return a Status, fail an MP_CHECK, or end a child with mp::Exit";
constexpr std::string_view kThreadLock =
    "the distribution's Abseil is not instrumented, so TSan reports false "
    "races; use mp::Lock between processes, std::mutex in one .cc";
constexpr std::string_view kSharedLock =
    "it does not survive the death of its owner; use mp::Lock, or keep "
    "process-local state in the .cc";
constexpr std::string_view kMonotonic =
    "waits use the monotonic clock; use mp::Deadline";

constexpr Ban kBans[] = {
    {"fork", Use::kCall, kStart, WhereNoProcessStarts},
    {"vfork", Use::kCall, kStart, WhereNoProcessStarts},
    {"clone", Use::kCall, kStart, WhereNoProcessStarts},
    {"system", Use::kCall, "use posix_spawn or mp::Process; no shell",
     Everywhere},
    {"popen", Use::kCall, "use posix_spawn or mp::Process; no shell",
     Everywhere},
    {"exit", Use::kCall, kExit, WhereNoProcessEnds},
    {"quick_exit", Use::kCall, kExit, WhereNoProcessEnds},
    {"_exit", Use::kCall, kExit, WhereNoProcessEnds},
    {"sleep", Use::kCall, "wait for the event, or use absl::SleepFor",
     Everywhere},
    {"usleep", Use::kCall, "wait for the event, or use absl::SleepFor",
     Everywhere},
    {"rand", Use::kCall, "use std::mt19937_64 with a seed that is printed",
     Everywhere},
    {"srand", Use::kCall, "use std::mt19937_64 with a seed that is printed",
     Everywhere},
    {"assert", Use::kCall, "use MP_CHECK, which stays on in release builds",
     Everywhere},
    {"set_robust_list", Use::kWord,
     "glibc owns the list; hold a robust pthread mutex (shm/liveness.h)",
     Everywhere},
    {"volatile", Use::kWord,
     "use std::atomic, or benchmark::DoNotOptimize in a benchmark", Everywhere},
    {"std::endl", Use::kQualified, "use '\\n', and std::flush if it matters",
     Everywhere},
    {"absl::Mutex", Use::kQualified, kThreadLock, Everywhere},
    {"absl::MutexLock", Use::kQualified, kThreadLock, Everywhere},
    {"absl::CondVar", Use::kQualified, kThreadLock, Everywhere},
    {"absl::Notification", Use::kQualified, kThreadLock, Everywhere},
    {"absl::BlockingCounter", Use::kQualified, kThreadLock, Everywhere},
    {"std::mutex", Use::kQualified, kSharedLock, InSharedHeaders},
    {"std::recursive_mutex", Use::kQualified, kSharedLock, InSharedHeaders},
    {"std::condition_variable", Use::kQualified, kSharedLock, InSharedHeaders},
    {"std::chrono::system_clock", Use::kQualified, kMonotonic, InLibrary},
    {"absl::Now", Use::kQualified, kMonotonic, InLibrary},
};

// Whether the `ban.name` at `at` in a stripped line is the banned use of it.
bool IsBannedUse(const Ban& ban, std::string_view line, size_t at) {
  const std::string_view before = line.substr(0, at);
  if (ban.name == "volatile") {  // asm volatile is what it says
    const size_t end = before.find_last_not_of(" _");
    return end == before.npos || !before.substr(0, end + 1).ends_with("asm");
  }
  if (ban.use != Use::kCall) return true;
  const size_t next = SkipSpaces(line, at + ban.name.size());
  if (next == line.size() || line[next] != '(') return false;
  // Members and other namespaces' functions have every right to such a name.
  if (before.ends_with(".") || before.ends_with("->")) return false;
  if (!before.ends_with("::")) return true;
  const std::string_view scope = before.substr(0, before.size() - 2);
  return scope.empty() || !IsWordCharacter(scope.back()) ||
         (scope.ends_with("std") &&
          FindWord(scope, "std", scope.size() - 3) != scope.npos);
}

void CheckBans(const File& file, Findings& findings) {
  if (!IsCode(file.path)) return;
  const std::vector<std::string> lines = Lines(StripCode(file.text));
  for (const Ban& ban : kBans) {
    if (!ban.applies(file.path)) continue;
    for (size_t i = 0; i < lines.size(); ++i) {
      for (size_t at = FindWord(lines[i], ban.name, 0); at != std::string::npos;
           at = FindWord(lines[i], ban.name, at + 1)) {
        if (!IsBannedUse(ban, lines[i], at)) continue;
        Add(findings, file, i + 1,
            std::string(ban.name) +
                " is banned here: " + std::string(ban.instead));
      }
    }
  }
}

void CheckIncludes(const File& file, Findings& findings) {
  if (!IsCode(file.path)) return;
  const int rank = ModuleRank(file.path);
  const std::vector<std::string> lines = Lines(StripCode(file.text));
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::optional<std::string> path = QuotedInclude(lines[i]);
    if (!path) continue;
    if (!path->starts_with("mp/")) {
      if (ModuleRank(*path) >= 0 || path->find('/') == path->npos) {
        Add(findings, file, i + 1,
            "bare include: write \"mp/<package>/<file>.h\", not \"" + *path +
                "\"");
      }
      continue;
    }
    if (IsLibrary(file.path) && ModuleRank(path->substr(3)) > rank) {
      Add(findings, file, i + 1,
          "wrong direction: " + std::string(kModules[rank]) +
              " comes before the module of \"" + *path +
              "\"; move the shared part down");
    }
  }
}

// The include rule again for BUILD files, where an unused dependency counts
// too. Tests, benchmarks and testonly targets may use what they like.
void CheckBuildDeps(const File& file, Findings& findings) {
  const int rank = ModuleRank(file.path);
  if (!IsBuildFile(file.path) || rank < 0 || rank >= kFirstNonLibraryModule) {
    return;
  }
  const std::vector<std::string> lines = Lines(file.text);
  std::string rule;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (!line.empty() && IsWordCharacter(line[0])) {
      rule = line.substr(0, line.find('('));
    }
    if (line.find("testonly = True") != line.npos) rule = "testonly";
    if (rule != "mp_cc_library" && rule != "mp_cc_binary") continue;
    const size_t open = line.find("\"//");
    if (open == line.npos) continue;
    const std::string label = line.substr(open + 3);
    const std::string package = label.substr(0, label.find_first_of(":\""));
    if (ModuleRank(package + "/") > rank) {
      Add(findings, file, i + 1,
          "wrong direction: " + std::string(kModules[rank]) +
              " may not depend on //" + package +
              "; move the shared part down");
    }
  }
}

void CheckHeader(const File& file, Findings& findings) {
  if (!IsHeader(file.path)) return;
  if (!file.text.starts_with("//")) {
    Add(findings, file, 1,
        "a header begins with a comment: what it is, and when to use "
        "something else");
  }
  std::string guard = "MP_";
  for (char c : file.path) {
    guard +=
        IsWordCharacter(c)
            ? static_cast<char>(std::toupper(static_cast<unsigned char>(c)))
            : '_';
  }
  guard += '_';
  const std::vector<std::string> lines = Lines(StripCode(file.text));
  const auto first =
      std::find_if(lines.begin(), lines.end(),
                   [](const std::string& l) { return l.starts_with("#"); });
  const size_t at = first - lines.begin();
  if (first == lines.end() || *first != "#ifndef " + guard ||
      first + 1 == lines.end() || *(first + 1) != "#define " + guard) {
    Add(findings, file, std::min(at, lines.size() - 1) + 1,
        "the header guard must be " + guard);
  }
}

void CheckLayout(const File& file, Findings& findings) {
  const bool limited = IsCode(file.path) || IsBuildFile(file.path) ||
                       file.path.ends_with(".bzl");
  const std::vector<std::string> lines = Lines(file.text);
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line.find('\t') != line.npos) {
      Add(findings, file, i + 1, "tab: indent with spaces");
    }
    if (line.ends_with(' ') || line.ends_with('\r')) {
      Add(findings, file, i + 1, "white space at the end of the line");
    }
    // Code points, not bytes.
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    });
    if (limited && columns > 80 && line.find("://") == line.npos &&
        !line.starts_with("#include")) {
      Add(findings, file, i + 1,
          "longer than 80 columns (" + std::to_string(columns) + ")");
    }
  }
  if (!file.text.empty() && !file.text.ends_with('\n')) {
    Add(findings, file, lines.size(), "no line break at the end of the file");
  }
}

void CheckHomePaths(const File& file, Findings& findings) {
  static constexpr std::string_view kHomes[] = {"/home/", "/Users/", "/root/"};
  const std::vector<std::string> lines = Lines(file.text);
  for (size_t i = 0; i < lines.size(); ++i) {
    for (std::string_view home : kHomes) {
      const size_t at = lines[i].find(home);
      if (at == std::string::npos) continue;
      const size_t end = at + home.size();
      // A path component that ends in "home" or "root" is another thing.
      if (at > 0 && (IsWordCharacter(lines[i][at - 1]) ||
                     lines[i][at - 1] == '.' || lines[i][at - 1] == '/')) {
        continue;
      }
      if (end < lines[i].size() && IsWordCharacter(lines[i][end])) {
        Add(findings, file, i + 1,
            "a path of one person's machine: make it relative, or take it "
            "from the environment");
      }
    }
  }
}

void CheckTodo(const File& file, Findings& findings) {
  if (!IsCode(file.path) && !IsBuildFile(file.path)) return;
  const std::vector<std::string> lines = Lines(file.text);
  const std::string_view comment = IsCode(file.path) ? "//" : "#";
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    const size_t at = FindWord(line, "TODO", 0);
    if (at == line.npos) continue;
    const size_t start = line.find(comment);
    if (start == line.npos || start > at) continue;
    const size_t open = at + 4;
    size_t end = open + 1;
    while (end < line.size() &&
           std::islower(static_cast<unsigned char>(line[end]))) {
      ++end;
    }
    if (open < line.size() && line[open] == '(' && end > open + 1 &&
        line.substr(end).starts_with("): ")) {
      continue;
    }
    Add(findings, file, i + 1,
        "say what kind of work it is: TODO(perf): or TODO(portability): …, "
        "no names or dates");
  }
}

void CheckFlaky(const File& file, Findings& findings) {
  if (!IsBuildFile(file.path) && !file.path.ends_with(".bzl")) return;
  const std::vector<std::string> lines = Lines(file.text);
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string code = lines[i].substr(0, lines[i].find('#'));
    if (FindWord(code, "flaky", 0) != code.npos) {
      Add(findings, file, i + 1,
          "flaky is banned: a test that sometimes fails has found something");
    }
  }
}

}  // namespace

std::string ToString(const Finding& finding) {
  return finding.path + ":" + std::to_string(finding.line) + ": " +
         finding.message;
}

std::string StripCode(const std::string& text) {
  std::string out = text;
  const size_t size = text.size();
  const auto blank = [&out](size_t from, size_t to) {
    for (size_t k = from; k < to; ++k) {
      if (out[k] != '\n') out[k] = ' ';
    }
  };
  const auto find = [&text, size](std::string_view what, size_t from) {
    return std::min(text.find(what, from), size);
  };
  size_t line_start = 0;
  for (size_t i = 0; i < size;) {
    const char c = text[i];
    if (c == '\n') {
      line_start = ++i;
    } else if (c == '#' && SkipSpaces(text, line_start) == i &&
               text.compare(i, 8, "#include") == 0) {
      i = find("\n", i);
    } else if (text.compare(i, 2, "//") == 0) {
      const size_t end = find("\n", i);
      blank(i, end);
      i = end;
    } else if (text.compare(i, 2, "/*") == 0) {
      const size_t end = std::min(find("*/", i + 2) + 2, size);
      blank(i, end);
      i = end;
    } else if (c == '"' && i > 0 && text[i - 1] == 'R') {
      const size_t open = find("(", i);
      const std::string close = ")" + text.substr(i + 1, open - i - 1) + "\"";
      const size_t end = std::min(find(close, open) + close.size(), size);
      blank(i + 1, end - 1);
      i = end;
    } else if (c == '"' ||
               // Not a digit separator, as in 1'000.
               (c == '\'' && (i == 0 || !IsWordCharacter(text[i - 1])))) {
      size_t end = i + 1;
      while (end < size && text[end] != c && text[end] != '\n') {
        end += text[end] == '\\' ? 2 : 1;
      }
      end = std::min(end, size);
      blank(i + 1, end);
      i = end < size && text[end] == c ? end + 1 : end;
    } else {
      ++i;
    }
  }
  return out;
}

std::vector<Finding> CheckFile(const File& file) {
  Findings findings;
  CheckBans(file, findings);
  CheckIncludes(file, findings);
  CheckBuildDeps(file, findings);
  CheckHeader(file, findings);
  CheckLayout(file, findings);
  CheckHomePaths(file, findings);
  CheckTodo(file, findings);
  CheckFlaky(file, findings);
  return findings;
}

namespace {

// Headers that are tested or measured in another file than the one beside them,
// and where. Keep these short.
struct Exemption {
  std::string_view header;
  std::string_view where;
};
constexpr Exemption kTestedElsewhere[] = {
    {"pool/completion.h", "pool/async_result_test.cc"},
    {"pool/executor.h", "pool/process_executor_test.cc"},
    {"pool/kill_timer.h", "pool/task_limits_test.cc"},
    {"pool/task_options.h", "pool/retries_test.cc"},
    {"pool/worker_loop.h", "pool/pool_kill_test.cc"},
    {"process/finalizer_registry.h", "process/finalizer_test.cc"},
    {"process/forkserver.h", "process/start_methods_test.cc"},
    {"process/identity.h", "process/start_methods_test.cc"},
    {"process/luggage.h", "process/start_methods_test.cc"},
    {"process/process_tree.h", "process/start_methods_test.cc"},
    {"process/program.h", "process/start_methods_test.cc"},
    {"process/start_message.h", "process/start_methods_test.cc"},
    {"process/start_method.h", "process/start_methods_test.cc"},
    {"shm/handle.h", "ipc/attachments_test.cc"},
    {"sync/chrono.h", "sync/lock_test.cc"},
    {"sync/owner_name.h", "sync/lock_test.cc"},
    {"sync/repair.h", "sync/lock_test.cc"},
    {"sync/synchronized.h", "sync/value_test.cc"},
    {"testing/sanitizers.h", "process/process_storm_test.cc"},
    {"testing/victim.h", "testing/kill_stepper_test.cc"},
    {"tools/lint/lint.h", "tools/lint/lint_rules_test.cc"},
};
constexpr Exemption kMeasuredElsewhere[] = {
    {"sync/array.h", "sync/value_benchmark.cc"},
    {"sync/barrier_state.h", "sync/barrier_benchmark.cc"},
    {"sync/chrono.h", "sync/lock_benchmark.cc"},
    {"sync/in_place_condition.h", "sync/condition_benchmark.cc"},
    {"sync/in_place_event.h", "sync/event_benchmark.cc"},
    {"sync/in_place_lock.h", "sync/lock_benchmark.cc"},
    {"sync/in_place_rlock.h", "sync/lock_benchmark.cc"},
    {"sync/in_place_rwlock.h", "sync/rwlock_benchmark.cc"},
    {"sync/in_place_semaphore.h", "sync/lock_benchmark.cc"},
    {"sync/owner_name.h", "sync/lock_benchmark.cc"},
    {"sync/repair.h", "sync/lock_benchmark.cc"},
    {"sync/rlock.h", "sync/lock_benchmark.cc"},
    {"sync/robust_semaphore.h", "sync/lock_benchmark.cc"},
    {"sync/semaphore.h", "sync/lock_benchmark.cc"},
    {"sync/synchronized.h", "sync/value_benchmark.cc"},
};

// What has a row in the table of performance targets: these need a benchmark
// beside the code. A folder means every header in it.
constexpr std::string_view kMeasured[] = {"sync/", "ipc/queue.h", "ipc/pipe.h",
                                          "process/process.h", "pool/pool.h"};

bool IsMeasured(std::string_view header) {
  return std::any_of(
      std::begin(kMeasured), std::end(kMeasured), [header](std::string_view m) {
        return m.ends_with('/') ? header.starts_with(m) : header == m;
      });
}

// The file that should accompany `header`.
std::string Companion(const std::string& header, std::string_view suffix,
                      std::span<const Exemption> exemptions) {
  for (const Exemption& e : exemptions) {
    if (e.header == header) return std::string(e.where);
  }
  return header.substr(0, header.size() - 2) + std::string(suffix);
}

}  // namespace

std::vector<Finding> CheckCompanions(const std::vector<File>& files) {
  std::set<std::string> paths;
  for (const File& file : files) paths.insert(file.path);
  Findings findings;
  for (const File& file : files) {
    if (!IsHeader(file.path) || IsTest(file.path) ||
        ModuleRank(file.path) < 0) {
      continue;
    }
    const std::string test = Companion(file.path, "_test.cc", kTestedElsewhere);
    if (!paths.contains(test)) {
      Add(findings, file, 1, "it has no test: write " + test);
    }
    const std::string benchmark =
        Companion(file.path, "_benchmark.cc", kMeasuredElsewhere);
    if (IsMeasured(file.path) && !paths.contains(benchmark)) {
      Add(findings, file, 1, "it has no benchmark: write " + benchmark);
    }
  }
  return findings;
}

std::vector<File> ReadTree(const std::string& directory) {
  namespace fs = std::filesystem;
  std::vector<File> files;
  const fs::path root(directory);
  // Runfiles are symbolic links to files, in folders that are real.
  for (auto it = fs::recursive_directory_iterator(root);
       it != fs::recursive_directory_iterator(); ++it) {
    const std::string path = it->path().lexically_relative(root).string();
    const std::string name = it->path().filename().string();
    if (it->is_directory()) {
      if (name == "external" || name.starts_with("bazel-") || name == ".git") {
        it.disable_recursion_pending();
      }
      continue;
    }
    if (!it->is_regular_file()) continue;
    std::ifstream stream(it->path(), std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(stream)),
                     std::istreambuf_iterator<char>());
    if (text.find('\0') != text.npos) continue;  // a binary
    files.push_back({path, std::move(text)});
  }
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return a.path < b.path; });
  return files;
}

}  // namespace mp::lint
