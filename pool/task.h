// How a call becomes a task: a function and its arguments as bytes, and back.
// Internal to the pool.

#ifndef MP_POOL_TASK_H_
#define MP_POOL_TASK_H_

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/code_place.h"
#include "mp/ipc/codec.h"
#include "mp/pool/executor.h"
#include "mp/pool/worker.h"

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

// A function pointer as a value that travels: its address in the process that
// submits.
template <class F>
uint64_t FunctionAddress(F function) {
  if constexpr (kIsFunctionPointer<F>) {
    return reinterpret_cast<uintptr_t>(function);
  } else {
    return 0;
  }
}

// A task that runs `run`, which calls `function`.
template <class F>
TaskCode CodeOf(TaskFunction run, F function) {
  return TaskCode(run, FunctionAddress(function), typeid(F).name());
}

// In the worker. The error, which nobody should have, is of the task.
template <class F>
absl::Status FindFunction(uint64_t address, TaskOutput& output, F& function) {
  if constexpr (kIsFunctionPointer<F>) {
    const absl::StatusOr<CodeAddress> code = output.FindCode(address);
    if (!code.ok()) return code.status();
    function = reinterpret_cast<F>(*code);
  }
  return absl::OkStatus();
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
    const auto outcome = Call(input, output);
    if (!outcome.ok()) return output.Fail(StatusOf(outcome));
    if constexpr (std::is_same_v<decltype(outcome), const absl::Status>) {
      output.Finish(0, [](std::span<std::byte>) { return absl::OkStatus(); });
    } else {
      output.Finish(EncodedSize(*outcome), [&](std::span<std::byte> out) {
        return Encode(*outcome, out);
      });
    }
  }

 private:
  // Apart, as a task is to end soon after its result is there: the arguments
  // are destroyed before.
  static auto Call(std::span<const std::byte> input, TaskOutput& output) {
    Reader reader(input);
    const auto address = reader.Read<uint64_t>();
    // Braces: the arguments are read from left to right.
    std::tuple<A...> arguments{reader.Read<A>()...};
    F function{};
    const auto call = [&] {
      return std::apply(function, std::move(arguments));
    };
    using Outcome = decltype(CallForOutcome(call));
    absl::Status status = reader.Finish();
    if (status.ok()) status = FindFunction(address, output, function);
    return status.ok() ? CallForOutcome(call) : Outcome(std::move(status));
  }
};

// ---- many calls ----

// Appends an item to `out`. After an error `out` is as before.
template <class T>
absl::Status AppendItem(const T& item, std::vector<std::byte>& out) {
  if constexpr (PlainBytes<T>) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&item);
    out.insert(out.end(), bytes, bytes + sizeof(T));
    return absl::OkStatus();
  } else {
    const size_t old_size = out.size();
    out.resize(old_size + EncodedSize(item));
    absl::Status encoded = Encode(item, std::span(out).subspan(old_size));
    if (!encoded.ok()) out.resize(old_size);
    return encoded;
  }
}

// Appends the items of a message to `items`; those before one that cannot be
// read, if there is one.
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
    while (reader.remaining() > 0) {
      T item = reader.Read<T>();
      if (!reader.ok()) break;
      items.push_back(std::move(item));
    }
    return reader.Finish();
  }
}

// The same for a sink, which must not throw.
template <class T>
absl::Status ReadResults(std::span<const std::byte> bytes,
                         std::vector<T>& results) {
  try {
    return ReadItems(bytes, results);
  } catch (...) {
    return ExceptionError();
  }
}

// How a function is called with an item.
struct PassItem {
  template <class T>
  using Item = TaskArgument<T>;

  template <class F, class T>
  static constexpr bool kInvocable = std::is_invocable_v<F&, T>;

  template <class F, class T>
  static decltype(auto) Call(F& function, T&& item) {
    return std::invoke(function, std::forward<T>(item));
  }
};

template <class T>
concept TupleLike = requires {
  std::tuple_size<std::remove_cvref_t<T>>::value;
};

