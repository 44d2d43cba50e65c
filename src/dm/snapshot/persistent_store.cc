// SPDX-License-Identifier: GPL-2.0-or-later
#include "persistent_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "volfs/dm/snapshot.h"
#include "volfs/log.h"

namespace volfs::dm {
namespace {

// Reads of areas while loading: pieces this large, several under way.
constexpr uint64_t load_piece = 64 * KiB;
constexpr size_t load_ahead = 12;

Exception decode(const std::byte* at) {
  DiskException disk;
  std::memcpy(&disk, at, sizeof disk);
  return {disk.old_chunk, disk.new_chunk};
}

void encode(const Exception& exception, std::byte* at) {
  DiskException disk;
  disk.old_chunk = exception.old_chunk;
  disk.new_chunk = exception.new_chunk;
  std::memcpy(at, &disk, sizeof disk);
}

Error corrupt(std::string text) {
  return Error::make(EUCLEAN, std::move(text));
}

}  // namespace

PersistentStore::PersistentStore(BlockDevice& device, uint64_t chunk_size)
    : ExceptionStore(device), geometry_{chunk_size} {
  chunk_size_ = chunk_size;
  block_size_ = std::min<uint64_t>(chunk_size, std::max<uint64_t>(4096, device.logical_block()));
  block_.assign(block_size_, std::byte{0});
}

Result<PersistentStore::Loaded> PersistentStore::open(BlockDevice& device, uint64_t chunk_size,
                                                      uint64_t origin_size, uint32_t origin_block,
                                                      IfBlank if_blank, const Add& add) {
  if (chunk_size == 0) chunk_size = std::max<uint64_t>(default_chunk_size, device.logical_block());
  const uint32_t block = std::max(device.logical_block(), origin_block);
  VOLFS_TRY(check_chunk_size(chunk_size, block));
  if (device.size() < device.logical_block())
    return fail_invalid(fmt::format("{}: too small for a snapshot store", device.name()));
  std::vector<std::byte> first(device.logical_block());
  VOLFS_TRY(device.read(0, first));
  DiskSnapshotHeader header;
  std::memcpy(&header, first.data(), sizeof header);

  const bool blank = header.magic == 0;
  if (!blank) {
    if (header.magic != snapshot_magic)
      return fail(corrupt(fmt::format("{}: chunk 0: magic 0x{:08x}: not a snapshot store",
                                      device.name(), uint32_t{header.magic})));
    if (header.version != snapshot_version)
      return fail_invalid(fmt::format("{}: chunk 0: store version {}: only {} is known",
                                      device.name(), uint32_t{header.version}, snapshot_version));
    const uint64_t on_disk = uint64_t{header.chunk_sectors} * sector_size;
    VOLFS_TRY(in(fmt::format("{}: chunk 0", device.name()), check_chunk_size(on_disk, block)));
    if (on_disk != chunk_size)
      log_info("{}: chunk size {} in the store overrides {}", device.name(), format_size(on_disk),
               format_size(chunk_size));
    chunk_size = on_disk;
  }
  if (device.size() / chunk_size < 2)
    return fail_invalid(fmt::format("{}: {} has no room for two chunks of {}", device.name(),
                                    format_size(device.size()), format_size(chunk_size)));

  Loaded loaded;
  loaded.store.reset(new PersistentStore(device, chunk_size));
  if (blank) {
    if (if_blank == IfBlank::initialise) VOLFS_TRY(loaded.store->initialise());
  } else if (header.valid == 0) {
    loaded.valid = false;
  } else {
    VOLFS_TRY(loaded.store->read_areas({div_round_up(origin_size, chunk_size), add}));
  }
  return loaded;
}

// The area first: a header that is there means that the area behind it is, too.
Status PersistentStore::initialise() {
  VOLFS_TRY(device_.write_zeroes(area_offset(0), chunk_size_, Unmap::no));
  VOLFS_TRY(device_.write_zeroes(0, chunk_size_, Unmap::no));
  VOLFS_TRY(device_.flush());
  return write_header(true);
}

Status PersistentStore::write_header(bool valid) {
  std::vector<std::byte> first(device_.logical_block());
  DiskSnapshotHeader header;
  header.magic = snapshot_magic;
  header.valid = valid ? 1 : 0;
  header.version = snapshot_version;
  header.chunk_sectors = static_cast<uint32_t>(chunk_size_ / sector_size);
  std::memcpy(first.data(), &header, sizeof header);
  return device_.write(0, first, Fua::yes);
}

Status PersistentStore::drop() {
  return write_header(false);
}

Status PersistentStore::check_exception(const Exception& exception, uint64_t area, uint64_t index,
                                        uint64_t origin_chunks) const {
  const auto place = [&] {
    return fmt::format("{}: chunk {}: exception {}", device_.name(), geometry_.area_chunk(area),
                       index);
  };
  if (exception.new_chunk >= total_chunks())
    return fail(corrupt(fmt::format("{}: new chunk {} is beyond the end at {}", place(),
                                    exception.new_chunk, total_chunks())));
  if (!geometry_.is_data(exception.new_chunk))
    return fail(corrupt(
        fmt::format("{}: new chunk {} is an area of exceptions", place(), exception.new_chunk)));
  if (exception.old_chunk >= origin_chunks)
    return fail(corrupt(fmt::format("{}: old chunk {} is beyond the end of the origin at {}",
                                    place(), exception.old_chunk, origin_chunks)));
  return {};
}

// Takes what BYTES, the area's from exception FIRST on, says. ENDED is set where the list ends.
Status PersistentStore::take(uint64_t area, uint64_t first, std::span<const std::byte> bytes,
                             const Load& load, bool& ended) {
  const uint64_t count = bytes.size() / sizeof(DiskException);
  for (uint64_t i = 0; i < count; ++i) {
    const Exception exception = decode(bytes.data() + i * sizeof(DiskException));
    const uint64_t index = first + i;
    if (exception.new_chunk == 0) {
      area_ = area;
      committed_ = index;
      const uint64_t block = i / per_block() * per_block();
      std::memcpy(block_.data(), bytes.data() + block * sizeof(DiskException), block_size_);
      ended = true;
      return {};
    }
    VOLFS_TRY(check_exception(exception, area, index, load.origin_chunks));
    if (!load.add(exception))
      return fail(corrupt(fmt::format("{}: chunk {}: exception {}: old chunk {} appears twice",
                                      device_.name(), geometry_.area_chunk(area), index,
                                      exception.old_chunk)));
    next_free_ = std::max(next_free_, exception.new_chunk + 1);
  }
  return {};
}

// Areas are read as far as they are used, and those of small chunks several at a time: the
// table of a large snapshot of 4 KiB chunks is 40,000 areas, a megabyte apart.
Status PersistentStore::read_areas(const Load& load) {
  const uint64_t piece = std::min(chunk_size_, std::max(load_piece, block_size_));
  const uint64_t pieces = chunk_size_ / piece;  // of an area
  std::vector<std::byte> memory(piece * load_ahead);
  bool ended = false;
  for (uint64_t at = 0; !ended;) {
    const size_t want = at == 0 ? 1 : load_ahead;  // most stores have no more than one
    IoBatch batch;
    std::vector<OneSlice> slices;
    slices.reserve(want);
    for (uint64_t i = at; i < at + want; ++i) {
      const uint64_t area = i / pieces;
      if (geometry_.area_chunk(area) >= total_chunks()) break;
      slices.emplace_back(std::span(memory).subspan((i - at) * piece, piece));
      batch.read(device_, area_offset(area) + i % pieces * piece, slices.back());
    }
    if (slices.empty())
      return fail(
          corrupt(fmt::format("{}: chunk {}: the area is full, and the next one would be chunk {}, "
                              "beyond the end at {}",
                              device_.name(), geometry_.area_chunk(at / pieces - 1),
                              geometry_.area_chunk(at / pieces), total_chunks())));
    VOLFS_TRY(batch.run());
    for (size_t i = 0; i < slices.size() && !ended; ++i, ++at)
      VOLFS_TRY(take(at / pieces, at % pieces * piece / sizeof(DiskException),
                     std::span(memory).subspan(i * piece, piece), load, ended));
  }
  next_free_ = geometry_.data_from(next_free_);
  return look_at_tail();
}

// A write of the area that was torn may have left exceptions behind the end of the list. They
// mean nothing now, but would once the list has grown up to them: the next commit wipes them first.
Status PersistentStore::look_at_tail() {
  const auto is_zero = [](std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
  };
  const uint64_t used = committed_ % per_block() * sizeof(DiskException);
  const uint64_t block_end = (committed_ / per_block() + 1) * block_size_;
  const auto tail = std::span(block_).subspan(used);
  bool clean = is_zero(tail);
  std::fill(tail.begin(), tail.end(), std::byte{0});
  std::vector<std::byte> piece(std::min(load_piece, chunk_size_ - block_end));
  for (uint64_t at = block_end; clean && at < chunk_size_; at += piece.size()) {
    piece.resize(std::min<uint64_t>(piece.size(), chunk_size_ - at));
    VOLFS_TRY(device_.read(area_offset(area_) + at, piece));
    clean = is_zero(piece);
  }
  tail_dirty_ = !clean;
  return {};
}

Status PersistentStore::clean_tail() {
  if (!tail_dirty_) return {};
  const uint64_t block_end = (committed_ / per_block() + 1) * block_size_;
  VOLFS_TRY(device_.write(area_offset(area_) + block_end - block_size_, block_));
  if (block_end < chunk_size_)
    VOLFS_TRY(
        device_.write_zeroes(area_offset(area_) + block_end, chunk_size_ - block_end, Unmap::no));
  tail_dirty_ = false;
  return {};
}

ExceptionStore::Usage PersistentStore::usage() const {
  const std::lock_guard lock(mutex_);
  const uint64_t used = merged_to_ != 0 ? merged_to_ : next_free_;
  return {used * chunk_size_, device_.size(), (area_ + 2) * chunk_size_};
}

// The exception that fills an area needs room for the next area, too: Linux does not load a
// store that ends with a full one.
std::optional<uint64_t> PersistentStore::allocate() {
  const std::lock_guard lock(mutex_);
  if (given_back_.empty() && next_free_ >= total_chunks()) return std::nullopt;
  const uint64_t after = area_ * geometry_.per_area() + committed_ + uncommitted_ + 1;
  if (after % geometry_.per_area() == 0 &&
      geometry_.area_chunk(after / geometry_.per_area()) >= total_chunks())
    return std::nullopt;
  ++uncommitted_;
  merged_to_ = 0;
  if (!given_back_.empty()) return given_back_.take();
  const uint64_t chunk = next_free_;
  next_free_ = geometry_.data_from(next_free_ + 1);
  return chunk;
}

void PersistentStore::give_back(uint64_t first, uint64_t count) {
  const std::lock_guard lock(mutex_);
  given_back_.add(first, count);
  uncommitted_ -= count;
}

void PersistentStore::next_area() {
  const std::lock_guard lock(mutex_);
  committed_ = 0;
  ++area_;
  std::fill(block_.begin(), block_.end(), std::byte{0});
}

size_t PersistentStore::stage(std::span<const Exception> exceptions) {
  assert(!exceptions.empty() && staged_count_ == 0);
  if (committed_ == geometry_.per_area()) next_area();  // last() had stepped back
  staged_count_ = std::min<uint64_t>(exceptions.size(), geometry_.per_area() - committed_);
  const uint64_t in_block = committed_ % per_block();
  const uint64_t blocks = div_round_up(in_block + staged_count_, per_block());
  staged_.assign(blocks * block_size_, std::byte{0});
  std::memcpy(staged_.data(), block_.data(), in_block * sizeof(DiskException));
  for (uint64_t i = 0; i < staged_count_; ++i)
    encode(exceptions[i], staged_.data() + (in_block + i) * sizeof(DiskException));
  return staged_count_;
}

Status PersistentStore::prepare_area() {
  VOLFS_TRY(clean_tail());
  if (committed_ + staged_count_ < geometry_.per_area()) return {};
  return device_.write_zeroes(area_offset(area_ + 1), chunk_size_, Unmap::no);
}

void PersistentStore::write_staged(IoBatch& batch) {
  staged_slice_ = OneSlice(std::span<const std::byte>(staged_));
  batch.write(device_, area_offset(area_) + committed_ / per_block() * block_size_, staged_slice_);
}

void PersistentStore::staged_done() {
  const uint64_t filled = committed_ % per_block() + staged_count_;
  if (filled % per_block() == 0)
    std::fill(block_.begin(), block_.end(), std::byte{0});
  else
    std::memcpy(block_.data(), staged_.data() + staged_.size() - block_size_, block_size_);
  const bool full = committed_ + staged_count_ == geometry_.per_area();
  {
    const std::lock_guard lock(mutex_);
    committed_ += staged_count_;
    uncommitted_ -= staged_count_;
  }
  staged_count_ = 0;
  if (full) next_area();
}

Status PersistentStore::last(size_t most, std::vector<Exception>& out) {
  out.clear();
  if (committed_ == 0) {
    if (area_ == 0) return {};
    const std::lock_guard lock(mutex_);
    --area_;
    committed_ = geometry_.per_area();
  }
  const uint64_t count = std::min<uint64_t>(most, committed_);
  const uint64_t from = (committed_ - count) * sizeof(DiskException);
  const uint64_t begin = round_down(from, block_size_);
  const uint64_t end = round_up(committed_ * sizeof(DiskException), block_size_);
  std::vector<std::byte> bytes(end - begin);
  VOLFS_TRY(device_.read(area_offset(area_) + begin, bytes));
  for (uint64_t i = committed_; i-- > committed_ - count;)
    out.push_back(decode(bytes.data() + i * sizeof(DiskException) - begin));
  return {};
}

Status PersistentStore::remove_last(size_t count) {
  assert(count <= committed_);
  const uint64_t left = committed_ - count;
  const uint64_t begin = left / per_block() * block_size_;
  const uint64_t end = round_up(committed_ * sizeof(DiskException), block_size_);
  const uint64_t keep = left % per_block() * sizeof(DiskException);
  std::vector<std::byte> bytes(end - begin);
  if (keep > 0) {
    VOLFS_TRY(device_.read(area_offset(area_) + begin, std::span(bytes).first(block_size_)));
    std::fill(bytes.begin() + static_cast<ptrdiff_t>(keep), bytes.end(), std::byte{0});
  }
  VOLFS_TRY(device_.write(area_offset(area_) + begin, bytes, Fua::yes));
  std::copy_n(bytes.begin(), block_size_, block_.begin());
  const std::lock_guard lock(mutex_);
  committed_ = left;
  // What it would be if all had been committed in order: as Linux counts it while merging. It says
  // nothing of where free space is: there may be gaps before what is left.
  merged_to_ = geometry_.area_chunk(area_) + committed_ + 1;
  if (area_ == 0 && committed_ == 0) {
    next_free_ = 2;
    given_back_.clear();
  }
  return {};
}

}  // namespace volfs::dm
