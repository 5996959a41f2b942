// One object in memory that a test shares with the children it forks.
//
//   SharedPage<std::atomic<int>> count;
//   auto child = ChildProcess::Start([&] { ++*count; });
//   child.ExpectExit(0);
//   EXPECT_EQ(*count, 1);
//
// For tests only: no header, no seal, no error but a crash. Products use
// mp/shm.

#ifndef MP_TESTING_SHARED_PAGE_H_
#define MP_TESTING_SHARED_PAGE_H_

#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <utility>

#include "mp/base/check.h"

namespace mp::testing {

// Children forked after construction see the same object at the same address.
// Destroyed only by the process that made it; nobody else may use it then.
template <typename T>
class SharedPage {
 public:
  template <typename... Args>
  explicit SharedPage(Args&&... args) : owner_(getpid()) {
    void* const memory = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MP_PCHECK(memory != MAP_FAILED) << "mmap";
    object_ = new (memory) T(std::forward<Args>(args)...);
  }
  SharedPage(const SharedPage&) = delete;
  SharedPage& operator=(const SharedPage&) = delete;
  ~SharedPage() {
    if (owner_ != getpid()) return;
    object_->~T();
    munmap(object_, sizeof(T));
  }

  T* get() const { return object_; }
  T& operator*() const { return *object_; }
  T* operator->() const { return object_; }

 private:
  const pid_t owner_;
  T* object_;
};

}  // namespace mp::testing

#endif  // MP_TESTING_SHARED_PAGE_H_
