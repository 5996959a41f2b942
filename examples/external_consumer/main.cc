// Squares three numbers in a pool of two processes.

#include <cstdio>
#include <vector>

#include "mp/pool/pool.h"

int main() {
  mp::Pool pool({.processes = 2});
  const auto squares =
      pool.Map([](int x) { return x * x; }, std::vector<int>{1, 2, 3});
  pool.Close();
  if (const auto joined = pool.Join(); !joined.ok()) {
    std::fprintf(stderr, "%s\n", joined.ToString().c_str());
    return 1;
  }
  if (!squares.ok()) {
    std::fprintf(stderr, "%s\n", squares.status().ToString().c_str());
    return 1;
  }
  for (int square : *squares) std::printf("%d\n", square);
  return *squares == std::vector<int>{1, 4, 9} ? 0 : 1;
}
