// Ranges of what a function returns, for tests. Clang 14 finds no range in the
// views of the C++ library of GCC 12.

#ifndef MP_POOL_GENERATED_RANGE_TEST_UTIL_H_
#define MP_POOL_GENERATED_RANGE_TEST_UTIL_H_

#include <cstddef>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>

#if !defined(__clang__) || __clang_major__ >= 16
#define MP_POOL_TEST_HAS_STD_VIEWS 1
#endif

namespace mp::pool_internal {

// f(0), f(1)... Can be read once, like a stream; each item is made when it is
// looked at.
template <class F>
class GeneratedRange {
 public:
  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using value_type = std::remove_cvref_t<std::invoke_result_t<F&, int>>;
    using difference_type = std::ptrdiff_t;

    value_type operator*() const { return range_->f_(range_->next_); }
    Iterator& operator++() {
      ++range_->next_;
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& it, std::default_sentinel_t) {
      return it.AtEnd();
    }

   private:
    friend class GeneratedRange;
    explicit Iterator(GeneratedRange* range) : range_(range) {}
    bool AtEnd() const { return range_->next_ == range_->count_; }

    GeneratedRange* range_;
  };

  explicit GeneratedRange(F f, int count = std::numeric_limits<int>::max())
      : f_(std::move(f)), count_(count) {}
  // Only moved: who copies it has not understood what it is.
  GeneratedRange(GeneratedRange&&) = default;
  GeneratedRange& operator=(GeneratedRange&&) = default;

  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const { return std::default_sentinel; }

 private:
  F f_;
  int count_;
  int next_ = 0;
};

// 0, 1...
inline auto Integers() {
  return GeneratedRange([](int n) { return n; });
}

}  // namespace mp::pool_internal

#endif  // MP_POOL_GENERATED_RANGE_TEST_UTIL_H_
