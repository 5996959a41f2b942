// The fields of a plain struct, without registration.
//
// Internal to mp/ipc/codec.h. C++20 cannot list the fields of a struct, but it
// can say how many initialisers a struct takes and bind that many names to it.
// The count is refused (0) whenever the two might disagree.

#ifndef MP_IPC_CODEC_AGGREGATE_H_
#define MP_IPC_CODEC_AGGREGATE_H_

#include <cstddef>
#include <exception>
#include <type_traits>
#include <utility>

namespace mp::codec_internal {

inline constexpr size_t kMaxFields = 16;

// Initialisers that are never evaluated: for a field of any type (but not for a
// base class of T, nor for T itself), only for a base class, only for a union.
template <class T>
struct AnyField {
  template <class U>
  requires(!std::is_base_of_v<U, T>) operator U() const {
    std::terminate();  // Clang warns if there is no definition.
  }
};

template <class T>
struct AnyBase {
  template <class U>
  requires(std::is_base_of_v<U, T> && !std::is_same_v<U, T>) operator U() const;
};

struct AnyUnion {
  template <class U>
  requires std::is_union_v<U>
  operator U() const;
};

template <class T, size_t>
using AnyFieldAt = AnyField<T>;

template <class T, size_t... I>
consteval bool TakesInitializers(std::index_sequence<I...>) {
  return requires { T{AnyFieldAt<T, I>{}...}; };
}

// The largest number of initialisers up to kMaxFields + 1.
template <class T, size_t N = kMaxFields + 1>
consteval size_t CountInitializers() {
  if constexpr (N == 0) {
    return 0;
  } else if constexpr (TakesInitializers<T>(std::make_index_sequence<N>{})) {
    return N;
  } else {
    return CountInitializers<T, N - 1>();
  }
}

// Whether the initialiser after `Before` stands for one whole field. That of an
// array does not: {} takes all its elements, so `After` others are too many.
// A union may be anonymous, and then it has no name to bind.
template <class T, size_t... Before, size_t... After>
consteval bool IsWholeField(std::index_sequence<Before...>,
                            std::index_sequence<After...>) {
  return requires {
    T{AnyFieldAt<T, Before>{}..., {}, AnyFieldAt<T, After>{}...};
  }
  &&!requires { T{AnyFieldAt<T, Before>{}..., AnyUnion{}}; };
}

template <class T, size_t... I>
consteval bool AreWholeFields(std::index_sequence<I...>) {
  return (IsWholeField<T>(std::make_index_sequence<I>{},
                          std::make_index_sequence<sizeof...(I) - I - 1>{}) &&
          ...);
}

// The number of fields of T, or 0 if they cannot be named: T is no aggregate,
// is empty, is bound like a tuple (std::array), has a base class, an array or
// union, a field that cannot be initialised from {}, or more than kMaxFields
// fields.
template <class T>
consteval size_t CountFields() {
  if constexpr (!std::is_aggregate_v<T> || !std::is_class_v<T> ||
                requires { std::tuple_size<T>::value; }) {
    return 0;
  } else {
    constexpr size_t count = CountInitializers<T>();
    if constexpr (count > kMaxFields || requires { T{AnyBase<T>{}}; }) {
      return 0;
    } else if constexpr (AreWholeFields<T>(std::make_index_sequence<count>{})) {
      return count;
    } else {
      return 0;
    }
  }
}

// Returns visit(field...), with references to all fields of `object`.
// REQUIRES: CountFields<std::remove_const_t<T>>() > 0, and no bit-fields unless
// T is const.
template <class T, class Visitor>
constexpr auto VisitFields(T& object, const Visitor& visit) {
  constexpr size_t count = CountFields<std::remove_const_t<T>>();
  static_assert(count > 0 && count <= kMaxFields);
#define MP_VISIT(n, ...)          \
  if constexpr (count == n) {     \
    auto& [__VA_ARGS__] = object; \
    return visit(__VA_ARGS__);    \
  }
  // clang-format off
  MP_VISIT(1, a)
  MP_VISIT(2, a, b)
  MP_VISIT(3, a, b, c)
  MP_VISIT(4, a, b, c, d)
  MP_VISIT(5, a, b, c, d, e)
  MP_VISIT(6, a, b, c, d, e, f)
  MP_VISIT(7, a, b, c, d, e, f, g)
  MP_VISIT(8, a, b, c, d, e, f, g, h)
  MP_VISIT(9, a, b, c, d, e, f, g, h, i)
  MP_VISIT(10, a, b, c, d, e, f, g, h, i, j)
  MP_VISIT(11, a, b, c, d, e, f, g, h, i, j, k)
  MP_VISIT(12, a, b, c, d, e, f, g, h, i, j, k, l)
  MP_VISIT(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  MP_VISIT(14, a, b, c, d, e, f, g, h, i, j, k, l, m, n)
  MP_VISIT(15, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)
  MP_VISIT(16, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
  // clang-format on
#undef MP_VISIT
}

}  // namespace mp::codec_internal

#endif  // MP_IPC_CODEC_AGGREGATE_H_
