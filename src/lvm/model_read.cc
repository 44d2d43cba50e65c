// SPDX-License-Identifier: GPL-2.0-or-later
// Metadata text -> model.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lvm/segment_type.h"
#include "volfs/lvm/model.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

constexpr std::array known_vg = {std::string_view("id"),
                                 std::string_view("seqno"),
                                 std::string_view("format"),
                                 std::string_view("status"),
                                 std::string_view("flags"),
                                 std::string_view("tags"),
                                 std::string_view("system_id"),
                                 std::string_view("lock_type"),
                                 std::string_view("lock_args"),
                                 std::string_view("extent_size"),
                                 std::string_view("max_lv"),
                                 std::string_view("max_pv"),
                                 std::string_view("allocation_policy"),
                                 std::string_view("profile"),
                                 std::string_view("metadata_copies"),
                                 std::string_view("physical_volumes"),
                                 std::string_view("logical_volumes"),
                                 std::string_view("historical_logical_volumes")};
constexpr std::array known_pv = {
    std::string_view("id"),        std::string_view("device"),   std::string_view("device_id_type"),
    std::string_view("device_id"), std::string_view("status"),   std::string_view("flags"),
    std::string_view("tags"),      std::string_view("dev_size"), std::string_view("pe_start"),
    std::string_view("pe_count"),  std::string_view("ba_start"), std::string_view("ba_size")};
constexpr std::array known_lv = {std::string_view("id"),
                                 std::string_view("status"),
                                 std::string_view("flags"),
                                 std::string_view("tags"),
                                 std::string_view("creation_time"),
                                 std::string_view("creation_host"),
                                 std::string_view("lock_args"),
                                 std::string_view("allocation_policy"),
                                 std::string_view("profile"),
                                 std::string_view("read_ahead"),
                                 std::string_view("major"),
                                 std::string_view("minor"),
                                 std::string_view("segment_count")};
constexpr std::array known_segment = {
    std::string_view("start_extent"), std::string_view("extent_count"),
    std::string_view("reshape_count"), std::string_view("type"), std::string_view("tags")};

// The status and compatible flags of LVs and VGs that lvm2 has. A status flag that lvm2 does not
// know makes it refuse; an unknown compatible flag is ignored.
constexpr std::array known_lv_status = {
    std::string_view("READ"),      std::string_view("WRITE"),   std::string_view("FIXED_MINOR"),
    std::string_view("VISIBLE"),   std::string_view("PVMOVE"),  std::string_view("LOCKED"),
    std::string_view("NOTSYNCED"), std::string_view("REBUILD"), std::string_view("WRITEMOSTLY"),
    std::string_view("CACHE_VOL")};
constexpr std::array known_type_flags = {std::string_view("RESHAPE"),
                                         std::string_view("RESHAPE_DATA_OFFSET"),
                                         std::string_view("RESHAPE_DELTA_DISKS_PLUS"),
                                         std::string_view("RESHAPE_DELTA_DISKS_MINUS"),
                                         std::string_view("REMOVE_AFTER_RESHAPE"),
                                         std::string_view("METADATA_FORMAT"),
                                         std::string_view("CROP_METADATA"),
                                         std::string_view("CACHE_USES_CACHEVOL")};

template <class Range>
bool contains(const Range& range, std::string_view word) {
  return std::ranges::find(range, word) != range.end();
}

template <class Range>
std::vector<std::string> unknown_values(const text::Entry& section, const Range& known) {
  std::vector<std::string> out;
  for (const text::Entry& entry : section.entries)
    if (!contains(known, entry.key)) out.emplace_back(entry.source);
  return out;
}

Result<Id> read_id(const text::Entry& section) {
  VOLFS_TRY_ASSIGN(const std::string_view value, section.string("id"));
  auto id = Id::parse(value);
  if (!id) return fail(text::error_at(*section.find("id"), id.error().text()));
  return id;
}

// A number of sectors as bytes.
Result<uint64_t> sectors(const text::Entry& section, std::string_view name) {
  VOLFS_TRY_ASSIGN(const uint64_t value, section.number(name, max_device_size / sector_size));
  return value * sector_size;
}
Result<uint64_t> sectors_or_none(const text::Entry& section, std::string_view name) {
  if (section.find(name) == nullptr) return 0;
  return sectors(section, name);
}

