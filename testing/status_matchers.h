// GoogleTest matchers and assertions for absl::Status and absl::StatusOr.
//
//   ASSERT_OK(queue.Put(1));
//   ASSERT_OK_AND_ASSIGN(const int item, queue.Get());
//   EXPECT_THAT(queue.Get(), IsOkAndHolds(Gt(0)));
//   EXPECT_THAT(queue.Put(1), StatusIs(absl::StatusCode::kResourceExhausted,
//                                      HasSubstr("full")));
//
// Abseil has its own since 2024, but not in the version of Debian 12.

#ifndef MP_TESTING_STATUS_MATCHERS_H_
#define MP_TESTING_STATUS_MATCHERS_H_

#include <ostream>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#define ASSERT_OK(expression) ASSERT_THAT(expression, ::mp::testing::IsOk())
#define EXPECT_OK(expression) EXPECT_THAT(expression, ::mp::testing::IsOk())

// Assigns the value of a StatusOr to `lhs`, which may be a declaration (in
// parentheses if it has a comma), or fails the test and returns.
#define ASSERT_OK_AND_ASSIGN(lhs, expression)                                 \
  MP_TESTING_ASSERT_ASSIGN_(MP_TESTING_CONCAT_(mp_status_or_, __LINE__), lhs, \
                            expression)

#define MP_TESTING_ASSERT_ASSIGN_(status_or, lhs, expression) \
  auto status_or = (expression);                              \
  ASSERT_THAT(status_or.status(), ::mp::testing::IsOk());     \
  MP_TESTING_UNPARENTHESISE_(lhs) = *std::move(status_or)

#define MP_TESTING_CONCAT_(a, b) MP_TESTING_CONCAT2_(a, b)
#define MP_TESTING_CONCAT2_(a, b) a##b

// `(a, b)` becomes `a, b`; anything without parentheses stays as it is.
#define MP_TESTING_UNPARENTHESISE_(x) MP_TESTING_STRIP_(MP_TESTING_ISH_ x)
#define MP_TESTING_ISH_(...) MP_TESTING_ISH_ __VA_ARGS__
#define MP_TESTING_STRIP_(...) MP_TESTING_STRIP2_(__VA_ARGS__)
#define MP_TESTING_STRIP2_(...) MP_TESTING_VANISH_##__VA_ARGS__
#define MP_TESTING_VANISH_MP_TESTING_ISH_

namespace mp::testing_internal {

inline const absl::Status& GetStatus(const absl::Status& status) {
  return status;
}
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

class IsOkMatcher {
 public:
  using is_gtest_matcher = void;

  template <typename StatusLike>
  bool MatchAndExplain(const StatusLike& actual,
                       ::testing::MatchResultListener* listener) const {
    const absl::Status& status = GetStatus(actual);
    if (!status.ok()) *listener << "which is " << status.ToString();
    return status.ok();
  }
  void DescribeTo(std::ostream* os) const { *os << "is OK"; }
  void DescribeNegationTo(std::ostream* os) const { *os << "is not OK"; }
};

class StatusIsMatcher {
 public:
  using is_gtest_matcher = void;

  StatusIsMatcher(absl::StatusCode code,
                  ::testing::Matcher<const std::string&> message)
      : code_(code), message_(std::move(message)) {}

  template <typename StatusLike>
  bool MatchAndExplain(const StatusLike& actual,
                       ::testing::MatchResultListener* listener) const {
    const absl::Status& status = GetStatus(actual);
    *listener << "which is " << status.ToString();
    return status.code() == code_ &&
           message_.MatchAndExplain(std::string(status.message()), listener);
  }
  void DescribeTo(std::ostream* os) const {
    *os << "has the status code " << absl::StatusCodeToString(code_)
        << " and a message that ";
    message_.DescribeTo(os);
  }
  void DescribeNegationTo(std::ostream* os) const {
    *os << "has a status code other than " << absl::StatusCodeToString(code_)
        << " or a message that ";
    message_.DescribeNegationTo(os);
  }

 private:
  absl::StatusCode code_;
  ::testing::Matcher<const std::string&> message_;
};

template <typename Inner>
class IsOkAndHoldsMatcher {
 public:
  using is_gtest_matcher = void;

  explicit IsOkAndHoldsMatcher(Inner inner) : inner_(std::move(inner)) {}

  template <typename T>
  bool MatchAndExplain(const absl::StatusOr<T>& actual,
                       ::testing::MatchResultListener* listener) const {
    if (!actual.ok()) {
      *listener << "which is " << actual.status().ToString();
      return false;
    }
    *listener << "which holds " << ::testing::PrintToString(*actual) << " ";
    return ::testing::SafeMatcherCast<const T&>(inner_).MatchAndExplain(
        *actual, listener);
  }
  void DescribeTo(std::ostream* os) const {
    *os << "is OK and holds a value that matches";
  }
  void DescribeNegationTo(std::ostream* os) const {
    *os << "is not OK or holds a value that does not match";
  }

 private:
  Inner inner_;
};

}  // namespace mp::testing_internal

namespace mp::testing {

// Matches an OK Status or StatusOr.
inline testing_internal::IsOkMatcher IsOk() { return {}; }

// Matches a StatusOr that is OK and whose value is, or matches, `inner`.
template <typename Inner>
testing_internal::IsOkAndHoldsMatcher<std::decay_t<Inner>> IsOkAndHolds(
    Inner&& inner) {
  return testing_internal::IsOkAndHoldsMatcher<std::decay_t<Inner>>(
      std::forward<Inner>(inner));
}

// Matches a Status or StatusOr with this code and, if given, a message that
// is, or matches, `message`.
inline testing_internal::StatusIsMatcher StatusIs(
    absl::StatusCode code,
    ::testing::Matcher<const std::string&> message = ::testing::_) {
  return testing_internal::StatusIsMatcher(code, std::move(message));
}

}  // namespace mp::testing

#endif  // MP_TESTING_STATUS_MATCHERS_H_
