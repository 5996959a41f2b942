#include "mp/testing/simulated_machine.h"

#include <setjmp.h>

#include <algorithm>
#include <thread>

#include "gtest/gtest.h"

namespace mp::testing {

thread_local SimulatedMachine* SimulatedMachine::here_ = nullptr;
thread_local size_t SimulatedMachine::self_ = 0;
thread_local jmp_buf SimulatedMachine::end_;

bool SimulatedMachine::Run(size_t processes, int kills,
                           std::function<void(size_t)> body) {
  processes_.resize(processes);
  kills_left_ = kills;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < processes; ++i) {
    threads.emplace_back([this, i, &body] {
      here_ = this;
      self_ = i;
      RunProcess(body);
    });
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    PickNext();
  }
  for (std::thread& thread : threads) thread.join();
  return !stuck_;
}

void SimulatedMachine::RunProcess(const std::function<void(size_t)>& body) {
  if (setjmp(end_) != 0) {
    End(/*killed=*/true);
    return;
  }
  {
    std::unique_lock<std::mutex> lock(mutex_);
    AwaitTurn(lock);
  }
  body(self_);
  End(/*killed=*/false);
}

bool SimulatedMachine::IsDead(Token token) const {
  if (token == kDeadToken) return true;
  return processes_[token - kFirstToken].state == State::kDead;
}

void SimulatedMachine::Step() {
  std::unique_lock<std::mutex> lock(mutex_);
  CountStep(processes_[self_]);
  PickNext();
  AwaitTurn(lock);
}

void SimulatedMachine::Sleep(const void* word, const WatchList& watched,
                             bool timed) {
  std::unique_lock<std::mutex> lock(mutex_);
  Process& process = processes_[self_];
  process.state = State::kAsleep;
  CountStep(process);
  process.word = word;
  process.watched = watched;
  process.timed = timed;
  process.since = ++clock_;
  PickNext();
  AwaitTurn(lock);
}

int SimulatedMachine::Wake(const void* word, int count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  int woken = 0;
  while (woken < count) {
    Process* first = nullptr;
    for (Process& process : processes_) {
      if (process.state == State::kAsleep && process.word == word &&
          (first == nullptr || process.since < first->since)) {
        first = &process;
      }
    }
    if (first == nullptr) break;
    first->state = State::kReady;
    ++woken;
  }
  return woken;
}

void SimulatedMachine::CountStep(Process& process) {
  const auto doomed = doomed_.find(self_);
  if (doomed == doomed_.end() || ++process.steps != doomed->second) return;
  process.to_be_killed = true;
  process.state = State::kReady;  // to die, also if it would sleep
}

void SimulatedMachine::AwaitTurn(std::unique_lock<std::mutex>& lock) {
  processes_[self_].has_turn.wait(lock, [this] { return turn_ == self_; });
  if (!processes_[self_].to_be_killed) return;
  lock.unlock();
  longjmp(end_, 1);
}

void SimulatedMachine::End(bool killed) {
  const std::lock_guard<std::mutex> lock(mutex_);
  processes_[self_].state = killed ? State::kDead : State::kDone;
  // The kernel wakes who sleeps on its life, one after the other.
  for (Process& process : processes_) {
    const auto tokens = process.watched.tokens();
    if (killed && process.state == State::kAsleep &&
        std::find(tokens.begin(), tokens.end(), SelfToken()) != tokens.end()) {
      process.state = State::kReady;
    }
  }
  PickNext();
}

void SimulatedMachine::PickNext() {
  if (kills_left_ > 0 && Chance(40)) KillSomebody();
  std::vector<size_t> ready = Ready();
  if (ready.empty() || Chance(20)) {
    EndSomeTimeout();
    ready = Ready();
  }
  if (ready.empty()) {
    EndAllSlices();
    ready = Ready();
  }
  if (ready.empty()) return;  // all have ended
  turn_ = ready[random_() % ready.size()];
  processes_[turn_].has_turn.notify_one();
}

void SimulatedMachine::KillSomebody() {
  Process& victim = processes_[random_() % processes_.size()];
  if (victim.state != State::kReady && victim.state != State::kAsleep) return;
  victim.to_be_killed = true;
  victim.state = State::kReady;
  --kills_left_;
}

void SimulatedMachine::EndSomeTimeout() {
  for (Process& process : processes_) {
    if (process.state != State::kAsleep || !process.timed) continue;
    process.state = State::kReady;
    return;
  }
}

void SimulatedMachine::EndAllSlices() {
  constexpr int kStuck = 1000;
  bool any = false;
  for (Process& process : processes_) {
    if (process.state != State::kAsleep) continue;
    process.state = State::kReady;
    any = true;
  }
  if (!any || ++slices_ended_ < kStuck) return;
  stuck_ = true;
  for (Process& process : processes_) process.to_be_killed = true;
}

std::vector<size_t> SimulatedMachine::Ready() const {
  std::vector<size_t> ready;
  for (size_t i = 0; i < processes_.size(); ++i) {
    if (processes_[i].state == State::kReady) ready.push_back(i);
  }
  return ready;
}

int64_t KillAtEveryStep(
    uint64_t seed, size_t victim,
    const std::function<void(SimulatedMachine&)>& scenario) {
  for (int64_t step = 1;; ++step) {
    SimulatedMachine machine(seed);
    machine.KillAt(victim, step);
    scenario(machine);
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "seed " << seed << ", process " << victim
                    << " killed at step " << step;
      return step;
    }
    if (!machine.WasKilled(victim)) return step - 1;
  }
}

}  // namespace mp::testing
