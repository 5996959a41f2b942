#include "mp/ipc/codec.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/fixed_array.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/container/node_hash_map.h"
#include "absl/container/node_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace test_types {

// The examples of codec.h.
class Account {
 public:
  Account() = default;
  Account(std::string name, int64_t cents)
      : name_(std::move(name)), cents_(cents) {}
  friend bool operator==(const Account&, const Account&) = default;
  friend auto MpFields(Account& a) { return std::tie(a.name_, a.cents_); }

 private:
  std::string name_;
  int64_t cents_ = 0;
};

class Celsius {
 public:
  explicit Celsius(double degrees) : degrees_(degrees) {}
  double degrees() const { return degrees_; }
  friend bool operator==(const Celsius&, const Celsius&) = default;

 private:
  double degrees_;
};

// With the function beside the class.
struct Grid {
  int cells[2][3] = {};
  std::string names[2];
  bool flags[3] = {};
  friend bool operator==(const Grid&, const Grid&) = default;
};
auto MpFields(Grid& g) { return std::tie(g.cells, g.names, g.flags); }

template <class T>
struct Box {
  Box() = default;
  explicit Box(T v) : value(std::move(v)) {}
  T value{};
  friend bool operator==(const Box&, const Box&) = default;
  friend auto MpFields(Box& b) { return std::tie(b.value); }
};

// Must not be sent as an Account.
class DerivedAccount : public Account {
 public:
  std::string more;
};

struct Polymorphic {
  virtual ~Polymorphic() = default;
  friend auto MpFields(Polymorphic& p) { return std::tie(p.n); }
  int n = 0;
};

// Recursive types need MpFields.
struct Node {
  int value = 0;
  std::unique_ptr<Node> next;
  friend auto MpFields(Node& n) { return std::tie(n.value, n.next); }
};

struct Tree {
  std::string name;
  std::vector<Tree> children;
  friend bool operator==(const Tree&, const Tree&) = default;
  friend auto MpFields(Tree& t) { return std::tie(t.name, t.children); }
};

}  // namespace test_types

template <>
struct mp::Codec<test_types::Celsius> {
  static size_t Size(const test_types::Celsius& t) {
    return EncodedSize(t.degrees());
  }
  static void Write(const test_types::Celsius& t, Writer& writer) {
    writer.Write(t.degrees());
  }
  static test_types::Celsius Read(Reader& reader) {
    return test_types::Celsius(reader.Read<double>());
  }
};

namespace mp {
namespace {

using test_types::Account;
using test_types::Box;
using test_types::Celsius;
using test_types::DerivedAccount;
using test_types::Grid;
using test_types::Node;
using test_types::Polymorphic;
using test_types::Tree;

struct Empty {
  friend bool operator==(const Empty&, const Empty&) = default;
};

enum class Color : uint8_t { kRed, kGreen };
enum class Switch : bool { kOff, kOn };

// Trivially copyable, in several ways.
struct Point {
  int32_t x;
  int32_t y;
  friend bool operator==(const Point&, const Point&) = default;
};
struct Message64 {
  char data[64];
  friend bool operator==(const Message64&, const Message64&) = default;
};
struct Flagged {
  int32_t number;
  bool flag;
  Point point;
  friend bool operator==(const Flagged&, const Flagged&) = default;
};
class NoDefault {
 public:
  explicit NoDefault(int v) : v_(v) {}
  friend bool operator==(const NoDefault&, const NoDefault&) = default;

