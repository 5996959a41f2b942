#include "mp/testing/simulated_machine.h"

#include <time.h>

#include <algorithm>

#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/testing/sanitizers.h"

namespace mp::testing {

thread_local SimulatedMachine* SimulatedMachine::here_ = nullptr;

size_t Decisions::Choose(size_t of) {
  if (next_ == taken_.size()) taken_.push_back({.chosen = 0, .of = of});
  const Decision& decision = taken_[next_++];
  MP_CHECK(decision.of == of) << "the scenario does not do the same each time";
  return decision.chosen;
}

bool Decisions::Next() {
  while (!taken_.empty() && taken_.back().chosen + 1 == taken_.back().of) {
    taken_.pop_back();
  }
  if (taken_.empty()) return false;
  ++taken_.back().chosen;
  next_ = 0;
  return true;
}

bool SimulatedMachine::Run(size_t processes, int kills,
                           std::function<void(size_t)> body) {
  MP_CHECK(processes_.empty()) << "a machine runs once";
  processes_.resize(processes);
  kills_left_ = kills;
  for (size_t i = 0; i < processes; ++i) {
    processes_[i].fiber = std::make_unique<Fiber>([this, i, &body] {
      DieIfKilled();
      body(i);
      End(/*killed=*/false);
    });
  }
  here_ = this;
  SetThreadClockForTest(&now_);
  PickNext();
  while (turn_ != kNobody) processes_[turn_].fiber->Resume();
  SetThreadClockForTest(nullptr);
  here_ = nullptr;
  return !stuck_;
}

bool SimulatedMachine::IsDead(Token token) const {
  if (token == kDeadToken) return true;
  return processes_[token - kFirstToken].state == State::kDead;
}

void SimulatedMachine::Step() {
  CountStep(processes_[turn_]);
  PassTurn();
}

void SimulatedMachine::Sleep(const void* word, const WatchList& watched,
                             Deadline deadline) {
  Process& process = processes_[turn_];
  process.state = State::kAsleep;
  CountStep(process);
  process.word = word;
  process.watched = watched;
  process.until = kNever;
  if (!deadline.infinite()) {
    const timespec until = deadline.ToTimespec();
    process.until = until.tv_sec * int64_t{1'000'000'000} + until.tv_nsec;
  }
  process.since = ++sleeps_;
  PassTurn();
}

int SimulatedMachine::Wake(const void* word, int count) {
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
  now_ += kStepNanos;
  if (++steps_ == kMostSteps) EndStuck();
  const auto doomed = doomed_.find(turn_);
  if (doomed == doomed_.end() || ++process.steps != doomed->second) return;
  process.to_be_killed = true;
  process.state = State::kReady;  // to die, also if it would sleep
}

void SimulatedMachine::PassTurn() {
  const size_t self = turn_;
  PickNext();
  if (turn_ != self) Fiber::Yield();
  DieIfKilled();
}

void SimulatedMachine::DieIfKilled() {
  if (!processes_[turn_].to_be_killed) return;
  End(/*killed=*/true);
  Fiber::Exit();
}

void SimulatedMachine::End(bool killed) {
  const Token self = SelfToken();
  processes_[turn_].state = killed ? State::kDead : State::kDone;
  // The kernel wakes who sleeps on its life, one after the other.
  for (Process& process : processes_) {
    const auto tokens = process.watched.tokens();
    if (killed && process.state == State::kAsleep &&
        std::find(tokens.begin(), tokens.end(), self) != tokens.end()) {
      process.state = State::kReady;
    }
  }
  PickNext();
}

void SimulatedMachine::PickNext() {
  if (kills_left_ > 0 && Chance(40)) KillSomebody();
  FindReady();
  if (ready_.empty() || Chance(20)) {
    EndSomeTimeout();
    FindReady();
  }
  if (ready_.empty()) {
    EndAllSlices();
    FindReady();
  }
  turn_ = ready_.empty() ? kNobody : ChooseReady();
}

size_t SimulatedMachine::ChooseReady() {
  if (decisions_ == nullptr) return ready_[random_() % ready_.size()];
  const auto running = std::find(ready_.begin(), ready_.end(), turn_);
  if (running == ready_.end()) {
    return ready_[decisions_->Choose(ready_.size())];
  }
  if (preemptions_left_ == 0) return turn_;
  // The first possibility is that nobody else gets the turn.
  std::rotate(ready_.begin(), running, running + 1);
  const size_t chosen = decisions_->Choose(ready_.size());
  if (chosen != 0) --preemptions_left_;
  return ready_[chosen];
}

void SimulatedMachine::KillSomebody() {
  Process& victim = processes_[random_() % processes_.size()];
  if (victim.state != State::kReady && victim.state != State::kAsleep) return;
  victim.to_be_killed = true;
  victim.state = State::kReady;
  --kills_left_;
}

void SimulatedMachine::EndSomeTimeout() {
  Process* first = nullptr;
  for (Process& process : processes_) {
    if (process.state == State::kAsleep && process.until != kNever &&
        (first == nullptr || process.until < first->until)) {
      first = &process;
    }
  }
  if (first == nullptr) return;
  now_ = std::max(now_, first->until);
  first->state = State::kReady;
}

void SimulatedMachine::EndAllSlices() {
  constexpr int kStuck = 1'000;
  bool any = false;
  for (Process& process : processes_) {
    if (process.state != State::kAsleep) continue;
    process.state = State::kReady;
    any = true;
  }
  if (any && ++slices_ended_ == kStuck) EndStuck();
}

void SimulatedMachine::EndStuck() {
  stuck_ = true;
  for (Process& process : processes_) {
    process.to_be_killed = true;
    if (process.state == State::kAsleep) process.state = State::kReady;
  }
}

void SimulatedMachine::FindReady() {
  ready_.clear();
  for (size_t i = 0; i < processes_.size(); ++i) {
    if (processes_[i].state == State::kReady) ready_.push_back(i);
  }
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

int64_t RunEverySchedule(
    int preemptions, const std::function<void(SimulatedMachine&)>& scenario) {
  if (kSanitized && preemptions > 0) --preemptions;
  Decisions decisions;
  int64_t schedules = 0;
  do {
    SimulatedMachine machine(decisions, preemptions);
    scenario(machine);
    ++schedules;
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "in schedule " << schedules << " with up to "
                    << preemptions << " preemptions";
      break;
    }
  } while (decisions.Next());
  return schedules;
}

int64_t KillUnderEverySchedule(
    int preemptions, size_t victim,
    const std::function<void(SimulatedMachine&)>& scenario) {
  int64_t schedules = 0;
  bool killed = true;
  for (int64_t step = 1; killed; ++step) {
    killed = false;
    schedules += RunEverySchedule(preemptions, [&](SimulatedMachine& machine) {
      machine.KillAt(victim, step);
      scenario(machine);
      killed |= machine.WasKilled(victim);
    });
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "process " << victim << " killed at step " << step;
      break;
    }
  }
  return schedules;
}

}  // namespace mp::testing
