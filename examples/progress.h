// Progress: tells the user how far a long piece of work has come, how fast it
// is and how long it will take: as a bar on a terminal, in lines elsewhere.

#ifndef MP_EXAMPLES_PROGRESS_H_
#define MP_EXAMPLES_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace mp::examples {

// "12.3 MB": powers of ten, like disks and networks.
std::string FormatBytes(double bytes);

// " 25%  100.0 MB of 400.0 MB  50.0 MB/s  0:06 left".
std::string ProgressText(uint64_t done, uint64_t total, double seconds);

class Progress {
 public:
  enum class Style {
    kBar,    // one line that is redrawn, up to ten times a second
    kLines,  // a line a second at most
  };

  Progress(std::ostream& out, Style style, uint64_t total_bytes);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  // So many bytes more are done.
  void Add(uint64_t bytes);

  // Prints a line of its own.
  void Message(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;

  void Show(Clock::time_point now);
  void Clear();

  std::ostream& out_;
  const Style style_;
  const uint64_t total_;
  uint64_t done_ = 0;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
  size_t drawn_ = 0;  // columns of the bar on the terminal
};

}  // namespace mp::examples

#endif  // MP_EXAMPLES_PROGRESS_H_
