// The ways to start a process.

#ifndef MP_PROCESS_START_METHOD_H_
#define MP_PROCESS_START_METHOD_H_

namespace mp {

enum class StartMethod {
  // A copy of the caller, with everything it has.
  kFork,
  // This program, started afresh.
  kSpawn,
  // A copy of a template: of this program, started afresh once.
  kForkserver,
};

// "fork", "spawn" or "forkserver".
constexpr const char* StartMethodName(StartMethod method) {
  switch (method) {
    case StartMethod::kSpawn:
      return "spawn";
    case StartMethod::kForkserver:
      return "forkserver";
    case StartMethod::kFork:
      break;
  }
  return "fork";
}

}  // namespace mp

#endif  // MP_PROCESS_START_METHOD_H_
