// Python's multiprocessing, for the operations whose module benchmarks have no
// row of it (ipc/ and pool/ have their own):
//
// lock_pair, rlock_pair, semaphore_pair /python: one acquire and release of a
// free one, by the calls, which are quicker than a with statement.
// event_is_set, event_set_clear /python: nobody waits.
// event_ping_pong, condition_ping_pong /python: to another process and back.
// barrier_cycle/python/procs:N: one round of N processes.
// process_start_join/python_<method>: of a process that does nothing.
//
// They mean what they do in sync/*_benchmark.cc and
// process/process_benchmark.cc. There is nothing to set; as the documentation
// of the module advises, everything comes from one context, and the forkserver
// is there before the first process is measured. Of the interpreter's own loop
// an operation has some 20 ns.

#include <string>
#include <vector>

#include "mp/ipc/message_benchmark_util.h"

namespace mp::benchmarks {
namespace {

// Argument: the operation. Reads how often, answers with the nanoseconds of all
// of them.
constexpr char kOneProcess[] = R"(
import multiprocessing
import sys
import time

context = multiprocessing.get_context("fork")
event = context.Event()

def pair(lock):
    acquire, release = lock.acquire, lock.release
    def run(times):
        for _ in range(times):
            acquire()
            release()
    return run

def is_set(times):
    is_set = event.is_set
    for _ in range(times):
        is_set()

def set_clear(times):
    set, clear = event.set, event.clear
    for _ in range(times):
        set()
        clear()

run = {
    "lock_pair": lambda: pair(context.Lock()),
    "rlock_pair": lambda: pair(context.RLock()),
    "semaphore_pair": lambda: pair(context.Semaphore()),
    "event_is_set": lambda: is_set,
    "event_set_clear": lambda: set_clear,
}[sys.argv[1]]()
for line in sys.stdin:
    times = int(line)
    begin = time.monotonic_ns()
    run(times)
    print(time.monotonic_ns() - begin, flush=True)
)";

// Arguments: the operation, how many processes. The same.
constexpr char kGang[] = R"(
import multiprocessing
import sys
import time

operation, size = sys.argv[1], int(sys.argv[2])
context = multiprocessing.get_context("fork")
start = context.Barrier(size)
events = [context.Event() for _ in range(2)]
condition = context.Condition(context.Lock())
turn = context.RawValue("q", 0)
barrier = context.Barrier(size)

def event_ping_pong(member, times):
    ours, theirs = events[member], events[1 - member]
    for _ in range(times):
        if member == 0:
            theirs.set()
        ours.wait()
        ours.clear()
        if member == 1:
            theirs.set()

def condition_ping_pong(member, times):
    for _ in range(times):
        with condition:
            while turn.value % 2 != member:
                condition.wait()
            turn.value += 1
            condition.notify()

def barrier_cycle(member, times):
    for _ in range(times):
        barrier.wait()

run = globals()[operation]

def work(control, member):
    while (times := control.recv()) is not None:
        start.wait()
        begin = time.monotonic_ns()
        run(member, times)
        control.send((begin, time.monotonic_ns()))

members = []
for member in range(size):
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, member), daemon=True)
    process.start()
    theirs.close()
    members.append((ours, process))
for line in sys.stdin:
    for control, _ in members:
        control.send(int(line))
    times = [control.recv() for control, _ in members]
    print(max(end for _, end in times) - min(begin for begin, _ in times),
          flush=True)
for control, process in members:
    control.send(None)
    process.join()
)";

// Argument: the start method. The same.
constexpr char kStartJoin[] = R"(
import multiprocessing
import sys
import time

context = multiprocessing.get_context(sys.argv[1])
for line in sys.stdin:
    begin = time.monotonic_ns()
    for _ in range(int(line)):
        # A function that every interpreter has, and that does nothing.
        process = context.Process(target=int)
        process.start()
        process.join()
    print(time.monotonic_ns() - begin, flush=True)
    assert process.exitcode == 0
)";

void Register(const std::string& name, const char* script,
              const std::vector<std::string>& args) {
  ipc_benchmark::RegisterPython(name, script, args,
                                ipc_benchmark::PythonTimes::kTotal);
}

void RegisterAll() {
  for (const std::string operation :
       {"lock_pair", "rlock_pair", "semaphore_pair", "event_is_set",
        "event_set_clear"}) {
    Register(operation + "/python", kOneProcess, {operation});
  }
  for (const std::string operation :
       {"event_ping_pong", "condition_ping_pong"}) {
    Register(operation + "/python", kGang, {operation, "2"});
  }
  for (const std::string processes : {"2", "4"}) {
    Register("barrier_cycle/python/procs:" + processes, kGang,
             {"barrier_cycle", processes});
  }
  for (const std::string method : {"fork", "forkserver", "spawn"}) {
    Register("process_start_join/python_" + method, kStartJoin, {method});
  }
}

}  // namespace
}  // namespace mp::benchmarks

int main(int argc, char** argv) {
  mp::benchmarks::RegisterAll();
  return mp::ipc_benchmark::RunRegistered(argc, argv);
}
