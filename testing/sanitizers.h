// Which sanitizers the program was built with, by either compiler. They make
// starting processes a hundred times slower, so stress tests do less with them.

#ifndef MP_TESTING_SANITIZERS_H_
#define MP_TESTING_SANITIZERS_H_

namespace mp::testing {

#if defined(__has_feature)
#define MP_HAS_FEATURE(feature) __has_feature(feature)
#else
#define MP_HAS_FEATURE(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || MP_HAS_FEATURE(address_sanitizer)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

#if defined(__SANITIZE_THREAD__) || MP_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

#undef MP_HAS_FEATURE

inline constexpr bool kSanitized = kAddressSanitizer || kThreadSanitizer;

}  // namespace mp::testing

#endif  // MP_TESTING_SANITIZERS_H_
