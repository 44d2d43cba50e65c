// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/volume_group.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>

#include "group_reload.h"
#include "turn.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"
#include "volfs/engine/engine.h"
#include "volfs/log.h"
#include "volfs/lvm/commit.h"
#include "volfs/lvm/physical_volume.h"

namespace volfs::engine {
namespace {

Health health_of(lvm::VolumeState state) {
  switch (state) {
    case lvm::VolumeState::active:
      return Health::active;
    case lvm::VolumeState::degraded:
      return Health::degraded;
    case lvm::VolumeState::partial:
      return Health::partial;
    case lvm::VolumeState::unavailable:
    case lvm::VolumeState::inactive:
      break;
  }
  return Health::failed;
}

}  // namespace

VolumeGroup::VolumeGroup(Engine& engine, Setup setup)
    : engine_(engine), setup_(std::move(setup)), model_(setup_.model) {
  for (const std::string& device : setup_.pv_devices) {
    auto pin = device.empty() ? fail(Error::make(ENOENT, "")) : engine.graph().pin(device);
    pvs_.push_back(pin ? std::optional<Graph::Pin>(std::move(*pin)) : std::nullopt);
  }
  for (const lvm::LogicalVolume& volume : model_.lvs) {
    if (setup_.inactive.contains(volume.name)) inactive_.insert(volume.id);
    if (setup_.unseen.contains(volume.name)) unseen_.insert(volume.id);
    if (const auto own = setup_.own_modes.find(volume.name); own != setup_.own_modes.end())
      own_modes_.emplace(volume.id, own->second);
  }
}

std::vector<std::string> VolumeGroup::pv_names() const {
  std::vector<std::string> names;
  for (const auto& pv : pvs_) names.push_back(pv ? dm::escape_word((*pv)->name) : "");
  return names;
}

lvm::ActivationPlan VolumeGroup::plan_of(const lvm::VolumeGroup& model,
                                         const std::set<lvm::Id>& inactive) const {
  return lvm::activation_plan(
      model, pv_names(),
      {.shown_name = setup_.name,
       .mode = setup_.mode,
       .own_mode = [&](const lvm::LogicalVolume& volume) -> std::optional<lvm::ActivationMode> {
         const auto own = own_modes_.find(volume.id);
         return own == own_modes_.end() ? std::nullopt : std::optional(own->second);
       },
       .hidden = setup_.hidden,
       .nosync = [&](const lvm::LogicalVolume& volume) { return unsynced_.contains(volume.id); },
       .wanted = [&](const lvm::LogicalVolume& volume) { return !inactive.contains(volume.id); }});
}

lvm::VolumeGroup VolumeGroup::model() const {
  const std::lock_guard lock(mutex_);
  return model_;
}

std::vector<Unavailable> VolumeGroup::unavailable() const {
  const std::lock_guard lock(mutex_);
  return unavailable_;
}

Status VolumeGroup::activate() {
  const Turn turn(*this);
  note_unsynced(model_);
  const lvm::ActivationPlan plan = plan_of(model_, inactive_);
  std::map<std::string, std::string> broken;
  GroupReload::build_all(*this, plan, broken);
  VOLFS_TRY(show_locked(plan, broken));
  return watch_merges();
}

Status VolumeGroup::show_locked(const lvm::ActivationPlan& plan,
                                const std::map<std::string, std::string>& broken) {
  const std::lock_guard lock(engine_.structure_);
  return show(plan, model_, broken);
}

// Takes the file of a volume away that is an inner one now; its device stays.
Status VolumeGroup::hide(const lvm::Id& volume) {
  const auto shown = shown_.find(volume);
  if (shown == shown_.end()) return {};
  const Shown gone = shown->second;
  VOLFS_TRY(engine_.catalog().remove(gone.path));
  engine_.graph().remove_alias(gone.path);
  gone.node->volume.reset();
  gone.node->internal = true;
  shown_.erase(shown);
  return {};
}

// Makes what is in the catalog what the plan says; the devices are there.
Status VolumeGroup::show(const lvm::ActivationPlan& plan, const lvm::VolumeGroup& model,
                         const std::map<std::string, std::string>& broken) {
  Status first;
  std::vector<Unavailable> unavailable;
  for (const lvm::PlannedVolume& volume : plan.volumes) {
    if (!volume.visible && !setup_.hidden) {
      if (auto hidden = hide(model.lvs[volume.lv].id); !hidden && first) first = std::move(hidden);
      continue;
    }
    if (volume.state == lvm::VolumeState::inactive) continue;
    const std::string path = setup_.name + "/" + volume.name;
    Node* node = engine_.graph().find(volume.device);
    if (!node) {
      const auto why = broken.find(volume.device);
      unavailable.push_back({path, why == broken.end() ? volume.reason : why->second});
      continue;
    }
    node->internal = false;
    node->health = health_of(volume.state);
    node->problem = volume.state == lvm::VolumeState::active ? "" : volume.reason;
    if (!setup_.hidden && unseen_.contains(model.lvs[volume.lv].id)) continue;
    Shown& shown = shown_[model.lvs[volume.lv].id];
    Status done;
    if (shown.path.empty()) {
      auto added = engine_.catalog().add(path, *node->device);
      if (added) node->volume = *added;
      if (!added) done = fail(std::move(added.error()));
    } else if (shown.path != path) {
      engine_.graph().remove_alias(shown.path);
      done = engine_.catalog().rename(shown.path, path);
    }
    engine_.graph().add_alias(path, *node);
    const Shown now_shown{path, node, node->device->size(), node->device->read_only()};
    const bool changed = !shown.path.empty() &&
                         (shown.size != now_shown.size || shown.read_only != now_shown.read_only);
    shown = now_shown;
    if (changed && node->volume) engine_.catalog().changed(*node->volume);
    if (!done && first) first = std::move(done);
  }
  const std::lock_guard lock(mutex_);
  unavailable_ = std::move(unavailable);
  return first;
}

Status VolumeGroup::check_changeable() const {
  if (!setup_.doubled.empty())
    return fail(Error::make(EROFS, fmt::format("{}: {}", setup_.name, setup_.doubled)));
  if (setup_.read_only) return fail(Error::make(EROFS, setup_.name + ": it is mounted read-only"));
  if (!setup_.unchangeable.empty())
    return fail_invalid(fmt::format("{}: {}", setup_.name, setup_.unchangeable));
  for (size_t i = 0; i < pvs_.size(); ++i)
    if (!pvs_[i] || model_.pvs[i].marked_missing())
      return fail(Error::make(ENODEV, fmt::format("{}: cannot be changed while PV {} is missing",
                                                  setup_.name, model_.pvs[i].id.dashed())));
  return {};
}

// What new volumes begin with. Nobody uses that space yet.
Status VolumeGroup::zero_new(const lvm::VolumeGroup& next) {
  std::set<size_t> touched;
  for (uint32_t lv = 0; lv < next.lvs.size(); ++lv) {
    const auto same = std::ranges::find(model_.lvs, next.lvs[lv].id, &lvm::LogicalVolume::id);
    if (same != model_.lvs.end()) continue;
    for (const lvm::ZeroRange& range : lvm::ranges_to_zero(next, lv)) {
      if (!pvs_[range.pv])
        return fail(Error::make(ENODEV, fmt::format("{}: PV {} is missing", setup_.name,
                                                    next.pvs[range.pv].id.dashed())));
      VOLFS_TRY((*pvs_[range.pv])->device->write_zeroes(range.offset, range.length));
      touched.insert(range.pv);
    }
  }
  for (const size_t pv : touched) VOLFS_TRY((*pvs_[pv])->device->flush());
  return {};
}

void VolumeGroup::note_unsynced(const lvm::VolumeGroup& model) {
  const auto blank = [&](const lvm::ZeroRange& range) -> bool {
    std::vector<std::byte> head(std::min(range.length, 4 * KiB));
    return pvs_[range.pv] && (*pvs_[range.pv])->device->read(range.offset, head) &&
           std::ranges::all_of(head, [](std::byte b) { return b == std::byte{}; });
  };
  for (uint32_t lv = 0; lv < model.lvs.size(); ++lv) {
    if (!lvm::has(model.lvs[lv].status, "NOTSYNCED")) continue;
    const auto metadata = lvm::raid_metadata_of(model, lv);
    if (!metadata.empty() && std::ranges::all_of(metadata, blank))
      unsynced_.insert(model.lvs[lv].id);
  }
}

Status VolumeGroup::commit(lvm::VolumeGroup& next, const lvm::Provenance& when) {
  std::vector<std::optional<lvm::PvInfo>> scanned(pvs_.size());
  std::vector<const lvm::PvInfo*> pvs;
  for (size_t i = 0; i < pvs_.size(); ++i) {
    if (pvs_[i]) {
      VOLFS_TRY_ASSIGN(scanned[i], lvm::scan(*(*pvs_[i])->device));
      if (scanned[i]) scanned[i]->device = (*pvs_[i])->name;
    }
    pvs.push_back(scanned[i] ? &*scanned[i] : nullptr);
  }
  VOLFS_TRY_ASSIGN(const auto plan, lvm::plan_commit(next, pvs, when));
  return lvm::carry_out(plan, [this](size_t pv) -> BlockDevice& { return *(*pvs_[pv])->device; });
}

Status VolumeGroup::carry_out(const Change& change) {
  if (left_)
    return fail(Error::make(ENOENT, fmt::format("{}: the group has left the mount", setup_.name)));
  if (change.trial) {
    VOLFS_TRY(check_changeable());
    return change.edit(*change.trial, lvm::provenance(change.description));
  }
  lvm::VolumeGroup next = model_;
  if (change.edit) {
    VOLFS_TRY(check_changeable());
    const lvm::Provenance when = lvm::provenance(change.description);
    VOLFS_TRY(change.edit(next, when));
    VOLFS_TRY(zero_new(next));
    note_unsynced(next);
  }
  const lvm::ActivationPlan plan =
      change.leave ? lvm::ActivationPlan() : plan_of(next, change.inactive);
  GroupReload reload(*this, plan);
  VOLFS_TRY(reload.prepare());
  VOLFS_TRY(reload.suspend());
  if (change.edit) VOLFS_TRY(commit(next, lvm::provenance(change.description)));
  auto finished = reload.finish();
  {
    const std::lock_guard lock(mutex_);
    model_ = std::move(next);
  }
  inactive_ = change.inactive;
  const auto shown = show_locked(plan, {});
  auto watched = watch_merges();
  if (!finished)
    return fail(
        std::move(finished.error()).in("the metadata was changed, but not all devices followed"));
  return shown ? watched : shown;
}

Result<std::vector<uint32_t>> VolumeGroup::pvs(const std::vector<std::string>& names) const {
  const std::lock_guard lock(mutex_);
  const lvm::VolumeGroup& model = model_;
  std::vector<uint32_t> out;
  for (const std::string& name : names) {
    const size_t before = out.size();
    for (uint32_t pv = 0; pv < pvs_.size(); ++pv) {
      const bool chosen = name.starts_with('@') ? lvm::has(model.pvs[pv].tags, name.substr(1))
                                                : pvs_[pv] && (*pvs_[pv])->name == name;
      if (!chosen) continue;
      // As lvm2, whose lists of extents would overlap.
      if (std::ranges::find(out, pv) != out.end())
        return fail_invalid(fmt::format("{}: physical volume {} is named twice; expected each once",
                                        setup_.name,
                                        pvs_[pv] ? (*pvs_[pv])->name : model.pvs[pv].id.dashed()));
      out.push_back(pv);
    }
    if (out.size() == before)
      return fail(Error::make(
          ENOENT, fmt::format("{}: there is no physical volume {}", setup_.name, name)));
  }
  return out;
}

Status VolumeGroup::create(const lvm::VolumeParameters& parameters, Trial* trial) {
  const Turn turn(*this);
  return carry_out(
      {.description = fmt::format("volfs lv create {}/{}", setup_.name, parameters.name),
       .edit = [&](lvm::VolumeGroup& next, const lvm::Provenance& when) -> Status {
         VOLFS_TRY(lvm::create_volume(next, parameters, lvm::random_ids(), when));
         return {};
       },
       .inactive = inactive_,
       .trial = trial});
}

Status VolumeGroup::create_snapshot(const lvm::SnapshotParameters& parameters, Trial* trial) {
  const Turn turn(*this);
  return carry_out(
      {.description = fmt::format("volfs lv create --snapshot {}/{}", setup_.name, parameters.name),
       .edit = [&](lvm::VolumeGroup& next, const lvm::Provenance& when) -> Status {
         VOLFS_TRY(lvm::create_snapshot(next, parameters, lvm::random_ids(), when));
         return {};
       },
       .inactive = inactive_,
       .trial = trial});
}

// The turn is taken.
Status VolumeGroup::edit_volume(
    std::string_view volume, std::string description,
    const std::function<Status(lvm::VolumeGroup& next, uint32_t lv)>& edit, Trial* trial) {
  return carry_out(
      {.description = std::move(description),
       .edit = [&](lvm::VolumeGroup& next, const lvm::Provenance&) -> Status {
         const auto lv = next.find_lv(volume);
         if (!lv)
           return fail(Error::make(
               ENOENT, fmt::format("{}/{}: there is no such volume", setup_.name, volume)));
         return edit(next, *lv);
       },
       .inactive = inactive_,
       .trial = trial});
}

Status VolumeGroup::extend(std::string_view volume, const Resize& resize, Trial* trial) {
  const Turn turn(*this);
  return edit_volume(
      volume, fmt::format("volfs lv extend {}/{}", setup_.name, volume),
      [&](lvm::VolumeGroup& next, uint32_t lv) -> Status {
        VOLFS_TRY_ASSIGN(const uint32_t extents,
                         lvm::resized_extents(next, lv, resize.size, resize.sign, resize.pvs));
        return lvm::extend_volume(next, lv, extents, resize.allocation, resize.pvs);
      },
      trial);
}

// Who has the volume's device, for a message; "" if nobody.
std::string VolumeGroup::in_use_by(std::string_view volume) const {
  const std::string path = fmt::format("{}/{}", setup_.name, volume);
  const auto shown = engine_.catalog().find(path);
  if (shown && !shown->wait_unused(now() + std::chrono::milliseconds(500)))
    return fmt::format("{} open file{}", shown->open_count(), shown->open_count() == 1 ? "" : "s");
  const auto pin = engine_.graph().pin(path);
  if (!pin) return "";
  return fmt::format("{}", fmt::join(engine_.graph().users(*(*pin)->device), ", "));
}

Status VolumeGroup::reduce(std::string_view volume, const Resize& resize, bool force,
                           Trial* trial) {
  const Turn turn(*this);
  const std::string users = trial ? "" : in_use_by(volume);
  if (!users.empty() && !force)
    return fail(Error::make(EBUSY, fmt::format("{}/{}: in use by {}", setup_.name, volume, users)));
  return edit_volume(
      volume, fmt::format("volfs lv reduce {}/{}", setup_.name, volume),
      [&](lvm::VolumeGroup& next, uint32_t lv) -> Status {
        VOLFS_TRY_ASSIGN(const uint32_t extents,
                         lvm::resized_extents(next, lv, resize.size, resize.sign));
        return lvm::reduce_volume(next, lv, extents);
      },
      trial);
}

Status VolumeGroup::remove(std::string_view volume, bool with_snapshots, Trial* trial) {
  const Turn turn(*this);
  return edit_volume(
      volume, fmt::format("volfs lv remove {}/{}", setup_.name, volume),
      [&](lvm::VolumeGroup& next, uint32_t lv) {
        return lvm::remove_volume(next, lv, with_snapshots);
      },
      trial);
}

Status VolumeGroup::rename(std::string_view volume, std::string_view to) {
  const Turn turn(*this);
  return edit_volume(
      volume, fmt::format("volfs lv rename {}/{} {}", setup_.name, volume, to),
      [&](lvm::VolumeGroup& next, uint32_t lv) { return lvm::rename_volume(next, lv, to); });
}

Status VolumeGroup::change(std::string_view volume, const Changes& changes, Trial* trial) {
  const Turn turn(*this);
  const auto apply = [&](lvm::VolumeGroup& next, uint32_t lv) -> Status {
    // Taken away first, as lvm2 does.
    for (const std::string& tag : changes.remove_tags) lvm::drop(next.lvs[lv].tags, tag);
    for (const std::string& tag : changes.add_tags) VOLFS_TRY(lvm::add_tag(next.lvs[lv].tags, tag));
    return changes.writable ? lvm::set_writable(next, lv, *changes.writable) : Status();
  };
  if (const auto lv = model_.find_lv(volume); lv && !trial) {
    lvm::VolumeGroup next = model_;
    VOLFS_TRY(apply(next, *lv));
    if (next.lvs[*lv].tags == model_.lvs[*lv].tags &&
        next.lvs[*lv].writable() == model_.lvs[*lv].writable())
      return {};
  }
  return edit_volume(volume, fmt::format("volfs lv change {}/{}", setup_.name, volume), apply,
                     trial);
}

Status VolumeGroup::sync_action(std::string_view volume, std::string_view action) {
  const Turn turn(*this);
  const std::string path = fmt::format("{}/{}", setup_.name, volume);
  const auto lv = model_.find_lv(volume);
  if (!lv || !model_.visible(*lv))
    return fail(Error::make(ENOENT, path + ": there is no such volume"));
  const lvm::Segment& first = model_.lvs[*lv].segments.front();
  if (first.region_size == 0 || first.type == "mirror")
    return fail_invalid(fmt::format("{}: LV type {} has nothing to {}", path,
                                    lvm::shape_of(model_, *lv).type, action));
  const char* const layer = model_.snapshots_of(*lv).empty() ? "" : "-real";
  const auto device = devices_.find(
      fmt::format("LVM-{}{}{}", model_.id.plain(), model_.lvs[*lv].id.plain(), layer));
  if (device == devices_.end()) return fail(Error::make(ENXIO, path + ": is not active"));
  auto& map = dynamic_cast<dm::MappedDevice&>(*device->second.node->device);
  VOLFS_TRY(in(path, map.message(0, action)));
  return {};
}

std::vector<std::string> VolumeGroup::devices() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& pv : pvs_) names.push_back(pv ? (*pv)->name : "");
  return names;
}

