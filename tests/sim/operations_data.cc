// SPDX-License-Identifier: GPL-2.0-or-later
// What users of volumes do: read, write, flush; and what power cuts leave of it.
#include <fmt/format.h>

#include <algorithm>

#include "support/byte_model.h"
#include "support/sim_scheduler.h"
#include "volfs/engine/create.h"
#include "volfs/md/superblock.h"
#include "volfs/sync.h"
#include "volfs/units.h"
#include "world.h"

namespace volfs::sim {

std::string World::write(test::Random& random) {
  const Write write = draw_write(random, any_volume(random));
  do_write(write);
  return fmt::format("write {} sectors at {} of {}{}", write.count, write.first, write.path,
                     write.fua ? ", FUA" : "");
}

// Threads write side by side, mostly to the same stripes; no sector is written by two.
std::string World::write_together(test::Random& random) {
  const uint64_t writers = random.between(2, 4);
  const std::string shared = any_volume(random);
  std::vector<std::vector<Write>> work(writers);
  std::map<std::string, std::vector<std::pair<uint64_t, uint64_t>>> taken;
  for (uint64_t i = 0; i < 4 * writers; ++i) {
    const Write write = draw_write(random, random.one_in(3) ? any_volume(random) : shared);
    auto& ranges = taken[write.path];
    const bool free = std::ranges::none_of(ranges, [&](const auto& range) {
      return write.first < range.second && range.first < write.first + write.count;
    });
    if (!free) continue;
    ranges.emplace_back(write.first, write.first + write.count);
    work[i % writers].push_back(write);
  }
  std::vector<Thread> threads;
  std::optional<Failure> failure;
  for (const auto& writes : work)
    threads.push_back(must(Thread::start("writer", [&] {
      try {
        for (const Write& write : writes) do_write(write);
      } catch (const Failure& found) {
        failure = found;
      }
    })));
  threads.clear();
  if (failure) throw Failure(*failure);
  return fmt::format("{} writers at once, mostly to {}", writers, shared);
}

std::string World::read(test::Random& random) {
  const std::string path = any_volume(random);
  const test::Range range =
      test::random_range(random, structure_.at(path).size, sector_size, 64 * KiB);
  check(path, range.offset / sector_size, range.length / sector_size);
  return fmt::format("read {} bytes at {} of {}", range.length, range.offset, path);
}

std::string World::flush(test::Random& random) {
  const std::string path = any_volume(random);
  const size_t begin = machine_.position();
  must(volume(path)->device().flush());
  structure_.at(path).is->oracle.flushed(span_since(begin));
  return "flush " + path;
}

// Zeros, or of a discarded range each sector as it was or zeros, from now on.
std::string World::zero(test::Random& random) {
  const std::string path = any_volume(random);
  const test::Range range =
      test::random_range(random, structure_.at(path).size, sector_size, 64 * KiB);
  const uint64_t first = range.offset / sector_size, count = range.length / sector_size;
  BlockDevice& device = volume(path)->device();
  Expectation& is = *structure_.at(path).is;
  const bool discard = random.one_in(2);
  const size_t begin = machine_.position();
  const Status done = discard ? device.discard(range.offset, range.length)
                              : device.write_zeroes(range.offset, range.length);
  if (!done && is.may_overflow && is_invalid(device)) return "zero of an invalid " + path;
  if (!done && !(discard && done.error().code() == EOPNOTSUPP))
    throw Failure(fmt::format("{} of {}: {}", discard ? "discard" : "write_zeroes", path,
                              done.error().text()));
  if (!done) return "discard that " + path + " does not support";
  std::vector<SectorId> old;
  for (uint64_t i = 0; i < count; ++i) old.push_back(is.oracle.latest(first + i));
  is.oracle.wrote(first, std::vector<SectorId>(count, zeros), span_since(begin));
  if (discard) {
    const auto now = ids_if_valid(path, first, count);
    if (!now) return "discard of an invalid " + path;
    for (uint64_t i = 0; i < count; ++i)
      if ((*now)[i] != zeros && (*now)[i] != old[i] && old[i] != unknown)
        throw Failure(
            fmt::format("{}: discarded sector {} is neither old nor zeros", path, first + i));
    is.oracle.learn(first, *now, span_since(begin));
  }
  return fmt::format("{} {} sectors at {} of {}", discard ? "discard" : "zero", count, first, path);
}

std::string World::wait(test::Random& random) {
  const auto time = std::chrono::milliseconds(random.below(400));
  sleep_for(time);
  return fmt::format("wait {} ms", time.count());
}

// A snapshot that has become invalid is marked so, if its store can be written: where that had no
// room, it is shown again after a restart, as by Linux, and holds anything.
void World::forget_invalid() {
  for (auto& [path, shape] : structure_)
    if (shape.is->may_overflow && is_invalid(volume(path)->device()))
      shape.is->oracle = Oracle(shape.is->oracle.sectors(), unknown);
}

std::string World::restart(test::Random&) {
  machine_.heal();
  forget_invalid();
  const bool at_risk = !survives_cut();
  close();
  start_again(at_risk);
  check_structure();
  return "restart";
}

// Parity that was never made to agree must not stand in for a member, unless forced to.
void World::start_again(bool at_risk) {
  const std::string problem = try_to_assemble();
  if (problem.empty()) return;
  if (at_risk && problem.find("force") != std::string::npos) throw Ended(problem);
  throw Failure(problem + text_);
}

// A change of the map's table that keeps the data: the same bytes in other rows.
std::string World::reload(test::Random& random) {
  const uint64_t sectors = structure_.at("map").size / sector_size;
  std::string table;
  if (map_type_ == "linear") {
    const uint64_t at = random.between(1, sectors - 1);
    table = fmt::format("0 {} linear {} 0\n{} {} linear {} {}\n", at, map_disk_, at, sectors - at,
                        map_disk_, at);
  } else {
    table =
        fmt::format("0 {} striped 2 16 {} 0 {} {}\n", sectors, map_disk_, map_disk_, sectors / 2);
  }
  work_beside(draw_write(random, "map"), [&] {
    must(engine_->map_load("map", table, false));
    if (random.one_in(2)) must(engine_->map_suspend("map", random.one_in(2), Nanos(0)));
    must(engine_->map_resume("map"));
  });
  return "another table for map, while it is written";
}

// Of a write that fails for lack of room, each sector is old or new.
void World::write_without_room(const Write& write) {
  std::vector<std::byte> bytes(write.count * sector_size);
  for (uint64_t i = 0; i < write.count; ++i)
    fill_sector(std::span(bytes).subspan(i * sector_size, sector_size), write.id + i);
  BlockDevice& device = volume(write.path)->device();
  const size_t begin = machine_.position();
  const Status done = device.write(write.first * sector_size, bytes);
  Oracle& oracle = structure_.at(write.path).is->oracle;
  std::vector<SectorId> old, fresh;
  for (uint64_t i = 0; i < write.count; ++i) {
    old.push_back(oracle.latest(write.first + i));
    fresh.push_back(write.id + i);
  }
  oracle.wrote(write.first, fresh, span_since(begin));
  if (done) return;
  const auto now = ids_if_valid(write.path, write.first, write.count);
  if (!now) return;
  for (uint64_t i = 0; i < write.count; ++i)
    if ((*now)[i] != fresh[i] && (*now)[i] != old[i] && old[i] != unknown)
      throw Failure(fmt::format("{}: after '{}' sector {} is neither old nor new", write.path,
                                done.error().text(), write.first + i));
  oracle.learn(write.first, *now, span_since(begin));
}

// A disk has no room for a while, as a sparse image on a full file system.
std::string World::run_out_of_room(test::Random& random) {
  machine_.heal();
  std::vector<std::string> disks = plain_;
  // A stripe of a degraded array that is torn for lack of room cannot be read until it is written.
  for (const ArrayPlan& plan : arrays_)
    if (is_whole(*array(plan.name)))
      disks.insert(disks.end(), plan.disks.begin(), plan.disks.end());
  test::FaultDevice& disk = machine_.disk(disks[random.below(disks.size())]);
  const auto range = test::random_range(random, disk.size(), sector_size, 2 * MiB);
  disk.add({.op = test::FaultOp::write,
            .begin = range.offset,
            .end = range.offset + range.length,
            .one_in = random.between(1, 3),
            .error = ENOSPC});
  // A snapshot that cannot keep what its origin loses is invalid from then on.
  for (auto& [path, shape] : structure_)
    if (!shape.is->origin.empty()) shape.is->may_overflow = true;
  for (int i = 0; i < 4; ++i) write_without_room(draw_write(random, any_volume(random)));
  disk.remove_all();
  for (const ArrayPlan& plan : arrays_)
    if (std::ranges::find(plan.disks, disk.name()) != plan.disks.end())
      write_again(*array(plan.name));
  return fmt::format("{} has no room for {} bytes at {}", disk.name(), range.length, range.offset);
}

// The system has no threads to give for a while, whatever waits for one.
std::string World::refuse_threads(test::Random& random) {
  auto& simulated = *static_cast<test::SimScheduler*>(scheduler());
  const auto time = std::chrono::milliseconds(random.below(300));
  const Thread end = must(Thread::start("end", [&simulated, time] {
    sleep_for(time);
    simulated.refuse_threads(0);
  }));
  simulated.refuse_threads(EAGAIN);
  for (int i = 0; i < 3; ++i) {
    do_write(draw_write(random, any_volume(random)));
    (void)flush(random);
    (void)read(random);
  }
  return fmt::format("no new threads for {} ms", time.count());
}

std::string World::set_clock(test::Random& random) {
  const auto by = std::chrono::hours(random.below(2000)) - std::chrono::hours(1000);
  static_cast<test::SimScheduler*>(scheduler())->jump_wall_clock(by);
  return fmt::format("the clock goes {} h", by.count());
}

// The volumes are those of BEFORE or those of AFTER a change of the group.
void World::adopt_structure(const Structure& before, const Structure& after, size_t position,
                            Span change) {
  std::string as_before;
  const auto fits = [&](const Structure& structure) {
    structure_ = structure;
    try {
      check_structure();
    } catch (const Failure& failure) {
      as_before += std::string(failure.what()) + "; ";
      return false;
    }
    return true;
  };
  const bool done = change.end <= position, begun = change.begin <= position;
  const bool found = (begun && fits(after)) || (!done && fits(before));
  if (!found) throw Failure("after a power cut: " + as_before);
  for (auto& [path, shape] : structure_) {
    Oracle& oracle = shape.is->oracle;
    oracle.resize(shape.size / sector_size);
    BlockDevice& device = volume(path)->device();
    if (shape.is->may_overflow && is_invalid(device)) {
      oracle.settle();
      continue;
    }
    if (const auto wrong = oracle.adopt(ids(device, 0, oracle.sectors()), position))
      throw Failure(fmt::format("{}: {}", path, *wrong));
  }
}

// Some work, and at a moment of it the power goes: of all disks any part of what was not flushed.
// What cannot be right after that is not shown, or all that was flushed is there.
std::string World::cut_power(test::Random& random) {
  machine_.heal();
  const bool at_risk = !survives_cut();
  if (at_risk && !random.one_in(4)) return "no power cut now";
  for (auto& [path, shape] : structure_) shape.is->oracle.trim();
  const size_t before = machine_.position();
  const Structure old = structure_;
  Span change{before, before};
  std::string text;
  const uint64_t works = random.between(1, 3);
  for (uint64_t i = 0; i < works; ++i) {
    static constexpr Operation kinds[] = {&World::write, &World::write_together, &World::flush,
                                          &World::zero};
    text += (this->*kinds[random.below(std::size(kinds))])(random) + ", ";
  }
  if (random.one_in(2)) {
    change.begin = machine_.position();
    text += change_group(random) + ", ";
    change.end = machine_.position();
  }
  if (!at_risk && !survives_cut()) return text + "no power cut then";
  const size_t position = before + random.below(machine_.position() - before + 1);
  // A superblock of 4 KiB (0.90) that is torn loses its member, as in Linux: not what is tried
  // here.
  const auto contents =
      machine_.cut(position, random, [](BlockDevice& disk) { return md::scan(disk).has_value(); });
  forget_invalid();
  const Structure changed = structure_;
  engine_.reset();
  machine_.start_with(contents);
  start_again(at_risk);
  // A partial parity log keeps what was not being written. What was, may be anything on a missing
  // member, as in Linux; and the group's and snapshots' own metadata were written, too.
  if (at_risk && std::ranges::any_of(arrays_, &ArrayPlan::has_ppl))
    throw Ended(text + "power cut of a degraded array with a partial parity log");
  for (ArrayPlan& plan : arrays_) plan.torn = true;
  adopt_structure(old, changed, position, change);
  return text + fmt::format("power cut at {} of {} to {}", position, before, change.end);
}

}  // namespace volfs::sim
