// SPDX-License-Identifier: GPL-2.0-or-later
// New LVs: linear, striped, RAID, snapshots.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "lvm/edit_parts.h"
#include "lvm/segment_type.h"

namespace volfs::lvm {
namespace {

// The most regions a dm-raid or dm-mirror bitmap has.
constexpr uint64_t most_regions = uint64_t{1} << 21;
constexpr uint64_t raid_metadata_heads = 8 * KiB;  // superblock and head of the bitmap

struct Shape {
  const RaidKind* raid = nullptr;
  unsigned legs = 1;
  unsigned data_legs = 1;  // what the size is divided by
  bool metadata = false;
  bool on_pvs = true;
};

Result<Shape> shape_of(const VolumeParameters& parameters) {
  Shape shape;
  unsigned stripes = parameters.stripes;
  if (parameters.type == "linear") {
    if (stripes > 1) return fail_invalid("a linear LV has no stripes");
    return shape;
  }
  if (parameters.type == "error" || parameters.type == "zero") {
    shape.on_pvs = false;
    return shape;
  }
  if (parameters.type == "striped") {
    shape.legs = shape.data_legs = stripes == 0 ? 2 : stripes;
  } else {
    shape.raid = find_raid_kind(parameters.type);
    if (shape.raid == nullptr)
      return fail_invalid(fmt::format("LVs of type {} cannot be made", parameters.type));
    shape.metadata = parameters.type != "raid0";
    if (shape.raid->target == "raid1") {
      if (stripes > 1) return fail_invalid("a raid1 has no stripes");
      if (parameters.mirrors == 0) return fail_invalid("a raid1 needs a mirror");
      shape.legs = parameters.mirrors + 1;
      shape.data_legs = 1;
    } else if (shape.raid->target == "raid10") {
      shape.data_legs = stripes == 0 ? 2 : stripes;
      shape.legs = 2 * shape.data_legs;
      if (shape.data_legs < 2) return fail_invalid("a raid10 needs 2 stripes of data");
    } else {
      const unsigned usual = shape.raid->parity == 2 ? 3 : 2;
      shape.data_legs = stripes == 0 ? usual : stripes;
      shape.legs = shape.data_legs + shape.raid->parity;
      if (shape.raid->parity > 0 && shape.data_legs < usual)
        return fail_invalid(fmt::format("a {} needs {} stripes of data", parameters.type, usual));
    }
  }
  const bool striped = shape.data_legs > 1 || parameters.type == "striped";
  if (striped && (!is_power_of_two(parameters.stripe_size) || parameters.stripe_size < 4 * KiB))
    return fail_invalid("the stripe size must be a power of two from 4KiB on");
  constexpr uint64_t most_region = uint64_t{1} << 40;  // lvm2 counts its sectors in 32 bits
  if (shape.metadata && (!is_power_of_two(parameters.region_size) ||
                         parameters.region_size < 4 * KiB || parameters.region_size > most_region))
    return fail_invalid("the region size must be a power of 2 from 4KiB to 1TiB");
  if (shape.legs > 253 || (parameters.type == "striped" && shape.legs > 128))
    return fail_invalid(fmt::format("{} devices are too many", shape.legs));
  return shape;
}

uint64_t fitting_region(uint64_t wanted, uint64_t length) {
  uint64_t region = std::min(wanted, std::bit_floor(length));
  while (length / region >= most_regions) region *= 2;
  return region;
}

uint32_t metadata_extents(uint64_t region, uint64_t length, uint64_t extent_size) {
  const uint64_t bitmap = div_round_up(div_round_up(length, region), 8);
  return static_cast<uint32_t>(
      div_round_up(round_up(raid_metadata_heads + bitmap, sector_size), extent_size));
}

uint64_t total_extents(const VolumeGroup& group) {
  uint64_t sum = 0;
  for (const PhysicalVolume& pv : group.pvs) sum += pv.extent_count;
  return sum;
}

std::vector<uint32_t> allowed_pvs(const std::vector<uint32_t>& pvs, const VolumeGroup& group) {
  std::vector<uint32_t> out;
  for (uint32_t pv : pvs)
    if (pv < group.pvs.size()) out.push_back(pv);
  return out;
}

// Takes COUNT extents from the front of PIECES.
std::vector<Piece> split_front(std::vector<Piece>& pieces, uint32_t count) {
  std::vector<Piece> front;
  while (count > 0 && !pieces.empty()) {
    Piece& first = pieces.front();
    const uint32_t here = std::min(count, first.count);
    front.push_back({first.pv, first.extent, here});
    first.extent += here;
    first.count -= here;
    count -= here;
    if (first.count == 0) pieces.erase(pieces.begin());
  }
  return front;
}

struct RaidBuild {
  const VolumeParameters& parameters;
  const Shape& shape;
  const IdSource& ids;
  const Provenance& provenance;
};

// The images and their metadata as LVs, and the segment over them.
Status build_raid(VolumeGroup& group, uint32_t lv, uint32_t extents, FreeMap& free,
                  const RaidBuild& build) {
  const uint32_t leg_extents = extents / build.shape.data_legs;
  const uint64_t leg_length = leg_extents * group.extent_size;
  const uint64_t region = fitting_region(build.parameters.region_size, leg_length);
  const uint32_t metadata =
      build.shape.metadata ? metadata_extents(region, leg_length, group.extent_size) : 0;
  LegRequest request;
  request.legs = build.shape.legs;
  request.extents = leg_extents + metadata;
  request.allocation = build.parameters.allocation;
  VOLFS_TRY_ASSIGN(auto legs, allocate(free, request));
  Segment segment;
  segment.count = extents;
  segment.type = build.parameters.type;
  if (segment.type == "raid5") segment.type = "raid5_ls";
  if (segment.type == "raid6") segment.type = "raid6_zr";
  if (build.shape.raid->target != "raid1") segment.stripe_size = build.parameters.stripe_size;
  if (build.shape.raid->target != "raid0") segment.region_size = region;
  if (build.shape.raid->target == "raid10") segment.data_copies = 2;
  const std::string name = group.lvs[lv].name;
  for (unsigned leg = 0; leg < build.shape.legs; leg++) {
    const std::vector<Piece> head = split_front(legs[leg], metadata);
    const uint32_t image = add_lv(group, fmt::format("{}_rimage_{}", name, leg), build.ids,
                                  build.provenance, false, true);
    append_linear(group.lvs[image], legs[leg]);
    segment.areas.push_back({Area::Kind::lv, image, 0});
    if (metadata == 0) continue;
    const uint32_t meta = add_lv(group, fmt::format("{}_rmeta_{}", name, leg), build.ids,
                                 build.provenance, false, true);
    append_linear(group.lvs[meta], head);
    segment.metadata_areas.push_back({Area::Kind::lv, meta, 0});
  }
  group.lvs[lv].segments.push_back(std::move(segment));
  return {};
}

std::string next_link_name(const VolumeGroup& group) {
  for (unsigned i = 0;; i++) {
    std::string name = fmt::format("snapshot{}", i);
    if (!group.find_lv(name)) return name;
  }
}

Status check_room_for_lv(const VolumeGroup& group) {
  uint32_t visible = 0;
  if (group.max_lv == 0) return {};
  for (uint32_t i = 0; i < group.lvs.size(); i++) visible += group.visible(i) ? 1 : 0;
  if (visible >= group.max_lv)
    return fail_invalid(fmt::format("the group may have {} LVs", group.max_lv));
  return {};
}

// The first LENGTH bytes of an LV that stands on PVs only (0: all of it).
void add_ranges(const VolumeGroup& group, uint32_t lv, uint64_t length,
                std::vector<ZeroRange>& out) {
  for (const Segment& segment : group.lvs[lv].segments) {
    if (segment.areas.empty() || segment.areas[0].kind != Area::Kind::pv) return;
    const uint64_t here = segment.count * group.extent_size / segment.areas.size();
    const Area& area = segment.areas[0];
    const PhysicalVolume& pv = group.pvs[area.index];
    const uint64_t count = length == 0 ? here : std::min(here, length);
    out.push_back({area.index, pv.data_start + area.extent * group.extent_size, count});
    if (length != 0) return;
  }
}

}  // namespace

Result<SizeRequest> parse_size_request(std::string_view text) {
  SizeRequest out;
  const size_t percent = text.find('%');
  if (percent == text.npos) {
    VOLFS_TRY_ASSIGN(out.amount, parse_size(text));
    return out;
  }
  auto amount = parse_u64(text.substr(0, percent));
  const std::string_view of = text.substr(percent + 1);
  static constexpr std::pair<std::string_view, SizeRequest::Of> shares[] = {
      {"FREE", SizeRequest::Of::free},     {"VG", SizeRequest::Of::group},
      {"PVS", SizeRequest::Of::pvs},       {"LV", SizeRequest::Of::volume},
      {"ORIGIN", SizeRequest::Of::origin},
  };
  const auto share =
      std::ranges::find(shares, of, &std::pair<std::string_view, SizeRequest::Of>::first);
  if (!amount || share == std::end(shares) || *amount > 10000)
    return fail_invalid(fmt::format(
        "'{}' is no size: expected one like 128MiB, 100%FREE, 50%VG, 10%PVS, 150%LV or 20%ORIGIN",
        text));
  const bool of_room = share->second == SizeRequest::Of::free ||
                       share->second == SizeRequest::Of::group ||
                       share->second == SizeRequest::Of::pvs;
  if (of_room && *amount > 100)
    return fail_invalid(fmt::format("'{}' is no size: expected at most 100%{}", text, of));
  out.amount = *amount;
  out.of = share->second;
  return out;
}

Result<uint32_t> extents_of(const VolumeGroup& group, const SizeRequest& size,
                            std::span<const uint32_t> pvs, std::optional<uint32_t> lv) {
  uint64_t extents = 0, all = 0;
  for (uint32_t i = 0; i < group.pvs.size(); i++)
    if (size.of == SizeRequest::Of::group || pvs.empty() || std::ranges::find(pvs, i) != pvs.end())
      all += group.pvs[i].extent_count;
  switch (size.of) {
    case SizeRequest::Of::bytes:
      extents = div_round_up(size.amount, group.extent_size);
      break;
    case SizeRequest::Of::extents:
      extents = size.amount;
      break;
    case SizeRequest::Of::free:
      extents = free_extents(group, pvs) * size.amount / 100;
      break;
    case SizeRequest::Of::group:
    case SizeRequest::Of::pvs:
      extents = all * size.amount / 100;
      break;
    case SizeRequest::Of::origin:
    case SizeRequest::Of::volume:
      if (!lv)
        return fail_invalid(size.of == SizeRequest::Of::origin
                                ? "%ORIGIN is a size for snapshots"
                                : "%LV is a size for an LV that there is already");
      extents = div_round_up(uint64_t{group.lvs[*lv].extents()} * size.amount, 100);
      break;
  }
  if (extents == 0 && size.amount == 0) return fail_invalid("the size is 0");
  if (extents == 0 && size.of == SizeRequest::Of::free)
    return fail(Error::make(ENOSPC, "not enough free extents: there is none"));
  if (extents == 0) return fail_invalid("the size is not even one extent");
  if (extents > UINT32_MAX) return fail(Error::make(ENOSPC, "the size is too large"));
  return static_cast<uint32_t>(extents);
}

uint64_t free_extents(const VolumeGroup& group, std::span<const uint32_t> pvs) {
  return FreeMap(group, pvs).total();
}

Result<uint32_t> create_volume(VolumeGroup& group, const VolumeParameters& parameters,
                               const IdSource& ids, const Provenance& provenance) {
  return edit(group, group.name + "/" + parameters.name,
              [&](VolumeGroup& next) -> Result<uint32_t> {
                VOLFS_TRY(check_new_name(next, parameters.name));
                VOLFS_TRY(check_room_for_lv(next));
                VOLFS_TRY_ASSIGN(const Shape shape, shape_of(parameters));
                const std::vector<uint32_t> pvs = allowed_pvs(parameters.pvs, next);
                VOLFS_TRY_ASSIGN(uint32_t extents, extents_of(next, parameters.size, pvs));
                const bool share = parameters.size.of == SizeRequest::Of::free ||
                                   parameters.size.of == SizeRequest::Of::group ||
                                   parameters.size.of == SizeRequest::Of::pvs;
                if (share && shape.legs > shape.data_legs) {
                  // The share is of what is taken, so that 100%FREE fits.
                  extents = extents / shape.legs * shape.data_legs;
                }
                const uint64_t whole = share ? round_down(uint64_t{extents}, shape.data_legs)
                                             : round_up(uint64_t{extents}, shape.data_legs);
                if (const uint64_t room = total_extents(next); shape.on_pvs && whole > room)
                  return fail(Error::make(
                      ENOSPC, fmt::format("not enough free extents: {} are wanted, and the group "
                                          "has {} in all",
                                          whole, room)));
                if (whole > UINT32_MAX)
                  return fail_invalid(fmt::format("{} extents are too many", whole));
                extents = static_cast<uint32_t>(whole);
                FreeMap free(next, pvs);
                const uint32_t lv =
                    add_lv(next, parameters.name, ids, provenance, true, !parameters.read_only);
                if (!parameters.id.empty()) next.lvs[lv].id = parameters.id;
                next.lvs[lv].allocation_policy = parameters.allocation_policy;
                for (const std::string& tag : parameters.tags)
                  VOLFS_TRY(add_tag(next.lvs[lv].tags, tag));
                if (parameters.nosync) set_status(next.lvs[lv].status, "NOTSYNCED", true);
                if (!shape.on_pvs) {
                  Segment segment;
                  segment.type = parameters.type;
                  segment.count = extents;
                  next.lvs[lv].segments.push_back(std::move(segment));
                  return lv;
                }
                if (shape.raid != nullptr) {
                  const RaidBuild build{parameters, shape, ids, provenance};
                  // A share leaves no room for the metadata: make it smaller until both fit.
                  const VolumeGroup before = next;
                  for (;;) {
                    FreeMap trial = free;
                    Status built = build_raid(next, lv, extents, trial, build);
                    if (built) return lv;
                    if (!share || extents <= shape.data_legs) return fail(std::move(built.error()));
                    extents -= shape.data_legs;
                    next = before;
                  }
                }
                LegRequest request;
                request.legs = shape.legs;
                request.extents = extents / shape.legs;
                request.same_pieces = shape.legs > 1;
                request.allocation = parameters.allocation;
                VOLFS_TRY_ASSIGN(const auto legs, allocate(free, request));
                if (shape.legs == 1)
                  append_linear(next.lvs[lv], legs[0]);
                else
                  append_striped(next.lvs[lv], legs, parameters.stripe_size);
                return lv;
              });
}

Result<uint32_t> create_snapshot(VolumeGroup& group, const SnapshotParameters& parameters,
                                 const IdSource& ids, const Provenance& provenance) {
  return edit(
      group, group.name + "/" + parameters.name, [&](VolumeGroup& next) -> Result<uint32_t> {
        VOLFS_TRY(check_new_name(next, parameters.name));
        VOLFS_TRY(check_room_for_lv(next));
        const auto origin = next.find_lv(parameters.origin);
        if (!origin) return fail_invalid(fmt::format("there is no origin {}", parameters.origin));
        VOLFS_TRY(in(parameters.origin, check_changeable(next, *origin)));
        if (next.link_of_cow(*origin))
          return fail_invalid("a snapshot of a snapshot cannot be made");
        for (uint32_t link : next.snapshots_of(*origin))
          if (next.lvs[link].segments[0].merging)
            return fail(Error::make(EBUSY, "a snapshot is being merged into the origin"));
        if (!is_power_of_two(parameters.chunk_size) || parameters.chunk_size < 4 * KiB ||
            parameters.chunk_size > 512 * KiB)
          return fail_invalid("the chunk size must be a power of two from 4KiB to 512KiB");
        const std::vector<uint32_t> pvs = allowed_pvs(parameters.pvs, next);
        VOLFS_TRY_ASSIGN(const uint32_t extents, extents_of(next, parameters.size, pvs, origin));
        // The store's head, one area of exceptions, and one chunk.
        if (extents * next.extent_size < 3 * parameters.chunk_size)
          return fail_invalid("the size is too small for three chunks");
        FreeMap free(next, pvs);
        LegRequest request;
        request.extents = extents;
        request.allocation = parameters.allocation;
        VOLFS_TRY_ASSIGN(const auto legs, allocate(free, request));
        const uint32_t cow =
            add_lv(next, parameters.name, ids, provenance, false, !parameters.read_only);
        append_linear(next.lvs[cow], legs[0]);
        if (!parameters.id.empty()) next.lvs[cow].id = parameters.id;
        next.lvs[cow].allocation_policy = parameters.allocation_policy;
        for (const std::string& tag : parameters.tags) VOLFS_TRY(add_tag(next.lvs[cow].tags, tag));
        const uint32_t link = add_lv(next, next_link_name(next), ids, provenance, true, true);
        Segment segment;
        segment.type = "snapshot";
        segment.count = next.lvs[*origin].extents();
        segment.chunk_size = parameters.chunk_size;
        segment.origin = origin;
        segment.cow = cow;
        next.lvs[link].segments.push_back(std::move(segment));
        return cow;
      });
}

std::vector<ZeroRange> raid_metadata_of(const VolumeGroup& group, uint32_t lv) {
  std::vector<ZeroRange> out;
  for (const Segment& segment : group.lvs[lv].segments)
    for (const Area& area : segment.metadata_areas)
      if (area.kind == Area::Kind::lv) add_ranges(group, area.index, 0, out);
  return out;
}

std::vector<ZeroRange> ranges_to_zero(const VolumeGroup& group, uint32_t lv) {
  std::vector<ZeroRange> out = raid_metadata_of(group, lv);
  const auto zero = [&](uint32_t index, uint64_t length) { add_ranges(group, index, length, out); };
  constexpr uint64_t head = 4 * KiB;
  // What mirrors have in common is zeroed on each; parity of zeros is zero.
  for (const Segment& segment : group.lvs[lv].segments)
    for (const Area& area : segment.areas)
      if (area.kind == Area::Kind::lv) zero(area.index, head);
  if (!group.lvs[lv].segments.empty() && !group.lvs[lv].segments[0].areas.empty() &&
      group.lvs[lv].segments[0].areas[0].kind == Area::Kind::pv)
    zero(lv, group.link_of_cow(lv) ? 512 * KiB : head);
  return out;
}

}  // namespace volfs::lvm
