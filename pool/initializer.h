// Initializer: what each worker of a pool does before its first task, and what
// it keeps for all of them.
//
//   Database Open(const std::string& path, mp::Lock lock);
//   int Count(const std::string& word) {
//     return mp::WorkerState<Database>().Count(word);
//   }
//
//   mp::Pool pool({.initializer = mp::Initializer(Open, "words.db", lock)});
//   auto counts = pool.Map(Count, words);
//
// The function is any callable, with any arguments that can be copied; handles
// of shared objects (mp::Lock, mp::Queue, mp::Event...) mean the same object in
// the workers. Each worker, also one that takes the place of another, calls its
// own copy with copies of the arguments; text literals go as such. A parameter
// may be a non-const reference.
//
// Workers that are not forked (PoolOptions::start_method) take only a function
// or a callable without captures, and arguments that mp/ipc/codec.h can send,
// text among them. The pool is not made otherwise.
//
// What the function returns, of any type T or as an absl::StatusOr<T>, is the
// worker's state: tasks get it by WorkerState<T>(). It is destroyed when the
// worker leaves in peace: after Close(), or after `maxtasksperchild` tasks. A
// function that returns void or absl::Status leaves no state.
//
// If it fails, the pool fails: with an error status, by an exception, by ending
// the process or crashing. Tasks that have not ended, and all later ones, have
// that error; the workers are killed, and Join() works. A worker that is killed
// from outside (by SIGKILL, SIGTERM, SIGINT, SIGHUP or SIGQUIT) while it runs
// its initializer is replaced, but the pool fails if that happens 50 times in a
// row. (Python starts workers with a bad initializer for ever.)

#ifndef MP_POOL_INITIALIZER_H_
#define MP_POOL_INITIALIZER_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/base/code_place.h"
#include "mp/ipc/codec.h"
#include "mp/pool/task.h"
#include "mp/pool/worker.h"
#include "mp/process/luggage.h"

namespace mp {

namespace pool_internal {

// A function and its arguments, whatever their types.
class InitializerCall {
 public:
  virtual ~InitializerCall() = default;
  virtual absl::StatusOr<WorkerObject> Run() const = 0;
  // For another process of this program: how to make it there, and what of. If
  // it cannot travel, Write() fails the writer.
  virtual size_t EncodedSize() const = 0;
  virtual void Write(Writer& writer) const = 0;
};

}  // namespace pool_internal

class Initializer {
 public:
  // Does nothing.
  Initializer() = default;

  template <class F, class... Args>
  requires(!std::is_same_v<std::remove_cvref_t<F>, Initializer>)  //
      explicit Initializer(F&& function, Args&&... arguments);

  explicit operator bool() const { return call_ != nullptr; }

  // Internal: runs it, in a worker.
  absl::StatusOr<pool_internal::WorkerObject> Run() const {
    return call_->Run();
  }

 private:
  friend struct Codec<Initializer>;

  // Shared by copies, as an initializer and its arguments may be large.
  std::shared_ptr<const pool_internal::InitializerCall> call_;
};

// Internal: for workers that are not forked.
template <>
struct Codec<Initializer> {
  static size_t Size(const Initializer& initializer);
  static void Write(const Initializer& initializer, Writer& writer);
  static Initializer Read(Reader& reader);
};

// What the initializer of the worker that runs this task has returned. For the
// thread that runs the task. Aborts if there is none, or not of this type.
template <class T>
T& WorkerState() {
  const pool_internal::WorkerObject& object =
      pool_internal::CurrentWorkerObject();
  MP_CHECK(object.type != nullptr)
      << "WorkerState() where no initializer has returned anything";
  MP_CHECK(*object.type == typeid(T))
      << "WorkerState() of type " << typeid(T).name()
      << ": the initializer returned " << object.type->name();
  return *static_cast<T*>(object.object.get());
}

// ---- implementation ----

namespace pool_internal {

// What Write() of a call begins with: the place of a function of this type.
using ReadInitializerCall =
    std::shared_ptr<const InitializerCall> (*)(Reader& reader);

absl::Status InitializerCannotTravel();
absl::Status InitializerArgumentCannotTravel(size_t number);

template <class F, class... Args>
class UnpackedInitializer;

template <class F, class... Args>
class BoundInitializer final : public InitializerCall {
 public:
  template <class F2, class... Args2>
  explicit BoundInitializer(F2&& function, Args2&&... arguments)
      : function_(std::forward<F2>(function)),
        arguments_(std::forward<Args2>(arguments)...) {}

  absl::StatusOr<WorkerObject> Run() const override {
    try {
      F own_function = function_;
      std::tuple<Args...> own_arguments = arguments_;
      const auto call = [&]() -> decltype(auto) {
        if constexpr (std::is_invocable_v<F&, Args...>) {
          return std::apply(own_function, std::move(own_arguments));
        } else {
          return std::apply(own_function, own_arguments);
        }
      };
      auto outcome = CallForOutcome(call);
      if (!outcome.ok()) return StatusOf(outcome);
      if constexpr (std::is_same_v<decltype(outcome), absl::Status>) {
        return WorkerObject();
      } else {
        using State = typename decltype(outcome)::value_type;
        return WorkerObject{std::make_shared<State>(*std::move(outcome)),
                            &typeid(State)};
      }
    } catch (...) {
      return ExceptionError();
    }
  }

