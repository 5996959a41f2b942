// Gang: processes that do the same work at the same time, for benchmarks and
// stress tests.
//
//   Gang gang(4, [&](int member, int64_t operations) {
//     for (int64_t i = 0; i < operations; ++i) { ... }
//   });
//   double seconds = gang.Run(1'000'000);   // as often as you like
//
// The members are forked once and sleep between runs. They inherit what the
// function captures as it was when the gang was made. In the end they are
// killed, unless they are told how to leave.

#ifndef MP_TESTING_GANG_H_
#define MP_TESTING_GANG_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace mp::testing {

class Gang {
 public:
  using Body = std::function<void(int member, int64_t operations)>;

  // Each member calls `leave` in the end, if there is one, and then exits
  // without further ado.
  Gang(int size, Body body, std::function<void()> leave = nullptr);
  Gang(const Gang&) = delete;
  Gang& operator=(const Gang&) = delete;
  // Kills the members, or has them leave, and reaps them.
  ~Gang();

  // Has every member call the body with `operations`. Returns the seconds from
  // the moment the first began until the last was done. Aborts if a member
  // died.
  double Run(int64_t operations);

 private:
  struct Shared;

  [[noreturn]] void Serve(int member, const Body& body);
  void StartRound(int64_t operations);

  const int size_;
  const std::function<void()> leave_;
  Shared* shared_;
  std::vector<pid_t> pids_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_GANG_H_
