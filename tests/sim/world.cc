// SPDX-License-Identifier: GPL-2.0-or-later
#include "world.h"
#include "support/byte_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "volfs/config/parser.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/engine/create.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/md/superblock.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::sim {
namespace {

constexpr uint64_t disk_size = 4 * MiB;

template <class List>
const auto& one_of(test::Random& random, const List& list) {
  return list[random.below(std::size(list))];
}

// A level, how many members it has, and what else a definition may say of it.
std::string array_words(test::Random& random, ArrayPlan& plan) {
  static constexpr int levels[] = {1, 4, 5, 5, 6, 10};
  static constexpr const char* layouts5[] = {"la", "ra", "ls", "rs", "parity-first", "parity-last"};
  static constexpr const char* layouts10[] = {"n2", "f2", "o2", "n3"};
  static constexpr const char* versions[] = {"1.2", "1.2", "1.0", "1.1", "0.90"};
  plan.level = one_of(random, levels);
  const size_t least = plan.level == 1 ? 2 : plan.level == 6 ? 4 : 3;
  plan.raid_disks = least + random.below(2);
  const std::string version = one_of(random, versions);
  std::string words = fmt::format("level: raid{}, metadata: {}", plan.level, version);
  if (plan.level != 1) words += fmt::format(", chunk: {}KiB", 4 << random.below(3));
  if (plan.level == 5) words += fmt::format(", layout: {}", one_of(random, layouts5));
  if (plan.level == 10) words += fmt::format(", layout: {}", one_of(random, layouts10));
  if (plan.level == 5 && version != "0.90" && random.one_in(3))
    plan.has_ppl = true;
  else if (random.one_in(2))
    words += ", bitmap: internal, bitmap_chunk: 16KiB";
  else
    words += ", bitmap: none";
  if (plan.has_ppl) words += ", consistency: ppl";
  if (random.one_in(2)) words += ", assume_clean: true";
  return words;
}

std::string row(uint64_t start, uint64_t sectors, const std::string& device, uint64_t offset) {
  return fmt::format("{} {} linear {} {}", start, sectors, device, offset);
}

}  // namespace

World::World(uint64_t seed) {
  test::Random random(seed);
  design(random);
  create();
  assemble();
  for (const auto& each : engine_->catalog().volumes()) {
    const std::string path = each->path();
    const auto below = std::ranges::find(arrays_, path, &ArrayPlan::name);
    if (below != arrays_.end() && !below->is_volume) continue;
    auto is = std::make_shared<Expectation>(each->size() / sector_size, zeros);
    structure_[path] = {is, each->size()};
    const auto now = ids(each->device(), 0, is->oracle.sectors());
    is->oracle.learn(0, now, {0, 0});
    is->oracle.settle();
  }
}

World::~World() {
  machine_.heal();
}

// What stands on what: arrays and disks, a volume group on some of them, a map on another.
void World::design(test::Random& random) {
  const uint64_t arrays = random.between(1, 2);
  for (uint64_t i = 0; i < arrays; ++i) {
    ArrayPlan plan;
    plan.name = fmt::format("md{}", i);
    plan.words = array_words(random, plan);
    plan.is_volume = i == 1 && random.one_in(2);
    for (size_t k = 0; k <= plan.raid_disks; ++k) {
      plan.disks.push_back(fmt::format("m{}d{}", i, k));
      machine_.add_disk(plan.disks.back(), disk_size);
    }
    if (!plan.is_volume) pvs_.push_back(plan.name);
    arrays_.push_back(std::move(plan));
  }
  for (const char* name : {"p0", "p1"}) {
    plain_.emplace_back(name);
    machine_.add_disk(name, disk_size);
  }
  if (random.one_in(2)) pvs_.emplace_back("p0");
  map_disk_ = "p1";
  map_type_ = random.one_in(2) ? "linear" : "striped";
  for (const auto& plan : arrays_)
    for (const auto& disk : plan.disks) (void)directory_.file(disk, 0);
  for (const auto& disk : plain_) (void)directory_.file(disk, 0);
}

