// SPDX-License-Identifier: GPL-2.0-or-later
// What `mdadm --create` writes, decided from sizes and options alone. The rules are those of mdadm
// 4.2; superblocks made here were compared byte by byte with its own.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "volfs/md/superblock.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t default_chunk = 512 * KiB;
constexpr uint64_t ppl_space = 1 * MiB;
constexpr uint64_t automatic_bitmap_above = 100 * GiB;
constexpr uint64_t least_default_bitmap_chunk = 64 * MiB;
constexpr uint64_t bad_block_log_size = 4 * KiB;
constexpr uint64_t bitmap_room_90 = 60 * KiB;

uint64_t align_4k(uint64_t n) {
  return round_up(n, 4 * KiB);
}

// Room that mdadm keeps for a bitmap, whether there is one or not.
uint64_t bitmap_space(uint64_t size) {
  if (size < 64 * KiB) return 0;
  if (size - 64 * KiB >= 200 * GiB) return 128 * KiB;
  if (size - 4 * KiB > 8 * GiB) return 64 * KiB;
  return 4 * KiB;
}

bool has_chunks(int32_t level) {
  return level == 0 || level >= 4;
}

class Planner {
 public:
  explicit Planner(const CreateOptions& options) : o_(options) {}
  Result<CreatePlan> run();

 private:
  Status check_options();
  Status choose_geometry();
  Status choose_sizes();
  Result<uint64_t> room_on(const CreateDevice& device);
  uint64_t default_data_offset(uint64_t device_size) const;
  void choose_spare_slot();
  Status choose_bitmap();
  void fill_array();
  void number_devices();
  void add_member(size_t device, uint32_t number);
  void place_1_0(MemberMetadata& m, uint64_t device_size, uint64_t side_space) const;
  void place_1_x(MemberMetadata& m, uint64_t device_size, uint64_t side_space) const;
  bool raid0_needs_layout() const;
  Status measure();
  uint64_t counted_devices() const;

  const CreateOptions& o_;
  bool v90_ = false, at_end_ = false;
  Geometry geometry_;
  uint64_t data_offset_ = 0;
  bool data_offset_known_ = false;
  uint64_t member_size_ = 0;
  size_t first_missing_ = SIZE_MAX, second_missing_ = SIZE_MAX;
  size_t spare_slot_ = SIZE_MAX;  // left empty so that recovery onto a spare makes its content
  ArrayMetadata array_;
  struct Numbered {
    size_t device;
    uint32_t number;
  };
  std::vector<Numbered> order_;
  int64_t bitmap_offset_ = 0;
  CreatePlan plan_;
};

Status Planner::check_options() {
  v90_ = o_.version == SuperblockVersion::v0_90;
  at_end_ = o_.version == SuperblockVersion::v1_0;
  if (o_.raid_disks == 0 || o_.devices.size() < o_.raid_disks)
    return fail_invalid(
        fmt::format("{} devices given for an array of {}", o_.devices.size(), o_.raid_disks));
  if (o_.devices.size() > max_devices(o_.version))
    return fail_invalid(fmt::format("{} devices, but version {} metadata has room for {}",
                                    o_.devices.size(), version_name(o_.version),
                                    max_devices(o_.version)));
  if (o_.level <= 0 && o_.devices.size() > o_.raid_disks)
    return fail_invalid(level_name(o_.level) + " has no spares");
  if (o_.device_uuids.size() != o_.devices.size())
    return fail_invalid("a uuid is needed for each device");
  for (size_t i = 0; i < o_.devices.size(); ++i) {
    if (!o_.devices[i].missing) continue;
    if (o_.level <= 0) return fail_invalid(level_name(o_.level) + " cannot miss a device");
    if (i >= o_.raid_disks) return fail_invalid("a spare cannot be missing");
    if (first_missing_ == SIZE_MAX)
      first_missing_ = i;
    else if (second_missing_ == SIZE_MAX)
      second_missing_ = i;
  }
  if (std::all_of(o_.devices.begin(), o_.devices.end(), [](auto& d) { return d.missing; }))
    return fail_invalid("all devices are missing");
  if (o_.ppl && (o_.level != 5 || v90_ || o_.bitmap == BitmapChoice::internal))
    return fail_invalid("a PPL needs raid5, metadata of version 1 and no bitmap");
  if (o_.bitmap == BitmapChoice::internal && o_.level <= 0)
    return fail_invalid("a bitmap is not meaningful with " + level_name(o_.level));
  if (v90_ && o_.data_offset != 0) return fail_invalid("version 0.90 metadata has no data offset");
  return {};
}