 private:
  int v_;
};
struct Greedy {  // Would take the library's helpers for its own argument.
  template <class T>
  Greedy(const T& from) : value(static_cast<int>(from)) {}
  int value;
  friend bool operator==(const Greedy&, const Greedy&) = default;
};

// Not trivially copyable.
struct Person {
  std::string name;
  int age = 0;
  std::optional<Point> home;
  std::vector<std::string> friends;
  friend bool operator==(const Person&, const Person&) = default;
};
struct MoveOnly {
  std::unique_ptr<std::string> text;
  std::vector<std::unique_ptr<int>> numbers;
};
struct NoUniqueAddress {
  [[no_unique_address]] Empty empty;
  std::string text;
  friend bool operator==(const NoUniqueAddress&,
                         const NoUniqueAddress&) = default;
};

class Final final : public Polymorphic {
 public:
  friend auto MpFields(Final& f) { return std::tie(f.n, f.m); }
  int m = 0;
};

// Cannot be sent.
struct HasPointer {
  int* p;
  int n;
};
struct HasView {
  std::string a;
  std::string_view b;
};
struct HasReference {
  int& r;
};
struct HasConst {
  const int c;
};
struct HasAtomic {
  std::atomic<int> a;
};
using CapturingLambda = decltype([n = 0]() mutable { return ++n; });

static_assert(PlainBytes<int> && PlainBytes<double> && PlainBytes<Color>);
static_assert(PlainBytes<std::byte> && PlainBytes<std::complex<float>>);
static_assert(PlainBytes<std::chrono::nanoseconds>);
static_assert(PlainBytes<Point> && PlainBytes<Message64> && PlainBytes<Empty>);
static_assert(PlainBytes<NoDefault> && PlainBytes<Greedy>);
static_assert(PlainBytes<std::array<char, 64>>);
static_assert(PlainBytes<std::array<std::array<Point, 2>, 2>>);
static_assert(PlainBytes<std::tuple<>> && PlainBytes<std::monostate>);

// These have invalid values or are not in one piece.
static_assert(!PlainBytes<bool> && !PlainBytes<Switch>);
static_assert(!PlainBytes<Flagged> && !PlainBytes<std::array<bool, 8>>);
static_assert(!PlainBytes<std::optional<int>>);
static_assert(!PlainBytes<std::variant<int, float>>);
static_assert(!PlainBytes<absl::Duration> && !PlainBytes<std::string>);
static_assert(!PlainBytes<Celsius>);

static_assert(Encodable<bool> && Encodable<Switch> && Encodable<Flagged>);
static_assert(Encodable<Person> && Encodable<MoveOnly> && Encodable<Account>);
static_assert(Encodable<std::vector<bool>> && Encodable<std::u16string>);
static_assert(Encodable<std::map<std::string, std::vector<Person>>>);
static_assert(Encodable<std::unique_ptr<Person>> && Encodable<Node>);
static_assert(Encodable<absl::StatusOr<Person>> && Encodable<absl::Time>);
static_assert(Encodable<std::unique_ptr<Final>>);

static_assert(!Encodable<int*> && !Encodable<const char*>);
static_assert(!Encodable<void> && !Encodable<void*> && !Encodable<int&>);
static_assert(!Encodable<const int> && !Encodable<int[4]>);
static_assert(!Encodable<std::nullptr_t> && !Encodable<int Point::*>);
static_assert(!Encodable<void (*)()> && !Encodable<void (Empty::*)()>);
static_assert(!Encodable<void()>);
static_assert(!Encodable<std::string_view> && !Encodable<absl::string_view>);
static_assert(!Encodable<std::span<int>> && !Encodable<absl::Span<int>>);
static_assert(!Encodable<std::reference_wrapper<int>>);
static_assert(!Encodable<std::vector<int>::iterator>);
static_assert(!Encodable<HasPointer> && !Encodable<HasView>);
static_assert(!Encodable<HasReference> && !Encodable<HasConst>);
static_assert(!Encodable<HasAtomic> && !Encodable<CapturingLambda>);
static_assert(!Encodable<std::vector<int*>>);
static_assert(!Encodable<std::map<std::string_view, int>>);
static_assert(!Encodable<std::map<int, std::string_view>>);
static_assert(!Encodable<std::pair<int, int*>>);
static_assert(!Encodable<std::tuple<int, HasPointer>>);
static_assert(!Encodable<std::optional<int*>>);
static_assert(!Encodable<std::optional<HasPointer>>);
static_assert(!Encodable<std::variant<int, std::string_view>>);
static_assert(!Encodable<std::array<char*, 2>>);
static_assert(!Encodable<std::shared_ptr<std::string>>);
static_assert(!Encodable<std::unique_ptr<Polymorphic>>);
static_assert(!Encodable<std::unique_ptr<int[]>>);
static_assert(!Encodable<std::function<void()>>);
static_assert(!Encodable<absl::StatusOr<int*>>);
static_assert(!Encodable<absl::FixedArray<int>>);
static_assert(!Encodable<absl::flat_hash_map<int, int*>>);
static_assert(!Encodable<absl::btree_map<std::string_view, int>>);
static_assert(!Encodable<absl::InlinedVector<int*, 2>>);
static_assert(!Encodable<DerivedAccount>);

using Bytes = std::vector<std::byte>;

// Encodes between guard bytes and at an odd address.
template <class T>
Bytes EncodeOrDie(const T& value) {
  constexpr std::byte kGuard{0xa5};
  const size_t size = EncodedSize(value);
  Bytes buffer(size + 2, kGuard);
  const absl::Status status =
      Encode(value, std::span<std::byte>(buffer).subspan(1, size));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(buffer.front(), kGuard);
  EXPECT_EQ(buffer.back(), kGuard);
  return Bytes(buffer.begin() + 1, buffer.end() - 1);
}

// Decodes from a heap block of exactly this size (so that the address sanitizer
// sees each byte too far), at an aligned or an odd address.
template <class T>
absl::StatusOr<T> DecodeAt(const Bytes& bytes, size_t offset) {
  Bytes block(offset + bytes.size());
  std::copy(bytes.begin(), bytes.end(), block.begin() + offset);
  return Decode<T>(std::span<const std::byte>(block).subspan(offset));
}

template <class T>
void ExpectRoundTrip(const T& value) {
  const Bytes bytes = EncodeOrDie(value);
  for (size_t offset : {0, 1}) {
    const absl::StatusOr<T> decoded = DecodeAt<T>(bytes, offset);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_TRUE(*decoded == value);
    T reused = value;
    const absl::Status status = DecodeInto(bytes, reused);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(reused == value);
  }
}

// Whatever the bytes are, there is a value that can be used, or DataLoss.
template <class T>
bool DecodesToValueOrDataLoss(const Bytes& bytes) {
  absl::StatusOr<T> decoded = DecodeAt<T>(bytes, 0);
  if (!decoded.ok()) {
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kDataLoss);
    return false;
  }
  // Looks at all of it.
  EXPECT_TRUE(DecodeAt<T>(EncodeOrDie(*decoded), 0).ok());
  return true;
}

// All truncations, one byte too many, and each byte changed to each value (to
// some values in long messages).
template <class T>
void ExpectSurvivesDamage(const T& value) {
  const Bytes bytes = EncodeOrDie(value);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(
        DecodesToValueOrDataLoss<T>(Bytes(bytes.begin(), bytes.begin() + size)))
        << size << " of " << bytes.size();
  }
  Bytes longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(DecodesToValueOrDataLoss<T>(longer));
  const int step = bytes.size() < 64 ? 1 : 37;
  for (size_t i = 0; i < bytes.size(); ++i) {
    Bytes damaged = bytes;
    for (int flip = 1; flip < 256; flip += step) {
      damaged[i] = bytes[i] ^ std::byte(flip);
      DecodesToValueOrDataLoss<T>(damaged);
    }
  }
}

