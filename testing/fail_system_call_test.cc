#include "mp/testing/fail_system_call.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"

namespace mp::testing {
namespace {

class FailSystemCallTest : public ProcessTest {};

TEST_F(FailSystemCallTest, Fails) {
  auto child = ChildProcess::Start([] {
    FailSystemCall(SYS_getppid, ENOSPC);
    EXPECT_EQ(syscall(SYS_getppid), -1);
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_GT(getpid(), 0) << "others go on";
  });
  child.ExpectExit(0);
  EXPECT_GT(getppid(), 0) << "this process is not concerned";
}

TEST_F(FailSystemCallTest, ButForOneArgument) {
  auto child = ChildProcess::Start([] {
    FailSystemCall(SYS_getpriority, EPERM, PRIO_PROCESS);
    EXPECT_GT(syscall(SYS_getpriority, PRIO_PROCESS, 0), 0);
    EXPECT_EQ(syscall(SYS_getpriority, PRIO_PGRP, 0), -1);
    EXPECT_EQ(errno, EPERM);
  });
  child.ExpectExit(0);
}

}  // namespace
}  // namespace mp::testing
