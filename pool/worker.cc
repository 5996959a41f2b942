#include "mp/pool/worker.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mp/base/exception.h"
#include "mp/process/process.h"

namespace mp::pool_internal {
namespace {

thread_local std::string worker_name;

}  // namespace

std::string WorkerName() {
  return worker_name.empty() ? CurrentProcess().name : worker_name;
}

void SetWorkerName(std::string name) { worker_name = std::move(name); }

WorkerObject& CurrentWorkerObject() {
  thread_local WorkerObject object;
  return object;
}

absl::Status ExceptionError() {
  return absl::UnknownError(
      absl::StrCat(WorkerName(), ": ", DescribeCurrentException()));
}

}  // namespace mp::pool_internal
