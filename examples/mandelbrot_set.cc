#include "mp/examples/mandelbrot_set.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/pool/pool.h"

namespace mp::examples {
namespace {

// Far enough for the fraction to be smooth.
constexpr double kFar = 16;
// Of a row whose worker died.
constexpr int kRetries = 5;

using Colour = std::array<double, kPixelBytes>;

constexpr Colour kColours[] = {
    {0, 7, 100}, {32, 107, 203}, {237, 255, 255}, {255, 170, 0}, {90, 2, 0}};

// The colours one after the other, round and round, ever more slowly.
void Paint(double time, uint8_t* pixel) {
  constexpr size_t kCount = std::size(kColours);
  const double place = std::sqrt(std::max(0.0, time));
  const double floor = std::floor(place);
  const auto index = static_cast<size_t>(floor);
  const Colour& from = kColours[index % kCount];
  const Colour& to = kColours[(index + 1) % kCount];
  for (size_t i = 0; i < kPixelBytes; ++i) {
    pixel[i] = static_cast<uint8_t>(
        std::lround(from[i] + (to[i] - from[i]) * (place - floor)));
  }
}

// ---- In a worker

// What a task is about.
struct RowTask {
  View view;
  int y = 0;
};

// What it comes to.
struct Row {
  int y = 0;
  std::vector<uint8_t> pixels;
};

// The task.
Row RenderTask(const RowTask& task) {
  return {task.y, RenderRow(task.view, task.y)};
}

// ---- In the process that has the picture

void Put(const Row& row, Picture& picture) {
  std::copy(row.pixels.begin(), row.pixels.end(),
            picture.pixels.begin() +
                static_cast<std::ptrdiff_t>(row.pixels.size()) * row.y);
}

}  // namespace

double EscapeTime(double x, double y, int limit) {
  double re = 0;
  double im = 0;
  for (int n = 0; n < limit; ++n) {
    const double re2 = re * re;
    const double im2 = im * im;
    if (re2 + im2 > kFar * kFar) {
      // How far it is beyond: |z| is squared each time.
      return n - std::log2(std::log2(re2 + im2) / (2 * std::log2(kFar)));
    }
    im = 2 * re * im + y;
    re = re2 - im2 + x;
  }
  return -1;
}

absl::Status CheckView(const View& view) {
  if (view.width < 1 || view.width > kMaxPictureSide || view.height < 1 ||
      view.height > kMaxPictureSide) {
    return absl::InvalidArgumentError(
        absl::StrCat("a picture has 1 to ", kMaxPictureSide,
                     " pixels each way, not ", view.width, " x ", view.height));
  }
  if (view.iterations < 1) {
    return absl::InvalidArgumentError("it takes at least one iteration");
  }
  if (!std::isfinite(view.center_x) || !std::isfinite(view.center_y) ||
      !std::isfinite(view.extent) || view.extent <= 0) {
    return absl::InvalidArgumentError("there is no such part of the plane");
  }
  return absl::OkStatus();
}

std::vector<uint8_t> RenderRow(const View& view, int y) {
  std::vector<uint8_t> pixels(static_cast<size_t>(kPixelBytes) *
                              static_cast<size_t>(view.width));
  const double step = view.extent / view.width;
  const double c_y = view.center_y + ((view.height - 1) / 2.0 - y) * step;
  for (int x = 0; x < view.width; ++x) {
    const double c_x = view.center_x + (x - (view.width - 1) / 2.0) * step;
    const double time = EscapeTime(c_x, c_y, view.iterations);
    if (time >= 0) Paint(time, &pixels[static_cast<size_t>(kPixelBytes * x)]);
  }
  return pixels;
}

absl::StatusOr<Picture> RenderHere(const View& view,
                                   const RenderOptions& options) {
  if (absl::Status status = CheckView(view); !status.ok()) return status;
  Picture picture = MakePicture(view.width, view.height);
  for (int y = 0; y < view.height; ++y) {
    Put({y, RenderRow(view, y)}, picture);
    options.on_progress(1);
  }
  return picture;
}

absl::StatusOr<Picture> RenderInPool(const View& view,
                                     const RenderOptions& options) {
  if (absl::Status status = CheckView(view); !status.ok()) return status;
  absl::StatusOr<mp::Pool> pool = mp::Pool::Create(
      {.processes = options.processes, .timeline = options.timeline});
  if (!pool.ok()) return pool.status();
  Picture picture = MakePicture(view.width, view.height);
  std::vector<RowTask> tasks;
  for (int y = 0; y < view.height; ++y) tasks.push_back({view, y});
  mp::PoolCalls retrying = pool->With({.retries = kRetries});
  for (const absl::StatusOr<Row>& row :
       retrying.ImapUnordered(RenderTask, tasks)) {
    if (!row.ok()) return row.status();
    Put(*row, picture);
    options.on_progress(1);
  }
  return picture;
}

}  // namespace mp::examples
