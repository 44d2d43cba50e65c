// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/md/mirror_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "personality/personality.h"
#include "volfs/endian.h"
#include "volfs/log.h"
#include "volfs/md/bitmap.h"
#include "volfs/md/superblock.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint32_t mirror_magic = 0x4d695272;
constexpr uint64_t bits_place = 1024;    // of the log
constexpr uint64_t bitmap_place = 4096;  // of a dm-raid's metadata device
constexpr uint64_t first_bit = bitmap_place + bitmap_superblock_size;

struct DiskMirrorLog {
  Le32 magic, version;
  Le64 regions;
};
static_assert(sizeof(DiskMirrorLog) == 16);

}  // namespace

uint64_t mirror_log_size(uint64_t regions) {
  return round_up(bits_place + div_round_up(regions, 8), sector_size);
}

Status check_mirror_set(const MirrorSet& set) {
  if (!is_power_of_two(set.region_size) || set.region_size < 2 * sector_size ||
      set.region_size > set.size)
    return fail_invalid(fmt::format(
        "the region size is {} bytes, expected a power of two from {} to the mirror's size",
        set.region_size, 2 * sector_size));
  if (set.regions() > most_mirror_regions)
    return fail_invalid(fmt::format("the mirror has {} regions, expected at most {}", set.regions(),
                                    most_mirror_regions));
  return {};
}

struct MirrorLog::State {
  State(const MirrorSet& s, std::string n)
      : set(s), name(std::move(n)), regions(s.regions()), disk(mirror_log_size(regions)) {}

  std::byte& byte(uint64_t number) { return disk[bits_place + number]; }
  Status read();
  Status take(std::span<const std::byte> found);
  void fill(uint64_t from, bool clean);
  Status write_all();
  Status write_bits(uint64_t number, std::span<const std::byte> dirty);
  Status record(const MemberMetadata& described) const;
  std::vector<std::byte> shown(uint32_t slot);

  const MirrorSet set;
  const std::string name;
  const uint64_t regions;
  mutable Mutex mutex;          // guards all below; the log has one writer at a time
  std::vector<std::byte> disk;  // the log as it is on disk
  bool failed = false;
};

// Sets all bits from one on, and clears those behind the last, which mean nothing.
void MirrorLog::State::fill(uint64_t from, bool clean) {
  for (uint64_t bit = from; bit < (disk.size() - bits_place) * 8; ++bit) {
    const auto mask = std::byte(1u << (bit % 8));
    byte(bit / 8) = clean && bit < regions ? byte(bit / 8) | mask : byte(bit / 8) & ~mask;
  }
}

// What a log says, as disk_resume takes it: regions that it does not know are new.
Status MirrorLog::State::take(std::span<const std::byte> found) {
  DiskMirrorLog header{};
  std::memcpy(&header, found.data(), sizeof header);
  uint64_t known = 0;
  if (header.magic == mirror_magic) {
    const uint32_t version = header.version;
    if (version != 1 && version != 2)
      return fail_invalid(
          fmt::format("{}: mirror log: version {}, expected 1 or 2", set.log->name(), version));
    known = std::min<uint64_t>(header.regions, regions);
    std::ranges::copy(found.subspan(bits_place), disk.begin() + bits_place);
  }
  fill(known, set.nosync);
  fill(regions, false);
  return {};
}

Status MirrorLog::State::read() {
  fill(0, set.nosync);
  if (!set.log) return {};
  if (set.log->size() < disk.size())
    return fail_invalid(fmt::format("{}: a mirror log of {} regions needs {} bytes, and it has {}",
                                    set.log->name(), regions, disk.size(), set.log->size()));
  std::vector<std::byte> found(disk.size());
  if (auto read = set.log->read(0, found); !read) {
    log_warning("{}: {}: the mirror log cannot be read: nothing counts as in sync", name,
                read.error().text());
    failed = true;
    fill(0, false);
    return {};
  }
  return take(found);
}

Status MirrorLog::State::write_all() {
  if (!set.log) return {};
  DiskMirrorLog header;
  header.magic = mirror_magic;
  header.version = 2;
  header.regions = regions;
  std::memcpy(disk.data(), &header, sizeof header);
  if (failed)
    return fail(Error::make(EIO, set.log->name() +
                                     ": the mirror log cannot be read, and without it nothing "
                                     "can be written; read-only it can be used"));
  return in("mirror log", set.log->write(0, disk, Fua::yes));
}

// DIRTY: the engine's bits, from byte NUMBER of them on. Written are the sectors that change: each
// leg brings the same.
Status MirrorLog::State::write_bits(uint64_t number, std::span<const std::byte> dirty) {
  const std::lock_guard lock(mutex);
  if (failed) return fail_sys(EIO, "the mirror log has failed");
  const uint64_t bytes = div_round_up(regions, 8);
  dirty = dirty.first(std::min<uint64_t>(dirty.size(), bytes - std::min(number, bytes)));
  if (dirty.empty()) return {};
  const uint64_t from = round_down(bits_place + number, sector_size);
  const uint64_t to = round_up(bits_place + number + dirty.size(), sector_size);
  const auto current = std::span(disk).subspan(from, to - from);
  std::vector<std::byte> then(current.begin(), current.end());
  for (uint64_t i = 0; i < dirty.size(); ++i) {
    std::byte clean = ~dirty[i];
    if (number + i == bytes - 1 && regions % 8 != 0) clean &= std::byte((1u << (regions % 8)) - 1);
    then[bits_place + number + i - from] = clean;
  }
  if (std::ranges::equal(current, then)) return {};
  if (set.log) {
    Status written = set.log->write(from, then, Fua::yes);
    if (!written && !no_room(written.error().code())) failed = true;
    VOLFS_TRY(std::move(written));
  }
  std::ranges::copy(then, current.begin());
  return {};
}