template <class T>
struct SpreadItemOf;
template <TupleLike T>
struct SpreadItemOf<T> {
  template <size_t... i>
  static std::tuple<TaskArgument<std::tuple_element_t<i, T>>...> ItemOf(
      std::index_sequence<i...>);
  using Item =
      decltype(ItemOf(std::make_index_sequence<std::tuple_size_v<T>>()));
};

template <class F, class T>
inline constexpr bool kInvocableWithElements = false;
template <class F, class... T>
inline constexpr bool kInvocableWithElements<F, std::tuple<T...>> =
    std::is_invocable_v<F&, T...>;

// With its elements: it is a tuple, pair or array, or something like it, and
// travels as a tuple.
struct SpreadItem {
  template <class T>
  using Item = typename SpreadItemOf<std::remove_cvref_t<T>>::Item;

  template <class F, class T>
  static constexpr bool kInvocable = kInvocableWithElements<F, T>;

  template <class F, class T>
  static decltype(auto) Call(F& function, T&& item) {
    return std::apply(function, std::forward<T>(item));
  }
};

// Calls a function with an item in a worker. What it throws is its outcome.
template <class How, class F, class T>
struct ItemCall {
  using Returned = std::remove_cvref_t<decltype(How::Call(std::declval<F&>(),
                                                          std::declval<T>()))>;
  using Value = typename ResultTraits<Returned>::Value;
  using Outcome = typename ResultTraits<Returned>::Outcome;

  static Outcome Call(F& function, T item) {
    try {
      return CallForOutcome([&]() -> decltype(auto) {
        return How::Call(function, std::move(item));
      });
    } catch (...) {
      return ExceptionError();
    }
  }
};

// Calls `use(item)` for each item. The error, if one cannot be read: nothing is
// known then of those behind it.
template <class T, class Use>
absl::Status ForEachItem(Reader& reader, Use use) {
  if constexpr (PlainBytes<T>) {
    // Reading cannot fail but at the end, where Finish() sees that.
    const size_t count = reader.remaining() / sizeof(T);
    std::span<const std::byte> bytes = reader.ReadBytes(count * sizeof(T));
    for (; !bytes.empty(); bytes = bytes.subspan(sizeof(T))) {
      std::array<std::byte, sizeof(T)> item;
      memcpy(item.data(), bytes.data(), sizeof(T));
      use(std::bit_cast<T>(item));
    }
  } else {
    while (reader.remaining() > 0) {
      std::optional<T> item;
      try {
        item.emplace(reader.Read<T>());
      } catch (...) {
        return ExceptionError();
      }
      if (!reader.ok()) break;
      use(*std::move(item));
    }
  }
  return reader.Finish();
}

// Gathers results in parts of at most kPartSize bytes, or one result.
class PartWriter {
 public:
  static constexpr size_t kPartSize = size_t{64} << 10;

  explicit PartWriter(TaskOutput& output)
      : output_(output), max_size_(output.max_size()) {}
  PartWriter(const PartWriter&) = delete;
  PartWriter& operator=(const PartWriter&) = delete;

  // Errors: what the encoder says or throws; ResourceExhausted if the result is
  // larger than the output can take. Nothing has been put out then.
  template <class T>
  absl::Status Append(const T& result) {
    if constexpr (PlainBytes<T> && !std::is_empty_v<T>) {
      // The usual case, which cannot fail: there is room, and more to come.
      if (ABSL_PREDICT_TRUE(size_ + sizeof(T) <
                            std::min(bytes_.size(), put_size_))) {
        memcpy(bytes_.data() + size_, &result, sizeof(T));
        size_ += sizeof(T);
        return absl::OkStatus();
      }
    }
    return AppendAny(result);
  }

  void Flush() {
    if (size_ > 0) Put();
  }
  void Finish() { output_.Finish(size_, Copy{bytes_.data()}); }

 private:
  struct Copy {
    absl::Status operator()(std::span<std::byte> out) const {
      std::copy_n(bytes, out.size(), out.begin());
      return absl::OkStatus();
    }
    const std::byte* bytes;
  };

