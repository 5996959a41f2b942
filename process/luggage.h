// How a callable and its arguments travel to a process that is no copy of this
// one. Internal to mp::Process and mp::Initializer.

#ifndef MP_PROCESS_LUGGAGE_H_
#define MP_PROCESS_LUGGAGE_H_

#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace mp::process_internal {

// What a T that is kept for a call is while it travels, and for as long as the
// call lasts: text has to be somewhere.
template <typename T>
struct Luggage {
  using Type = T;
  static const T& Stow(const T& value) { return value; }
  static T&& Unstow(T& value) { return std::move(value); }
};
template <>
struct Luggage<std::string_view> {
  using Type = std::string;
  static std::string Stow(std::string_view value) { return std::string(value); }
  static std::string_view Unstow(const std::string& value) { return value; }
};
template <>
struct Luggage<const char*> {
  using Type = std::optional<std::string>;  // it may be null
  static Type Stow(const char* value) {
    return value == nullptr ? Type() : Type(value);
  }
  static const char* Unstow(const Type& value) {
    return value.has_value() ? value->c_str() : nullptr;
  }
};

template <typename F>
inline constexpr bool kIsFunction =
    std::is_pointer_v<F>&& std::is_function_v<std::remove_pointer_t<F>>;
// Another process can make its own, which is the same.
template <typename F>
inline constexpr bool kIsStateless =
    std::is_empty_v<F>&& std::is_default_constructible_v<F>;

}  // namespace mp::process_internal

#endif  // MP_PROCESS_LUGGAGE_H_