Status Planner::choose_geometry() {
  geometry_ = {o_.level, o_.layout.value_or(default_layout(o_.level)), o_.raid_disks, o_.chunk};
  if (has_chunks(o_.level) && o_.chunk == 0) geometry_.chunk = default_chunk;
  if (o_.level == 1 && o_.chunk != 0) return fail_invalid("raid1 has no chunk");
  if (v90_ && o_.level == 0) geometry_.layout = raid0_layout::unknown;
  return check_geometry(geometry_);
}

// Enough for the metadata and some room for a later reshape, in whole MiB. The first device
// decides for all.
uint64_t Planner::default_data_offset(uint64_t device_size) const {
  if (at_end_ || v90_) return 0;
  uint64_t side = o_.ppl ? ppl_space : bitmap_space(device_size);
  uint64_t headroom = 128 * MiB;
  while (headroom << 10 > device_size &&
         (geometry_.chunk == 0 || headroom / 2 >= geometry_.chunk * 2))
    headroom >>= 1;
  headroom = round_down(headroom, sector_size);
  return round_up(12 * KiB + side + headroom, 1 * MiB);
}

// Bytes of data a device can give, before rounding to chunks.
Result<uint64_t> Planner::room_on(const CreateDevice& device) {
  uint64_t size = round_down(device.size, sector_size);
  auto position = superblock_offset(o_.version, size);
  if (!position)
    return fail(Error::make(ENOSPC, fmt::format("{} bytes are too few for metadata", size)));
  if (v90_) return *position;
  if (!data_offset_known_) {
    data_offset_ = o_.data_offset != 0 ? o_.data_offset : default_data_offset(size);
    data_offset_known_ = true;
  }
  uint64_t overhead = device.device_data_offset != 0 ? device.device_data_offset : data_offset_;
  if (at_end_) {
    uint64_t side = o_.ppl ? ppl_space : bitmap_space(size);
    overhead += 8 * KiB + bad_block_log_size + side;
    size = round_down(size, 4 * KiB);
  }
  if (size <= overhead)
    return fail(Error::make(
        ENOSPC, fmt::format("{} bytes are too few: {} are for metadata", device.size, overhead)));
  return size - overhead;
}

Status Planner::choose_sizes() {
  uint64_t smallest = UINT64_MAX;
  uint64_t wanted = round_down(o_.size, KiB);
  if (geometry_.chunk != 0) wanted = round_down(wanted, geometry_.chunk);
  if (o_.size != 0 && wanted == 0) return fail_invalid("the size is smaller than a chunk");
  for (size_t i = 0; i < o_.devices.size(); ++i) {
    const CreateDevice& device = o_.devices[i];
    if (device.missing) continue;
    VOLFS_TRY_ASSIGN(uint64_t room, in(fmt::format("device {}", i), room_on(device)));
    room = round_down(room, geometry_.chunk != 0 ? geometry_.chunk : KiB);
    if (room == 0)
      return fail(Error::make(ENOSPC, fmt::format("device {}: no room for one chunk", i)));
    if (room < wanted)
      return fail(Error::make(
          ENOSPC, fmt::format("device {}: {} bytes of room, {} are wanted", i, room, wanted)));
    smallest = std::min(smallest, room);
  }
  member_size_ = wanted;
  if (o_.level > 0 && wanted == 0) {
    member_size_ = smallest;
    // mdadm keeps it a multiple of 64 KiB so that the array may become a raid5.
    if (o_.level == 1) member_size_ = round_down(member_size_, 64 * KiB);
    if (member_size_ == 0) return fail(Error::make(ENOSPC, "the devices are too small"));
  }
  if (v90_ && member_size_ >= 4 * TiB)
    return fail_invalid("version 0.90 metadata supports at most 4 TiB a device");
  return {};
}

// A new raid4 or raid5 starts with its last slot empty and one more spare: recovery onto it is
// faster than a resync. raid6 with one device missing does the same, because Linux does not start
// it dirty and degraded.
void Planner::choose_spare_slot() {
  if (o_.assume_clean || o_.force) return;
  bool whole = first_missing_ >= o_.raid_disks;
  if ((o_.level == 4 || o_.level == 5) && whole) spare_slot_ = o_.raid_disks - 1;
  if (o_.level == 6 && !whole && second_missing_ >= o_.raid_disks) {
    spare_slot_ = o_.raid_disks - 1;
    if (spare_slot_ == first_missing_) --spare_slot_;
  }
}

