#include "mp/examples/progress.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace mp::examples {
namespace {

constexpr size_t kBarWidth = 24;
// The first one only after a while: short work shows nothing but its end.
constexpr std::chrono::milliseconds kRedrawEvery{100};
constexpr std::chrono::milliseconds kLineEvery{1000};

double Fraction(uint64_t done, uint64_t total) {
  if (total == 0) return 1;
  return std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
}

std::string Bar(double fraction) {
  const auto filled = static_cast<size_t>(fraction * kBarWidth);
  return "[" + std::string(filled, '#') + std::string(kBarWidth - filled, '.') +
         "]";
}

}  // namespace

std::string FormatBytes(double bytes) {
  const char* unit = "B";
  for (const char* larger : {"kB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = larger;
  }
  return *unit == 'B' ? absl::StrFormat("%.0f B", bytes)
                      : absl::StrFormat("%.1f %s", bytes, unit);
}

std::string ProgressText(uint64_t done, uint64_t total, double seconds) {
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string text = absl::StrFormat(
      "%3.0f%%  %s of %s  %s/s", 100 * Fraction(done, total),
      FormatBytes(static_cast<double>(done)),
      FormatBytes(static_cast<double>(total)), FormatBytes(rate));
  if (rate > 0 && done < total) {
    const auto left =
        static_cast<uint64_t>(static_cast<double>(total - done) / rate + 0.5);
    text += absl::StrFormat("  %d:%02d left", left / 60, left % 60);
  }
  return text;
}

Progress::Progress(std::ostream& out, Style style, uint64_t total_bytes)
    : out_(out), style_(style), total_(total_bytes) {}

Progress::~Progress() {
  Clear();
  out_ << std::flush;
}

void Progress::Add(uint64_t bytes) {
  done_ += bytes;
  const Clock::time_point now = Clock::now();
  const auto pause = style_ == Style::kBar ? kRedrawEvery : kLineEvery;
  if (now - shown_ >= pause) Show(now);
}

void Progress::Message(const std::string& text) {
  Clear();
  out_ << text << '\n' << std::flush;
}

void Progress::Show(Clock::time_point now) {
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string text = ProgressText(done_, total_, seconds);
  if (style_ == Style::kLines) {
    out_ << text << '\n' << std::flush;
    return;
  }
  const std::string bar = Bar(Fraction(done_, total_)) + " " + text;
  Clear();
  out_ << bar << std::flush;
  drawn_ = bar.size();
}

void Progress::Clear() {
  if (drawn_ > 0) out_ << '\r' << std::string(drawn_, ' ') << '\r';
  drawn_ = 0;
}

}  // namespace mp::examples