  size_t EncodedSize() const override {
    if constexpr (kCallableTravels && kFirstBad == sizeof...(Args)) {
      return WithLuggage([](const auto&... values) {
        return (size_t{0} + ... + mp::EncodedSize(values));
      });
    } else {
      return 0;
    }
  }

  void Write(Writer& writer) const override {
    if constexpr (!kCallableTravels) {
      writer.Fail(InitializerCannotTravel());
    } else if constexpr (kFirstBad < sizeof...(Args)) {
      writer.Fail(InitializerArgumentCannotTravel(kFirstBad + 1));
    } else {
      if (absl::Status status = FunctionPlace().status(); !status.ok()) {
        return writer.Fail(std::move(status));
      }
      WithLuggage([&](const auto&... values) { (writer.Write(values), ...); });
    }
  }

 private:
  static constexpr bool kCallableTravels =
      process_internal::kIsFunction<F> || process_internal::kIsStateless<F>;
  static constexpr size_t kFirstBad = [] {
    constexpr std::array<bool, sizeof...(Args)> kTravels = {
        Encodable<typename process_internal::Luggage<Args>::Type>...};
    return static_cast<size_t>(
        std::find(kTravels.begin(), kTravels.end(), false) - kTravels.begin());
  }();

  absl::StatusOr<CodePlace> FunctionPlace() const {
    if constexpr (process_internal::kIsFunction<F>) {
      return PlaceOfCode(reinterpret_cast<CodeAddress>(function_));
    } else {
      return CodePlace();
    }
  }

  // Calls `use` with all that is written.
  template <class Use>
  auto WithLuggage(Use use) const {
    return std::apply(
        [&](const Args&... arguments) {
          return use(PlaceOfCode(&Read).value_or(CodePlace()),
                     FunctionPlace().value_or(CodePlace()),
                     process_internal::Luggage<Args>::Stow(arguments)...);
        },
        arguments_);
  }
  static std::shared_ptr<const InitializerCall> Read(Reader& reader);

  F function_;
  std::tuple<Args...> arguments_;
};

// One that came from another process, with what its arguments refer to.
template <class F, class... Args>
class UnpackedInitializer final : public InitializerCall {
 public:
  using Luggage = std::tuple<typename process_internal::Luggage<Args>::Type...>;

  UnpackedInitializer(F function, Luggage luggage)
      : luggage_(std::move(luggage)),
        call_(std::apply(
            [&function](auto&... each) {
              return BoundInitializer<F, Args...>(
                  std::move(function),
                  process_internal::Luggage<Args>::Unstow(each)...);
            },
            luggage_)) {}

  absl::StatusOr<WorkerObject> Run() const override { return call_.Run(); }
  size_t EncodedSize() const override { return call_.EncodedSize(); }
  void Write(Writer& writer) const override { call_.Write(writer); }

 private:
  Luggage luggage_;
  BoundInitializer<F, Args...> call_;
};

template <class F, class... Args>
std::shared_ptr<const InitializerCall> BoundInitializer<F, Args...>::Read(
    Reader& reader) {
  const auto place = reader.Read<CodePlace>();
  // Braces: the arguments are read from left to right.
  typename UnpackedInitializer<F, Args...>::Luggage luggage{
      reader.Read<typename process_internal::Luggage<Args>::Type>()...};
  F function{};
  if constexpr (process_internal::kIsFunction<F>) {
    const absl::StatusOr<CodeAddress> code = CodeAt(place);
    if (!code.ok()) {
      reader.Fail(code.status());
      return nullptr;
    }
    function = reinterpret_cast<F>(*code);
  }
  return std::make_shared<const UnpackedInitializer<F, Args...>>(
      std::move(function), std::move(luggage));
}

}  // namespace pool_internal

template <class F, class... Args>
requires(!std::is_same_v<std::remove_cvref_t<F>, Initializer>)  //
    Initializer::Initializer(F&& function, Args&&... arguments) {
  using Function = std::decay_t<F>;
  static_assert(std::is_copy_constructible_v<Function> &&
                    (std::is_copy_constructible_v<std::decay_t<Args>> && ...),
                "mp: an initializer and its arguments must be copyable, as "
                "each worker gets copies");
  static_assert(std::is_invocable_v<Function&, std::decay_t<Args>...> ||
                    std::is_invocable_v<Function&, std::decay_t<Args>&...>,
                "mp: the initializer cannot be called with these arguments");
  call_ = std::make_shared<
      const pool_internal::BoundInitializer<Function, std::decay_t<Args>...>>(
      std::forward<F>(function), std::forward<Args>(arguments)...);
}

}  // namespace mp

#endif  // MP_POOL_INITIALIZER_H_