Result<PhysicalVolume> read_pv(const text::Entry& section) {
  PhysicalVolume pv;
  pv.key = section.key;
  VOLFS_TRY_ASSIGN(pv.id, read_id(section));
  VOLFS_TRY_ASSIGN(pv.device_hint, section.string_or("device", ""));
  VOLFS_TRY_ASSIGN(pv.device_id_type, section.string_or("device_id_type", ""));
  VOLFS_TRY_ASSIGN(pv.device_id, section.string_or("device_id", ""));
  VOLFS_TRY_ASSIGN(pv.status, section.strings("status"));
  VOLFS_TRY_ASSIGN(pv.flags, section.strings("flags"));
  VOLFS_TRY_ASSIGN(pv.tags, section.strings("tags"));
  VOLFS_TRY_ASSIGN(pv.device_size, sectors_or_none(section, "dev_size"));
  VOLFS_TRY_ASSIGN(pv.data_start, sectors(section, "pe_start"));
  VOLFS_TRY_ASSIGN(pv.extent_count, section.number32("pe_count"));
  VOLFS_TRY_ASSIGN(pv.bootloader_start, sectors_or_none(section, "ba_start"));
  VOLFS_TRY_ASSIGN(pv.bootloader_size, sectors_or_none(section, "ba_size"));
  pv.unknown = unknown_values(section, known_pv);
  return pv;
}

Result<std::optional<int64_t>> signed_number(const text::Entry& section, std::string_view name) {
  const text::Entry* found = section.find(name);
  if (found == nullptr) return std::nullopt;
  if (found->values.size() != 1 || found->values[0].kind != text::Value::Kind::integer)
    return fail(text::error_at(*found, "expected an integer"));
  return found->values[0].integer;
}

class LvReader {
 public:
  LvReader(const Names& names, LogicalVolume& lv) : names_(names), lv_(lv) {}

  Status read(const text::Entry& section) {
    VOLFS_TRY_ASSIGN(lv_.id, read_id(section));
    VOLFS_TRY_ASSIGN(lv_.status, section.strings("status"));
    VOLFS_TRY_ASSIGN(lv_.flags, section.strings("flags"));
    VOLFS_TRY_ASSIGN(lv_.tags, section.strings("tags"));
    if (section.find("creation_time") != nullptr) {
      VOLFS_TRY_ASSIGN(lv_.creation_time, section.number("creation_time"));
      VOLFS_TRY_ASSIGN(lv_.creation_host, section.string_or("creation_host", ""));
    }
    VOLFS_TRY_ASSIGN(lv_.lock_args, section.string_or("lock_args", ""));
    VOLFS_TRY_ASSIGN(lv_.allocation_policy, section.string_or("allocation_policy", ""));
    VOLFS_TRY_ASSIGN(lv_.profile, section.string_or("profile", ""));
    VOLFS_TRY_ASSIGN(lv_.read_ahead, signed_number(section, "read_ahead"));
    VOLFS_TRY_ASSIGN(lv_.major, signed_number(section, "major"));
    VOLFS_TRY_ASSIGN(lv_.minor, signed_number(section, "minor"));
    VOLFS_TRY_ASSIGN(const uint32_t count, section.number32("segment_count"));
    for (const text::Entry& entry : section.entries) {
      if (!entry.section) {
        if (!contains(known_lv, entry.key)) lv_.unknown.emplace_back(entry.source);
        continue;
      }
      // All sections are segments, as lvm2 has it.
      VOLFS_TRY(read_segment(entry));
    }
    if (lv_.segments.size() != count)
      return fail(text::error_at(section, fmt::format("has {} segments, and segment_count says {}",
                                                      lv_.segments.size(), count)));
    std::ranges::stable_sort(lv_.segments, {}, &Segment::start);
    for (const std::string& flag : lv_.status)
      if (!contains(known_lv_status, flag) && lv_.problem.empty())
        lv_.problem = fmt::format("its status flag {} is not known", flag);
    return {};
  }