template <class T>
void ExpectWorks(const T& value) {
  ExpectRoundTrip(value);
  ExpectSurvivesDamage(value);
}

TEST(CodecTest, Scalars) {
  ExpectWorks(0);
  ExpectWorks(std::numeric_limits<int64_t>::min());
  ExpectWorks(3.25);
  ExpectWorks('x');
  ExpectWorks(Color::kGreen);
  ExpectWorks(true);
  ExpectWorks(false);
  ExpectWorks(Switch::kOn);
}

TEST(CodecTest, TriviallyCopyableTypesAreTheirOwnBytes) {
  const Point point{1, -2};
  const Bytes bytes = EncodeOrDie(point);
  ASSERT_EQ(bytes.size(), sizeof(point));
  EXPECT_EQ(std::memcmp(bytes.data(), &point, sizeof(point)), 0);
  ExpectWorks(point);
  ExpectWorks(Message64{"hello"});
  ExpectWorks(std::array<char, 64>{'a', 'b'});
  ExpectWorks(std::array<Point, 3>{Point{1, 2}, Point{3, 4}, Point{5, 6}});
  ExpectWorks(std::complex<double>(1, 2));
  ExpectWorks(std::chrono::nanoseconds(17));
  ExpectWorks(NoDefault(5));
  ExpectWorks(Greedy(5));
  ExpectWorks(Empty{});
  ExpectWorks(std::tuple<>());
  ExpectWorks(std::array<std::string, 0>());
}

