// wait_ready/objects:<n>/*: looks at so many, the last of which is ready.
// wait_message/connections:<n>/*: per message, where one process sends messages
// of 64 bytes over so many connections in turn, and another one waits for all
// of them and receives one message from each that is ready.
// wait_rtt_blocked/*: there, where somebody waits for two things, and back by a
// queue or a pipe; both asleep in between: mp without spinning.

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/spin.h"
#include "mp/base/unique_fd.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/wait.h"
#include "mp/sync/event.h"
#include "mp/testing/gang.h"
#include "mp/testing/pipe.h"

namespace {

using Message = std::array<char, 64>;

// Kinds of connections. Wait() calls `use` with the number of each that is
// ready, and returns how many were.

class Mp {
 public:
  explicit Mp(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      auto [receiver, sender] = mp::Pipe<Message>(/*duplex=*/false);
      receivers_.push_back(std::move(receiver));
      senders_.push_back(std::move(sender));
    }
    objects_.assign(receivers_.begin(), receivers_.end());
  }

  void Send(size_t i, const Message& message) {
    MP_CHECK_OK(senders_[i].Send(message));
  }
  template <class Use>
  size_t Wait(Use use) {
    const absl::StatusOr<std::vector<size_t>> ready = mp::Wait(objects_);
    MP_CHECK(ready.ok()) << ready.status().ToString();
    for (const size_t i : *ready) use(i);
    return ready->size();
  }
  Message Recv(size_t i) {
    const absl::StatusOr<Message> message =
        receivers_[i].Recv(absl::ZeroDuration());
    MP_CHECK(message.ok()) << message.status().ToString();
    return *message;
  }

 private:
  std::vector<mp::Connection<Message>> receivers_;
  std::vector<mp::Connection<Message>> senders_;
  std::vector<mp::Waitable> objects_;
};

class Pipes {
 public:
  explicit Pipes(size_t count) : pipes_(count) {
    for (auto& pipe : pipes_) pipe = mp::testing::MakePipe();
  }

  void Send(size_t i, const Message& message) {
    MP_PCHECK(write(pipes_[i].writer.get(), message.data(), message.size()) ==
              static_cast<ssize_t>(message.size()))
        << "write";
  }
  Message Recv(size_t i) {
    Message message;
    MP_PCHECK(read(pipes_[i].reader.get(), message.data(), message.size()) ==
              static_cast<ssize_t>(message.size()))
        << "read";
    return message;
  }

 protected:
  std::vector<mp::testing::PipeEnds> pipes_;
};

class PollPipe : public Pipes {
 public:
  explicit PollPipe(size_t count) : Pipes(count) {
    for (const auto& pipe : pipes_) {
      entries_.push_back(
          {.fd = pipe.reader.get(), .events = POLLIN, .revents = 0});
    }
  }
  template <class Use>
  size_t Wait(Use use) {
    const int ready = poll(entries_.data(), entries_.size(), -1);
    MP_PCHECK(ready > 0) << "poll";
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].revents != 0) use(i);
    }
    return static_cast<size_t>(ready);
  }

 private:
  std::vector<pollfd> entries_;
};

class EpollPipe : public Pipes {
 public:
  explicit EpollPipe(size_t count)
      : Pipes(count), epoll_(epoll_create1(EPOLL_CLOEXEC)), events_(count) {
    MP_PCHECK(epoll_.valid()) << "epoll_create1";
    for (size_t i = 0; i < count; ++i) {
      epoll_event event = {.events = EPOLLIN, .data = {.u64 = i}};
      MP_PCHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, pipes_[i].reader.get(),
                          &event) == 0)
          << "epoll_ctl";
    }
  }
  template <class Use>
  size_t Wait(Use use) {
    const int ready = epoll_wait(epoll_.get(), events_.data(),
                                 static_cast<int>(events_.size()), -1);
    MP_PCHECK(ready > 0) << "epoll_wait";
    for (int k = 0; k < ready; ++k) {
      use(static_cast<size_t>(events_[static_cast<size_t>(k)].data.u64));
    }
    return static_cast<size_t>(ready);
  }

 private:
  mp::UniqueFd epoll_;
  std::vector<epoll_event> events_;
};

template <class T>
void Ready(benchmark::State& state, size_t count) {
  T connections(count);
  connections.Send(count - 1, {});
  for (auto _ : state) {
    size_t found = 0;
    MP_CHECK(connections.Wait([&](size_t i) { found = i; }) == 1);
    benchmark::DoNotOptimize(found);
  }
}

template <class T>
void ReadyObjects(benchmark::State& state, size_t count) {
  std::vector<T> objects(count);
  if constexpr (std::is_same_v<T, mp::Event>) {
    objects.back().Set();
  } else {
    MP_CHECK_OK(objects.back().Put(1));
  }
  const std::vector<mp::Waitable> waitables(objects.begin(), objects.end());
  for (auto _ : state) {
    const absl::StatusOr<std::vector<size_t>> ready = mp::Wait(waitables);
    MP_CHECK(ready.ok() && ready->size() == 1);
    benchmark::DoNotOptimize(ready->front());
  }
}