std::string World::definition() {
  std::string text = "volfs: 1\nimages:\n";
  for (const auto& plan : arrays_)
    for (const auto& disk : plan.disks) text += fmt::format("  {}: {}\n", disk, disk);
  for (const auto& disk : plain_) text += fmt::format("  {}: {}\n", disk, disk);
  text += "arrays:\n";
  for (const auto& plan : arrays_) {
    // At first its members; later on all disks that bear its superblocks, in any order.
    std::vector<std::string> members = plan.disks;
    if (definition_)
      std::erase_if(members, [&](const std::string& disk) {
        const auto found = md::scan(machine_.disk(disk));
        return found && !*found;
      });
    else
      members.resize(plan.raid_disks);
    std::string devices, spares;
    for (size_t i = 0; i < std::max(members.size(), plan.raid_disks); ++i)
      (i < plan.raid_disks ? devices : spares) +=
          (i == 0 || i == plan.raid_disks ? "" : ", ") +
          (i < members.size() ? members[i] : std::string("missing"));
    text += fmt::format("  {}: {{devices: [{}], {}{}}}\n", plan.name, devices,
                        spares.empty() ? "" : "spares: [" + spares + "], ", plan.words);
  }
  text += fmt::format("volume_groups:\n  vg:\n    physical_volumes: [{}]\n    extent_size: 64KiB\n",
                      fmt::join(pvs_, ", "));
  if (!definition_) {
    text += "    logical_volumes:\n      root: {size: 512KiB}\n";
    if (pvs_.size() > 1) text += "      wide: {size: 512KiB, stripes: 2, stripe_size: 8KiB}\n";
  }
  const uint64_t half = MiB / sector_size;
  text += "maps:\n  map:\n    table: |\n";
  if (map_type_ == "linear")
    text += "      " + row(0, 2 * half, map_disk_, 0) + "\n";
  else
    text +=
        fmt::format("      0 {} striped 2 16 {} 0 {} {}\n", 2 * half, map_disk_, map_disk_, half);
  return text;
}

void World::create() {
  text_ = definition();
  auto parsed = config::parse(text_, "sim.yaml");
  if (!parsed) throw Failure(parsed.error().to_string() + text_);
  engine::CreateOptions options;
  options.directory = directory_.path(".");
  options.open_image = machine_.open_image();
  auto steps = engine::plan_creation(*parsed, options);
  if (!steps) throw Failure(steps.error().to_string() + text_);
  for (auto& step : *steps) must(step.run());
  machine_.settle();
  definition_ = std::move(*parsed);
}

// What stands in the way; "" if it is assembled.
std::string World::try_to_assemble() {
  text_ = definition();
  auto parsed = config::parse(text_, "sim.yaml");
  if (!parsed) throw Failure(parsed.error().to_string() + text_);
  definition_ = std::move(*parsed);
  engine::AssembleOptions options;
  options.directory = directory_.path(".");
  options.open_image = machine_.open_image();
  options.quiet = true;
  auto assembled = engine::Engine::assemble(*definition_, options);
  if (!assembled) return assembled.error().to_string();
  engine_ = std::move(*assembled);
  return "";
}

void World::assemble() {
  if (const std::string problem = try_to_assemble(); !problem.empty())
    throw Failure(problem + text_);
}

void World::close() {
  must(engine_->close());
  engine_.reset();
  for (auto& [path, shape] : structure_) shape.is->oracle.settle();
  machine_.settle();
}

std::string World::describe() const {
  if (!engine_) return text_;
  std::string text;
  engine_->for_each_node([&](engine::Node& node) {
    if (const auto* each = dynamic_cast<const md::Array*>(node.device.get()))
      text += each->mdstat();
    if (const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get()))
      text += fmt::format("{}: {}{}: {}", node.name, map->table(), node.name, map->status());
  });
  return text;
}

// ---- volumes

std::shared_ptr<engine::Volume> World::volume(const std::string& path) const {
  auto found = engine_->catalog().find(path);
  if (!found) throw Failure(fmt::format("volume {} is not there", path));
  return found;
}

std::string World::any_volume(test::Random& random) const {
  const auto at = random.below(structure_.size());
  return std::next(structure_.begin(), static_cast<std::ptrdiff_t>(at))->first;
}

std::vector<std::string> World::volumes_of_group(bool snapshots) const {
  std::vector<std::string> names;
  for (const auto& [path, shape] : structure_)
    if (path.starts_with("vg/") && (snapshots || shape.is->origin.empty()))
      names.push_back(path.substr(3));
  return names;
}

std::vector<SectorId> World::ids(BlockDevice& device, uint64_t first, uint64_t count) const {
  std::vector<std::byte> bytes(count * sector_size);
  must(device.read(first * sector_size, bytes));
  std::vector<SectorId> list;
  for (uint64_t i = 0; i < count; ++i)
    list.push_back(id_of(std::span(bytes).subspan(i * sector_size, sector_size)));
  return list;
}

bool World::is_invalid(BlockDevice& device) const {
  const auto* map = dynamic_cast<const dm::MappedDevice*>(&device);
  return map && (map->status().find("Invalid") != std::string::npos ||
                 map->status().find("Overflow") != std::string::npos);
}

// Nothing of a snapshot that has no room any more, where that may be.
std::optional<std::vector<SectorId>> World::ids_if_valid(const std::string& path, uint64_t first,
                                                         uint64_t count) {
  BlockDevice& device = volume(path)->device();
  if (structure_.at(path).is->may_overflow && is_invalid(device)) return std::nullopt;
  return ids(device, first, count);
}

void World::check(const std::string& path, uint64_t first, uint64_t count) {
  const auto is = ids_if_valid(path, first, count);
  if (!is) return;
  if (const auto wrong = structure_.at(path).is->oracle.difference(first, *is))
    throw Failure(fmt::format("{}: {}", path, *wrong));
}

void World::check_all() {
  check_structure();
  for (const auto& [path, shape] : structure_) check(path, 0, shape.size / sector_size);
}