TEST(CodecTest, BoolIsCheckedWhereverItIs) {
  EXPECT_FALSE(Decode<bool>(Bytes{std::byte{2}}).ok());
  EXPECT_FALSE(Decode<Switch>(Bytes{std::byte{2}}).ok());
  ExpectWorks(Flagged{1, true, {2, 3}});
  ExpectWorks(std::array<bool, 5>{true, false, true});
  ExpectWorks(std::vector<bool>{true, false, true, true});
  ExpectWorks(std::vector<Flagged>{{1, true, {2, 3}}, {4, false, {5, 6}}});
  ExpectWorks(std::deque<bool>{true, false});

  Bytes bytes = EncodeOrDie(Flagged{1, true, {2, 3}});
  bytes[sizeof(int32_t)] = std::byte{2};
  EXPECT_FALSE(Decode<Flagged>(bytes).ok());
}

TEST(CodecTest, Strings) {
  ExpectWorks(std::string());
  ExpectWorks(std::string("hello"));
  ExpectWorks(std::string("with\0zero", 9));
  ExpectWorks(std::string(1000, 'x'));
  ExpectWorks(std::u16string(u"sixteen"));
}

TEST(CodecTest, Sequences) {
  ExpectWorks(std::vector<int>());
  ExpectWorks(std::vector<int>{1, 2, 3});
  ExpectWorks(std::vector<double>{1.5, 2.5});
  ExpectWorks(std::vector<Point>{{1, 2}, {3, 4}});
  ExpectWorks(std::vector<NoDefault>{NoDefault(1), NoDefault(2)});
  ExpectWorks(std::vector<Empty>(3));
  ExpectWorks(std::vector<std::tuple<>>(3));
  ExpectWorks(std::vector<std::string>{"a", "", "ccc"});
  ExpectWorks(std::vector<std::vector<int>>{{1}, {}, {2, 3}});
  ExpectWorks(std::deque<int>{1, 2});
  ExpectWorks(std::list<std::string>{"a", "b"});
}

TEST(CodecTest, OddPlacesOfBlocks) {
  // The string's length moves the numbers to all alignments.
  for (size_t length = 0; length < 9; ++length) {
    ExpectRoundTrip(std::pair(std::string(length, 'x'),
                              std::vector<double>{1.5, 2.5, 3.5}));
    ExpectRoundTrip(
        std::pair(std::string(length, 'x'),
                  std::vector<NoDefault>{NoDefault(1), NoDefault(2)}));
  }
}

TEST(CodecTest, SetsAndMaps) {
  ExpectWorks(std::set<int>{3, 1, 2});
  ExpectWorks(std::multiset<int>{1, 1, 2});
  ExpectWorks(std::unordered_set<std::string>{"a", "b"});
  ExpectWorks(std::map<int, int>{{1, 2}, {3, 4}});
  ExpectWorks(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
  ExpectWorks(std::multimap<int, bool>{{1, true}, {1, false}});
  ExpectWorks(std::unordered_map<std::string, Point>{{"a", {1, 2}}});
}

TEST(CodecTest, AbseilContainers) {
  ExpectWorks(absl::flat_hash_set<int>{3, 1, 2});
  ExpectWorks(absl::node_hash_set<std::string>{"a", "b"});
  ExpectWorks(absl::flat_hash_map<std::string, Person>{
      {"a", {"Ann", 40, Point{1, 2}, {"Bob"}}}, {"b", {}}});
  ExpectWorks(absl::node_hash_map<int, std::vector<int>>{{1, {2, 3}}, {4, {}}});
  ExpectWorks(absl::btree_set<std::string>{"b", "a"});
  ExpectWorks(absl::btree_multiset<int>{1, 1, 2});
  ExpectWorks(absl::btree_map<std::string, Account>{{"a", {"Ann", 100}}});
  ExpectWorks(absl::btree_multimap<int, bool>{{1, true}, {1, false}});
  ExpectWorks(absl::InlinedVector<int, 2>{1});
  ExpectWorks(absl::InlinedVector<int, 2>{1, 2, 3});
  ExpectWorks(absl::InlinedVector<std::string, 2>{"a", "b", "c"});
  ExpectWorks(absl::InlinedVector<NoDefault, 2>{NoDefault(1), NoDefault(2)});
  absl::flat_hash_map<int, std::unique_ptr<int>> map;
  map[1] = std::make_unique<int>(2);
  auto decoded = Decode<decltype(map)>(EncodeOrDie(map));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded->at(1), 2);
}

