// Every rule on a good and on a bad sample.

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/tools/lint/lint.h"

namespace mp::lint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::string> Lint(std::string path, std::string text) {
  std::vector<std::string> messages;
  for (const Finding& finding : CheckFile({path, text})) {
    messages.push_back(ToString(finding));
  }
  return messages;
}

TEST(StripCodeTest, KeepsCodeAndIncludesOnly) {
  EXPECT_EQ(StripCode("a; // fork()\nb;"), "a;          \nb;");
  EXPECT_EQ(StripCode("a /* x\ny */ b"), "a     \n     b");
  EXPECT_EQ(StripCode(R"(f("x\"y", 'z');)"), R"(f("    ", ' ');)");
  EXPECT_EQ(StripCode("R\"-(a)\" b)-\" c"), "R\"         \" c");
  EXPECT_EQ(StripCode("#include \"mp/a.h\"\n"), "#include \"mp/a.h\"\n");
  EXPECT_EQ(StripCode("1'000'000 + x"), "1'000'000 + x");
  EXPECT_EQ(StripCode("\"unfinished"), "\"          ");
}

struct Sample {
  const char* path;
  const char* code;
};

TEST(BansTest, NameTheReplacement) {
  EXPECT_THAT(Lint("sync/lock.cc", "int a;\nvoid F() { usleep(1); }\n"),
              ElementsAre("sync/lock.cc:2: usleep is banned here: wait for "
                          "the event, or use absl::SleepFor"));
}

TEST(BansTest, Bad) {
  for (const auto& [path, code] : std::vector<Sample>{
           {"sync/lock.cc", "if (fork() == 0) return;"},
           {"pool/pool.cc", "pid = ::vfork ();"},
           {"tools/x/y.cc", "clone(f, 0, 0, 0);"},
           {"ipc/queue_test.cc", "system(\"ls\");"},
           {"ipc/queue.cc", "popen(\"ls\", \"r\");"},
           {"shm/slab.cc", "exit(1);"},
           {"shm/slab.cc", "std::quick_exit(1);"},
           {"shm/slab.cc", "::_exit(1);"},
           {"sync/lock_test.cc", "sleep(1);"},
           {"sync/lock_test.cc", "return std::rand();"},
           {"sync/lock_test.cc", "srand(1);"},
           {"base/check.cc", "assert(x);"},
           {"shm/liveness.cc", "syscall(SYS_set_robust_list, set_robust_list)"},
           {"sync/lock.cc", "volatile int x;"},
           {"sync/lock.cc", "std::cout << std::endl;"},
           {"sync/lock_test.cc", "absl::Mutex mutex;"},
           {"sync/lock_test.cc", "absl::Notification done;"},
           {"base/spin.cc", "auto t = std::chrono::system_clock::now();"},
           {"base/deadline.cc", "absl::Time t = absl::Now();"},
       }) {
    EXPECT_THAT(Lint(path, std::string(code) + "\n"), SizeIs(1)) << code;
  }
  const std::string header =
      "// A.\n#ifndef MP_SYNC_A_H_\n#define MP_SYNC_A_H_\nstd::mutex m;\n";
  EXPECT_THAT(Lint("sync/a.h", header),
              ElementsAre(HasSubstr("sync/a.h:4: std::mutex")));
}

TEST(BansTest, Good) {
  for (const auto& [path, code] : std::vector<Sample>{
           {"process/fork.cc", "fork();"},
           {"testing/child.cc", "fork();"},
           {"sync/lock_test.cc", "if (fork() == 0) _exit(0);"},
           {"process/exit.cc", "_exit(1);"},
           {"examples/tour.cc", "exit(1);"},
           {"sync/lock.cc", "process.fork();"},
           {"sync/lock.cc", "process->exit(1);"},
           {"sync/lock.cc", "Clock::sleep(1);"},
           {"sync/lock.cc", "prefork(); fork_count(); pthread_atfork();"},
           {"sync/lock.cc", "int fork = 1;"},
           {"sync/lock.cc", "// never fork() here"},
           {"sync/lock.cc", "Log(\"fork() failed\");"},
           {"sync/lock.cc", "static_assert(true); ASSERT_TRUE(x);"},
           {"sync/lock.cc", "asm volatile(\"\"); __asm__ volatile (\"\");"},
           {"sync/lock.cc", "std::mutex process_local;"},
           {"sync/lock_test.cc", "absl::Time t = absl::Now();"},
           {"README.md", "Do not call fork()."},
       }) {
    EXPECT_THAT(Lint(path, std::string(code) + "\n"), IsEmpty()) << code;
  }
}

