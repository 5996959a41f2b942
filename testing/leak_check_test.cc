#include "mp/testing/leak_check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNoGrace = absl::ZeroDuration();

UniqueFd Memfd(const char* name) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(ftruncate(fd.get(), 4096), 0);
  return fd;
}

void* Map(const UniqueFd& fd) {
  return mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
}

// Also shows that the check itself leaves nothing.
class LeakCheckTest : public ProcessTest {};

TEST_F(LeakCheckTest, NothingIsNothing) {
  const LeakCheck leaks;
  EXPECT_THAT(leaks.Compare(kNoGrace), IsEmpty());
}

TEST_F(LeakCheckTest, FindsDescriptors) {
  const LeakCheck leaks;
  UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_THAT(
      leaks.Compare(kNoGrace),
      ElementsAre(absl::StrCat("new: descriptor ", fd.get(), " -> /dev/null")));
  fd.reset();
  EXPECT_THAT(leaks.Compare(kNoGrace), IsEmpty());
}

TEST_F(LeakCheckTest, FindsClosedAndExchangedDescriptors) {
  UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const LeakCheck leaks;
  const int number = fd.release();
  close(number);
  EXPECT_THAT(
      leaks.Compare(kNoGrace),
      ElementsAre(absl::StrCat("gone: descriptor ", number, " -> /dev/null")));
  const UniqueFd other(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(other.get(), number);
  EXPECT_THAT(leaks.Compare(kNoGrace), SizeIs(2));
}

TEST_F(LeakCheckTest, FindsMappingsOfMemfds) {
  const LeakCheck leaks;
  UniqueFd fd = Memfd("mp:leaked");
  void* const memory = Map(fd);
  fd.reset();
  EXPECT_THAT(leaks.Compare(kNoGrace),
              ElementsAre(AllOf(HasSubstr("new: mapping of"),
                                HasSubstr("memfd:mp:leaked"))));
  munmap(memory, 4096);
  EXPECT_THAT(leaks.Compare(kNoGrace), IsEmpty());
}

TEST_F(LeakCheckTest, CountsSeveralMappingsOfOneFile) {
  const UniqueFd fd = Memfd("mp:leaked");
  void* const first = Map(fd);
  const LeakCheck leaks;
  void* const second = Map(fd);
  // Neighbours would be one line of the table otherwise.
  mprotect(second, 4096, PROT_READ);
  EXPECT_THAT(leaks.Compare(kNoGrace),
              ElementsAre(HasSubstr("memfd:mp:leaked")));
  munmap(second, 4096);
  EXPECT_THAT(leaks.Compare(kNoGrace), IsEmpty());
  munmap(first, 4096);
  EXPECT_THAT(leaks.Compare(kNoGrace), ElementsAre(HasSubstr("gone: mapping")));
}

TEST_F(LeakCheckTest, AllowsOneOfWhatTheLibraryKeeps) {
  const LeakCheck leaks;
  const UniqueFd kept = Memfd("mp:liveness");
  void* const kept_memory = Map(kept);
  EXPECT_THAT(leaks.Compare(kNoGrace), IsEmpty());

  const UniqueFd more = Memfd("mp:liveness");
  EXPECT_THAT(leaks.Compare(kNoGrace), ElementsAre(HasSubstr("descriptor")));
  void* const more_memory = Map(more);
  EXPECT_THAT(leaks.Compare(kNoGrace), SizeIs(2));
  munmap(kept_memory, 4096);
  munmap(more_memory, 4096);

  const UniqueFd similar = Memfd("mp:liveness2");
  EXPECT_THAT(leaks.Compare(kNoGrace), SizeIs(2));
}

TEST_F(LeakCheckTest, FindsChildrenAndZombies) {
  const LeakCheck leaks;
  auto child = ChildProcess::Start([] { pause(); });
  EXPECT_THAT(leaks.Compare(kNoGrace),
              ::testing::Contains(
                  HasSubstr(absl::StrCat("new: process ", child.pid(), " "))));
  child.Kill();
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);
  EXPECT_THAT(leaks.Compare(kNoGrace),
              ::testing::Contains(
                  HasSubstr(absl::StrCat("new: zombie ", child.pid(), " "))));
}

TEST_F(LeakCheckTest, FindsOrphans) {
  const LeakCheck leaks;
  const SharedPage<std::atomic<pid_t>> orphan;
  ChildProcess::Start([&] {
    if (fork() == 0) {
      *orphan = getpid();
      while (true) pause();
    }
  }).ExpectExit();
  while (*orphan == 0) {
  }
  EXPECT_THAT(leaks.Compare(kNoGrace),
              ::testing::Contains(HasSubstr(
                  absl::StrCat("new: process ", orphan->load(), " "))));
  kill(*orphan, SIGKILL);
  // Reaped by the supervisor, in its own time.
  const auto differences = leaks.Compare();
  EXPECT_THAT(differences, SizeIs(1)) << "only the shared page";
}

TEST_F(LeakCheckTest, FindsThreads) {
  const LeakCheck leaks;
  std::atomic<bool> end = false;
  std::thread thread([&] {
    while (!end) absl::SleepFor(absl::Microseconds(100));
  });
  EXPECT_THAT(leaks.Compare(kNoGrace), ElementsAre(HasSubstr("new: thread ")));
  end = true;
  thread.join();
  EXPECT_THAT(leaks.Compare(), IsEmpty());
}

TEST_F(LeakCheckTest, GivesThreadsAndProcessesTimeToEnd) {
  const LeakCheck leaks;
  std::thread([] { absl::SleepFor(absl::Milliseconds(30)); }).detach();
  EXPECT_THAT(leaks.Compare(), IsEmpty());
}

TEST_F(LeakCheckTest, FindsPosixSharedMemory) {
  const std::string name = absl::StrCat("/mp_leak_check_test_", getpid());
  const LeakCheck leaks;
  UniqueFd fd(shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  if (!fd) GTEST_SKIP() << "no POSIX shared memory here";
  fd.reset();
  EXPECT_THAT(
      leaks.Compare(kNoGrace),
      ::testing::Contains(AllOf(HasSubstr("new: file"), HasSubstr(name))));
  shm_unlink(name.c_str());
}

TEST_F(LeakCheckTest, FindsFilesInTheTemporaryDirectory) {
  // In a child, because it changes the environment.
  char path[] = "/tmp/mp_leak_check_test_XXXXXX";
  ASSERT_NE(mkdtemp(path), nullptr);
  ChildProcess::Start([&] {
    setenv("TEST_TMPDIR", path, 1);
    const LeakCheck leaks;
    std::filesystem::create_directory(std::string(path) + "/directory");
    std::ofstream(std::string(path) + "/directory/file") << "text";
    EXPECT_THAT(
        leaks.Compare(kNoGrace),
        ElementsAre(HasSubstr("new: file"), HasSubstr("/directory/file")));
  }).ExpectExit();
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace mp::testing
