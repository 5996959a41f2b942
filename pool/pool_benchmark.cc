// pool_apply: submit one task and wait for its result.
// pool_apply_async: tasks submitted in a row, then their results collected.
//   Time of one task.
// pool_map_item: one item of a Map with the default chunk size.
// pool_map_tasks/items:<number>: one of so many items of a Map in which each is
//   a task of its own: whether that becomes dearer with their number.
// pool_starmap_item: as pool_map_item, for items of two numbers.
// pool_imap, pool_imap_unordered: one item of an endless stream, each a task.
// pool_create_destroy/<workers>: make a pool of so many, have it run one task,
//   destroy it. Its floor is as many raw forks, each waited for.
//
// As <operation>/<implementation> with two workers, a task that adds one to a
// number. Each of these is one step away from there:
// .../task:<time>/...: a task that keeps a processor busy for so long.
// .../argument:<size>/...: a task that gets a string of that size.
// .../workers:<number>/...
//
// The others: Python's multiprocessing.Pool (python), its ProcessPoolExecutor
// (python_executor), and oneTBB, whose workers are threads of this process that
// get nothing sent: not a peer but a yardstick. Its caller is one of the
// workers. It is there if the program was built with --config=tbb, for which
// `tools/setup tbb` installs it.

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/ipc/message_benchmark_util.h"
#include "mp/pool/pool.h"

#ifdef MP_HAVE_TBB
#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/parallel_pipeline.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>
#endif

