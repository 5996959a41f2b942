#include <iostream>
#include <vector>

#include "mp/pool/pool.h"

int Square(int x) { return x * x; }

int main() {
  mp::Pool pool;  // a worker process for each processor
  absl::StatusOr<std::vector<int>> squares =
      pool.Map(Square, std::vector{1, 2, 3, 4});
  if (!squares.ok()) {
    std::cerr << squares.status() << "\n";
    return 1;
  }
  for (int square : *squares) std::cout << square << "\n";
}