// The volumes that should be there are, and no others.
void World::check_structure() const {
  std::set<std::string> there;
  for (const auto& each : engine_->catalog().volumes()) {
    const auto below = std::ranges::find(arrays_, each->path(), &ArrayPlan::name);
    if (below != arrays_.end() && !below->is_volume) continue;
    there.insert(each->path());
    const auto should = structure_.find(each->path());
    if (should == structure_.end())
      throw Failure(fmt::format("volume {} should not be there", each->path()));
    if (should->second.size != each->size())
      throw Failure(fmt::format("volume {} has {} bytes, should have {}", each->path(),
                                each->size(), should->second.size));
  }
  for (const auto& [path, shape] : structure_)
    if (!there.contains(path)) throw Failure(fmt::format("volume {} is not there", path));
}

World::Write World::draw_write(test::Random& random, const std::string& path) {
  const uint64_t sectors = structure_.at(path).size / sector_size;
  const test::Range range =
      test::random_range(random, sectors * sector_size, sector_size, 48 * KiB);
  Write write{path, range.offset / sector_size, range.length / sector_size, next_id_,
              random.one_in(8)};
  next_id_ += write.count;
  return write;
}

void World::do_write(const Write& write) {
  std::vector<std::byte> bytes(write.count * sector_size);
  std::vector<SectorId> written;
  for (uint64_t i = 0; i < write.count; ++i) {
    fill_sector(std::span(bytes).subspan(i * sector_size, sector_size), write.id + i);
    written.push_back(write.id + i);
  }
  const auto target = volume(write.path);
  Expectation& is = *structure_.at(write.path).is;
  const size_t begin = machine_.position();
  const Status done =
      target->device().write(write.first * sector_size, bytes, write.fua ? Fua::yes : Fua::no);
  if (!done && is.may_overflow && is_invalid(target->device())) return;
  if (!done) throw Failure(fmt::format("write to {}: {}", write.path, done.error().text()));
  is.oracle.wrote(write.first, std::move(written), span_since(begin), write.fua);
}

void World::work_beside(const Write& write, const std::function<void()>& work) {
  std::optional<Failure> failure;
  {
    const Thread writer = must(Thread::start("writer", [&] {
      try {
        do_write(write);
      } catch (const Failure& found) {
        failure = found;
      }
    }));
    work();
  }
  if (failure) throw Failure(*failure);
}

// ---- arrays

md::Array* World::array(const std::string& name) const {
  engine::Node* node = engine_->graph().find(name);
  if (!node) throw Failure(fmt::format("array {} is not there", name));
  return dynamic_cast<md::Array*>(node->device.get());
}

std::optional<World::Running> World::any_array(test::Random& random) {
  ArrayPlan& plan = arrays_[random.below(arrays_.size())];
  return Running{&plan, array(plan.name)};
}

BlockDevice& World::device_of(const std::string& disk) const {
  engine::Node* node = engine_->graph().find(disk);
  if (!node) throw Failure(fmt::format("image {} is not there", disk));
  return node->shown();
}

std::set<std::string> World::members_of(md::Array& array) const {
  std::set<std::string> names;
  for (const auto& member : array.status().members) names.insert(member.device);
  return names;
}

// One look at the sync: between two it may begin.
bool World::is_whole(md::Array& array) const {
  if (array.status().state != md::ArrayState::active) return false;
  const md::SyncProgress sync = array.progress();
  return sync.action == md::SyncAction::idle && !sync.pending;
}

// Of an array whose parity stands in for a member, what is being written may be lost with it. A
// recovery that ends is told a moment before it is recorded.
bool World::survives_cut() const {
  return std::ranges::all_of(arrays_, [&](const ArrayPlan& plan) {
    if (plan.level == 1 || plan.level == 10) return true;
    const md::ArrayStatus status = array(plan.name)->status();
    return status.state == md::ArrayState::active && status.sync.action != md::SyncAction::recover;
  });
}

void World::finish() {
  machine_.heal();
  test::Random random(next_id_);
  for (ArrayPlan& plan : arrays_) {
    md::Array& each = *array(plan.name);
    each.release_sync();
    for (int i = 0; i < 6 && each.status().state != md::ArrayState::active; ++i) {
      (void)bring_back_to({&plan, &each}, random);
      if (!each.wait_sync()) throw Failure(plan.name + ": sync does not end");
    }
    if (!each.wait_sync()) throw Failure(plan.name + ": sync does not end");
    if (each.status().state != md::ArrayState::active)
      throw Failure(plan.name + " is not whole again");
  }
  check_all();
  for (const ArrayPlan& plan : arrays_) {
    md::Array& each = *array(plan.name);
    must(each.check());
    (void)each.wait_sync();
    if (const uint64_t wrong = each.status().mismatches; wrong != 0)
      throw Failure(fmt::format("{}: {} bytes do not agree", plan.name, wrong));
  }
  close();
  assemble();
  check_all();
  close();
}

}  // namespace volfs::sim
