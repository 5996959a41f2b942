// The codec beside the floor, which is one memcpy of as many bytes.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/ipc/codec.h"

namespace mp {
namespace {

struct Struct64 {
  char data[64];
};

struct Record {
  std::string name;
  int64_t count;
  bool valid;
  std::vector<double> samples;
};

using Bytes = std::vector<std::byte>;

template <class T>
Bytes Encoded(const T& value) {
  Bytes bytes(EncodedSize(value));
  if (!Encode(value, bytes).ok()) bytes.clear();
  return bytes;
}

template <class T>
void RunEncode(benchmark::State& state, const T& value) {
  Bytes bytes(EncodedSize(value));
  for (auto _ : state) {
    benchmark::DoNotOptimize(&value);
    benchmark::ClobberMemory();
    const size_t size = EncodedSize(value);
    if (size > bytes.size() ||
        !Encode(value, std::span(bytes).first(size)).ok()) {
      state.SkipWithError("Encode failed");
      break;
    }
    benchmark::DoNotOptimize(bytes.data());
  }
  state.SetBytesProcessed(state.iterations() * bytes.size());
}

template <class T>
void RunDecode(benchmark::State& state, const T& value) {
  const Bytes bytes = Encoded(value);
  for (auto _ : state) {
    benchmark::ClobberMemory();
    absl::StatusOr<T> decoded = Decode<T>(bytes);
    if (!decoded.ok()) {
      state.SkipWithError("Decode failed");
      break;
    }
    benchmark::DoNotOptimize(&*decoded);
  }
  state.SetBytesProcessed(state.iterations() * bytes.size());
}

template <class T>
void RunDecodeInto(benchmark::State& state, T value) {
  const Bytes bytes = Encoded(value);
  for (auto _ : state) {
    benchmark::ClobberMemory();
    if (!DecodeInto(bytes, value).ok()) {
      state.SkipWithError("DecodeInto failed");
      break;
    }
    benchmark::DoNotOptimize(&value);
  }
  state.SetBytesProcessed(state.iterations() * bytes.size());
}

void RunFloor(benchmark::State& state, size_t size) {
  const Bytes from(size);
  Bytes to(size);
  for (auto _ : state) {
    benchmark::ClobberMemory();
    std::memcpy(to.data(), from.data(), size);
    benchmark::DoNotOptimize(to.data());
  }
  state.SetBytesProcessed(state.iterations() * size);
}

template <class T>
void Register(const std::string& name, const T& value) {
  const auto add = [&name](std::string_view operation,
                           std::string_view implementation, auto run) {
    benchmark::RegisterBenchmark((std::string(operation) + "/" + name + "/" +
                                  std::string(implementation))
                                     .c_str(),
                                 run);
  };
  add("codec_encode", "mp",
      [value](benchmark::State& state) { RunEncode(state, value); });
  add("codec_decode", "mp",
      [value](benchmark::State& state) { RunDecode(state, value); });
  add("codec_decode_into", "mp",
      [value](benchmark::State& state) { RunDecodeInto(state, value); });
  add("codec_copy", "floor",
      [size = EncodedSize(value)](benchmark::State& state) {
        RunFloor(state, size);
      });
}

[[maybe_unused]] const int registered = [] {
  Register("struct64", Struct64{});
  Register("pair", std::pair<int64_t, double>(1, 2));
  Register("string16", std::string(16, 'x'));
  Register("vector_double_1MiB", std::vector<double>((1 << 20) / 8, 1.5));
  Register("record", Record{"name", 1, true, {1, 2, 3, 4}});
  Register("strings_1000", std::vector<std::string>(1000, "a word"));
  std::map<std::string, int64_t> counts;
  for (int i = 0; i < 1000; ++i) counts[std::to_string(i)] = i;
  Register("word_counts_1000", counts);
  return 0;
}();

}  // namespace
}  // namespace mp
