#include "mp/sync/value.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/shm/raw_value.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/sync/synchronized.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { Value<int>(); }
};

class ValueTest : private WarmUp, public testing::ProcessTest {};

// _TestValue.test_value
TEST_F(ValueTest, AChildsWritesAreSeen) {
  Value<int> a(7);
  Value<double> b(3.5);
  Value<int16_t> c(-232);
  Value<long long> d(int64_t{1} << 33);
  Value<char> e('x');
  EXPECT_EQ(a.Get(), 7);
  EXPECT_EQ(d.Get(), int64_t{1} << 33);
  ChildProcess::Start([&] {
    a.Set(-3);
    b.Set(-6.25);
    c.Set(232);
    d.Set(-(int64_t{1} << 33));
    e.Set('y');
  }).ExpectExit(0);
  EXPECT_EQ(a.Get(), -3);
  EXPECT_EQ(b.Get(), -6.25);
  EXPECT_EQ(c.Get(), 232);
  EXPECT_EQ(d.Get(), -(int64_t{1} << 33));
  EXPECT_EQ(e.Get(), 'y');
}

// _TestValue.test_getobj_getlock
TEST_F(ValueTest, TheLockIsItsOwnOrTheCallers) {
  Value<int> own(5);
  static_assert(std::is_same_v<decltype(own.get_lock()), RLock&>);
  EXPECT_EQ(*own.get_obj(), 5);
  RLock lock;
  Value<int> with(5, lock);
  EXPECT_EQ(with.get_lock(), lock);
  Value<int> beside(6, lock);
  const auto access = with.Access();
  EXPECT_FALSE(own.get_lock().Locked());
  EXPECT_TRUE(lock.Locked());
  ChildProcess::Start([&] {
    EXPECT_FALSE(beside.Access(absl::ZeroDuration()));
    EXPECT_TRUE(own.Access(absl::ZeroDuration()));
  }).ExpectExit(0);
}

struct Foo {
  int x = 1;
  double y = 2;
};

// _TestSharedCTypes.test_synchronize, the structure and the numbers.
TEST_F(ValueTest, AStructureIsChangedUnderTheLock) {
  Value<int> x(7);
  Value<double> y(1.0 / 3.0);
  Value<Foo> foo(Foo{.x = 3, .y = 2});
  Value<Foo, Lock> with_lock(Foo{}, Lock());
  ChildProcess::Start([&] {
    x.Update([](int& value) { value *= 2; });
    y.Set(y.Get() * 2);
    auto access = foo.Access();
    access->x *= 2;
    (*access).y *= 2;
    with_lock.Access()->x = 9;
  }).ExpectExit(0);
  EXPECT_EQ(x.Get(), 14);
  EXPECT_EQ(y.Get(), 2.0 / 3.0);
  EXPECT_EQ(foo.Get().x, 6);
  EXPECT_EQ(foo.Get().y, 4);
  EXPECT_EQ(with_lock.Get().x, 9);
}

TEST_F(ValueTest, UpdatesAreNotLost) {
  constexpr int kTimes = 20'000;
  Value<int> count;
  std::vector<ChildProcess> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(ChildProcess::Start([count]() mutable {
      for (int n = 0; n < kTimes; ++n) count.Update([](int& c) { c = c + 1; });
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(count.Get(), 3 * kTimes);
}

TEST_F(ValueTest, WhoHasAccessMayAskForMore) {
  Value<int> value(1);
  const auto access = value.Access();
  EXPECT_EQ(value.Get(), 1);
  value.Set(2);
  EXPECT_EQ(value.Update([](int& v) { return ++v; }), 3);
  EXPECT_EQ(*access, 3);
  const std::scoped_lock hold(value.get_lock());
  EXPECT_EQ(value.get_lock().ToString(), "RLock(owner=me, 2)");
}

TEST_F(ValueTest, AccessEndsWithTheGuard) {
  Value<int> value;
  {
    auto first = value.Access();
    EXPECT_TRUE(first);
    const auto second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move)
    EXPECT_TRUE(second);
    EXPECT_TRUE(value.get_lock().Locked());
  }
  EXPECT_FALSE(value.get_lock().Locked());
  EXPECT_THROW(value.Update([](int&) { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_FALSE(value.get_lock().Locked());
}

TEST_F(ValueTest, AccessTimesOut) {
  Value<int> value;
  const auto access = value.Access();
  ChildProcess::Start([&] {
    const Deadline end = Deadline::After(absl::Milliseconds(20));
    const auto none = value.Access(absl::Milliseconds(20));
    EXPECT_TRUE(end.Expired());
    EXPECT_FALSE(none);
    EXPECT_FALSE(none.owner_died());
    EXPECT_DEATH(*none = 1, "not granted in time");
  }).ExpectExit(0);
}

TEST_F(ValueTest, TheNextOneIsToldOfADeath) {
  Value<Foo> value;
  ChildProcess::Start([&] {
    auto access = value.Access();
    access->x = 100;
    _exit(0);
  }).ExpectExit(0);
  {
    const auto access = value.Access(absl::ZeroDuration());
    EXPECT_TRUE(access);
    EXPECT_TRUE(access.owner_died());
    EXPECT_EQ(access->x, 100);
  }
  EXPECT_FALSE(value.Access().owner_died());
}

TEST_F(ValueTest, RepairsAfterADeath) {
  Value<Foo> value;
  value.set_repair([](Foo& foo) { foo.y = 2 * foo.x; });
  SharedPage<std::atomic<bool>> holds;
  auto holder = ChildProcess::Start([&] {
    auto access = value.Access();
    access->x = 100;
    *holds = true;
    for (;;) pause();
  });
  while (!*holds) absl::SleepFor(absl::Microseconds(100));
  auto waiter = ChildProcess::Start([&] { EXPECT_EQ(value.Get().y, 200); });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  holder.Kill();
  holder.ExpectSignal(SIGKILL);
  waiter.ExpectExit(0);
  EXPECT_EQ(value.Get().y, 200);
}

TEST_F(ValueTest, AnyRawValueGetsALock) {
  const RawValue<int> raw(1);
  Synchronized synchronized(raw, Lock());
  *synchronized.Access() = 2;
  EXPECT_EQ(*raw, 2);
  EXPECT_EQ(synchronized.get_obj(), raw);
}

TEST_F(ValueTest, CopiesMeanTheSame) {
  EXPECT_OK(Value<int>::Create(1));
  std::optional<Value<int>> first(1);
  Value<int> second = *first;
  EXPECT_EQ(second, *first);
  EXPECT_FALSE(second == Value<int>(1));
  first->Set(2);
  first.reset();
  EXPECT_EQ(second.Get(), 2);
}

}  // namespace
}  // namespace mp
