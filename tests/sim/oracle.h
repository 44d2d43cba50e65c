// SPDX-License-Identifier: GPL-2.0-or-later
// What a volume may hold, now and after a power cut. A sector holds the number of the write that it
// is of, so that a wrong one says where it comes from.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace volfs::sim {

using SectorId = uint64_t;
inline constexpr SectorId zeros = 0;
inline constexpr SectorId unknown = UINT64_MAX;    // of what nobody has written: anything
inline constexpr SectorId mixed = UINT64_MAX - 1;  // of no one write: never right

// 512 bytes of that write, and what write 512 bytes are of.
void fill_sector(std::span<std::byte> sector, SectorId id);
SectorId id_of(std::span<const std::byte> sector);

// Positions are those in the log of the disks: an operation has one before and one after it.
struct Span {
  size_t begin = 0, end = 0;
};

class Oracle {
 public:
  Oracle(uint64_t sectors, SectorId start) : durable_(sectors, start), latest_(durable_) {}

  uint64_t sectors() const { return latest_.size(); }
  // What is new is unknown.
  void resize(uint64_t sectors);
  SectorId latest(uint64_t sector) const { return latest_[sector]; }
  void wrote(uint64_t first, std::vector<SectorId> ids, Span when, bool fua = false);
  void flushed(Span when) { flushes_.push_back(when); }
  // All that was written is on stable storage, and positions begin anew.
  void settle();
  // Forgets what a flush has made durable; no power cut may come from before any more.
  void trim();
  // Nothing, or how IDS, read from sector FIRST on, are not what was written last.
  std::optional<std::string> difference(uint64_t first, std::span<const SectorId> ids) const;
  // The same of what a power cut at a position may leave. IDS is what the volume holds from now on.
  std::optional<std::string> adopt(std::span<const SectorId> ids, size_t position);
  // Takes IDS for what was written to the sectors from FIRST on, by a write that is not durable.
  void learn(uint64_t first, std::span<const SectorId> ids, Span when);

 private:
  struct Change {
    uint64_t first;
    std::vector<SectorId> ids;
    Span when;
    bool fua;
    bool covers(uint64_t sector) const { return sector >= first && sector - first < ids.size(); }
  };
  bool is_flushed(const Change& change, size_t position) const;
  bool is_durable(const Change& change, size_t position) const;
  std::vector<SectorId> allowed(uint64_t sector, size_t position) const;

  std::vector<SectorId> durable_, latest_;
  std::vector<Change> changes_;  // since, in their order
  std::vector<Span> flushes_;
};

}  // namespace volfs::sim
