// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/commit.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>

#include "lvm/crc.h"
#include "lvm/disk_format.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// Where the next text begins: behind the current one, at a sector, and not in the last sector.
// As lvm2's _next_rlocn_offset.
uint64_t next_offset(const MetadataArea& area) {
  const RingLocation& old = area.committed;
  if (!old.used()) return area_header_size;
  uint64_t end = old.offset + old.size;
  if (end > area.size) end = end - area.size + area_header_size;
  if (area.size - (end - 1) < area_alignment) return area_header_size;
  const uint64_t start = round_up(end, area_alignment);
  return start > area.size - area_alignment ? area_header_size : start;
}

// The writes of a text (with its NUL) into the ring from START on; the rest of the last sector
// is zeroed, as lvm2 does.
void write_text(size_t pv, const MetadataArea& area, uint64_t start, std::string text,
                std::vector<PlannedWrite>& out) {
  const uint64_t room = area.size - start;
  const uint64_t first = std::min<uint64_t>(room, text.size());
  auto put = [&](uint64_t offset, std::string_view part) {
    std::vector<std::byte> bytes = to_bytes(part);
    const uint64_t end = round_up(area.where.offset + offset + bytes.size(), area_alignment);
    const uint64_t limit = area.where.offset + area.size;
    bytes.resize(std::min(end, limit) - area.where.offset - offset);
    out.push_back({pv, area.where.offset + offset, std::move(bytes)});
  };
  put(start, std::string_view(text).substr(0, first));
  if (first < text.size()) put(area_header_size, std::string_view(text).substr(first));
}

// What the group's areas hold before the change: all the same, and what GROUP was made from.
Status check_unchanged(const VolumeGroup& group, const PvInfo& pv, const MetadataArea& area) {
  if (area.text.empty()) return {};
  auto held = read_group(area.text);
  if (!held) return {};  // a text nobody can read is replaced
  const std::string place = fmt::format("{}: metadata area at {}", pv.device, area.where.offset);
  if (held->id != group.id)
    return fail_invalid(fmt::format("{}: holds another volume group, {} ({})", place, held->name,
                                    held->id.dashed()));
  if (held->seqno > group.seqno)
    return fail(
        Error::make(ESTALE, fmt::format("{}: holds seqno {}, where at most {} was expected: "
                                        "the volume group was changed by another",
                                        place, held->seqno, group.seqno)));
  if (held->seqno < group.seqno) return {};
  if (held->header.creation_time != group.header.creation_time ||
      held->header.description != group.header.description)
    return fail(Error::make(ESTALE, fmt::format("{}: holds another text of seqno {}: the volume "
                                                "group was changed by another",
                                                place, held->seqno)));
  return {};
}

Status check_writable(const VolumeGroup& group, std::span<const PvInfo* const> pvs) {
  if (!group.problems.empty()) return fail_invalid(group.problems.front());
  for (const LogicalVolume& lv : group.lvs) {
    if (!lv.problem.empty()) return fail_invalid(fmt::format("{}: {}", lv.name, lv.problem));
    for (const Segment& segment : lv.segments)
      if (!segment.raw.empty() && segment.unsupported.ends_with("is not known"))
        return fail_invalid(fmt::format("{}: {}", lv.name, segment.unsupported));
  }
  if (pvs.size() != group.pvs.size())
    return fail_invalid(
        fmt::format("{} PVs were given, and the group has {}", pvs.size(), group.pvs.size()));
  for (size_t i = 0; i < pvs.size(); i++)
    if (pvs[i] == nullptr || pvs[i]->label.id != group.pvs[i].id || group.pvs[i].marked_missing())
      return fail_invalid(fmt::format("PV {} is missing", group.pvs[i].id.dashed()));
  return {};
}

void stamp(VolumeGroup& group, const Provenance& provenance) {
  group.seqno++;
  TextHeader& header = group.header;
  header.generator = "volfs version " VOLFS_VERSION;
  header.generated = date_text(provenance.time);
  header.description = provenance.description;
  header.creation_host = provenance.host;
  header.creation_host_comment = "volfs " VOLFS_VERSION;
  header.creation_time = provenance.time;
  header.creation_time_comment = header.generated;
}

}  // namespace

void WritePlan::append(WritePlan later) {
  for (auto& step : later.steps) steps.push_back(std::move(step));
}

Provenance provenance(std::string description) {
  Provenance out;
  out.description = std::move(description);
  const char* epoch = std::getenv("SOURCE_DATE_EPOCH");
  if (epoch != nullptr)
    if (auto seconds = parse_u64(epoch)) {
      out.time = *seconds;
      return out;
    }
  out.time =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(wall_clock()).count());
  char host[256] = "";
  if (::gethostname(host, sizeof host - 1) == 0 && host[0] != '\0') out.host = host;
  return out;
}

Result<WritePlan> plan_commit(VolumeGroup& group, std::span<const PvInfo* const> pvs,
                              const Provenance& provenance) {
  validate(group);
  VOLFS_TRY(in(group.name, check_writable(group, pvs)));
  bool newest_found = group.seqno == 0;
  size_t areas = 0;
  for (const PvInfo* pv : pvs)
    for (const MetadataArea& area : pv->areas) {
      if (area.ignored) continue;
      VOLFS_TRY(in(group.name, check_unchanged(group, *pv, area)));
      if (auto held = read_group(area.text); held && held->seqno == group.seqno)
        newest_found = true;
      areas++;
    }
  if (areas == 0) return fail_invalid(group.name + ": none of its PVs has a metadata area");
  if (!newest_found)
    return fail(Error::make(ESTALE, fmt::format("{}: no metadata area holds seqno {}: the volume "
                                                "group was changed by another",
                                                group.name, group.seqno)));

  VolumeGroup next = group;
  stamp(next, provenance);
  std::string text = write_group(next);
  text += '\0';
  const uint32_t checksum = crc(text);
  WritePlan plan;
  plan.steps.resize(2);
  for (size_t i = 0; i < pvs.size(); i++)
    for (const MetadataArea& area : pvs[i]->areas) {
      if (area.ignored) continue;
      MetadataArea written = area;
      if (!area.problem.empty()) {
        // A header that cannot be used is made anew.
        written.size = area.where.size;
        written.committed = {};
      }
      // Two texts have to fit, each beginning at a sector.
      const uint64_t most = (written.size - area_header_size) / 2 - area_alignment;
      if (text.size() > most)
        return fail(Error::make(
            ENOSPC, fmt::format("{}: {}: the metadata has {} bytes, and its area has room for {}",
                                group.name, pvs[i]->device, text.size(), most)));
      const uint64_t start = next_offset(written);
      write_text(i, written, start, text, plan.steps[0]);
      written.committed = {start, text.size(), checksum, written.committed.flags};
      written.precommitted = {};
      const Sector header = encode_area_header(written);
      plan.steps[1].push_back({i, area.where.offset, {header.begin(), header.end()}});
    }
  group = std::move(next);
  return plan;
}

Status carry_out(const WritePlan& plan, const DeviceOf& device) {
  for (const auto& step : plan.steps) {
    std::set<size_t> touched;
    for (const PlannedWrite& write : step) {
      VOLFS_TRY(write_bytes(device(write.pv), write.offset, write.bytes));
      touched.insert(write.pv);
    }
    for (size_t pv : touched) VOLFS_TRY(device(pv).flush());
  }
  return {};
}

}  // namespace volfs::lvm
