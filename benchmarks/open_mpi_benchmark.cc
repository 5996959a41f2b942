// Open MPI, between two processes of one machine (through shared memory):
//
// pipe_rtt/<size>/open_mpi: MPI_Send there, MPI_Send back.
// queue_1p1c/<size>/open_mpi: MPI_Send one after the other. (MPI_Isend with as
// many on the way as the other queues hold was not quicker at any size.)
//
// They mean what they do in ipc/pipe_benchmark.cc and ipc/queue_benchmark.cc.
//
// MPI starts the processes: this program, when started by hand, executes
// `mpirun -n 2` of itself. Rank 0 is the Google Benchmark program, whose output
// mpirun passes on, and side 0 of a pipe or the producer; rank 1 does the other
// side's part as rank 0 tells it to.
//
// Settings, from mpirun(1) and `ompi_info --all`: the transport for one machine
// (--mca btl self,vader) under its own matching layer (--mca pml ob1), lest it
// looks for networks, and a slot for each hardware thread
// (--use-hwthread-cpus). Everything else is the default, which binds each
// process to a processor and polls without yielding, as long as there are two
// processors; with one, Open MPI itself makes them yield (mpi_yield_when_idle).
// --oversubscribe permits that.
//
// It is there where Debian's openmpi-bin is installed; no header of it is
// needed.

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/benchmarks/dynamic_library.h"
#include "mp/benchmarks/peer_benchmark_util.h"
#include "mp/ipc/message_benchmark_util.h"

namespace mp::benchmarks {
namespace {

using ipc_benchmark::BenchmarkName;
using ipc_benchmark::Samples;
using ipc_benchmark::Waiting;

constexpr char kPackage[] = "openmpi-bin";

// ---- The library. This is Open MPI's ABI, not that of other MPIs: handles are
// addresses of its objects, and MPI_STATUS_IGNORE is a null pointer.

class Mpi {
 public:
  explicit Mpi(const DynamicLibrary& library)
      : init_(library.Function<int(int*, char***)>("MPI_Init")),
        finalize_(library.Function<int()>("MPI_Finalize")),
        rank_(library.Function<int(void*, int*)>("MPI_Comm_rank")),
        barrier_(library.Function<int(void*)>("MPI_Barrier")),
        send_(library.Function<int(const void*, int, void*, int, int, void*)>(
            "MPI_Send")),
        recv_(library.Function<int(void*, int, void*, int, int, void*, void*)>(
            "MPI_Recv")),
        world_(library.Find("ompi_mpi_comm_world")),
        byte_(library.Find("ompi_mpi_byte")) {}

  void Init() const { MP_CHECK(init_(nullptr, nullptr) == 0); }
  void Finalize() const { MP_CHECK(finalize_() == 0); }
  int Rank() const {
    int rank = -1;
    MP_CHECK(rank_(world_, &rank) == 0);
    return rank;
  }
  void Barrier() const { MP_CHECK(barrier_(world_) == 0); }
  void Send(int to, const void* data, size_t size) const {
    MP_CHECK(send_(data, static_cast<int>(size), byte_, to, kTag, world_) == 0);
  }
  void Recv(int from, void* data, size_t size) const {
    MP_CHECK(recv_(data, static_cast<int>(size), byte_, from, kTag, world_,
                   /*status=*/nullptr) == 0);
  }

 private:
  static constexpr int kTag = 0;

