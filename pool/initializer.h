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

#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/pool/task.h"
#include "mp/pool/worker.h"

namespace mp {

class Initializer {
 public:
  // Does nothing.
  Initializer() = default;

  template <class F, class... Args>
  requires(!std::is_same_v<std::remove_cvref_t<F>, Initializer>)  //
      explicit Initializer(F&& function, Args&&... arguments);

  explicit operator bool() const { return run_ != nullptr; }

  // Internal: runs it, in a worker.
  absl::StatusOr<pool_internal::WorkerObject> Run() const { return (*run_)(); }

 private:
  using RunFunction =
      std::function<absl::StatusOr<pool_internal::WorkerObject>()>;
  // Shared by copies, for an initializer and its arguments may be large.
  std::shared_ptr<const RunFunction> run_;
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

template <class F, class... Args>
requires(!std::is_same_v<std::remove_cvref_t<F>, Initializer>)  //
    Initializer::Initializer(F&& function, Args&&... arguments) {
  using Function = std::decay_t<F>;
  static_assert(std::is_copy_constructible_v<Function> &&
                    (std::is_copy_constructible_v<std::decay_t<Args>> && ...),
                "mp: an initializer and its arguments must be copyable, as "
                "each worker gets copies");
  constexpr bool kMoved = std::is_invocable_v<Function&, std::decay_t<Args>...>;
  static_assert(
      kMoved || std::is_invocable_v<Function&, std::decay_t<Args>&...>,
      "mp: the initializer cannot be called with these arguments");
  RunFunction run =
      [function = Function(std::forward<F>(function)),
       arguments = std::tuple<std::decay_t<Args>...>(std::forward<Args>(
           arguments)...)]() -> absl::StatusOr<pool_internal::WorkerObject> {
    try {
      Function own_function = function;
      auto own_arguments = arguments;
      const auto call = [&]() -> decltype(auto) {
        if constexpr (kMoved) {
          return std::apply(own_function, std::move(own_arguments));
        } else {
          return std::apply(own_function, own_arguments);
        }
      };
      auto outcome = pool_internal::CallForOutcome(call);
      if (!outcome.ok()) return pool_internal::StatusOf(outcome);
      if constexpr (std::is_same_v<decltype(outcome), absl::Status>) {
        return pool_internal::WorkerObject();
      } else {
        using State = typename decltype(outcome)::value_type;
        return pool_internal::WorkerObject{
            std::make_shared<State>(*std::move(outcome)), &typeid(State)};
      }
    } catch (...) {
      return pool_internal::ExceptionError();
    }
  };
  run_ = std::make_shared<const RunFunction>(std::move(run));
}

}  // namespace mp

#endif  // MP_POOL_INITIALIZER_H_
