#include "mp/pool/progress_bar.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/base/errno_status.h"

namespace mp::pool_internal {
namespace {

constexpr int64_t kRedrawNanos = 100'000'000;
constexpr int kLastWaitMillis = 100;
constexpr size_t kDefaultColumns = 80;
constexpr size_t kMinBar = 10;
constexpr size_t kMaxBar = 40;

// One bar on the terminal at a time.
std::atomic<bool> terminal_taken{false};

// Of text in UTF-8, without what is wider than one.
size_t Columns(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string_view Truncate(std::string_view text, size_t columns) {
  while (Columns(text) > columns) text.remove_suffix(1);
  return text;
}

std::string OnOneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  return line;
}

std::string FormatSeconds(double seconds) {
  const auto whole = static_cast<uint64_t>(std::min(seconds, 1e9) + 0.5);
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60,
                         whole % 60);
}

std::string FormatRate(double rate) {
  if (rate < 100) return absl::StrFormat("%.3g/s", rate);
  if (rate < 1e5) return absl::StrFormat("%.0f/s", rate);
  if (rate < 1e8) return absl::StrFormat("%.0fk/s", rate / 1e3);
  return absl::StrFormat("%.0fM/s", rate / 1e6);
}

}  // namespace

std::string ProgressLine(std::string_view label, const Progress& progress,
                         double seconds, bool ended, size_t columns) {
  const size_t done = progress.done();
  const std::optional<size_t> total = progress.total();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  double fraction = 1;
  if (total.value_or(0) > 0) {
    fraction =
        std::min(1.0, static_cast<double>(done) / static_cast<double>(*total));
  }

  std::string line = absl::StrCat(ToAbsl(label), ": ");
  std::string count = absl::StrCat(done);
  if (total.has_value()) {
    // Not 100 before all is done.
    line += absl::StrFormat("%3d%% ", static_cast<int>(100 * fraction));
    absl::StrAppend(&count, "/", *total);
  }
  std::string speed;
  if (rate > 0) speed = absl::StrCat(", ", FormatRate(rate));
  std::string time;
  if (ended || !total.has_value()) {
    time = absl::StrCat(", ", FormatSeconds(seconds));
  } else if (rate > 0) {
    const auto left = static_cast<double>(*total - std::min(done, *total));
    time = absl::StrCat(", ", FormatSeconds(left / rate), " left");
  }

  const size_t needed = Columns(line) + count.size();
  if (needed + speed.size() > columns) speed.clear();
  if (needed + speed.size() + time.size() > columns) time.clear();
  const size_t text = needed + speed.size() + time.size();
  constexpr size_t kFrame = 3;  // "[] "
  if (total.has_value() && text + kFrame + kMinBar <= columns) {
    const size_t width = std::min(kMaxBar, columns - text - kFrame);
    const auto filled =
        static_cast<size_t>(fraction * static_cast<double>(width));
    absl::StrAppend(&line, "[", std::string(filled, '#'),
                    std::string(width - filled, '.'), "] ");
  }
  absl::StrAppend(&line, count, speed, time);
  return std::string(Truncate(line, columns));
}

std::unique_ptr<ProgressBar> ProgressBar::Start(std::string_view label,
                                                std::optional<size_t> total) {
  if (label.empty() || isatty(STDERR_FILENO) == 0 ||
      terminal_taken.exchange(true)) {
    return nullptr;
  }
  // Not make_unique: the constructor is private.
  std::unique_ptr<ProgressBar> bar(new ProgressBar(label, total));
  try {
    bar->thread_ = std::thread([bar = bar.get()] { bar->Run(); });
  } catch (const std::system_error&) {
    return nullptr;  // it is not worth an error
  }
  return bar;
}

ProgressBar::ProgressBar(std::string_view label, std::optional<size_t> total)
    : label_(OnOneLine(label)), progress_(std::make_shared<Progress>(total)) {}

ProgressBar::~ProgressBar() {
  if (thread_.joinable()) {
    ending_.store(true, std::memory_order_release);
    FenceBeforeNotify();
    gate_.NotifyAll();
    thread_.join();
  }
  terminal_taken.store(false);
}

void ProgressBar::Run() {
  const auto ending = [this] {
    return ending_.load(std::memory_order_acquire);
  };
  do {
    Draw(/*ended=*/false);
  } while (!gate_.Sleep(ending, Deadline::Infinite().Sooner(kRedrawNanos)));
  Draw(/*ended=*/true);
}

void ProgressBar::Draw(bool ended) {
  winsize size = {};
  size_t columns = kDefaultColumns;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    columns = size.ws_col;
  }
  const double seconds =
      static_cast<double>(MonotonicNanos() - start_nanos_) / 1e9;
  // Behind a character in the last column some terminals begin a new line.
  std::string line =
      ProgressLine(label_, *progress_, seconds, ended, columns - 1);
  if (line == drawn_ && !ended) return;
  // A terminal that was stopped (Ctrl-S) must not stop the program.
  pollfd terminal = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&terminal, 1, ended ? kLastWaitMillis : 0) <= 0) return;
  const size_t old_columns = std::min(Columns(drawn_), columns - 1);
  const size_t new_columns = Columns(line);
  std::string out = absl::StrCat("\r", line);
  if (new_columns < old_columns) {
    out.append(old_columns - new_columns, ' ');
  }
  if (ended) out += '\n';
  drawn_ = std::move(line);
  for (std::string_view left = out; !left.empty();) {
    const ssize_t written = write(STDERR_FILENO, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    left.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace mp::pool_internal
