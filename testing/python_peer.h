// PythonPeer: a Python program that does the same work as a benchmark.
//
//   if (!PythonPeer::Available()) ...
//   PythonPeer peer("import sys\nfor line in sys.stdin: ...", {"64"});
//   std::vector<int64_t> nanos = peer.Run(1000);
//
// Run() sends the program a line with a number, how often to do the work. It
// answers with a line of numbers, the nanoseconds that it has measured. Between
// runs it waits for the next line, so that all of it, start and imports
// included, stays outside of what is measured.

#ifndef MP_TESTING_PYTHON_PEER_H_
#define MP_TESTING_PYTHON_PEER_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "mp/base/unique_fd.h"

namespace mp::testing {

class PythonPeer {
 public:
  // Whether there is a python3 that has multiprocessing.
  static bool Available();

  // Starts `script` with the arguments in sys.argv[1:]. It ends when it reads
  // the end of its standard input.
  PythonPeer(const std::string& script, const std::vector<std::string>& args);
  PythonPeer(const PythonPeer&) = delete;
  PythonPeer& operator=(const PythonPeer&) = delete;
  // Waits for the end of the script. Aborts if that fails.
  ~PythonPeer();

  // Aborts if the script ends, or answers anything but numbers.
  std::vector<int64_t> Run(int64_t count);

 private:
  UniqueFd socket_;  // the script's standard input and output
  pid_t pid_ = -1;
};

}  // namespace mp::testing

#endif  // MP_TESTING_PYTHON_PEER_H_