template <class T>
void Messages(benchmark::State& state, size_t count) {
  T connections(count);
  mp::testing::Gang gang(2, [&](int member, int64_t messages) {
    if (member == 0) {
      Message message = {};
      for (int64_t i = 0; i < messages; ++i) {
        message[0] = static_cast<char>(i);
        connections.Send(static_cast<size_t>(i) % count, message);
      }
      return;
    }
    std::vector<int64_t> next(count);
    for (int64_t received = 0; received < messages;) {
      received += static_cast<int64_t>(connections.Wait([&](size_t i) {
        const Message message = connections.Recv(i);
        const int64_t number =
            static_cast<int64_t>(i) + next[i]++ * static_cast<int64_t>(count);
        MP_CHECK(message[0] == static_cast<char>(number));
      }));
    }
  });
  const auto messages = static_cast<int64_t>(state.max_iterations);
  while (state.KeepRunningBatch(messages)) {
    state.SetIterationTime(gang.Run(messages));
  }
}

// What is waited for besides the first one, which is used.
enum class Beside { kConnection, kEvent, kDescriptor };

void RoundTrips(benchmark::State& state, Beside beside) {
  mp::SetAvailableProcessorsForTest(1);
  auto [receiver, sender] = mp::Pipe<int>(/*duplex=*/false);
  auto [quiet, nobody] = mp::Pipe<int>(/*duplex=*/false);
  mp::Queue<int> there, back;
  const mp::Event event;
  const mp::testing::PipeEnds pipe = mp::testing::MakePipe();
  std::vector<mp::Waitable> objects;
  if (beside == Beside::kConnection) objects = {receiver, quiet};
  if (beside == Beside::kEvent) objects = {there, event};
  if (beside == Beside::kDescriptor) objects = {there, pipe.reader.get()};
  mp::testing::Gang gang(2, [&, &receiver = receiver, &sender = sender](
                                int member, int64_t trips) {
    for (int64_t i = 0; i < trips; ++i) {
      if (member == 0) {
        MP_CHECK_OK(beside == Beside::kConnection ? sender.Send(1)
                                                  : there.Put(1));
        MP_CHECK(back.Get().ok());
      } else {
        const absl::StatusOr<std::vector<size_t>> ready = mp::Wait(objects);
        MP_CHECK(ready.ok() && ready->front() == 0);
        MP_CHECK((beside == Beside::kConnection ? receiver.Recv() : there.Get())
                     .ok());
        MP_CHECK_OK(back.Put(1));
      }
    }
  });
  const auto trips = static_cast<int64_t>(state.max_iterations);
  while (state.KeepRunningBatch(trips)) state.SetIterationTime(gang.Run(trips));
  mp::SetAvailableProcessorsForTest(0);
}

void PollRoundTrips(benchmark::State& state) {
  PollPipe there(2);
  Pipes back(1);
  mp::testing::Gang gang(2, [&](int member, int64_t trips) {
    for (int64_t i = 0; i < trips; ++i) {
      if (member == 0) {
        there.Send(0, {});
        back.Recv(0);
      } else {
        there.Wait([&](size_t k) { there.Recv(k); });
        back.Send(0, {});
      }
    }
  });
  const auto trips = static_cast<int64_t>(state.max_iterations);
  while (state.KeepRunningBatch(trips)) state.SetIterationTime(gang.Run(trips));
}

void RegisterRoundTrips() {
  const auto mp = [](const char* name, Beside beside) {
    benchmark::RegisterBenchmark(name, [beside](benchmark::State& state) {
      RoundTrips(state, beside);
    })->UseManualTime();
  };
  mp("wait_rtt_blocked/connections/mp", Beside::kConnection);
  mp("wait_rtt_blocked/queue_event/mp", Beside::kEvent);
  mp("wait_rtt_blocked/queue_descriptor/mp", Beside::kDescriptor);
  benchmark::RegisterBenchmark("wait_rtt_blocked/poll_pipe", PollRoundTrips)
      ->UseManualTime();
}

template <class T>
void Register(const std::string& implementation) {
  for (const size_t count : {1, 64, 1000}) {
    benchmark::RegisterBenchmark(
        ("wait_ready/objects:" + std::to_string(count) + "/" + implementation)
            .c_str(),
        [count](benchmark::State& state) { Ready<T>(state, count); });
  }
  for (const size_t count : {1, 8, 64}) {
    benchmark::RegisterBenchmark(
        ("wait_message/connections:" + std::to_string(count) + "/" +
         implementation)
            .c_str(),
        [count](benchmark::State& state) { Messages<T>(state, count); })
        ->UseManualTime();
  }
}

template <class T>
void RegisterReady(const std::string& implementation) {
  for (const size_t count : {1, 64, 1000}) {
    benchmark::RegisterBenchmark(
        ("wait_ready/objects:" + std::to_string(count) + "/" + implementation)
            .c_str(),
        [count](benchmark::State& state) { ReadyObjects<T>(state, count); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  Register<Mp>("mp");
  Register<PollPipe>("poll_pipe");
  Register<EpollPipe>("epoll_pipe");
  RegisterReady<mp::Event>("mp_events");
  RegisterReady<mp::Queue<int>>("mp_queues");
  RegisterRoundTrips();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
