// SPDX-License-Identifier: GPL-2.0-or-later
// volfs-sim: runs the engine over simulated disks, threads and time, as a function of a seed.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>

#include "support/sim_scheduler.h"
#include "volfs/log.h"
#include "world.h"

namespace {

using namespace volfs::sim;
using volfs::test::Random;
using volfs::test::SimScheduler;

struct Plan {
  uint64_t seed = 1;
  uint64_t steps = 200;
  std::set<uint64_t> left_out;  // steps that are not done
  bool trace = false;
};

// Each step has lots of its own: without one of them, the others stay what they are.
Random lots_of(const Plan& plan, uint64_t step) {
  return Random(plan.seed * 1'000'003 + step);
}

struct Outcome {
  std::string failure;  // "" if all was as it should be
  uint64_t steps = 0;   // done until then
  uint64_t fingerprint = 0;
};

Outcome run(const Plan& plan) {
  Outcome outcome;
  SimScheduler sim(plan.seed);
  std::optional<World> world;
  try {
    world.emplace(plan.seed);
    if (plan.trace) fmt::print("{}", world->definition_text());
    for (uint64_t step = 0; step < plan.steps; ++step) {
      outcome.steps = step + 1;
      if (plan.left_out.contains(step)) continue;
      Random random = lots_of(plan, step);
      if (plan.trace) fmt::print("{}: ", step);
      const std::string text = world->step(random);
      if (plan.trace) fmt::print("{}\n", text);
      if (plan.trace) std::fflush(stdout);
    }
    world->finish();
  } catch (const Ended& ended) {
    if (plan.trace) fmt::print("ended: {}", ended.what());
  } catch (const Failure& failure) {
    outcome.failure = failure.what();
    if (plan.trace && world) fmt::print("\n{}", world->describe());
  }
  world.reset();
  outcome.fingerprint = sim.fingerprint();
  return outcome;
}

// What kind of failure it is: the text without its numbers.
std::string kind_of(const std::string& failure) {
  std::string kind;
  for (const char c : failure)
    if (c < '0' || c > '9') kind += c;
  return kind.substr(0, kind.find('\n'));
}

// Runs it in a process of its own, which may die of what it finds. "" if all is as it should be.
std::string failure_of(const Plan& plan) {
  std::fflush(nullptr);
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    constexpr unsigned longest = 300;  // seconds
    alarm(longest);
    (void)std::freopen("/dev/null", "w", stderr);
    (void)std::freopen("/dev/null", "w", stdout);
    const std::string failure = run(plan).failure;
    const ssize_t told = ::write(ends[1], failure.data(), failure.size());
    _exit(failure.empty() && told == 0 ? 0 : 1);
  }
  (void)close(ends[1]);
  std::string failure;
  char piece[4096];
  for (ssize_t got = 0; (got = ::read(ends[0], piece, sizeof piece)) > 0;)
    failure.append(piece, static_cast<size_t>(got));
  (void)close(ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return "no process";
  if (WIFSIGNALED(status)) return fmt::format("died of {}", strsignal(WTERMSIG(status)));
  return WEXITSTATUS(status) != 0 && failure.empty() ? "ended" : failure;
}

// Leaves out as many steps as can be left out so that it still fails in the same way.
Plan shrink(Plan plan, const std::string& failure) {
  const std::string kind = kind_of(failure);
  for (uint64_t piece = plan.steps / 2; piece > 0; piece /= 2)
    for (uint64_t at = 0; at < plan.steps; at += piece) {
      Plan less = plan;
      for (uint64_t i = at; i < std::min(at + piece, plan.steps); ++i) less.left_out.insert(i);
      if (less.left_out.size() > plan.left_out.size() && kind_of(failure_of(less)) == kind)
        plan = less;
    }
  return plan;
}

std::string in_words(const Plan& plan) {
  std::string text = fmt::format("--seed {} --steps {}", plan.seed, plan.steps);
  if (!plan.left_out.empty()) text += fmt::format(" --without {}", fmt::join(plan.left_out, ","));
  return text;
}

void report(const Plan& plan, const std::string& failure, bool shorten) {
  fmt::print("FAILED: {}: {}\n", in_words(plan), failure);
  if (!shorten) return;
  Plan least = shrink(plan, failure);
  fmt::print("shrunk to {} steps: {} --trace\n", least.steps - least.left_out.size(),
             in_words(least));
  least.trace = true;
  std::fflush(nullptr);
  if (const pid_t child = fork(); child == 0) {
    const Outcome outcome = run(least);
    fmt::print("\n{}\n", outcome.failure);
    std::fflush(nullptr);
    _exit(1);
  } else {
    (void)waitpid(child, nullptr, 0);
  }
}

// Where things are in memory must not make a difference: the same places in every run.
void fix_addresses(char** argv) {
  const int now = personality(0xffffffff);
  if (now == -1 || (now & ADDR_NO_RANDOMIZE) != 0) return;
  if (personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE) == -1) return;
  execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  fix_addresses(argv);
  CLI::App app{"Runs volfs over simulated disks, threads and time"};
  Plan plan;
  uint64_t seeds = 1, minutes = 0;
  std::vector<uint64_t> left_out;
  bool verbose = false, keep = false;
  app.add_option("--seed", plan.seed, "the first seed")->capture_default_str();
  app.add_option("--seeds", seeds, "how many seeds, one after the other")->capture_default_str();
  app.add_option("--steps", plan.steps, "operations a seed")->capture_default_str();
  app.add_option("--minutes", minutes, "seeds until so much time has passed");
  app.add_option("--without", left_out, "steps to leave out")->delimiter(',');
  app.add_flag("--trace", plan.trace, "print each operation");
  app.add_flag("--log", verbose, "show the messages of the engine");
  app.add_flag("--keep", keep, "do not shorten what fails");
  CLI11_PARSE(app, argc, argv);
  plan.left_out.insert(left_out.begin(), left_out.end());
  if (!verbose && !plan.trace) (void)std::freopen("/dev/null", "w", stderr);
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(minutes);
  uint64_t done = 0, operations = 0, failed = 0;
  for (; minutes > 0 ? std::chrono::steady_clock::now() < end : done < seeds; ++done, ++plan.seed) {
    if (plan.trace) {
      const Outcome outcome = run(plan);
      fmt::print("seed {}: {}, fingerprint {:x}\n", plan.seed,
                 outcome.failure.empty() ? "ok" : outcome.failure, outcome.fingerprint);
      failed += !outcome.failure.empty();
    } else if (const std::string failure = failure_of(plan); !failure.empty()) {
      ++failed;
      report(plan, failure, !keep);
    }
    operations += plan.steps;
  }
  fmt::print("{} operations with {} seeds, {} failed\n", operations, done, failed);
  return failed == 0 ? 0 : 1;
}
