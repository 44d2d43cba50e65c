// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/assemble.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>
#include <unordered_map>

namespace volfs::lvm {
namespace {

// One text, and the areas that hold it.
struct Reading {
  VolumeGroup group;
  const std::string* text = nullptr;
  std::vector<size_t> holders;  // PVs
};

class Assembler {
 public:
  explicit Assembler(std::span<const PvInfo> found) : found_(found), used_(found.size()) {
    for (size_t i = 0; i < found.size(); i++) by_id_[found[i].label.id].push_back(i);
  }

  Assembly run() {
    read_texts();
    for (const Id& id : order_) result_.groups.push_back(make_group(readings_[id]));
    split_clones();
    name_groups();
    for (size_t i = 0; i < found_.size(); i++)
      if (!used_[i]) result_.unused.push_back(i);
    return std::move(result_);
  }

  FoundGroup place(const VolumeGroup& group) {
    FoundGroup out;
    out.group = group;
    out.shown_name = group.name;
    for (const PhysicalVolume& pv : group.pvs) out.pvs.push_back(find_pv(out, pv));
    tell_doubles(out);
    if (!out.doubled_reason.empty())
      out.read_only_reason = out.doubled_reason;
    else if (!group.problems.empty())
      out.read_only_reason = group.problems.front();
    else if (group.exported())
      out.read_only_reason = "the volume group is exported";
    else if (!group.system_id.empty())
      out.read_only_reason =
          fmt::format("it belongs to the host with system id {}", group.system_id);
    else if (!group.lock_type.empty() && group.lock_type != "none")
      out.read_only_reason = fmt::format("it is shared with lock type {}", group.lock_type);
    return out;
  }

 private:
  void read_texts() {
    std::unordered_map<std::string_view, Reading*> known;
    for (size_t i = 0; i < found_.size(); i++) {
      for (const MetadataArea& area : found_[i].areas) {
        const std::string place =
            fmt::format("{}: metadata area at {}", found_[i].device, area.where.offset);
        if (!area.problem.empty()) warn(place + ": " + area.problem);
        if (!area.text_problem.empty()) warn(place + ": " + area.text_problem);
        if (area.text.empty()) continue;
        if (auto same = known.find(area.text); same != known.end()) {
          same->second->holders.push_back(i);
          continue;
        }
        auto group = read_group(area.text);
        if (!group) {
          warn(place + ": " + group.error().text());
          continue;
        }
        if (!readings_.contains(group->id)) order_.push_back(group->id);
        auto& list = readings_[group->id];
        auto made = std::make_unique<Reading>();
        made->group = std::move(*group);
        made->text = &area.text;
        made->holders.push_back(i);
        known.emplace(area.text, made.get());
        list.push_back(std::move(made));
      }
    }
  }

  void warn(std::string text) { result_.warnings.push_back(std::move(text)); }

  FoundGroup make_group(const std::vector<std::unique_ptr<Reading>>& list) {
    const Reading* newest = list.front().get();
    for (const auto& reading : list) {
      const bool later = reading->group.seqno > newest->group.seqno;
      // Of two different texts of one number, which no crash leaves, the smaller is taken, so
      // that the order of devices does not matter.
      const bool same = reading->group.seqno == newest->group.seqno && reading.get() != newest;
      if (later || (same && *reading->text < *newest->text)) newest = reading.get();
    }
    FoundGroup out = place(newest->group);
    for (const auto& reading : list) {
      if (reading.get() == newest) continue;
      for (size_t holder : reading->holders) {
        const bool differs = reading->group.seqno == newest->group.seqno;
        out.warnings.push_back(fmt::format("{} has {} metadata of {} (seqno {}, the newest is {})",
                                           found_[holder].device, differs ? "different" : "old",
                                           reading->group.name, reading->group.seqno,
                                           newest->group.seqno));
        if (differs && out.read_only_reason.empty())
          out.read_only_reason = "two different metadata texts have the same seqno";
      }
    }
    return out;
  }

  std::optional<size_t> find_pv(FoundGroup& out, const PhysicalVolume& pv) {
    auto devices = by_id_.find(pv.id);
    if (devices == by_id_.end()) {
      out.warnings.push_back(
          fmt::format("PV {} is missing (lvm2 last saw it as {})", pv.id.dashed(), pv.device_hint));
      return std::nullopt;
    }
    for (size_t i : devices->second) used_[i] = true;
    const PvInfo& info = found_[devices->second.front()];
    if (pv.marked_missing())
      out.warnings.push_back(fmt::format(
          "{}: PV {} was missing when the metadata was written; what is on it may be old (vgextend "
          "--restoremissing takes it back)",
          info.device, pv.id.dashed()));
    if (info.device_size < pv.data_start + pv.extent_count * out.group.extent_size)
      out.warnings.push_back(fmt::format("{}: the device is smaller than its PV", info.device));
    if (devices->second.size() == 1) return devices->second.front();
    if (out.group.pvs.size() == 1) return devices->second.front();  // see split_clones
    std::ranges::copy(devices->second, std::back_inserter(out.doubles));
    return std::nullopt;
  }

