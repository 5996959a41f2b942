#include "mp/pool/worker.h"

#include <stdexcept>
#include <thread>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "mp/testing/status_matchers.h"

namespace mp::pool_internal {
namespace {

using ::mp::testing::StatusIs;

absl::Status Thrown() {
  try {
    throw std::runtime_error("no such file");
  } catch (...) {
    return ExceptionError();
  }
}

TEST(WorkerTest, ExceptionErrorSaysWhoAndWhat) {
  EXPECT_THAT(Thrown(), StatusIs(absl::StatusCode::kUnknown,
                                 "MainProcess: std::runtime_error: "
                                 "no such file"));
}

TEST(WorkerTest, NameIsTheThreadsOwn) {
  std::thread thread([] {
    SetWorkerName("PoolWorker-7");
    EXPECT_EQ(WorkerName(), "PoolWorker-7");
    EXPECT_THAT(Thrown(), StatusIs(absl::StatusCode::kUnknown,
                                   "PoolWorker-7: std::runtime_error: "
                                   "no such file"));
  });
  thread.join();
  EXPECT_EQ(WorkerName(), "MainProcess");
}

}  // namespace
}  // namespace mp::pool_internal
