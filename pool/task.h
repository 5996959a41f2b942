// How a call becomes a task: a function and its arguments as bytes, and back.
// Internal to the pool.

#ifndef MP_POOL_TASK_H_
#define MP_POOL_TASK_H_

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/ipc/codec.h"
#include "mp/pool/executor.h"

namespace mp::pool_internal {

// ---- functions ----

template <class F>
inline constexpr bool kIsFunctionPointer =
    std::is_pointer_v<F>&& std::is_function_v<std::remove_pointer_t<F>>;

// What can be called in another process: a function, or a callable without
// state, of which the worker makes its own.
template <class F>
concept TaskCallable = kIsFunctionPointer<F> ||
    (std::is_empty_v<F>&& std::is_trivially_copyable_v<F>&&
         std::is_default_constructible_v<F>);

// A function pointer as a value that travels. Workers are forked from the
// process that submits, so a function has the same address in both.
template <class F>
uint64_t FunctionAddress(F function) {
  if constexpr (kIsFunctionPointer<F>) {
    return reinterpret_cast<uintptr_t>(function);
  } else {
    return 0;
  }
}

template <class F>
F FunctionAt(uint64_t address) {
  if constexpr (kIsFunctionPointer<F>) {
    return reinterpret_cast<F>(static_cast<uintptr_t>(address));
  } else {
    return F();
  }
}

// ---- arguments ----

// The type that an argument travels as: its own, but text as a string.
template <class T>
using TaskArgument =
    std::conditional_t<std::is_same_v<std::decay_t<T>, const char*> ||
                           std::is_same_v<std::decay_t<T>, char*>,
                       std::string, std::decay_t<T>>;

// ---- results ----

// What a caller gets for a function that returns T: void and Status give
// Status, T and StatusOr<T> give StatusOr<T>.
template <class T>
struct ResultTraits {
  using Value = T;
  using Outcome = absl::StatusOr<T>;
};
template <>
struct ResultTraits<void> {
  using Value = void;
  using Outcome = absl::Status;
};
template <>
struct ResultTraits<absl::Status> : ResultTraits<void> {};
template <class T>
struct ResultTraits<absl::StatusOr<T>> : ResultTraits<T> {};

template <class F, class... Args>
using TaskResult = ResultTraits<
    std::remove_cvref_t<std::invoke_result_t<F&, TaskArgument<Args>...>>>;

// Calls `call` and makes its result an Outcome.
template <class Call>
auto CallForOutcome(Call call) {
  using Returned = std::remove_cvref_t<decltype(call())>;
  using Outcome = typename ResultTraits<Returned>::Outcome;
  if constexpr (std::is_void_v<Returned>) {
    call();
    return absl::OkStatus();
  } else {
    return Outcome(call());
  }
}

inline const absl::Status& StatusOf(const absl::Status& outcome) {
  return outcome;
}
template <class T>
const absl::Status& StatusOf(const absl::StatusOr<T>& outcome) {
  return outcome.status();
}

// ---- one call ----

// Task input: the function's address, then the arguments.
template <class F, class... A>
struct ApplyTask {
  static size_t InputSize(const A&... arguments) {
    return (sizeof(uint64_t) + ... + EncodedSize(arguments));
  }

  static absl::Status EncodeInput(F function, std::span<std::byte> out,
                                  const A&... arguments) {
    Writer writer(out);
    writer.Write(FunctionAddress(function));
    (writer.Write(arguments), ...);
    return writer.Finish();
  }

  static void Run(std::span<const std::byte> input, TaskOutput& output) {
    Reader reader(input);
    const auto address = reader.Read<uint64_t>();
    // Braces: the arguments are read from left to right.
    std::tuple<A...> arguments{reader.Read<A>()...};
    if (absl::Status status = reader.Finish(); !status.ok()) {
      return output.Fail(status);
    }
    F function = FunctionAt<F>(address);
    const auto outcome = CallForOutcome(
        [&] { return std::apply(function, std::move(arguments)); });
    if (!outcome.ok()) return output.Fail(StatusOf(outcome));
    if constexpr (std::is_same_v<decltype(outcome), const absl::Status>) {
      output.Finish(0, [](std::span<std::byte>) { return absl::OkStatus(); });
    } else {
      output.Finish(EncodedSize(*outcome), [&](std::span<std::byte> out) {
        return Encode(*outcome, out);
      });
    }
  }
};

// ---- many calls ----

// Appends an item to `out`.
template <class T>
void AppendItem(const T& item, std::vector<std::byte>& out,
                absl::Status& error) {
  if constexpr (PlainBytes<T>) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&item);
    out.insert(out.end(), bytes, bytes + sizeof(T));
  } else {
    const size_t old_size = out.size();
    out.resize(old_size + EncodedSize(item));
    error.Update(Encode(item, std::span(out).subspan(old_size)));
  }
}

// Appends the items of a message to `items`.
template <class T>
absl::Status ReadItems(std::span<const std::byte> bytes,
                       std::vector<T>& items) {
  if constexpr (PlainBytes<T> && std::is_default_constructible_v<T>) {
    if (bytes.size() % sizeof(T) != 0) {
      return absl::DataLossError("a part of an item");
    }
    const size_t old_size = items.size();
    items.resize(old_size + bytes.size() / sizeof(T));
    memcpy(items.data() + old_size, bytes.data(), bytes.size());
    return absl::OkStatus();
  } else {
    Reader reader(bytes);
    while (reader.remaining() > 0 && reader.ok()) {
      items.push_back(reader.Read<T>());
    }
    return reader.Finish();
  }
}

// Task input: the function's address, then the items. The results come back in
// parts of at most kPartSize bytes or one result, in order.
template <class F, class T>
struct MapTask {
  using Returned = std::remove_cvref_t<std::invoke_result_t<F&, T>>;
  using Value = typename ResultTraits<Returned>::Value;

  static constexpr size_t kPartSize = size_t{64} << 10;

  static void Run(std::span<const std::byte> input, TaskOutput& output) {
    Reader reader(input);
    F function = FunctionAt<F>(reader.Read<uint64_t>());
    std::vector<std::byte> results;
    const auto copy_out = [&results](std::span<std::byte> out) {
      std::copy(results.begin(), results.end(), out.begin());
      return absl::OkStatus();
    };
    absl::Status first_error;
    while (reader.remaining() > 0 && reader.ok()) {
      T item = reader.Read<T>();
      const auto outcome = CallForOutcome(
          [&] { return std::invoke(function, std::move(item)); });
      // All items are done even if one fails, as in Python.
      if (!outcome.ok()) first_error.Update(StatusOf(outcome));
      if constexpr (!std::is_void_v<Value>) {
        if (!first_error.ok()) continue;
        AppendItem(*outcome, results, first_error);
        if (results.size() >= kPartSize) {
          output.Part(results.size(), copy_out);
          results.clear();
        }
      }
    }
    first_error.Update(reader.Finish());
    if (!first_error.ok()) return output.Fail(first_error);
    output.Finish(results.size(), copy_out);
  }
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_TASK_H_
