// What the tests of pools share that run with each kind of workers.

#ifndef MP_POOL_POOL_TEST_UTIL_H_
#define MP_POOL_POOL_TEST_UTIL_H_

#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mp/pool/pool.h"
#include "mp/testing/process_test.h"

namespace mp::pool_internal {

// The fixture; instantiate it with AnyWorkers() and WorkersName.
class AnyWorkersTest : public mp::testing::ProcessTest,
                       public ::testing::WithParamInterface<PoolWorkers> {
 protected:
  static PoolOptions With(PoolOptions options) {
    options.workers = GetParam();
    return options;
  }
};

inline auto AnyWorkers() {
  return ::testing::Values(PoolWorkers::kProcesses, PoolWorkers::kThreads);
}
inline std::string WorkersName(
    const ::testing::TestParamInfo<PoolWorkers>& workers) {
  return workers.param == PoolWorkers::kThreads ? "Threads" : "Processes";
}

inline int Square(int x) { return x * x; }

inline std::vector<int> Numbers(int count) {
  std::vector<int> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

inline std::vector<int> Squares(int count) {
  std::vector<int> squares = Numbers(count);
  for (int& each : squares) each *= each;
  return squares;
}

}  // namespace mp::pool_internal

#endif  // MP_POOL_POOL_TEST_UTIL_H_