  template <class T>
  ABSL_ATTRIBUTE_NOINLINE absl::Status AppendAny(const T& result) {
    const size_t old_size = size_;
    try {
      const size_t size = EncodedSize(result);
      const std::span<std::byte> room = Extend(size);
      if (absl::Status status = Encode(result, room); !status.ok()) {
        size_ = old_size;
        return status;
      }
    } catch (...) {
      size_ = old_size;
      return ExceptionError();
    }
    if (const size_t size = size_ - old_size; size > max_size_) {
      size_ = old_size;
      return output_.TooLarge(size);
    }
    if (size_ > max_size_) {
      const auto last = bytes_.begin() + static_cast<std::ptrdiff_t>(old_size);
      const auto end = bytes_.begin() + static_cast<std::ptrdiff_t>(size_);
      size_ = old_size;
      Put();
      size_ = static_cast<size_t>(std::copy(last, end, bytes_.begin()) -
                                  bytes_.begin());
    }
    if (size_ >= kPartSize) Put();
    return absl::OkStatus();
  }

  // Room for so many bytes more.
  std::span<std::byte> Extend(size_t size) {
    if (bytes_.size() - size_ < size) {
      std::vector<std::byte> more(std::max(2 * bytes_.size(), size_ + size));
      std::copy_n(bytes_.begin(), size_, more.begin());
      many_bytes_ = std::move(more);
      bytes_ = many_bytes_;
    }
    return bytes_.subspan(std::exchange(size_, size_ + size), size);
  }
  void Put() {
    output_.Part(size_, Copy{bytes_.data()});
    size_ = 0;
  }

  TaskOutput& output_;
  const size_t max_size_;
  const size_t put_size_ = std::min(kPartSize, max_size_);
  // Most results are small. (An allocation for each took a tenth of a task's
  // time, and a vector that grows by a few bytes at a time half of a map's.)
  std::array<std::byte, 256> few_bytes_;
  std::vector<std::byte> many_bytes_;
  std::span<std::byte> bytes_ = few_bytes_;  // of which the beginning is used
  size_t size_ = 0;
};

// Both: task input is the function's address, then the items, which are all
// done whatever becomes of one. (In Python an error ends its chunk.)

// The result is that of each item, in order, or the first error.
template <class How, class F, class T>
struct MapTask {
  using Call = ItemCall<How, F, T>;
  using Value = typename Call::Value;

  static void Run(std::span<const std::byte> input, TaskOutput& output) {
    Reader reader(input);
    F function{};
    if (absl::Status found =
            FindFunction(reader.Read<uint64_t>(), output, function);
        !found.ok()) {
      return output.Fail(found);
    }
    PartWriter results(output);
    absl::Status first_error;
    absl::Status read = ForEachItem<T>(reader, [&](T item) {
      const auto outcome = Call::Call(function, std::move(item));
      if (!outcome.ok()) first_error.Update(StatusOf(outcome));
      if constexpr (!std::is_void_v<Value>) {
        if (first_error.ok()) first_error.Update(results.Append(*outcome));
      }
    });
    first_error.Update(std::move(read));
    if (!first_error.ok()) return output.Fail(first_error);
    results.Finish();
  }
};

// The result is the outcome of each item, in order.
template <class How, class F, class T>
struct StreamTask {
  using Call = ItemCall<How, F, T>;
  using Value = typename Call::Value;
  using Outcome = typename Call::Outcome;

  static void Run(std::span<const std::byte> input, TaskOutput& output) {
    Reader reader(input);
    F function{};
    if (absl::Status found =
            FindFunction(reader.Read<uint64_t>(), output, function);
        !found.ok()) {
      return output.Fail(found);
    }
    PartWriter results(output);
    absl::Status lost;
    const absl::Status read = ForEachItem<T>(reader, [&](T item) {
      if (!lost.ok()) return;
      absl::Status appended =
          results.Append(Call::Call(function, std::move(item)));
      if (!appended.ok()) lost = results.Append(Outcome(std::move(appended)));
    });
    lost.Update(read);
    if (!lost.ok()) {
      // Of the items whose outcomes have not been put out.
      results.Flush();
      return output.Fail(lost);
    }
    results.Finish();
  }
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_TASK_H_