Status Planner::choose_bitmap() {
  bool wanted = o_.bitmap == BitmapChoice::internal;
  if (o_.bitmap == BitmapChoice::automatic && o_.level >= 1 && !o_.ppl)
    wanted = o_.write_behind != 0 || member_size_ > automatic_bitmap_above;
  if (!wanted) return {};
  uint64_t sync_size = member_size_;
  if (o_.level == 10) {
    uint64_t copies = (geometry_.layout & 255) * (geometry_.layout >> 8 & 255);
    sync_size = member_size_ / KiB * o_.raid_disks / copies * KiB;
  }
  uint64_t room = v90_ ? bitmap_room_90 : bitmap_space(member_size_);
  if (room <= sector_size)
    return fail(Error::make(ENOSPC, "the devices are too small for a bitmap"));
  uint64_t most_bits = (room - bitmap_superblock_size) * 8, least_chunk = 4 * KiB;
  for (uint64_t bits = sync_size / least_chunk + 1; bits > most_bits; bits = (bits + 1) / 2)
    least_chunk *= 2;
  uint64_t chunk = o_.bitmap_chunk;
  if (chunk == 0) chunk = std::max(least_chunk, least_default_bitmap_chunk);
  if (chunk < least_chunk || !is_power_of_two(chunk) || chunk > uint64_t{1} << 31)
    return fail_invalid(fmt::format(
        "bitmap chunk of {} bytes: expected a power of two of at least {}", chunk, least_chunk));
  BitmapSuperblock sb;
  sb.uuid = array_.bitmap_uuid();
  sb.sync_size = sync_size;
  sb.chunk = chunk;
  sb.write_behind = o_.write_behind;
  array_.has_bitmap = true;
  BitmapGeometry geometry(sb);
  plan_.bitmap_disk_size = v90_ ? bitmap_room_90 : align_4k(geometry.disk_size());
  if (at_end_) {
    uint64_t bits = sync_size / chunk + 1;
    uint64_t blocks = align_4k((bits + 7) / 8 + bitmap_superblock_size);
    bitmap_offset_ = -static_cast<int64_t>(blocks + bad_block_log_size);
  } else {
    bitmap_offset_ = 4 * KiB;
  }
  plan_.bitmap = sb;
  plan_.bits_set = !o_.assume_clean;
  return {};
}

bool Planner::raid0_needs_layout() const {
  if (o_.level != 0 || geometry_.layout == raid0_layout::unknown) return false;
  uint64_t unit = geometry_.chunk >> sector_shift;
  for (const CreateDevice& d : o_.devices)
    if (d.size / unit != o_.devices[0].size / unit) return true;
  return false;
}

void Planner::fill_array() {
  array_.version = o_.version;
  array_.uuid = o_.uuid;
  array_.geometry = geometry_;
  // Recorded only where it matters: what does not record it, every Linux accepts.
  if (!raid0_needs_layout() && o_.level == 0) array_.geometry.layout = raid0_layout::unknown;
  array_.member_size = member_size_;
  array_.ctime = array_.utime = {o_.now, 0};
  array_.preferred_minor = o_.preferred_minor;
  array_.has_ppl = o_.ppl;
  bool spare_slot = spare_slot_ < o_.raid_disks;
  bool clean = o_.level <= 0 || o_.assume_clean;
  if (o_.level == 4 || o_.level == 5) clean = clean || spare_slot || first_missing_ < o_.raid_disks;
  if (o_.level == 6) clean = clean || spare_slot || second_missing_ < o_.raid_disks;
  array_.resync_offset = clean ? all_in_sync : 0;
  if (v90_) {
    array_.events = 1;
    return;
  }
  std::string name = o_.name.empty() ? fmt::format("{}", o_.preferred_minor) : o_.name;
  bool with_host = !o_.homehost.empty() && name.find(':') == std::string::npos &&
                   o_.homehost.size() + 1 + name.size() < 32;
  array_.name = with_host ? o_.homehost + ":" + name : name.substr(0, 31);
}

// Device numbers and roles: in the order given, but for a device whose slot starts empty: it comes
// last, as a spare.
void Planner::number_devices() {
  size_t count = o_.devices.size();
  std::vector<uint16_t> roles;
  for (size_t i = 0; i < count; ++i) {
    bool active = i < o_.raid_disks && i != spare_slot_ && !o_.devices[i].missing;
    roles.push_back(active ? static_cast<uint16_t>(i) : role_spare);
    if (i != spare_slot_ && !o_.devices[i].missing) order_.push_back({i, static_cast<uint32_t>(i)});
  }
  if (spare_slot_ < count) {
    order_.push_back({spare_slot_, static_cast<uint32_t>(count)});
    roles.push_back(role_spare);
  }
  array_.roles = roles;
  if (!v90_) return;
  array_.roles.resize(max_devices(o_.version), role_spare);
  array_.devices90.resize(max_devices(o_.version));
  for (const Numbered& n : order_) {
    Device90& d = array_.devices90[n.number];
    d = new_device90(o_.device_uuids[n.device]);
    d.present = true;
    d.write_mostly = o_.devices[n.device].write_mostly;
    d.failfast = o_.devices[n.device].failfast;
  }
}