Status VolumeGroup::add_pv(uint32_t pv, std::string_view device) {
  const Turn turn(*this);
  if (!setup_.doubled.empty())
    return fail(Error::make(EEXIST, fmt::format("{}: {}", setup_.name, setup_.doubled)));
  if (left_ || pvs_[pv])
    return fail(Error::make(EEXIST, fmt::format("{}: it has that PV already", setup_.name)));
  VOLFS_TRY_ASSIGN(Graph::Pin pin, engine_.graph().pin(device));
  {
    const std::lock_guard lock(mutex_);
    pvs_[pv].emplace(std::move(pin));
  }
  const Change as_is{.description = {}, .edit = {}, .inactive = inactive_};
  auto done = carry_out(as_is);
  if (done) return {};
  {
    const std::lock_guard lock(mutex_);
    pvs_[pv].reset();
  }
  // What could not go on with it goes on without.
  if (auto undone = carry_out(as_is); !undone) log_error("{}", undone.error().text());
  return done;
}

Status VolumeGroup::leave() {
  close();
  const Turn turn(*this);
  following_ = false;
  auto gone = carry_out({.description = {}, .edit = {}, .inactive = inactive_, .leave = true});
  if (!gone) {
    {
      const std::lock_guard lock(mutex_);
      closing_ = false;
    }
    if (auto watched = watch_merges(); !watched) log_error("{}", watched.error().text());
    return gone;
  }
  left_ = true;
  const std::lock_guard lock(mutex_);
  pvs_.clear();
  return {};
}

Status VolumeGroup::set_active(std::string_view volume, bool active) {
  const Turn turn(*this);
  const auto lv = model_.find_lv(volume);
  if (!lv || !model_.visible(*lv))
    return fail(
        Error::make(ENOENT, fmt::format("{}/{}: there is no such volume", setup_.name, volume)));
  if (const auto link = model_.link_of_cow(*lv)) {
    const lvm::LogicalVolume& origin = model_.lvs[*model_.lvs[*link].segments[0].origin];
    return fail_invalid(fmt::format("{}/{}: a snapshot comes and goes with its origin, {}",
                                    setup_.name, volume, origin.name));
  }
  Change change;
  change.inactive = inactive_;
  if (active)
    change.inactive.erase(model_.lvs[*lv].id);
  else
    change.inactive.insert(model_.lvs[*lv].id);
  return carry_out(change);
}

}  // namespace volfs::engine