 private:
  Status read_segment(const text::Entry& section) {
    Segment& segment = lv_.segments.emplace_back();
    VOLFS_TRY_ASSIGN(segment.start, section.number32("start_extent"));
    VOLFS_TRY_ASSIGN(segment.count, section.number32("extent_count"));
    VOLFS_TRY_ASSIGN(segment.reshape_count, section.number32_or("reshape_count", 0));
    VOLFS_TRY_ASSIGN(std::string type, section.string_or("type", "striped"));
    for (size_t plus; (plus = type.rfind('+')) != type.npos; type.resize(plus))
      segment.type_flags.insert(segment.type_flags.begin(), type.substr(plus + 1));
    segment.type = std::move(type);
    VOLFS_TRY_ASSIGN(segment.tags, section.strings("tags"));

    const SegmentType* known = find_segment_type(segment.type);
    for (const std::string& flag : segment.type_flags)
      if (!contains(known_type_flags, flag)) {
        known = nullptr;
        segment.unsupported = fmt::format("the flag {} of its segment type is not known", flag);
      }
    if (known == nullptr) {
      keep_raw(section, segment);
      return {};
    }
    VOLFS_TRY(known->read(section, names_, segment));
    for (const text::Entry& entry : section.entries)
      if (!contains(known_segment, entry.key) && !contains(known->keys(), entry.key))
        segment.unknown.emplace_back(entry.source);
    return {};
  }

  void keep_raw(const text::Entry& section, Segment& segment) {
    for (const text::Entry& entry : section.entries) {
      segment.raw += entry.source;
      mention(entry, segment);
    }
    if (segment.unsupported.empty())
      segment.unsupported = recognised_segment_type(segment.type)
                                ? fmt::format("segment type {} is not supported", segment.type)
                                : fmt::format("segment type {} is not known", segment.type);
  }

  void mention(const text::Entry& entry, Segment& segment) {
    if (entry.key == "type" || entry.key == "tags") return;
    for (const text::Value& value : entry.values) {
      if (value.kind != text::Value::Kind::string) continue;
      if (auto lv = names_.lvs.find(value.string); lv != names_.lvs.end())
        segment.mentions.push_back(lv->second);
      if (auto pv = names_.pvs.find(value.string); pv != names_.pvs.end())
        segment.areas.push_back({Area::Kind::pv, pv->second, 0});
    }
    for (const text::Entry& below : entry.entries) mention(below, segment);
  }

  const Names& names_;
  LogicalVolume& lv_;
};

// What stands behind ENTRY on its line: the comments lvm2 writes there.
std::string line_comment(const text::Document& document, const text::Entry& entry) {
  std::string_view rest = document.source();
  rest.remove_prefix(static_cast<size_t>(entry.source.data() - rest.data()) + entry.source.size());
  rest = rest.substr(0, rest.find('\n'));
  const size_t mark = rest.find('#');
  if (mark == rest.npos) return {};
  rest.remove_prefix(mark + 1);
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  return std::string(rest);
}

Result<TextHeader> read_header(const text::Document& document) {
  const text::Entry& root = document.root();
  TextHeader header;
  VOLFS_TRY_ASSIGN(header.description, root.string_or("description", ""));
  VOLFS_TRY_ASSIGN(header.creation_host, root.string_or("creation_host", ""));
  VOLFS_TRY_ASSIGN(header.creation_host_system_id, root.string_or("creation_host_system_id", ""));
  VOLFS_TRY_ASSIGN(header.creation_time, root.number_or("creation_time", 0));
  if (const text::Entry* host = root.find("creation_host"))
    header.creation_host_comment = line_comment(document, *host);
  if (const text::Entry* time = root.find("creation_time"))
    header.creation_time_comment = line_comment(document, *time);
  constexpr std::string_view mark = "# Generated by ";
  const std::string_view source = document.source();
  if (size_t at = source.find(mark); at != source.npos) {
    std::string_view line = source.substr(at + mark.size());
    line = line.substr(0, line.find('\n'));
    const size_t colon = line.find(": ");
    header.generator = line.substr(0, colon);
    if (colon != line.npos) header.generated = line.substr(colon + 2);
  }
  return header;
}

Status check_format(const text::Entry& root) {
  VOLFS_TRY_ASSIGN(const std::string contents, root.string_or("contents", ""));
  if (contents != "Text Format Volume Group")
    return fail_invalid("not a volume group's text: contents is not \"Text Format Volume Group\"");
  VOLFS_TRY_ASSIGN(const uint64_t version, root.number("version"));
  if (version != 1)
    return fail_invalid(fmt::format("version {} of the text format: only 1 is known", version));
  return {};
}

