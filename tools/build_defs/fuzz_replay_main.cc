// Runs LLVMFuzzerTestOneInput on the files that it is given, with any compiler
// and without libFuzzer: the regression test of a fuzzer's corpus, and the way
// to debug one input. What an input must not do is for the fuzzer and the
// sanitizers to notice.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "the corpus is empty: nothing would be tested\n");
    return 2;
  }
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "cannot read %s\n", argv[i]);
      return 2;
    }
    // A heap block of just this size: AddressSanitizer sees each byte too far.
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)),
                                  std::istreambuf_iterator<char>());
    // Flushed before it starts: the last one named is the one that failed.
    std::printf("%s: %zu bytes\n", argv[i], bytes.size());
    std::fflush(stdout);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()),
                           bytes.size());
  }
  std::printf("%d inputs\n", argc - 1);
  return 0;
}