  int (*init_)(int*, char***);
  int (*finalize_)();
  int (*rank_)(void* comm, int* rank);
  int (*barrier_)(void* comm);
  int (*send_)(const void* data, int count, void* type, int to, int tag,
               void* comm);
  int (*recv_)(void* data, int count, void* type, int from, int tag, void* comm,
               void* status);
  void* world_;
  void* byte_;
};

const absl::StatusOr<Mpi>& Load() {
  static const auto* const mpi = new absl::StatusOr<Mpi>([] {
    const absl::Status mpirun = FindProgram("mpirun", kPackage);
    if (!mpirun.ok()) return absl::StatusOr<Mpi>(mpirun);
    // Its plugins need its symbols.
    const absl::StatusOr<DynamicLibrary> library = DynamicLibrary::Open(
        "libmpi.so.40", kPackage, DynamicLibrary::Symbols::kGlobal);
    return library.ok() ? absl::StatusOr<Mpi>(Mpi(*library)) : library.status();
  }());
  return *mpi;
}

// ---- What both ranks do

enum class Operation : int64_t { kRoundTrips, kTransfer, kStop };

struct Order {
  Operation operation = Operation::kStop;
  size_t size = 0;
  int64_t times = 0;
};

struct Interval {
  int64_t begin = 0;
  int64_t end = 0;
};

void RoundTrips(int rank, const Order& order, Samples* samples) {
  std::string message(order.size, '\0');
  if (rank == 1) {
    for (int64_t i = 0; i < order.times; ++i) {
      Load()->Recv(0, message.data(), order.size);
      Load()->Send(0, message.data(), order.size);
    }
    return;
  }
  std::string question(order.size, '\0');
  for (int64_t i = 0; i < order.times; ++i) {
    const int64_t begin = samples == nullptr ? 0 : MonotonicNanos();
    question[0] = static_cast<char>(i);
    Load()->Send(1, question.data(), order.size);
    Load()->Recv(1, message.data(), order.size);
    MP_CHECK(message[0] == static_cast<char>(i));
    if (samples != nullptr) samples->nanos[i] = MonotonicNanos() - begin;
  }
}

void Transfer(int rank, const Order& order) {
  std::string message(order.size, '\0');
  for (int64_t i = 0; i < order.times; ++i) {
    if (rank == 0) {
      message[0] = static_cast<char>(i);
      Load()->Send(1, message.data(), order.size);
    } else {
      Load()->Recv(0, message.data(), order.size);
      MP_CHECK(message[0] == static_cast<char>(i));
    }
  }
}

Interval Obey(int rank, const Order& order, Samples* samples) {
  Load()->Barrier();
  Interval interval{.begin = MonotonicNanos()};
  if (order.operation == Operation::kRoundTrips) {
    RoundTrips(rank, order, samples);
  } else {
    Transfer(rank, order);
  }
  interval.end = MonotonicNanos();
  return interval;
}

// ---- Rank 1

void Serve() {
  for (;;) {
    Order order;
    Load()->Recv(0, &order, sizeof(order));
    if (order.operation == Operation::kStop) return;
    const Interval interval = Obey(1, order, nullptr);
    Load()->Send(0, &interval, sizeof(interval));
  }
}

// ---- Rank 0

// Returns the seconds from the moment that the first rank began until the last
// one was done. They have one clock, that of the machine.
double Run(const Order& order, Samples* samples = nullptr) {
  Load()->Send(1, &order, sizeof(order));
  const Interval ours = Obey(0, order, samples);
  Interval theirs;
  Load()->Recv(1, &theirs, sizeof(theirs));
  return static_cast<double>(std::max(ours.end, theirs.end) -
                             std::min(ours.begin, theirs.begin)) *
         1e-9;
}

void Measure(benchmark::State& state, Operation operation, size_t size) {
  Run({operation, size, 8});  // the memory comes
  const auto times = static_cast<int64_t>(state.max_iterations);
  while (state.KeepRunningBatch(times)) {
    state.SetIterationTime(Run({operation, size, times}));
  }
  if (operation != Operation::kRoundTrips) return;
  static auto* const samples = new Samples;
  const int64_t recorded = std::clamp<int64_t>(
      times, size <= 4 * ipc_benchmark::kKiB ? 1'000 : 10, Samples::kMax);
  Run({operation, size, recorded}, samples);
  ipc_benchmark::ReportPercentiles(state, samples->First(recorded));
}

void RegisterAll() {
  ipc_benchmark::ForEachSize([]<size_t kSize>() {
    for (const auto& [name, operation] :
         {std::pair("pipe_rtt", Operation::kRoundTrips),
          std::pair("queue_1p1c", Operation::kTransfer)}) {
      RegisterPeer(BenchmarkName(name, Waiting::kRunning, kSize, "open_mpi"),
                   Load().status(),
                   [operation = operation](benchmark::State& state) {
                     Measure(state, operation, kSize);
                   });
    }
  });
}

// ---- Starting both. Replaces this process; returns only if that fails.

void Launch(int argc, char** argv) {
  // Open MPI wants to hear it twice, from who knows what it means, as CI and
  // containers do, where everything is root.
  if (geteuid() == 0) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  }
  std::vector<std::string> words = {
      "mpirun",    "-n",  "2",   "--oversubscribe", "--use-hwthread-cpus",
      "--mca",     "pml", "ob1", "--mca",           "btl",
      "self,vader"};
  words.push_back(std::filesystem::read_symlink("/proc/self/exe"));
  // Rank 0 writes to a terminal of mpirun's, whatever this one's output is.
  if (!isatty(STDOUT_FILENO)) words.push_back("--benchmark_color=false");
  words.insert(words.end(), argv + 1, argv + argc);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
}

// What mpirun tells a process that it starts.
bool IsStartedByMpi() { return getenv("OMPI_COMM_WORLD_RANK") != nullptr; }

int Main(int argc, char** argv) {
  if (!Load().ok()) {
    RegisterAll();
    return ipc_benchmark::RunRegistered(argc, argv);
  }
  if (!IsStartedByMpi()) {
    // Help and wrong flags end the program here: of a rank that ends early
    // mpirun has much to say.
    std::vector<char*> flags(argv, argv + argc + 1);
    int count = argc;
    benchmark::Initialize(&count, flags.data());
    if (benchmark::ReportUnrecognizedArguments(count, flags.data())) return 1;
    Launch(argc, argv);
    MP_PCHECK(false) << "mpirun";
  }
  // If mpirun is killed; a rank that waits for the other would poll for ever.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Load()->Init();
  int result = 0;
  if (Load()->Rank() == 0) {
    RegisterAll();
    result = ipc_benchmark::RunRegistered(argc, argv);
    const Order stop;
    Load()->Send(1, &stop, sizeof(stop));
  } else {
    Serve();
  }
  Load()->Finalize();
  return result;
}

}  // namespace
}  // namespace mp::benchmarks

int main(int argc, char** argv) { return mp::benchmarks::Main(argc, argv); }
