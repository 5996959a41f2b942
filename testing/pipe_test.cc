#include "mp/testing/pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "mp/testing/process_test.h"

namespace mp::testing {
namespace {

class PipeTest : public ProcessTest {};

TEST_F(PipeTest, ReadsToTheEnd) {
  PipeEnds pipe = MakePipe();
  EXPECT_EQ(fcntl(pipe.reader.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(pipe.writer.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_FALSE(IsReadable(pipe.reader.get()));
  const std::string text(100'000, 'x');  // more than a pipe holds
  std::thread writer([&] {
    EXPECT_EQ(write(pipe.writer.get(), text.data(), text.size()),
              static_cast<ssize_t>(text.size()));
    pipe.writer.reset();
  });
  EXPECT_EQ(ReadAll(pipe.reader.get()), text);
  writer.join();
  EXPECT_TRUE(IsReadable(pipe.reader.get())) << "the end";
  EXPECT_EQ(ReadAll(-1), "") << "an error";
}

}  // namespace
}  // namespace mp::testing