  std::string devices_of(const PhysicalVolume& pv) const {
    std::string names;
    for (size_t i : by_id_.at(pv.id)) names += (names.empty() ? "" : " and ") + found_[i].device;
    return names;
  }

  void tell_doubles(FoundGroup& out) const {
    if (out.doubles.empty()) return;
    std::vector<std::string> texts;
    std::string all;
    for (size_t i = 0; i < out.pvs.size(); i++) {
      const PhysicalVolume& pv = out.group.pvs[i];
      if (out.pvs[i] || !by_id_.contains(pv.id)) continue;
      const std::string names = devices_of(pv);
      all += (all.empty() ? "" : ", ") + names;
      texts.push_back(fmt::format(
          "PV {} is on {}: it is taken as missing, because which belongs to the others cannot be "
          "told; give one of them",
          pv.id.dashed(), names));
    }
    if (texts.size() == out.pvs.size())
      texts = {
          fmt::format("each of its PVs is on several devices ({}), which are copies of one "
                      "group: which of them belong together cannot be told; give those of one "
                      "copy, or list those of each in a definition as a group of its own",
                      all)};
    out.doubled_reason = texts.front();
    out.warnings.insert(out.warnings.begin(), texts.begin(), texts.end());
  }

  // Each copy of a group of one PV is a group of its own.
  void split_clones() {
    std::vector<FoundGroup> all;
    for (FoundGroup& group : result_.groups) {
      all.push_back(std::move(group));
      if (all.back().group.pvs.size() != 1 || !all.back().pvs[0]) continue;
      const std::vector<size_t>& devices = by_id_[all.back().group.pvs[0].id];
      for (size_t i = 1; i < devices.size(); i++) {
        FoundGroup clone = all.back();
        for (const MetadataArea& area : found_[devices[i]].areas)
          if (auto own = read_group(area.text); own && own->id == clone.group.id)
            clone.group = std::move(*own);
        clone.pvs[0] = devices[i];
        clone.warnings.push_back(fmt::format("{} is a copy of {}", found_[devices[i]].device,
                                             found_[devices[0]].device));
        all.push_back(std::move(clone));
      }
    }
    result_.groups = std::move(all);
  }

  // By uuid, so that a name does not depend on the order of devices. Copies of one group have one.
  void name_groups() {
    std::vector<FoundGroup*> groups;
    for (FoundGroup& group : result_.groups) groups.push_back(&group);
    std::ranges::stable_sort(groups, {}, [](const FoundGroup* each) { return each->group.id; });
    std::set<std::string> taken;
    for (FoundGroup* group : groups) {
      std::string name = group->group.name;
      if (taken.contains(name)) name = full_name(group->group);
      const std::string first = name;
      for (unsigned i = 2; taken.contains(name); i++) name = fmt::format("{}.{}", first, i);
      taken.insert(name);
      group->shown_name = std::move(name);
    }
  }

  std::span<const PvInfo> found_;
  std::vector<bool> used_;
  std::unordered_map<Id, std::vector<size_t>> by_id_;
  std::unordered_map<Id, std::vector<std::unique_ptr<Reading>>> readings_;
  std::vector<Id> order_;  // of first sight
  Assembly result_;
};

}  // namespace

std::vector<std::string> FoundGroup::device_names(std::span<const PvInfo> found) const {
  std::vector<std::string> out;
  for (const auto& pv : pvs) out.push_back(pv ? found[*pv].device : "");
  return out;
}

std::string full_name(const VolumeGroup& group) {
  return group.name + "@" + group.id.dashed();
}

bool goes_by(const VolumeGroup& group, std::string_view name) {
  return name == group.name || name == full_name(group);
}

const FoundGroup* find_group(const Assembly& assembly, std::string_view name) {
  for (const FoundGroup& each : assembly.groups)
    if (each.shown_name == name) return &each;
  for (const FoundGroup& each : assembly.groups)
    if (full_name(each.group) == name) return &each;
  return nullptr;
}

Assembly assemble(std::span<const PvInfo> found) {
  return Assembler(found).run();
}

Result<FoundGroup> assemble_as(std::span<const PvInfo> found, const MetadataCopy& copy) {
  VOLFS_TRY_ASSIGN(const VolumeGroup group, read_group(copy.text));
  FoundGroup out = Assembler(found).place(group);
  out.read_only_reason =
      fmt::format("it is shown as metadata of seqno {} describes it", copy.seqno);
  return out;
}

}  // namespace volfs::lvm
