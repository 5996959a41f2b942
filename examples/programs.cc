#include "mp/examples/programs.h"

#include <cstdio>
#include <cstdlib>

#include "mp/process/process.h"

namespace mp::examples {

void Print(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  mp::Exit(EXIT_FAILURE);
}

}  // namespace mp::examples
