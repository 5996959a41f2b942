// Renders the Mandelbrot set into a PNG file, in parallel.
//
//   tools/bazel run //examples:mandelbrot -- --compare "$PWD/mandelbrot.png"

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mp/examples/mandelbrot_set.h"
#include "mp/examples/picture.h"
#include "mp/examples/progress.h"
#include "mp/process/process.h"

ABSL_FLAG(int, processes, 0,
          "worker processes; 0 for as many as there are processors");
ABSL_FLAG(int, width, mp::examples::View().width, "of the picture, in pixels");
ABSL_FLAG(int, height, mp::examples::View().height,
          "of the picture, in pixels");
ABSL_FLAG(double, center_x, mp::examples::View().center_x,
          "the real part of what is in the middle");
ABSL_FLAG(double, center_y, mp::examples::View().center_y,
          "the imaginary part of what is in the middle");
ABSL_FLAG(double, extent, mp::examples::View().extent,
          "how much of the plane the width shows");
ABSL_FLAG(int, iterations, mp::examples::View().iterations,
          "after so many a point is taken for a member of the set");
ABSL_FLAG(std::string, timeline, "",
          "a file for what the workers did and when, for ui.perfetto.dev");
ABSL_FLAG(
    bool, compare, false,
    "do the same work without a pool, too; print the speed-up and whether "
    "the pictures are identical");

namespace mp::examples {
namespace {

using Clock = std::chrono::steady_clock;

struct Measured {
  Picture picture;
  double seconds = 0;
};

// Runs RenderHere or RenderInPool with progress shown on standard error.
template <class Render>
absl::StatusOr<Measured> Measure(const View& view, Render render) {
  const auto row_bytes =
      static_cast<uint64_t>(kPixelBytes) * static_cast<uint64_t>(view.width);
  Progress progress(
      std::cerr,
      isatty(STDERR_FILENO) ? Progress::Style::kBar : Progress::Style::kLines,
      row_bytes * static_cast<uint64_t>(view.height));
  RenderOptions options;
  options.processes = absl::GetFlag(FLAGS_processes);
  options.on_progress = [&](int rows) {
    progress.Add(row_bytes * static_cast<uint64_t>(rows));
  };
  options.timeline = absl::GetFlag(FLAGS_timeline);
  const Clock::time_point start = Clock::now();
  absl::StatusOr<Picture> picture = render(view, options);
  if (!picture.ok()) return picture.status();
  return Measured{*std::move(picture),
                  std::chrono::duration<double>(Clock::now() - start).count()};
}

void PrintTime(const std::string& what, double seconds) {
  std::cout << absl::StrFormat("%s: %.2f s\n", what, seconds);
}

int Fail(const absl::Status& status) {
  std::cerr << "mandelbrot: " << status.ToString() << "\n";
  return EXIT_FAILURE;
}

int Main(const std::string& path) {
  View view;
  view.width = absl::GetFlag(FLAGS_width);
  view.height = absl::GetFlag(FLAGS_height);
  view.center_x = absl::GetFlag(FLAGS_center_x);
  view.center_y = absl::GetFlag(FLAGS_center_y);
  view.extent = absl::GetFlag(FLAGS_extent);
  view.iterations = absl::GetFlag(FLAGS_iterations);

  const absl::StatusOr<Measured> pool = Measure(view, RenderInPool);
  if (!pool.ok()) return Fail(pool.status());
  if (absl::Status status = WritePng(pool->picture, path); !status.ok()) {
    return Fail(status);
  }
  std::cout << absl::StrFormat("%s: %d x %d pixels\n", path, view.width,
                               view.height);
  const int processes = absl::GetFlag(FLAGS_processes);
  PrintTime(
      absl::StrCat("pool of ", processes > 0 ? processes : mp::CpuCount()),
      pool->seconds);
  if (!absl::GetFlag(FLAGS_compare)) return EXIT_SUCCESS;

  const absl::StatusOr<Measured> alone = Measure(view, RenderHere);
  PrintTime("one process", alone->seconds);
  const bool identical = alone->picture == pool->picture;
  std::cout << absl::StrFormat("speed-up %.2f, pictures %s\n",
                               alone->seconds / pool->seconds,
                               identical ? "identical" : "DIFFERENT");
  return identical ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace mp::examples

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("renders the Mandelbrot set into a PNG file");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() != 2) {
    std::cerr << "usage: mandelbrot [--processes=N] [--width=N] [--height=N] "
                 "[--center_x=X] [--center_y=Y] [--extent=X] [--iterations=N] "
                 "[--timeline=JSON] [--compare] PNG\n";
    return 2;
  }
  return mp::examples::Main(arguments[1]);
}
