#include "mp/testing/python_peer.h"

#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/process_test.h"

namespace mp::testing {
namespace {

using ::testing::ElementsAre;

class PythonPeerTest : public ProcessTest {
 protected:
  void SetUp() override {
    ProcessTest::SetUp();
    if (!PythonPeer::Available()) GTEST_SKIP() << "no python3 here";
  }
};

TEST_F(PythonPeerTest, AnswersEachRun) {
  PythonPeer peer(
      "import sys\n"
      "for line in sys.stdin:\n"
      "  print(int(line) + int(sys.argv[1]), -1, flush=True)\n",
      {"40"});
  EXPECT_THAT(peer.Run(2), ElementsAre(42, -1));
  EXPECT_THAT(peer.Run(60), ElementsAre(100, -1));
}

TEST_F(PythonPeerTest, LongAnswer) {
  PythonPeer peer("print(*range(int(input())))", {});
  const std::vector<int64_t> answer = peer.Run(100'000);
  ASSERT_EQ(answer.size(), 100'000u);
  EXPECT_EQ(answer.back(), 99'999);
}

TEST_F(PythonPeerTest, ItsFailuresAreNotSilent) {
  EXPECT_DEATH(PythonPeer("raise SystemExit(3)", {}), "wait status 768");
  EXPECT_DEATH(PythonPeer("input(); raise SystemExit(3)", {}).Run(1),
               "has ended");
  EXPECT_DEATH(PythonPeer("print(input(), 'x')", {}).Run(1), "not numbers");
}

}  // namespace
}  // namespace mp::testing
