// SPDX-License-Identifier: GPL-2.0-or-later
// What lvm2's commands do to the volume group while its volumes are in use.
#include <fmt/format.h>

#include <algorithm>

#include "volfs/engine/volume_group.h"
#include "volfs/units.h"
#include "world.h"

namespace volfs::sim {
namespace {

constexpr uint64_t extent = 64 * KiB;

// What may keep a change from being made: then nothing is changed. Simulated machines can be slow.
bool is_put_off(const Status& status) {
  if (status) return false;
  const int code = status.error().code();
  const bool merging = code == EBUSY && status.error().text().find("merg") != std::string::npos;
  return code == ENOSPC || code == ETIMEDOUT || merging;
}

}  // namespace

std::string World::change_group(test::Random& random) {
  static constexpr Operation changes[] = {&World::create_volume, &World::create_snapshot,
                                          &World::remove_volume, &World::resize_volume,
                                          &World::rename_volume, &World::merge_snapshot};
  std::string text = (this->*changes[random.below(std::size(changes))])(random);
  check_structure();
  return text;
}

std::string World::create_volume(test::Random& random) {
  lvm::VolumeParameters wanted;
  wanted.name = fmt::format("lv{}", next_name_++);
  wanted.size = {lvm::SizeRequest::Of::extents, random.between(1, 8)};
  if (pvs_.size() > 1 && random.one_in(3)) {
    wanted.type = pvs_.size() > 2 && random.one_in(2) ? "raid5" : "raid1";
    if (wanted.type == "raid5") wanted.stripes = 2;
    wanted.region_size = 4 * KiB;
  } else if (pvs_.size() > 1 && random.one_in(2)) {
    wanted.type = "striped";
    wanted.stripes = 2;
    wanted.stripe_size = 4 * KiB;
  }
  Status done;
  work_beside(draw_write(random, any_volume(random)),
              [&] { done = must(engine_->volume_group("vg"))->create(wanted); });
  if (is_put_off(done)) return fmt::format("no {}: {}", wanted.name, done.error().text());
  must(done);
  const std::string path = "vg/" + wanted.name;
  const uint64_t size = volume(path)->size();
  structure_[path] = {std::make_shared<Expectation>(size / sector_size, unknown), size};
  return fmt::format("create {} with {} bytes", path, size);
}

// It holds what its origin does now.
std::string World::create_snapshot(test::Random& random) {
  const auto origins = volumes_of_group(false);
  if (origins.empty()) return "no origin";
  lvm::SnapshotParameters wanted;
  wanted.name = fmt::format("sn{}", next_name_++);
  wanted.origin = origins[random.below(origins.size())];
  wanted.chunk_size = 4 * KiB << random.below(3);
  const Shape& origin = structure_.at("vg/" + wanted.origin);
  const uint64_t enough = origin.size / extent * 2 + 2;
  const bool small = random.one_in(4);
  wanted.size = {lvm::SizeRequest::Of::extents, small ? 1 : enough};
  // What nobody has written must not change under the snapshot either.
  const auto now = ids(volume("vg/" + wanted.origin)->device(), 0, origin.size / sector_size);
  origin.is->oracle.learn(0, now, {machine_.position(), machine_.position()});
  const size_t begin = machine_.position();
  const Write beside =
      draw_write(random, random.one_in(2) ? "vg/" + wanted.origin : any_volume(random));
  Status done;
  work_beside(beside, [&] { done = must(engine_->volume_group("vg"))->create_snapshot(wanted); });
  if (is_put_off(done)) return fmt::format("no {}: {}", wanted.name, done.error().text());
  must(done);
  // The origin was flushed before.
  origin.is->oracle.flushed(span_since(begin));
  auto is = std::make_shared<Expectation>(origin.size / sector_size, zeros);
  is->origin = "vg/" + wanted.origin;
  is->may_overflow = small;
  is->oracle.learn(0, now, {begin, begin});
  structure_["vg/" + wanted.name] = {is, origin.size};
  if (beside.path == is->origin) learn_both("vg/" + wanted.name, beside, now);
  is->oracle.settle();
  return fmt::format("snapshot {} of {}{}", wanted.name, wanted.origin,
                     small ? ", with little room" : "");
}

// What was written while the snapshot was taken is in it or not, sector by sector, and stays so.
void World::learn_both(const std::string& path, const Write& write,
                       const std::vector<SectorId>& old) {
  const auto is = ids_if_valid(path, write.first, write.count);
  if (!is) return;
  for (uint64_t i = 0; i < write.count; ++i)
    if ((*is)[i] != write.id + i && (*is)[i] != old[write.first + i])
      throw Failure(fmt::format("{}: sector {} is neither old nor new", path, write.first + i));
  structure_.at(path).is->oracle.learn(write.first, *is, {0, 0});
}

// What the snapshot holds is the origin's at once; the name of the snapshot goes.
std::string World::merge_snapshot(test::Random& random) {
  auto names = volumes_of_group(true);
  std::erase_if(names, [&](const std::string& name) {
    const Expectation& is = *structure_.at("vg/" + name).is;
    return is.origin.empty() || is.may_overflow;
  });
  if (names.empty()) return "no snapshot to merge";
  const std::string name = names[random.below(names.size())], path = "vg/" + name;
  const Status done = must(engine_->volume_group("vg"))->merge(name);
  if (is_put_off(done)) return fmt::format("{} is not merged: {}", path, done.error().text());
  must(done);
  const std::string origin = structure_.at(path).is->origin;
  auto is = std::make_shared<Expectation>(*structure_.at(path).is);
  is->origin.clear();
  structure_.at(origin).is = is;
  structure_.erase(path);
  return fmt::format("merge {} into {}", path, origin);
}

std::string World::remove_volume(test::Random& random) {
  const auto names = volumes_of_group(true);
  if (names.size() < 2) return "too few volumes to remove one";
  const std::string name = names[random.below(names.size())], path = "vg/" + name;
  std::string other = "map";
  for (int i = 0; i < 4; ++i)
    if (const auto drawn = any_volume(random);
        drawn != path && structure_.at(drawn).is->origin != path)
      other = drawn;
  Status done;
  work_beside(draw_write(random, other),
              [&] { done = must(engine_->volume_group("vg"))->remove(name, true); });
  if (is_put_off(done)) return fmt::format("{} stays: {}", path, done.error().text());
  must(done);
  structure_.erase(path);
  std::erase_if(structure_, [&](const auto& entry) { return entry.second.is->origin == path; });
  return "remove " + path;
}

std::string World::resize_volume(test::Random& random) {
  auto names = volumes_of_group(false);
  // One with snapshots keeps its size.
  std::erase_if(names, [&](const std::string& name) {
    return std::ranges::any_of(
        structure_, [&](const auto& entry) { return entry.second.is->origin == "vg/" + name; });
  });
  if (names.empty()) return "nothing to resize";
  const std::string name = names[random.below(names.size())], path = "vg/" + name;
  Shape& shape = structure_.at(path);
  engine::VolumeGroup::Resize resize;
  resize.size = {lvm::SizeRequest::Of::extents, random.between(1, 4) * 2};
  resize.sign = random.one_in(2) || shape.size <= 8 * extent ? '+' : '-';
  engine::VolumeGroup& group = *must(engine_->volume_group("vg"));
  Status done;
  const std::string other = any_volume(random);
  work_beside(draw_write(random, other == path ? "map" : other), [&] {
    done = resize.sign == '+' ? group.extend(name, resize) : group.reduce(name, resize, true);
  });
  if (is_put_off(done)) return fmt::format("no other size of {}: {}", path, done.error().text());
  must(done);
  const uint64_t old = shape.size;
  // The old expectation stays as it is: a power cut may bring the old size back.
  shape.is = std::make_shared<Expectation>(*shape.is);
  shape.size = volume(path)->size();
  shape.is->oracle.resize(shape.size / sector_size);
  return fmt::format("resize {} from {} to {}", path, old, shape.size);
}

std::string World::rename_volume(test::Random& random) {
  const auto names = volumes_of_group(true);
  if (names.empty()) return "nothing to rename";
  const std::string name = names[random.below(names.size())], path = "vg/" + name;
  const std::string to = fmt::format("{}{}", name.starts_with("sn") ? "sn" : "lv", next_name_++);
  const Status done = must(engine_->volume_group("vg"))->rename(name, to);
  if (is_put_off(done)) return fmt::format("{} keeps its name: {}", path, done.error().text());
  must(done);
  const Shape shape = structure_.at(path);
  structure_.erase(path);
  structure_["vg/" + to] = shape;
  // Copies, since the old names may come back.
  for (auto& [each, its] : structure_)
    if (its.is->origin == path) {
      its.is = std::make_shared<Expectation>(*its.is);
      its.is->origin = "vg/" + to;
    }
  return fmt::format("rename {} to {}", path, to);
}

}  // namespace volfs::sim