namespace {

using mp::ipc_benchmark::kMiB;

int Increment(const int& n) { return n + 1; }
int Add(int a, int b) { return a + b; }
int Length(const std::string& text) { return static_cast<int>(text.size()); }

// Keeps a processor busy for so many nanoseconds.
int Spin(const int64_t& nanos) {
  const auto now = [] {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
  };
  for (const int64_t end = now() + nanos; now() < end;) continue;
  return 0;
}

// What the operations do.
template <class In>
struct Work {
  std::string name;  // "", or what is different from that
  int workers = 2;
  int (*function)(const In&) = nullptr;
  // Made when it is used: a fork would have to take it along.
  std::function<In()> input = {};
  int result = 0;
  // So many go in a row, those of one Map for example: enough for the costs of
  // its begin and end not to matter, but with bounded memory and time.
  int64_t row = 10'000;
  int64_t map_row = 1'000'000;
  // What Python needs to do the same.
  int64_t spin_nanos = 0;
  size_t argument_bytes = 0;
};

Work<int> Basic(const std::string& name = "", int workers = 2) {
  return {.name = name,
          .workers = workers,
          .function = Increment,
          .input = [] { return 41; },
          .result = 42};
}

Work<int64_t> Busy(const std::string& name, int64_t nanos) {
  // A tenth of a second.
  const int64_t row = std::clamp<int64_t>(100'000'000 / nanos, 8, 10'000);
  return {.name = name,
          .function = Spin,
          .input = [nanos] { return nanos; },
          .result = 0,
          .row = row,
          .map_row = row,
          .spin_nanos = nanos};
}

Work<std::string> Large(size_t bytes) {
  const auto fit = static_cast<int64_t>(64 * kMiB / bytes);
  return {.name = "argument:" + mp::ipc_benchmark::SizeName(bytes),
          .function = Length,
          .input = [bytes] { return std::string(bytes, 'x'); },
          .result = static_cast<int>(bytes),
          .row = std::clamp<int64_t>(fit, 8, 10'000),
          .map_row = std::clamp<int64_t>(fit, 8, 100'000),
          .argument_bytes = bytes};
}

std::string Name(const std::string& operation, const std::string& work,
                 const std::string& implementation) {
  return operation + "/" + (work.empty() ? "" : work + "/") + implementation;
}

// ---- Ours

template <class In>
mp::Pool MakePool(const Work<In>& work) {
  mp::PoolOptions options;
  options.processes = work.workers;
  options.task_capacity_bytes =
      std::max(options.task_capacity_bytes, 4 * work.argument_bytes);
  return mp::Pool(options);
}

template <class In>
void Apply(benchmark::State& state, const Work<In>& work) {
  const In input = work.input();
  mp::Pool pool = MakePool(work);
  for (auto _ : state) {
    MP_CHECK(*pool.Apply(work.function, input) == work.result);
  }
}

template <class In>
void ApplyAsync(benchmark::State& state, const Work<In>& work) {
  const In input = work.input();
  mp::Pool pool = MakePool(work);
  std::vector<mp::AsyncResult<int>> results;
  while (state.KeepRunningBatch(work.row)) {
    for (int64_t i = 0; i < work.row; ++i) {
      results.push_back(pool.ApplyAsync(work.function, input));
    }
    for (const mp::AsyncResult<int>& result : results) {
      MP_CHECK(*result.Get() == work.result);
    }
    results.clear();
  }
}

template <class In>
void MapItem(benchmark::State& state, const Work<In>& work) {
  mp::Pool pool = MakePool(work);
  const std::vector<In> items(static_cast<size_t>(work.map_row), work.input());
  while (state.KeepRunningBatch(work.map_row)) {
    const auto results = pool.Map(work.function, items);
    MP_CHECK(results.ok() && results->size() == items.size() &&
             results->back() == work.result);
  }
}

void MapTasks(benchmark::State& state, int64_t number) {
  mp::Pool pool({.processes = 2});
  const std::vector<int> items(static_cast<size_t>(number), 41);
  while (state.KeepRunningBatch(number)) {
    const auto results = pool.Map(Increment, items, /*chunksize=*/1);
    MP_CHECK(results.ok() && results->size() == items.size() &&
             results->back() == 42);
  }
}

// The same over and over. (std::views::repeat is C++23.)
template <class T>
struct Repeat {
  struct Iterator {
    using iterator_concept = std::input_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    const T& operator*() const { return *value; }
    Iterator& operator++() { return *this; }
    void operator++(int) {}
    friend bool operator==(const Iterator&, std::unreachable_sentinel_t) {
      return false;
    }
    const T* value = nullptr;
  };
  Iterator begin() const { return {value}; }
  std::unreachable_sentinel_t end() const { return {}; }

  const T* value;
};

enum class Order { kKept, kAsTheyCome };

template <class In>
void Imap(benchmark::State& state, const Work<In>& work, Order order) {
  const In input = work.input();
  mp::Pool pool = MakePool(work);
  const Repeat<In> items{&input};
  auto results = order == Order::kKept
                     ? pool.Imap(work.function, items)
                     : pool.ImapUnordered(work.function, items);
  for (auto _ : state) MP_CHECK(*results.Next() == work.result);
}

void StarmapItem(benchmark::State& state) {
  mp::Pool pool({.processes = 2});
  const std::vector<std::pair<int, int>> items(1'000'000, {40, 2});
  while (state.KeepRunningBatch(static_cast<int64_t>(items.size()))) {
    const auto results = pool.Starmap(Add, items);
    MP_CHECK(results.ok() && results->size() == items.size() &&
             results->back() == 42);
  }
}

void CreateDestroy(benchmark::State& state, int workers) {
  for (auto _ : state) {
    mp::Pool pool({.processes = workers});
    MP_CHECK(*pool.Apply(Increment, 1) == 2);
  }
}

void CreateDestroyFloor(benchmark::State& state, int workers) {
  for (auto _ : state) {
    for (int i = 0; i < workers; ++i) {
      const pid_t pid = fork();
      if (pid == 0) _exit(0);
      MP_PCHECK(pid > 0) << "fork";
      MP_PCHECK(waitpid(pid, nullptr, 0) == pid) << "waitpid";
    }
  }
}

// Of one whose time is the time that passes.
template <class Run>
void RegisterTimed(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))->UseRealTime();
}

template <class In>
void RegisterOurs(const Work<In>& work) {
  using State = benchmark::State;
  RegisterTimed(Name("pool_apply", work.name, "mp"),
                [=](State& state) { Apply(state, work); });
  RegisterTimed(Name("pool_apply_async", work.name, "mp"),
                [=](State& state) { ApplyAsync(state, work); });
  RegisterTimed(Name("pool_map_item", work.name, "mp"),
                [=](State& state) { MapItem(state, work); });
  RegisterTimed(Name("pool_imap_unordered/chunk_1", work.name, "mp"),
                [=](State& state) { Imap(state, work, Order::kAsTheyCome); });
}

// ---- Python

// Arguments: which one, the operation, workers, nanoseconds that a task takes
// (or 0), bytes of its argument (or 0), how many go in a row. Reads how often,
// answers with the nanoseconds of all of them.
constexpr char kPythonPool[] = R"(
import concurrent.futures
import itertools
import multiprocessing
import sys
import time

implementation, operation = sys.argv[1:3]
workers, nanos, size, row = map(int, sys.argv[3:])
context = multiprocessing.get_context("fork")

def increment(n):
    return n + 1

def spin(nanos):
    end = time.monotonic_ns() + nanos
    while time.monotonic_ns() < end:
        pass
    return 0

if nanos:
    function, argument = spin, nanos
elif size:
    function, argument = len, bytes(size)
else:
    function, argument = increment, 41
result = function(argument)

class Pool:
    def __init__(self):
        self.pool = context.Pool(workers)

    def apply(self, items):
        for item in items:
            assert self.pool.apply(function, (item,)) == result

    def apply_async(self, items):
        for each in [self.pool.apply_async(function, (item,))
                     for item in items]:
            assert each.get() == result

    def map_item(self, items):
        assert self.pool.map(function, items)[-1] == result

    def imap_unordered(self, items):
        for each in self.pool.imap_unordered(function, items):
            assert each == result

    def close(self):
        self.pool.terminate()
        self.pool.join()

class Executor:
    def __init__(self):
        self.executor = concurrent.futures.ProcessPoolExecutor(
            workers, context)

    def apply(self, items):
        for item in items:
            assert self.executor.submit(function, item).result() == result

    def apply_async(self, items):
        for each in [self.executor.submit(function, item) for item in items]:
            assert each.result() == result

    # With the chunks of a Pool.
    def map_item(self, items):
        chunk = -(-len(items) // (4 * workers))
        assert list(self.executor.map(function, items,
                                      chunksize=chunk))[-1] == result

    def imap_unordered(self, items):
        for each in concurrent.futures.as_completed(
                [self.executor.submit(function, item) for item in items]):
            assert each.result() == result

    def close(self):
        self.executor.shutdown()

make = {"python": Pool, "python_executor": Executor}[implementation]

def run(peer, items):
    begin = time.monotonic_ns()
    getattr(peer, operation)(items)
    return time.monotonic_ns() - begin

def create_destroy(count):
    begin = time.monotonic_ns()
    for _ in range(count):
        peer = make()
        peer.apply([argument])
        peer.close()
    return time.monotonic_ns() - begin

if operation == "create_destroy":
    for line in sys.stdin:
        print(create_destroy(int(line)), flush=True)
else:
    peer = make()
    # No two of a map are the same object: such would be sent once.
    distinct = []
    for line in sys.stdin:
        total = 0
        left = int(line)
        while left > 0:
            count = min(left, row)
            if operation == "map_item" and size:
                while len(distinct) < count:
                    distinct.append(bytes(size))
                items = distinct[:count]
            else:
                items = [argument] * count
            total += run(peer, items)
            left -= count
        print(total, flush=True)
    peer.close()
)";

void RegisterPython(const std::string& name, const std::string& implementation,
                    const std::string& operation, const Work<int>& how) {
  const int64_t row = operation == "map_item" ? how.map_row : how.row;
  mp::ipc_benchmark::RegisterPython(
      name, kPythonPool,
      {implementation, operation, std::to_string(how.workers),
       std::to_string(how.spin_nanos), std::to_string(how.argument_bytes),
       std::to_string(row)},
      mp::ipc_benchmark::PythonTimes::kTotal);
}

constexpr const char* kPythons[] = {"python", "python_executor"};

template <class In>
void RegisterPythons(const Work<In>& work) {
  Work<int> how = Basic(work.name, work.workers);
  how.row = work.row;
  how.map_row = work.map_row;
  how.spin_nanos = work.spin_nanos;
  how.argument_bytes = work.argument_bytes;
  for (const char* python : kPythons) {
    for (const char* operation : {"apply", "apply_async", "map_item"}) {
      RegisterPython(Name(std::string("pool_") + operation, work.name, python),
                     python, operation, how);
    }
    RegisterPython(Name("pool_imap_unordered/chunk_1", work.name, python),
                   python, "imap_unordered", how);
  }
}

// ---- oneTBB

#ifdef MP_HAVE_TBB

// At most so many threads, the caller among them, in a scope.
class Threads {
 public:
  explicit Threads(int count)
      : limit_(tbb::global_control::max_allowed_parallelism,
               static_cast<size_t>(count)),
        arena_(count) {}

  template <class F>
  void Run(const F& f) {
    arena_.execute(f);
  }

 private:
  tbb::global_control limit_;
  tbb::task_arena arena_;
};

template <class In>
void TbbApply(benchmark::State& state, const Work<In>& work) {
  const In input = work.input();
  Threads(work.workers).Run([&] {
    tbb::task_group group;
    for (auto _ : state) {
      int result = -1;
      group.run([&] { result = work.function(input); });
      group.wait();
      MP_CHECK(result == work.result);
    }
  });
}

template <class In>
void TbbApplyAsync(benchmark::State& state, const Work<In>& work) {
  const In input = work.input();
  Threads(work.workers).Run([&] {
    std::vector<int> results(static_cast<size_t>(work.row));
    tbb::task_group group;
    while (state.KeepRunningBatch(work.row)) {
      for (int& result : results) {
        group.run([&] { result = work.function(input); });
      }
      group.wait();
      for (const int result : results) MP_CHECK(result == work.result);
    }
  });
}

template <class In>
void TbbMapItem(benchmark::State& state, const Work<In>& work) {
  const std::vector<In> items(static_cast<size_t>(work.map_row), work.input());
  Threads(work.workers).Run([&] {
    while (state.KeepRunningBatch(work.map_row)) {
      std::vector<int> results(items.size());
      tbb::parallel_for(tbb::blocked_range<size_t>(0, items.size()),
                        [&](const tbb::blocked_range<size_t>& range) {
                          for (size_t i = range.begin(); i < range.end(); ++i) {
                            results[i] = work.function(items[i]);
                          }
                        });
      MP_CHECK(results.back() == work.result);
    }
  });
}

// A pipeline that hands results to a function, as many items under way as a
// stream of ours reads ahead.
template <class In>
void TbbImap(benchmark::State& state, const Work<In>& work) {
  const In input = work.input();
  Threads(work.workers).Run([&] {
    while (state.KeepRunningBatch(work.row)) {
      int64_t sent = 0;
      int64_t received = 0;
      tbb::parallel_pipeline(
          1024, tbb::make_filter<void, int>(tbb::filter_mode::serial_in_order,
                                            [&](tbb::flow_control& control) {
                                              if (sent++ == work.row)
                                                control.stop();
                                              return 0;
                                            }) &
                    tbb::make_filter<int, int>(
                        tbb::filter_mode::parallel,
                        [&](int) { return work.function(input); }) &
                    tbb::make_filter<int, void>(
                        tbb::filter_mode::serial_out_of_order, [&](int result) {
                          MP_CHECK(result == work.result);
                          ++received;
                        }));
      MP_CHECK(received == work.row);
    }
  });
}

void TbbCreateDestroy(benchmark::State& state, int workers) {
  for (auto _ : state) {
    tbb::task_scheduler_handle handle{tbb::attach{}};
    Threads(workers).Run([] {
      tbb::task_group group;
      int result = -1;
      group.run([&] { result = Increment(1); });
      group.wait();
      MP_CHECK(result == 2);
    });
    tbb::finalize(handle);  // waits until its threads have ended
  }
}

template <class In>
void RegisterTbb(const Work<In>& work) {
  using State = benchmark::State;
  RegisterTimed(Name("pool_apply", work.name, "tbb"),
                [=](State& state) { TbbApply(state, work); });
  RegisterTimed(Name("pool_apply_async", work.name, "tbb"),
                [=](State& state) { TbbApplyAsync(state, work); });
  RegisterTimed(Name("pool_map_item", work.name, "tbb"),
                [=](State& state) { TbbMapItem(state, work); });
  RegisterTimed(Name("pool_imap_unordered/chunk_1", work.name, "tbb"),
                [=](State& state) { TbbImap(state, work); });
}

#else

// Lines that say what is missing.
void Missing(benchmark::State& state) {
  state.SkipWithError("skipped: needs `tools/setup tbb` and --config=tbb");
}

void TbbCreateDestroy(benchmark::State& state, int /*workers*/) {
  Missing(state);
}

template <class In>
void RegisterTbb(const Work<In>& work) {
  if (!work.name.empty()) return;
  for (const char* operation :
       {"pool_apply", "pool_apply_async", "pool_map_item",
        "pool_imap_unordered/chunk_1"}) {
    RegisterTimed(Name(operation, work.name, "tbb"), Missing);
  }
}

#endif  // MP_HAVE_TBB

void RegisterAll() {
  using State = benchmark::State;
  const auto register_work = [](const auto& work) {
    RegisterOurs(work);
    RegisterPythons(work);
    // Nothing is sent to a thread.
    if (work.argument_bytes == 0) RegisterTbb(work);
  };
  register_work(Basic());
  RegisterTimed("pool_imap/chunk_1/mp",
                [](State& state) { Imap(state, Basic(), Order::kKept); });
  RegisterTimed("pool_starmap_item/mp", StarmapItem);
  for (const int64_t number : {10, 1'000, 100'000, 10'000'000}) {
    RegisterTimed("pool_map_tasks/items:" + std::to_string(number) + "/mp",
                  [=](State& state) { MapTasks(state, number); });
  }
  register_work(Busy("task:1us", 1'000));
  register_work(Busy("task:10us", 10'000));
  register_work(Busy("task:100us", 100'000));
  register_work(Busy("task:1ms", 1'000'000));
  register_work(Busy("task:10ms", 10'000'000));
  for (const size_t bytes : {size_t{8}, size_t{64}, size_t{512}, size_t{4096},
                             kMiB / 16, kMiB, 16 * kMiB}) {
    register_work(Large(bytes));
  }
  for (const int workers : {1, 4, 16, 64, 200}) {
    register_work(Basic("workers:" + std::to_string(workers), workers));
  }
  for (const int workers : {1, 2, 16, 64, 200}) {
    const std::string name =
        "pool_create_destroy/" + std::to_string(workers) + "/";
    RegisterTimed(name + "mp",
                  [=](State& state) { CreateDestroy(state, workers); });
    RegisterTimed(name + "floor",
                  [=](State& state) { CreateDestroyFloor(state, workers); });
    for (const char* python : kPythons) {
      RegisterPython(name + python, python, "create_destroy",
                     Basic("", workers));
    }
    RegisterTimed(name + "tbb",
                  [=](State& state) { TbbCreateDestroy(state, workers); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  RegisterAll();
  return mp::ipc_benchmark::RunRegistered(argc, argv);
}