TEST(CodecTest, Cords) {
  ExpectWorks(absl::Cord());
  ExpectWorks(absl::Cord("short"));
  absl::Cord chunks;
  for (int i = 0; i < 3; ++i) {
    chunks.Append(absl::Cord(std::string(100 + i, static_cast<char>('a' + i))));
  }
  ExpectWorks(chunks);
  ExpectRoundTrip(absl::Cord(std::string(10'000, 'x')));
  ExpectWorks(std::vector<absl::Cord>{absl::Cord("a"), absl::Cord()});
  ExpectWorks(std::map<std::string, absl::Cord>{{"a", absl::Cord("b")}});
}

TEST(CodecTest, Bitsets) {
  ExpectWorks(std::bitset<0>());
  ExpectWorks(std::bitset<5>(0b10110));
  ExpectWorks(std::bitset<64>(~uint64_t{0}));
  ExpectWorks(std::bitset<70>().set());
  ExpectWorks(std::vector<std::bitset<3>>{1, 7});
  Bytes bytes = EncodeOrDie(std::bitset<5>(0));
  bytes[0] = std::byte{1 << 5};
  EXPECT_EQ(Decode<std::bitset<5>>(bytes).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(CodecTest, TuplesOptionalsAndVariants) {
  ExpectWorks(std::pair<int, std::string>(1, "a"));
  ExpectWorks(std::tuple<int, std::string, bool>(1, "a", true));
  ExpectWorks(std::tuple<NoDefault, Celsius>(NoDefault(1), Celsius(2)));
  ExpectWorks(std::array<std::string, 2>{"a", "b"});
  ExpectWorks(std::array<Celsius, 2>{Celsius(1), Celsius(2)});
  ExpectWorks(std::optional<int>());
  ExpectWorks(std::optional<int>(5));
  ExpectWorks(std::optional<std::optional<bool>>(std::optional<bool>()));
  ExpectWorks(std::optional<NoDefault>(NoDefault(3)));
  using Variant = std::variant<int, std::string, int, NoDefault>;
  ExpectWorks(Variant(std::in_place_index<0>, 1));
  ExpectWorks(Variant("text"));
  ExpectWorks(Variant(std::in_place_index<2>, 1));
  ExpectWorks(Variant(NoDefault(1)));
  ExpectWorks(std::variant<Celsius, std::monostate>(Celsius(20)));
}

TEST(CodecTest, Structs) {
  ExpectWorks(Person{"Ann", 40, Point{1, 2}, {"Bob", "Cy"}});
  ExpectWorks(std::vector<Person>{{"Ann", 40, {}, {}}, {"Bob", 41, {}, {}}});
  ExpectWorks(NoUniqueAddress{{}, "text"});
}

TEST(CodecTest, UserTypes) {
  ExpectWorks(Account("Ann", 100));
  ExpectWorks(std::vector<Account>{{"Ann", 100}, {"Bob", 200}});
  ExpectWorks(Celsius(21.5));
  ExpectWorks(std::optional<Celsius>(Celsius(21.5)));
  ExpectWorks(std::vector<Celsius>{Celsius(1), Celsius(2)});
  ExpectWorks(std::map<int, Celsius>{{1, Celsius(2)}});
  ExpectWorks(Box<std::string>("text"));
  ExpectWorks(Grid{{{1, 2, 3}, {4, 5, 6}}, {"a", "b"}, {true, false, true}});
}

TEST(CodecTest, MoveOnlyTypes) {
  std::vector<std::unique_ptr<std::string>> texts;
  texts.push_back(std::make_unique<std::string>("text"));
  texts.push_back(nullptr);
  ExpectSurvivesDamage(texts);
  auto decoded =
      Decode<std::vector<std::unique_ptr<std::string>>>(EncodeOrDie(texts));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->size(), 2u);
  EXPECT_EQ(*decoded->at(0), "text");
  EXPECT_EQ(decoded->at(1), nullptr);

  MoveOnly value;
  value.text = std::make_unique<std::string>("text");
  value.numbers.push_back(std::make_unique<int>(5));
  ExpectSurvivesDamage(value);
  auto moved = Decode<MoveOnly>(EncodeOrDie(value));
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(*moved->text, "text");
  EXPECT_EQ(*moved->numbers.at(0), 5);

  // A class that no other can be derived from is sent as a whole.
  auto final = std::make_unique<Final>();
  final->n = 1;
  final->m = 2;
  auto decoded_final = Decode<std::unique_ptr<Final>>(EncodeOrDie(final));
  ASSERT_TRUE(decoded_final.ok()) << decoded_final.status();
  EXPECT_EQ((*decoded_final)->n, 1);
  EXPECT_EQ((*decoded_final)->m, 2);

  std::map<int, std::unique_ptr<int>> map;
  map[1] = std::make_unique<int>(2);
  auto decoded_map = Decode<decltype(map)>(EncodeOrDie(map));
  ASSERT_TRUE(decoded_map.ok()) << decoded_map.status();
  EXPECT_EQ(*decoded_map->at(1), 2);
}

TEST(CodecTest, Durations) {
  for (const absl::Duration d :
       {absl::ZeroDuration(), absl::InfiniteDuration(),
        -absl::InfiniteDuration(), absl::Nanoseconds(1) / 4,
        -absl::Nanoseconds(1) / 4, absl::Seconds(1.75), -absl::Seconds(1.75),
        absl::Seconds(std::numeric_limits<int64_t>::max()),
        absl::Seconds(std::numeric_limits<int64_t>::min()),
        absl::Seconds(std::numeric_limits<int64_t>::max()) +
            absl::Nanoseconds(999'999'999)}) {
    ExpectWorks(d);
    ExpectRoundTrip(absl::UnixEpoch() + d);
  }
  ExpectWorks(absl::FromUnixMicros(1'700'000'000'123'456));
  ExpectWorks(absl::InfiniteFuture());
  ExpectWorks(absl::InfinitePast());
}

TEST(CodecTest, Statuses) {
  EXPECT_EQ(EncodedSize(absl::OkStatus()), sizeof(int));
  // StatusOr<Status> does not exist, so wrapped.
  ExpectWorks(std::optional<absl::Status>(absl::OkStatus()));
  absl::Status status = absl::NotFoundError("no such thing");
  ExpectWorks(std::optional<absl::Status>(status));
  status.SetPayload("mp/a", absl::Cord("payload"));
  status.SetPayload("mp/b", absl::Cord(""));
  ExpectWorks(std::optional<absl::Status>(status));

  absl::Status decoded;
  EXPECT_TRUE(DecodeInto(EncodeOrDie(status), decoded).ok());
  EXPECT_EQ(decoded, status);

  using Result = absl::StatusOr<std::string>;
  ExpectWorks(std::vector<Result>{Result("value"), Result(status)});
}

TEST(CodecTest, WrongBufferSizeIsAnErrorAndWritesNowhereElse) {
  const Person person{"Ann", 40, Point{1, 2}, {"Bob", "Cy"}};
  const size_t size = EncodedSize(person);
  constexpr std::byte kGuard{0xa5};
  for (size_t wrong = 0; wrong < size + 3; ++wrong) {
    if (wrong == size) continue;
    Bytes buffer(size + 10, kGuard);
    EXPECT_EQ(Encode(person, std::span<std::byte>(buffer).first(wrong)).code(),
              absl::StatusCode::kInternal);
    for (size_t i = wrong; i < buffer.size(); ++i) {
      EXPECT_EQ(buffer[i], kGuard) << i << " of " << wrong;
    }
  }
  std::byte small[3];
  EXPECT_EQ(Encode(1, small).code(), absl::StatusCode::kInternal);
}

struct ThrowsWhenCopied {
  ThrowsWhenCopied() = default;
  ThrowsWhenCopied(const ThrowsWhenCopied&) { throw 1; }
  ThrowsWhenCopied& operator=(const ThrowsWhenCopied&) = default;
  friend auto MpFields(ThrowsWhenCopied& t) { return std::tie(t.n); }
  int n = 0;
};

TEST(CodecTest, VariantWithoutValueIsTheSendersError) {
  std::variant<std::string, ThrowsWhenCopied> variant;
  const ThrowsWhenCopied value;
  EXPECT_THROW(variant.emplace<ThrowsWhenCopied>(value), int);
  ASSERT_TRUE(variant.valueless_by_exception());
  Bytes bytes(EncodedSize(variant));
  EXPECT_EQ(Encode(variant, bytes).code(), absl::StatusCode::kInvalidArgument);
}

// Records the largest allocation.
size_t largest_allocation = 0;
template <class T>
struct RecordingAllocator {
  using value_type = T;
  RecordingAllocator() = default;
  template <class U>
  RecordingAllocator(const RecordingAllocator<U>&) {}
  T* allocate(size_t n) {
    largest_allocation = std::max(largest_allocation, n * sizeof(T));
    return std::allocator<T>().allocate(n);
  }
  void deallocate(T* p, size_t n) { std::allocator<T>().deallocate(p, n); }
  friend bool operator==(RecordingAllocator, RecordingAllocator) {
    return true;
  }
};
template <class T>
using RecordingVector = std::vector<T, RecordingAllocator<T>>;

template <class T>
void ExpectLengthRefused(uint64_t length, size_t size) {
  Bytes bytes(size, std::byte{0xff});
  std::memcpy(bytes.data(), &length, sizeof(length));
  largest_allocation = 0;
  const absl::StatusOr<T> decoded = Decode<T>(bytes);
  EXPECT_EQ(decoded.status().code(), absl::StatusCode::kDataLoss);
  // One element may be begun before the end is noticed.
  EXPECT_LE(largest_allocation, size + sizeof(typename T::value_type));
}

TEST(CodecTest, HostileLengthsAllocateNothing) {
  struct Large {
    std::string text;
    std::array<char, 4000> data;
  };
  for (const uint64_t length :
       {uint64_t{1000}, uint64_t{1} << 32, uint64_t{1} << 60, uint64_t{1} << 61,
        uint64_t{1} << 63, ~uint64_t{0}}) {
    ExpectLengthRefused<RecordingVector<char>>(length, 100);
    ExpectLengthRefused<RecordingVector<double>>(length, 100);
    // 2^61 elements of 8 bytes are 0 bytes modulo 2^64.
    ExpectLengthRefused<RecordingVector<double>>(length, sizeof(length));
    ExpectLengthRefused<RecordingVector<std::string>>(length, 100);
    ExpectLengthRefused<RecordingVector<Large>>(length, 100);
    ExpectLengthRefused<RecordingVector<Large>>(length, 1100);
    ExpectLengthRefused<std::string>(length, 100);
    ExpectLengthRefused<std::set<int>>(length, 100);
  }
}

TEST(CodecTest, DepthIsLimitedOnBothSides) {
  const auto chain = [](int length) {
    Node head;
    Node* last = &head;
    for (int i = 1; i < length; ++i) {
      last->next = std::make_unique<Node>();
      last = last->next.get();
    }
    return head;
  };
  const Node fits = chain(400);
  ExpectSurvivesDamage(chain(10));
  const absl::StatusOr<Node> decoded = Decode<Node>(EncodeOrDie(fits));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  int length = 0;
  for (const Node* n = &*decoded; n != nullptr; n = n->next.get()) ++length;
  EXPECT_EQ(length, 400);

  const Node deep = chain(2000);
  Bytes bytes(EncodedSize(deep));
  EXPECT_EQ(Encode(deep, bytes).code(), absl::StatusCode::kInvalidArgument);

  // Each level is a number and a 1: "there is another".
  Bytes hostile(5'000'000);
  for (size_t i = 4; i < hostile.size(); i += 5) hostile[i] = std::byte{1};
  EXPECT_EQ(Decode<Node>(hostile).status().code(), absl::StatusCode::kDataLoss);
}

TEST(CodecTest, RecursiveType) {
  ExpectWorks(Tree{"root", {{"a", {}}, {"b", {{"c", {}}}}}});
}

TEST(CodecTest, DecodeIntoKeepsMemory) {
  std::string text(1000, 'x');
  const char* data = text.data();
  ASSERT_TRUE(DecodeInto(EncodeOrDie(std::string(500, 'y')), text).ok());
  EXPECT_EQ(text, std::string(500, 'y'));
  EXPECT_EQ(text.data(), data);

  std::pair<int, std::vector<int>> pair(1, std::vector<int>(1000));
  const int* numbers = pair.second.data();
  const std::pair<int, std::vector<int>> other(2, {1, 2, 3});
  ASSERT_TRUE(DecodeInto(EncodeOrDie(other), pair).ok());
  EXPECT_EQ(pair, other);
  EXPECT_EQ(pair.second.data(), numbers);
}

TEST(CodecTest, ErrorsSayWhatIsWrongAndWhere) {
  const absl::StatusOr<std::pair<int, bool>> decoded =
      Decode<std::pair<int, bool>>(Bytes(5, std::byte{7}));
  EXPECT_EQ(decoded.status().message(),
            "mp: a message of 5 bytes cannot be decoded: a bool is neither 0 "
            "nor 1 (at byte 5)");
  EXPECT_EQ(Decode<int>(Bytes(3)).status().message(),
            "mp: a message of 3 bytes cannot be decoded: it should have 4");
}

// Random values of a type that has a bit of everything.
struct Everything {
  std::vector<Person> people;
  std::map<std::string, std::variant<int64_t, std::string, std::vector<bool>>>
      by_name;
  std::array<std::optional<double>, 3> maybe;
  std::tuple<bool, Color, std::set<int>> mixed;
  Account account;
  Tree tree;
  absl::Duration duration;
  friend bool operator==(const Everything&, const Everything&) = default;
};

class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}

  size_t Below(size_t bound) { return bits_() % bound; }
  int Int() { return static_cast<int>(bits_()); }
  bool Bool() { return bits_() % 2 == 1; }
  std::string String() {
    std::string s(Below(4) == 0 ? Below(100) : Below(4), '\0');
    for (char& c : s) c = static_cast<char>(bits_());
    return s;
  }
  Person MakePerson() {
    Person p{String(), Int(), {}, {}};
    if (Bool()) p.home = Point{Int(), Int()};
    while (Bool()) p.friends.push_back(String());
    return p;
  }
  Tree MakeTree(int depth) {
    Tree t{String(), {}};
    while (depth > 0 && Bool()) t.children.push_back(MakeTree(depth - 1));
    return t;
  }
  Everything MakeEverything() {
    Everything e;
    while (Bool()) e.people.push_back(MakePerson());
    while (Bool()) {
      auto& value = e.by_name[String()];
      const size_t kind = Below(3);
      if (kind == 0) value = int64_t{Int()};
      if (kind == 1) value = String();
      if (kind == 2) value = std::vector<bool>(Below(10), Bool());
    }
    for (auto& m : e.maybe) {
      if (Bool()) m = Int() / 8.0;
    }
    std::get<0>(e.mixed) = Bool();
    std::get<1>(e.mixed) = Bool() ? Color::kRed : Color::kGreen;
    while (Bool()) std::get<2>(e.mixed).insert(Int());
    e.account = Account(String(), Int());
    e.tree = MakeTree(4);
    e.duration = absl::Nanoseconds(Int()) * Int();
    return e;
  }

 private:
  std::mt19937_64 bits_;
};

TEST(CodecTest, RandomValuesSurvive) {
  Random random(1);
  for (int i = 0; i < 2000; ++i) ExpectRoundTrip(random.MakeEverything());
}

TEST(CodecTest, RandomDamageIsSurvived) {
  Random random(2);
  int valid = 0;
  for (int i = 0; i < 20; ++i) ExpectSurvivesDamage(random.MakeEverything());
  for (int i = 0; i < 5000; ++i) {
    Bytes bytes = EncodeOrDie(random.MakeEverything());
    for (size_t damages = 1 + random.Below(4); damages > 0; --damages) {
      // Small numbers make lengths that are nearly right.
      bytes[random.Below(bytes.size())] =
          std::byte(random.Bool() ? random.Below(4) : random.Below(256));
    }
    if (DecodesToValueOrDataLoss<Everything>(bytes)) ++valid;
  }
  // Damage in a string or a number goes unnoticed: both cases are reached.
  EXPECT_GT(valid, 100);
  EXPECT_LT(valid, 4900);
}

TEST(CodecTest, RandomBytesAreSurvived) {
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    Bytes bytes(random.Below(60));
    for (std::byte& b : bytes) {
      b = std::byte(random.Below(4) > 0 ? random.Below(3) : random.Below(256));
    }
    DecodesToValueOrDataLoss<Everything>(bytes);
    DecodesToValueOrDataLoss<std::vector<std::vector<std::string>>>(bytes);
    DecodesToValueOrDataLoss<std::variant<Person, std::set<bool>>>(bytes);
    DecodesToValueOrDataLoss<std::optional<absl::Status>>(bytes);
    DecodesToValueOrDataLoss<absl::Time>(bytes);
  }
}

}  // namespace
}  // namespace mp
