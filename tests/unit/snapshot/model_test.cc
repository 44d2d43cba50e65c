// SPDX-License-Identifier: GPL-2.0-or-later
// An origin and its snapshots against plain bytes: random writes to all of them, snapshots
// taken, dropped and merged, restarts at any time.
#include <algorithm>
#include <memory>
#include <vector>

#include "world.h"

using namespace volfs;
using namespace volfs::test;

namespace {

struct Snap {
  std::string name;
  std::unique_ptr<MemoryDevice> cow;
  std::unique_ptr<dm::MappedDevice> device;  // none while it is merged
  ByteModel model;
  std::string kind;
  uint64_t chunk_size;
};

class Model {
 public:
  explicit Model(uint64_t seed)
      : random_(seed),
        // The end is not one of a chunk.
        base_("base", 64 * KiB + random_.below(400) * 512),
        origin_model_(base_.size()) {
    start();
  }
  void step();
  void finish();

 private:
  void start();
  void restart();
  void take();
  void drop(size_t i);
  void merge(size_t i);
  void write(BlockDevice& device, ByteModel& model);
  void compare(BlockDevice& device, const ByteModel& model);
  bool invalid(const Snap& snap) const { return status_of(*snap.device) == "Invalid"; }
  void origin_table();

  Random random_;
  MemoryDevice base_;
  ByteModel origin_model_;
  std::vector<std::unique_ptr<Snap>> snaps_;
  std::unique_ptr<Snap> merging_;
  std::unique_ptr<World> world_;
  std::unique_ptr<dm::MappedDevice> origin_;
  unsigned serial_ = 0;
};

void Model::origin_table() {
  const std::string error =
      merging_
          ? world_->set(*origin_, "snapshot-merge",
                        world_->snapshot_args(merging_->name, merging_->kind, merging_->chunk_size))
          : world_->set_origin(*origin_);
  REQUIRE(error == "");
}

void Model::start() {
  world_ = std::make_unique<World>(base_);
  origin_ = std::make_unique<dm::MappedDevice>("origin");
  for (auto& snap : snaps_) {
    world_->add(*snap->cow);
    snap->device = std::make_unique<dm::MappedDevice>(snap->name + "-shown");
    // The header knows better: any chunk size will do.
    REQUIRE(world_->set(*snap->device, "snapshot",
                        world_->snapshot_args(snap->name, snap->kind, 8192)) == "");
  }
  if (merging_) world_->add(*merging_->cow);
  origin_table();
}

void Model::restart() {
  std::erase_if(snaps_, [](const auto& snap) { return snap->kind == "N"; });
  origin_.reset();
  for (auto& snap : snaps_) snap->device.reset();
  world_.reset();
  start();
}

void Model::take() {
  auto snap = std::make_unique<Snap>(Snap{fmt::format("cow{}", serial_++),
                                          {},
                                          {},
                                          origin_model_,
                                          random_.one_in(4)   ? "N"
                                          : random_.one_in(2) ? "P"
                                                              : "PO",
                                          uint64_t{512} << random_.below(7)});
  const uint64_t enough = 2 * base_.size() + 8 * snap->chunk_size + 64 * KiB;
  snap->cow = std::make_unique<MemoryDevice>(
      snap->name,
      random_.one_in(6) ? std::max(enough / 8, 3 * snap->chunk_size) / 512 * 512 : enough);
  snap->device = std::make_unique<dm::MappedDevice>(snap->name + "-shown");
  world_->add(*snap->cow);
  REQUIRE(world_->take(*origin_, *snap->device, snap->name, snap->kind, snap->chunk_size) == "");
  snaps_.push_back(std::move(snap));
}

void Model::drop(size_t i) {
  snaps_[i]->device.reset();
  world_->remove(snaps_[i]->name);
  snaps_.erase(snaps_.begin() + static_cast<ptrdiff_t>(i));
}

void Model::merge(size_t i) {
  if (snaps_[i]->kind == "N" || invalid(*snaps_[i])) return;
  merging_ = std::move(snaps_[i]);
  snaps_.erase(snaps_.begin() + static_cast<ptrdiff_t>(i));
  const bool handover = random_.one_in(2);
  if (!handover) merging_->device.reset();
  REQUIRE(origin_->suspend().has_value());
  if (handover) REQUIRE(merging_->device->suspend().has_value());
  origin_table();
  merging_->device.reset();
  origin_model_ = merging_->model;
}

void Model::write(BlockDevice& device, ByteModel& model) {
  const Range range = random_range(random_, model.size(), 512, 24 * KiB);
  if (random_.one_in(10)) {
    REQUIRE(device.write_zeroes(range.offset, range.length).has_value());
    model.zero(range.offset, range.length);
    return;
  }
  ScatterList data(random_, range.length);
  const auto bytes = random_bytes(random_, range.length);
  data.set(bytes);
  REQUIRE(
      device.write(range.offset, data.iov(), random_.one_in(8) ? Fua::yes : Fua::no).has_value());
  model.write(range.offset, bytes);
}

void Model::compare(BlockDevice& device, const ByteModel& model) {
  const Range range = random_range(random_, model.size(), 512, 48 * KiB);
  std::vector<std::byte> bytes(range.length);
  REQUIRE(device.read(range.offset, bytes).has_value());
  const auto difference = first_difference(bytes, model.bytes(range.offset, range.length));
  if (difference)
    FAIL(device.name() << ": " << *difference << " of " << range.length << " from "
                       << range.offset);
}

void Model::step() {
  const uint64_t what = random_.below(1000);
  // While a merge is under way the base is neither what was nor what will be: LVM refuses a
  // snapshot then.
  if (what < 8 && snaps_.size() < 4 && !merging_) return take();
  if (what < 12) return restart();
  if (what < 20 && merging_) {
    wait_until_merged(*origin_);
    world_->remove(merging_->name);
    const auto merged = std::move(merging_);
    return origin_table();
  }
  const size_t i = random_.below(snaps_.size() + 1);
  if (i == snaps_.size()) {
    if (what < 500)
      write(*origin_, origin_model_);
    else
      compare(*origin_, origin_model_);
    return;
  }
  Snap& snap = *snaps_[i];
  if (invalid(snap)) {
    std::vector<std::byte> byte(512);
    REQUIRE(snap.device->read(0, byte).error().code() == EIO);
    if (random_.one_in(4)) drop(i);
    return;
  }
  if (what < 24) return drop(i);
  if (what < 28 && !merging_) return merge(i);
  if (what >= 400) return compare(*snap.device, snap.model);
  // A write that finds the store full loses the snapshot or, with PO, fails: parts of it may be
  // there.
  const uint64_t room = snap.cow->size() / 8;
  if (room < base_.size() / 4 && (snap.kind == "PO" || status_of(*snap.device) == "Overflow")) {
    compare(*snap.device, snap.model);
  } else if (room < base_.size() / 4) {
    const Range range = random_range(random_, base_.size(), 512, 24 * KiB);
    const auto bytes = random_bytes(random_, range.length);
    if (snap.device->write(range.offset, bytes))
      snap.model.write(range.offset, bytes);
    else
      REQUIRE(invalid(snap));
  } else {
    write(*snap.device, snap.model);
  }
}

void Model::finish() {
  restart();
  if (merging_) wait_until_merged(*origin_);
  if (const auto difference = origin_model_.difference(*origin_)) FAIL("origin: " << *difference);
  for (const auto& snap : snaps_)
    if (!invalid(*snap))
      if (const auto difference = snap->model.difference(*snap->device))
        FAIL(snap->name << ": " << *difference);
}

}  // namespace

TEST_CASE("an origin and its snapshots hold what was written, through merges and restarts") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=" << seed);
  const uint64_t steps = test_iterations(20000);
  constexpr uint64_t steps_each = 2000;
  Random seeds(seed);
  for (uint64_t done = 0; done < steps; done += steps_each) {
    Model model(seeds.next());
    for (uint64_t i = 0; i < std::min(steps_each, steps - done); ++i) model.step();
    model.finish();
  }
}
