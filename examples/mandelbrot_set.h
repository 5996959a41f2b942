// Pictures of the Mandelbrot set: with a pool of processes, or without.

#ifndef MP_EXAMPLES_MANDELBROT_SET_H_
#define MP_EXAMPLES_MANDELBROT_SET_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/examples/picture.h"

namespace mp::examples {

// How many times c = x + iy survives z = z*z + c before z is far away, with a
// fraction, so that it changes smoothly with c. Negative if it survives `limit`
// of them: then it is taken for a member of the set.
double EscapeTime(double x, double y, int limit);

// A part of the plane as a picture.
struct View {
  int width = 1920;  // of the picture, in pixels
  int height = 1080;
  double center_x = -0.75;  // of the plane, in the middle of the picture
  double center_y = 0;
  double extent = 4.5;   // how much of the plane the width shows
  int iterations = 500;  // the limit
};

// Errors: InvalidArgument if there can be no such picture.
absl::Status CheckView(const View& view);

// The pixels of row `y`, counted from the top: those of the set are black.
std::vector<uint8_t> RenderRow(const View& view, int y);

struct RenderOptions {
  int processes = 0;  // workers; 0 for as many as there are processors
  // Called by the calling process: so many rows more are done.
  std::function<void(int rows)> on_progress = [](int) {};
  // What the workers did and when goes to this file, for ui.perfetto.dev.
  std::string timeline = {};
};

// In this process. Errors: see CheckView().
absl::StatusOr<Picture> RenderHere(const View& view,
                                   const RenderOptions& options = {});

// In a pool. A row is a task; rows come back in whatever order they are done
// and go to their place in the picture, which does not depend on it. A row
// whose worker dies is done again.
//
// Errors: as above; no pool could be made; the workers die all the time.
absl::StatusOr<Picture> RenderInPool(const View& view,
                                     const RenderOptions& options = {});

}  // namespace mp::examples

#endif  // MP_EXAMPLES_MANDELBROT_SET_H_