void Planner::place_1_0(MemberMetadata& m, uint64_t device_size, uint64_t side_space) const {
  m.super_offset = round_down(device_size - 8 * KiB, 4 * KiB);
  side_space += bad_block_log_size;
  // Of an array with redundancy mdadm leaves data_offset out of account; of others all is used.
  const uint64_t start = o_.level > 0 ? 0 : m.data_offset, used = start + member_size_;
  if (m.super_offset < used + side_space) side_space = m.super_offset - used;
  m.data_size = m.super_offset - side_space - start;
  if (side_space >= bad_block_log_size) {
    m.bad_block_log_size = bad_block_log_size;
    m.bad_block_log_offset = -static_cast<int64_t>(bad_block_log_size);
  }
}

void Planner::place_1_x(MemberMetadata& m, uint64_t device_size, uint64_t side_space) const {
  m.super_offset = o_.version == SuperblockVersion::v1_2 ? 4 * KiB : 0;
  m.data_size = device_size - m.data_offset;
  constexpr uint64_t side_offset = 4 * KiB;  // after the superblock
  if (m.data_offset >= m.super_offset + side_offset + side_space + bad_block_log_size) {
    m.bad_block_log_size = bad_block_log_size;
    m.bad_block_log_offset = static_cast<int64_t>(side_offset + side_space);
  } else if (m.data_offset >= m.super_offset + 8 * KiB) {
    m.bad_block_log_size = bad_block_log_size;
    m.bad_block_log_offset =
        static_cast<int64_t>(m.data_offset - bad_block_log_size - m.super_offset);
  }
}

// Slots and spares, as mdadm counts them: devices that are there and not active count as spares.
uint64_t Planner::counted_devices() const {
  uint64_t spares = 0;
  for (const Numbered& n : order_) spares += array_.roles[n.number] == role_spare;
  return o_.raid_disks + spares;
}

void Planner::add_member(size_t index, uint32_t number) {
  const CreateDevice& device = o_.devices[index];
  uint64_t size = round_down(device.size, sector_size);
  MemberMetadata m;
  m.array = array_;
  m.dev_number = number;
  m.write_mostly = device.write_mostly;
  m.failfast = device.failfast;
  m.bitmap_offset = bitmap_offset_;
  if (v90_) {
    m.super_offset = m.data_size = *superblock_offset(o_.version, size);
    m.bitmap_offset = array_.has_bitmap ? 4 * KiB : 0;
    m.roles_room = max_devices(o_.version);
  } else {
    m.device_uuid = o_.device_uuids[index];
    m.data_offset = device.device_data_offset != 0 ? device.device_data_offset : data_offset_;
    uint64_t side = bitmap_space(member_size_);
    if (plan_.bitmap) side = align_4k(BitmapGeometry(*plan_.bitmap).disk_size());
    if (o_.ppl) {
      side = ppl_space;
      m.ppl_size = ppl_space;
      m.ppl_offset = at_end_ ? -static_cast<int64_t>(ppl_space + 4 * KiB) : int64_t{4 * KiB};
    }
    at_end_ ? place_1_0(m, size, side) : place_1_x(m, size, side);
    if (!o_.bad_block_log) m.bad_block_log_size = m.bad_block_log_offset = 0;
    // The table fills the sectors it begins, for as many devices as mdadm counts.
    m.roles_room = static_cast<uint32_t>((round_up(256 + 2 * counted_devices(), 512) - 256) / 2);
  }
  plan_.members.push_back({index, std::move(m)});
}

Status Planner::measure() {
  if (o_.level > 0) {
    plan_.array_size = md::array_size(geometry_, member_size_);
    return {};
  }
  std::vector<uint64_t> sizes(o_.raid_disks);
  for (const CreatedMember& m : plan_.members)
    sizes[m.device] = member_size_ != 0 ? member_size_ : m.member.data_size;
  if (o_.level == 0) {
    VOLFS_TRY_ASSIGN(auto layout, Raid0Layout::make(sizes, geometry_.chunk, geometry_.layout));
    plan_.array_size = layout.size();
  } else {
    VOLFS_TRY_ASSIGN(auto layout, LinearLayout::make(sizes, geometry_.chunk));
    plan_.array_size = layout.size();
  }
  return {};
}

Result<CreatePlan> Planner::run() {
  VOLFS_TRY(check_options());
  VOLFS_TRY(choose_geometry());
  VOLFS_TRY(choose_sizes());
  choose_spare_slot();
  fill_array();
  VOLFS_TRY(choose_bitmap());
  number_devices();
  for (const Numbered& n : order_) add_member(n.device, n.number);
  VOLFS_TRY(measure());
  return std::move(plan_);
}

}  // namespace

Result<CreatePlan> plan_create(const CreateOptions& options) {
  return Planner(options).run();
}

}  // namespace volfs::md