Status read_group_values(const text::Entry& section, VolumeGroup& group) {
  group.name = section.key;
  if (Status named = check_group_name(group.name); !named)
    return fail(text::error_at(section, named.error().text()));
  VOLFS_TRY_ASSIGN(group.id, read_id(section));
  VOLFS_TRY_ASSIGN(group.seqno, section.number32("seqno"));
  VOLFS_TRY_ASSIGN(group.format, section.string_or("format", ""));
  VOLFS_TRY_ASSIGN(group.status, section.strings("status"));
  VOLFS_TRY_ASSIGN(group.flags, section.strings("flags"));
  VOLFS_TRY_ASSIGN(group.tags, section.strings("tags"));
  VOLFS_TRY_ASSIGN(group.system_id, section.string_or("system_id", ""));
  VOLFS_TRY_ASSIGN(group.lock_type, section.string_or("lock_type", ""));
  VOLFS_TRY_ASSIGN(group.lock_args, section.string_or("lock_args", ""));
  VOLFS_TRY_ASSIGN(const uint32_t extent, section.number32("extent_size"));
  group.extent_size = extent * sector_size;
  if (group.extent_size == 0)
    return fail(text::error_at(*section.find("extent_size"), "must not be 0"));
  VOLFS_TRY_ASSIGN(group.max_lv, section.number32_or("max_lv", 0));
  VOLFS_TRY_ASSIGN(group.max_pv, section.number32_or("max_pv", 0));
  VOLFS_TRY_ASSIGN(group.allocation_policy, section.string_or("allocation_policy", ""));
  VOLFS_TRY_ASSIGN(group.profile, section.string_or("profile", ""));
  VOLFS_TRY_ASSIGN(group.metadata_copies, section.number32_or("metadata_copies", 0));
  group.unknown = unknown_values(section, known_vg);
  return {};
}

}  // namespace

bool has(const Words& words, std::string_view word) {
  return std::ranges::find(words, word) != words.end();
}

void drop(Words& words, std::string_view word) {
  std::erase(words, word);
}

Result<VolumeGroup> read_group(std::string_view text) {
  VOLFS_TRY_ASSIGN(const text::Document document, text::Document::parse(text));
  return read_group(document);
}

Result<VolumeGroup> read_group(const text::Document& document) {
  VOLFS_TRY(check_format(document.root()));
  const text::Entry* section = nullptr;
  for (const text::Entry& entry : document.root().entries)
    if (entry.section && section == nullptr) section = &entry;
  if (section == nullptr) return fail_invalid("the text has no section for a volume group");

  VolumeGroup group;
  VOLFS_TRY_ASSIGN(group.header, read_header(document));
  VOLFS_TRY(read_group_values(*section, group));
  const text::Entry* pvs = section->find("physical_volumes");
  if (pvs == nullptr || !pvs->section)
    return fail(text::error_at(*section, "the section 'physical_volumes' is missing"));
  Names names;
  for (const text::Entry& entry : pvs->entries) {
    VOLFS_TRY_ASSIGN(PhysicalVolume pv, read_pv(entry));
    if (!names.pvs.emplace(entry.key, static_cast<uint32_t>(group.pvs.size())).second)
      return fail(text::error_at(entry, "there are two PVs of this name"));
    group.pvs.push_back(std::move(pv));
  }
  if (const text::Entry* lvs = section->find("logical_volumes")) {
    uint32_t index = 0;
    for (const text::Entry& entry : lvs->entries)
      if (!names.lvs.emplace(entry.key, index++).second)
        return fail(text::error_at(entry, "there are two LVs of this name"));
    group.lvs.resize(lvs->entries.size());
    for (size_t i = 0; i < lvs->entries.size(); i++) {
      LogicalVolume& lv = group.lvs[i];
      lv.name = lvs->entries[i].key;
      if (Status read = LvReader(names, lv).read(lvs->entries[i]); !read) {
        // Kept as it is; lvm2 would refuse the whole group.
        LogicalVolume broken;
        broken.name = lv.name;
        broken.id = lv.id;
        broken.status = lv.status;
        broken.problem = read.error().text();
        broken.raw = lvs->entries[i].source;
        lv = std::move(broken);
      }
    }
  }
  if (const text::Entry* historical = section->find("historical_logical_volumes"))
    group.historical = historical->source;
  validate(group);
  return group;
}

}  // namespace volfs::lvm
