#include "mp/ipc/codec_aggregate.h"

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mp::codec_internal {
namespace {

struct Empty {};
struct One {
  int a;
};
struct Nested {
  One one;
  int b;
};
struct Rich {
  std::string a;
  std::vector<int> b;
  std::optional<int> c;
  std::variant<int, std::string> d;
  std::unique_ptr<int> e;
  std::map<int, std::string> f;
  std::array<int, 3> g;
  std::tuple<int, std::string> h;
  std::pair<int, int> i;
  absl::Duration j;
  absl::Status k;
  std::function<void()> l;
  bool m;
  Nested n;
};
struct Sixteen {
  int a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p;
};
struct Seventeen {
  int a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q;
};
struct WithArray {
  int a;
  char text[8];
};
struct WithBigArray {
  char text[64];
};
struct WithBase : One {
  int b;
};
struct WithEmptyBase : Empty {
  int b;
};
struct AnonymousUnion {
  int tag;
  union {
    int i;
    float f;
  };
};
struct WithReference {
  int a;
  int& b;
};
struct NoDefault {
  explicit NoDefault(int) {}
};
struct WithNoDefault {
  int a;
  NoDefault b;
};
struct Bits {
  unsigned a : 3;
  bool b : 1;
};
class Private {
 public:
  int a = 0;

 private:
  [[maybe_unused]] int b_ = 0;
};

static_assert(CountFields<One>() == 1);
static_assert(CountFields<Nested>() == 2);
static_assert(CountFields<Rich>() == 14);
static_assert(CountFields<Sixteen>() == 16);
static_assert(CountFields<Bits>() == 2);

static_assert(CountFields<int>() == 0);
static_assert(CountFields<Empty>() == 0);
static_assert(CountFields<Seventeen>() == 0);
static_assert(CountFields<WithArray>() == 0);
static_assert(CountFields<WithBigArray>() == 0);
static_assert(CountFields<WithBase>() == 0);
static_assert(CountFields<WithEmptyBase>() == 0);
static_assert(CountFields<AnonymousUnion>() == 0);
static_assert(CountFields<WithReference>() == 0);
static_assert(CountFields<WithNoDefault>() == 0);
static_assert(CountFields<Private>() == 0);
static_assert(CountFields<std::string>() == 0);
static_assert(CountFields<std::array<int, 0>>() == 0);
static_assert(CountFields<std::array<int, 3>>() == 0);

TEST(CodecAggregate, VisitsFieldsInOrder) {
  Sixteen numbers{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const std::vector<int> seen =
      VisitFields(numbers, [](auto&... f) { return std::vector<int>{f...}; });
  ASSERT_EQ(seen.size(), 16u);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(seen[i], i + 1);
}

TEST(CodecAggregate, FieldsCanBeChanged) {
  Nested nested{{1}, 2};
  VisitFields(nested, [](One& one, int& b) {
    one.a = 10;
    b = 20;
  });
  EXPECT_EQ(nested.one.a, 10);
  EXPECT_EQ(nested.b, 20);
}

TEST(CodecAggregate, ConstBitFieldsCanBeSeen) {
  const Bits bits{5, true};
  EXPECT_EQ(VisitFields(bits, [](const auto&... f) { return (f + ...); }), 6u);
}

}  // namespace
}  // namespace mp::codec_internal
