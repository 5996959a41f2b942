#include "mp/pool/timeline.h"

#include <cxxabi.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <mutex>

#include "absl/debugging/symbolize.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"

namespace mp::pool_internal {
namespace {

constexpr int64_t kWriteNanos = 100'000'000;
constexpr size_t kWriteSize = size_t{64} << 10;
constexpr int64_t kCountNanos = 1'000'000;

// In JSON.
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", std::string(1, c));
    } else if (static_cast<unsigned char>(c) < ' ') {
      absl::StrAppendFormat(&quoted, "\\u%04x", c);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string Micros(int64_t nanos) {
  return absl::StrFormat("%d.%03d", nanos / 1000, nanos % 1000);
}

}  // namespace

std::string DisplayName(const TaskCode& code) {
  if (code.function != 0) {
    static const bool initialized = [] {
      absl::InitializeSymbolizer(nullptr);
      return true;
    }();
    (void)initialized;
    char symbol[256];
    if (!absl::Symbolize(reinterpret_cast<const void*>(code.function), symbol,
                         sizeof(symbol))) {
      return absl::StrFormat("%#x", code.function);
    }
    std::string name = symbol;  // "mp::(anonymous namespace)::Square()"
    if (name.ends_with("()")) name.resize(name.size() - 2);
    return name;
  }
  if (code.type == nullptr) return "task";
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(
      abi::__cxa_demangle(code.type, nullptr, nullptr, &status), &free);
  return status == 0 ? demangled.get() : code.type;
}

absl::StatusOr<std::unique_ptr<Timeline>> Timeline::Create(
    const std::string& path) {
  UniqueFd file(
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file) return ErrnoStatus(errno, absl::StrCat("open(", path, ")"));
  // Not make_unique: the constructor is private.
  return std::unique_ptr<Timeline>(new Timeline(std::move(file)));
}

Timeline::Timeline(UniqueFd file) : file_(std::move(file)) {
  absl::StrAppend(&text_, "[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":",
                  getpid(), ",\"args\":{\"name\":\"mp::Pool\"}}");
  written_at_ = MonotonicNanos();
}

// REQUIRES: mutex_ held. `more` are further members of the object.
void Timeline::Event(std::string_view phase, std::string_view name,
                     size_t place, int64_t at, std::string_view more) {
  absl::StrAppendFormat(&text_,
                        ",\n{\"ph\":\"%s\",\"name\":%s,\"pid\":%d,\"tid\":%d,"
                        "\"ts\":%s%s}",
                        phase, Quoted(name), getpid(), place + 1, Micros(at),
                        more);
}

void Timeline::AddTask(size_t place, const Task& task) {
  const std::lock_guard lock(mutex_);
  Event(
      "X", NameOf(task.code), place, task.begin,
      absl::StrFormat(",\"dur\":%s,\"args\":{\"waited_us\":%s,\"outcome\":%s}",
                      Micros(std::max<int64_t>(0, task.end - task.begin)),
                      Micros(std::max<int64_t>(0, task.begin - task.submitted)),
                      Quoted(task.outcome)));
  WriteIfDue();
}

void Timeline::StartWorker(size_t place, std::string_view name, pid_t pid) {
  const std::lock_guard lock(mutex_);
  if (place >= in_use_.size()) in_use_.resize(place + 1);
  in_use_[place] = true;
  const int64_t now = MonotonicNanos();
  Event("M", "thread_name", place, now,
        absl::StrCat(",\"args\":{\"name\":\"worker ", place + 1, "\"}"));
  Event("B", name, place, now, absl::StrCat(",\"args\":{\"pid\":", pid, "}"));
  WriteIfDue();
}

void Timeline::EndWorker(size_t place, std::string_view how) {
  const std::lock_guard lock(mutex_);
  if (place >= in_use_.size() || !in_use_[place]) return;
  in_use_[place] = false;
  Event("E", "", place, MonotonicNanos(),
        absl::StrCat(",\"args\":{\"end\":", Quoted(how), "}"));
  WriteIfDue();
}

void Timeline::CountWaiting(size_t tasks) {
  const std::lock_guard lock(mutex_);
  const int64_t now = MonotonicNanos();
  if (now < counted_at_ + kCountNanos) return;
  counted_at_ = now;
  Event("C", "tasks waiting", 0, now,
        absl::StrCat(",\"args\":{\"tasks\":", tasks, "}"));
  WriteIfDue();
}

void Timeline::Finish() {
  const std::lock_guard lock(mutex_);
  for (size_t place = 0; place < in_use_.size(); ++place) {
    if (in_use_[place]) Event("E", "", place, MonotonicNanos(), "");
  }
  text_ += "\n]\n";
  Write();
  file_.reset();
}

// REQUIRES: mutex_ held.
const std::string& Timeline::NameOf(const TaskCode& code) {
  std::string& name = names_[{code.function, code.type}];
  if (name.empty()) name = DisplayName(code);
  return name;
}

// REQUIRES: mutex_ held.
void Timeline::WriteIfDue() {
  if (text_.size() >= kWriteSize ||
      MonotonicNanos() >= written_at_ + kWriteNanos) {
    Write();
  }
}

// REQUIRES: mutex_ held.
void Timeline::Write() {
  std::string_view left = text_;
  while (file_ && !left.empty()) {
    const ssize_t written = write(file_.get(), left.data(), left.size());
    if (written >= 0) {
      left.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      std::cerr << "mp::Pool: the timeline ends here: "
                << ErrnoStatus(errno, "write").ToString() << "\n";
      file_.reset();
    }
  }
  text_.clear();
  written_at_ = MonotonicNanos();
}

}  // namespace mp::pool_internal