// Whether the log can say what the superblock of a leg would.
Status MirrorLog::State::record(const MemberMetadata& described) const {
  const std::vector<uint16_t>& roles = described.array.roles;
  for (uint32_t slot = 0; slot < roles.size(); ++slot) {
    if (roles[slot] < max_role || (slot > 0 && (set.log || !set.nosync))) continue;
    return fail(
        Error::make(EIO, slot == 0 ? "that the first leg has failed is nothing that its log can say"
                                   : "without a log nothing can say that a leg has failed"));
  }
  return {};
}

// The metadata device of a leg: superblock and bitmap.
std::vector<std::byte> MirrorLog::State::shown(uint32_t slot) {
  MemberMetadata leg;
  ArrayMetadata& array = leg.array;
  array.version = SuperblockVersion::dm_raid;
  array.geometry = set.geometry();
  array.member_size = set.size;
  array.events = 1;
  for (uint32_t i = 0; i < set.legs.size(); ++i) array.roles.push_back(static_cast<uint16_t>(i));
  leg.dev_number = slot;
  leg.data_offset = set.legs[slot].offset;
  BitmapSuperblock bitmap;
  bitmap.uuid = array.bitmap_uuid();
  bitmap.events = bitmap.events_cleared = array.events;
  bitmap.sync_size = set.size;
  bitmap.chunk = set.region_size;
  std::vector<std::byte> bytes(round_up(first_bit + div_round_up(regions, 8), sector_size));
  if (const auto superblock = encode_superblock(leg)) std::ranges::copy(*superblock, bytes.begin());
  std::ranges::copy(encode_bitmap_superblock(bitmap), bytes.begin() + bitmap_place);
  const std::lock_guard lock(mutex);
  for (uint64_t bit = 0; bit < regions; ++bit)
    if ((byte(bit / 8) & std::byte(1u << (bit % 8))) == std::byte{})
      bytes[first_bit + bit / 8] |= std::byte(1u << (bit % 8));
  return bytes;
}

// A leg's metadata device, as the engine sees it.
class MirrorLog::Metadata final : public BlockDevice {
 public:
  Metadata(std::shared_ptr<State> state, uint32_t slot)
      : BlockDevice(fmt::format("the state of leg {}", slot), state->shown(slot).size()),
        state_(std::move(state)),
        slot_(slot) {}

 private:
  Status do_read(uint64_t offset, IoSpan iov) override {
    const std::vector<std::byte> bytes = state_->shown(slot_);
    copy_to_slices(iov, 0, std::span(bytes).subspan(offset));
    return {};
  }
  Status do_write(uint64_t offset, IoSpan iov, Fua) override {
    std::vector<std::byte> bytes(total_length(iov));
    copy_from_slices(iov, 0, bytes);
    if (offset == 0) {
      VOLFS_TRY_ASSIGN(const MemberMetadata described,
                       decode_superblock(SuperblockVersion::dm_raid, bytes, size()));
      return state_->record(described);
    }
    const uint64_t skip = offset < first_bit ? first_bit - offset : 0;
    if (skip >= bytes.size()) return {};
    return state_->write_bits(offset + skip - first_bit, std::span(bytes).subspan(skip));
  }
  Status do_flush() override { return {}; }
  Service do_service(Op) const override { return Service::blocking; }

  const std::shared_ptr<State> state_;
  const uint32_t slot_;
};

MirrorLog::MirrorLog(std::shared_ptr<State> state) : state_(std::move(state)) {
  for (uint32_t slot = 0; slot < state_->set.legs.size(); ++slot)
    metadata_.push_back(std::make_unique<Metadata>(state_, slot));
}

MirrorLog::~MirrorLog() = default;

Result<std::unique_ptr<MirrorLog>> MirrorLog::open(const MirrorSet& set, const std::string& name,
                                                   bool read_only) {
  VOLFS_TRY(check_mirror_set(set));
  auto state = std::make_shared<State>(set, name);
  VOLFS_TRY(state->read());
  if (!read_only) VOLFS_TRY(state->write_all());
  return std::unique_ptr<MirrorLog>(new MirrorLog(std::move(state)));
}

RaidSet MirrorLog::raid_set() const {
  const MirrorSet& set = state_->set;
  RaidSet out;
  out.geometry = set.geometry();
  out.size = set.size;
  out.led = true;
  for (size_t slot = 0; slot < set.legs.size(); ++slot)
    out.members.push_back({metadata_[slot].get(), set.legs[slot].device, false, false});
  return out;
}

uint64_t MirrorLog::clean_regions() const {
  const std::lock_guard lock(state_->mutex);
  uint64_t count = 0;
  for (size_t i = bits_place; i < state_->disk.size(); ++i)
    count += static_cast<uint64_t>(std::popcount(std::to_integer<unsigned>(state_->disk[i])));
  return count;
}

bool MirrorLog::log_failed() const {
  const std::lock_guard lock(state_->mutex);
  return state_->failed;
}

}  // namespace volfs::md