TEST(IncludesTest, BareIncludes) {
  EXPECT_THAT(Lint("sync/lock.cc", "#include \"sync/lock.h\"\n"),
              ElementsAre(HasSubstr("bare include")));
  EXPECT_THAT(Lint("sync/lock.cc", "#include \"lock.h\"\n"),
              ElementsAre(HasSubstr("bare include")));
  EXPECT_THAT(Lint("sync/lock.cc",
                   "#include <vector>\n#include \"absl/time/time.h\"\n"
                   "#include \"mp/sync/lock.h\"\n"),
              IsEmpty());
}

TEST(IncludesTest, Direction) {
  const std::string pool = "#include \"mp/pool/pool.h\"\n";
  EXPECT_THAT(Lint("sync/lock.cc", pool),
              ElementsAre(HasSubstr("wrong direction: sync comes before")));
  EXPECT_THAT(Lint("pool/pool.cc", "#include \"mp/testing/child.h\"\n"),
              ElementsAre(HasSubstr("wrong direction")));
  EXPECT_THAT(Lint("pool/worker.cc", pool + "#include \"mp/base/check.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Lint("sync/lock_test.cc", pool), IsEmpty());
  EXPECT_THAT(Lint("examples/tour.cc", pool), IsEmpty());
}

TEST(BuildDepsTest, Direction) {
  const std::string deps = "    deps = [\"//process:process\"],\n)\n";
  EXPECT_THAT(
      Lint("sync/BUILD", "mp_cc_library(\n    name = \"lock\",\n" + deps),
      ElementsAre("sync/BUILD:3: wrong direction: sync may not depend on "
                  "//process; move the shared part down"));
  EXPECT_THAT(Lint("sync/BUILD", "mp_cc_library(\n    deps = [\"//pool\"],\n"),
              ElementsAre(HasSubstr("//pool")));
  EXPECT_THAT(Lint("pool/BUILD", "mp_cc_library(\n" + deps), IsEmpty());
  EXPECT_THAT(Lint("sync/BUILD", "mp_cc_test(\n" + deps), IsEmpty());
  EXPECT_THAT(
      Lint("sync/BUILD", "mp_cc_library(\n    testonly = True,\n" + deps),
      IsEmpty());
  EXPECT_THAT(
      Lint("sync/BUILD",
           "mp_cc_library(\n    visibility = [\"//:__subpackages__\"],\n)\n"),
      IsEmpty());
}

TEST(HeaderTest, GuardAndComment) {
  EXPECT_THAT(Lint("sync/raw_lock.h",
                   "// A lock.\n\n#ifndef MP_SYNC_RAW_LOCK_H_\n"
                   "#define MP_SYNC_RAW_LOCK_H_\n#endif\n"),
              IsEmpty());
  EXPECT_THAT(Lint("sync/raw_lock.h",
                   "// A lock.\n#ifndef RAW_LOCK_H\n#define RAW_LOCK_H\n"),
              ElementsAre("sync/raw_lock.h:2: the header guard must be "
                          "MP_SYNC_RAW_LOCK_H_"));
  EXPECT_THAT(Lint("sync/raw_lock.h",
                   "// A lock.\n#ifndef MP_SYNC_RAW_LOCK_H_\n#define X\n"),
              ElementsAre(HasSubstr("header guard")));
  EXPECT_THAT(Lint("mp.h", "#ifndef MP_MP_H_\n#define MP_MP_H_\n"),
              ElementsAre(HasSubstr("mp.h:1: a header begins with")));
  EXPECT_THAT(Lint("sync/a.h", "// A.\n#pragma once\n"),
              ElementsAre(HasSubstr("MP_SYNC_A_H_")));
  EXPECT_THAT(Lint("sync/a.h", ""), SizeIs(2));
}

TEST(LayoutTest, ColumnsTabsAndEnds) {
  const std::string wide(81, 'x');
  EXPECT_THAT(Lint("a.cc", "int a;\n" + wide + "\n"),
              ElementsAre("a.cc:2: longer than 80 columns (81)"));
  EXPECT_THAT(Lint("a/BUILD", wide + "\n"), SizeIs(1));
  EXPECT_THAT(Lint("a.cc", wide.substr(1) + "\n"), IsEmpty());
  EXPECT_THAT(Lint("a.md", wide + "\n"), IsEmpty());
  EXPECT_THAT(Lint("a.cc", "// https://" + wide + "\n"), IsEmpty());
  std::string accents;
  for (int i = 0; i < 80; ++i) accents += "\u00e9";
  EXPECT_THAT(Lint("a.cc", accents + "\n"), IsEmpty());

  EXPECT_THAT(Lint("a.md", "a\tb\n"), ElementsAre(HasSubstr("a.md:1: tab")));
  EXPECT_THAT(Lint("a.md", "a \n"), ElementsAre(HasSubstr("white space")));
  EXPECT_THAT(Lint("a.md", "a\r\n"), ElementsAre(HasSubstr("white space")));
  EXPECT_THAT(Lint("a.md", "a"), ElementsAre(HasSubstr("no line break")));
}

TEST(HomePathsTest, GoodAndBad) {
  const std::string home = "/home";  // whole, this file would be a finding
  EXPECT_THAT(Lint("a.md", "see " + home + "/ada/mp\n"),
              ElementsAre(HasSubstr("one person's machine")));
  EXPECT_THAT(Lint("a.bzl", "\"" + home + "/ada\"\n"), SizeIs(1));
  EXPECT_THAT(Lint("a.md", "below " + home + "/ are people\n"), IsEmpty());
  EXPECT_THAT(Lint("a.md", "example.com" + home + "/page\n"), IsEmpty());
}

TEST(TodoTest, NeedsAType) {
  const std::string todo = "// TO" + std::string("DO");
  EXPECT_THAT(Lint("a.cc", todo + "(perf): use huge pages\n"), IsEmpty());
  EXPECT_THAT(Lint("a.cc", "f(\"TO\" \"DO\");\n"), IsEmpty());
  for (const char* rest : {": later", "(Ada): x", "(): x", "(perf) x", ""}) {
    EXPECT_THAT(Lint("a.cc", todo + rest + "\n"),
                ElementsAre(HasSubstr("what kind of work")))
        << rest;
  }
}

TEST(FlakyTest, IsBanned) {
  EXPECT_THAT(Lint("a/BUILD", "    flaky = True,\n"),
              ElementsAre(HasSubstr("flaky is banned")));
  EXPECT_THAT(Lint("a/BUILD", "    tags = [\"flaky\"],\n"), SizeIs(1));
  EXPECT_THAT(Lint("a/BUILD", "    # flaky is banned\n"), IsEmpty());
  EXPECT_THAT(Lint("a.md", "A flaky test is a bug.\n"), IsEmpty());
}

std::vector<std::string> Companions(const std::vector<const char*>& paths) {
  std::vector<File> files;
  for (const char* path : paths) files.push_back({path, ""});
  std::vector<std::string> messages;
  for (const Finding& finding : CheckCompanions(files)) {
    messages.push_back(ToString(finding));
  }
  return messages;
}

TEST(CompanionsTest, TestsAndBenchmarks) {
  EXPECT_THAT(Companions({"base/futex.cc", "base/futex.h"}),
              ElementsAre(HasSubstr("write base/futex_test.cc")));
  EXPECT_THAT(Companions({"base/futex.h", "base/futex_test.cc"}), IsEmpty());
  EXPECT_THAT(Companions({"sync/lock.h", "sync/lock_test.cc"}),
              ElementsAre(HasSubstr("write sync/lock_benchmark.cc")));
  EXPECT_THAT(Companions({"sync/lock.h", "sync/lock_test.cc",
                          "sync/lock_benchmark.cc"}),
              IsEmpty());
  EXPECT_THAT(Companions({"pool/pool.h", "pool/pool_test.cc"}),
              ElementsAre(HasSubstr("write pool/pool_benchmark.cc")));
  // An exemption names the file to have instead.
  EXPECT_THAT(Companions({"tools/lint/lint.h"}),
              ElementsAre(HasSubstr("write tools/lint/lint_rules_test.cc")));
  EXPECT_THAT(
      Companions({"mp.h", "base/x_test_util.h", "ipc/x_benchmark_util.h"}),
      IsEmpty());
}

TEST(ReadTreeTest, TextFilesInOrder) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(testing::TempDir()) / "read_tree_test";
  fs::create_directories(root / "b");
  fs::create_directories(root / "external" / "other");
  const auto write = [&root](const char* path, std::string text) {
    std::ofstream(root / path) << text;
  };
  write("b/x.cc", "x\n");
  write("a.h", "");
  write("binary", std::string("\0", 1));
  write("external/other/y.cc", "y\n");
  std::vector<std::string> found;
  for (const File& file : ReadTree(root.string())) {
    found.push_back(file.path + "=" + file.text);
  }
  fs::remove_all(root);
  EXPECT_THAT(found, ElementsAre("a.h=", "b/x.cc=x\n"));
}

}  // namespace
}  // namespace mp::lint
