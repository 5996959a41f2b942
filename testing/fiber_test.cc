#include "mp/testing/fiber.h"

#include <atomic>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace mp::testing {
namespace {

TEST(FiberTest, TakesTurns) {
  std::string order;
  const auto body = [&order](char name) {
    return [&order, name] {
      for (int i = 0; i < 3; ++i) {
        order += name;
        Fiber::Yield();
      }
    };
  };
  Fiber a(body('a'));
  Fiber b(body('b'));
  while (!a.ended()) {
    a.Resume();
    b.Resume();
  }
  EXPECT_TRUE(b.ended());
  EXPECT_EQ(order, "ababab");
}

TEST(FiberTest, ExitsWithoutUnwinding) {
  std::string order;
  struct AtEnd {
    std::string& order;
    ~AtEnd() { order += " destroyed"; }
  };
  Fiber fiber([&] {
    const AtEnd at_end{order};
    order += "began";
    Fiber::Yield();
    Fiber::Exit();
  });
  fiber.Resume();
  EXPECT_FALSE(fiber.ended());
  fiber.Resume();
  EXPECT_TRUE(fiber.ended());
  EXPECT_EQ(order, "began");
}

// Each handles an exception while the other does.
TEST(FiberTest, ExceptionsAreItsOwn) {
  std::vector<std::string> caught;
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (const char* const name : {"one", "two"}) {
    fibers.push_back(std::make_unique<Fiber>([&caught, name] {
      try {
        throw std::runtime_error(name);
      } catch (const std::exception&) {
        Fiber::Yield();
        try {
          throw;
        } catch (const std::exception& exception) {
          Fiber::Yield();
          caught.push_back(exception.what());
        }
      }
      EXPECT_EQ(std::current_exception(), nullptr);
    }));
  }
  while (!fibers[0]->ended()) {
    for (auto& fiber : fibers) fiber->Resume();
  }
  EXPECT_EQ(caught, (std::vector<std::string>{"one", "two"}));
}

TEST(FiberTest, HasAStackOfItsOwn) {
  const auto sum = [](auto self, int n) -> int {
    std::atomic<int> room[25] = {};
    return room[0] + (n == 0 ? 0 : n + self(self, n - 1));
  };
  int result = 0;
  Fiber fiber([&] { result = sum(sum, 300); });
  fiber.Resume();
  EXPECT_EQ(result, 300 * 301 / 2);
}

TEST(FiberTest, MisuseAborts) {
  EXPECT_DEATH(Fiber::Yield(), "not in a fiber");
  Fiber fiber([] {});
  fiber.Resume();
  EXPECT_DEATH(fiber.Resume(), "ended");
}

}  // namespace
}  // namespace mp::testing
