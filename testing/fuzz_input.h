// What a fuzzer makes of its input: numbers from the front, bytes from the
// rest. After the end everything is zero or empty.
//
//   extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
//     mp::testing::FuzzInput input(data, size);
//     const size_t kind = input.Below(kKinds);
//     ...input.Rest()...
//     return 0;
//   }
//
// Numbers are taken in the byte order of the machine. See mp_cc_fuzz_test in
// tools/build_defs/cc.bzl for how a fuzzer is built.

#ifndef MP_TESTING_FUZZ_INPUT_H_
#define MP_TESTING_FUZZ_INPUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace mp::testing {

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size)
      : rest_(std::as_bytes(std::span(data, size))) {}

  bool empty() const { return rest_.empty(); }

  // The next bytes as they are.
  template <class Number>
  Number Take() {
    static_assert(std::is_arithmetic_v<Number>);
    Number number{};
    const std::span<const std::byte> bytes = Bytes(sizeof(number));
    if (!bytes.empty()) std::memcpy(&number, bytes.data(), bytes.size());
    return number;
  }
  // From one byte: 0 to bound - 1, so `bound` is from 1 to 256.
  size_t Below(size_t bound) { return Take<uint8_t>() % bound; }
  bool Bool() { return Below(2) != 0; }

  // The next `size` bytes, or what is left.
  std::span<const std::byte> Bytes(size_t size) {
    const auto bytes = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(bytes.size());
    return bytes;
  }
  std::span<const std::byte> Rest() { return Bytes(rest_.size()); }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_FUZZ_INPUT_H_
