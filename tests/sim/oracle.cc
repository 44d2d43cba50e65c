// SPDX-License-Identifier: GPL-2.0-or-later
#include "oracle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "volfs/units.h"

namespace volfs::sim {
namespace {

std::string in_words(SectorId id) {
  if (id == zeros) return "zeros";
  if (id == unknown) return "anything";
  if (id == mixed) return "no one write";
  return fmt::format("write {}", id);
}

}  // namespace

void fill_sector(std::span<std::byte> sector, SectorId id) {
  for (size_t at = 0; at < sector.size(); at += sizeof id)
    std::memcpy(sector.data() + at, &id, sizeof id);
}

SectorId id_of(std::span<const std::byte> sector) {
  SectorId id = 0;
  std::memcpy(&id, sector.data(), sizeof id);
  const bool even =
      std::memcmp(sector.data(), sector.data() + sizeof id, sector.size() - sizeof id) == 0;
  return even ? id : mixed;
}

void Oracle::resize(uint64_t sectors) {
  durable_.resize(sectors, unknown);
  latest_.resize(sectors, unknown);
  // What was cut off does not come back with a later growth.
  for (Change& change : changes_)
    if (change.first + change.ids.size() > sectors)
      change.ids.resize(change.first < sectors ? sectors - change.first : 0);
}

void Oracle::wrote(uint64_t first, std::vector<SectorId> ids, Span when, bool fua) {
  std::ranges::copy(ids, latest_.begin() + static_cast<std::ptrdiff_t>(first));
  changes_.push_back({first, std::move(ids), when, fua});
}

void Oracle::learn(uint64_t first, std::span<const SectorId> ids, Span when) {
  std::vector<SectorId> known(ids.begin(), ids.end());
  std::ranges::replace(known, mixed, unknown);
  wrote(first, std::move(known), when);
}

void Oracle::settle() {
  durable_ = latest_;
  changes_.clear();
  flushes_.clear();
}

bool Oracle::is_flushed(const Change& change, size_t position) const {
  return std::ranges::any_of(flushes_, [&](const Span& flush) {
    return flush.end <= position && change.when.end <= flush.begin;
  });
}

bool Oracle::is_durable(const Change& change, size_t position) const {
  return (change.fua && change.when.end <= position) || is_flushed(change, position);
}

void Oracle::trim() {
  std::erase_if(changes_, [&](const Change& change) {
    if (!is_flushed(change, SIZE_MAX)) return false;
    for (size_t i = 0; i < change.ids.size() && change.first + i < durable_.size(); ++i)
      durable_[change.first + i] = change.ids[i];
    return true;
  });
}

std::optional<std::string> Oracle::difference(uint64_t first, std::span<const SectorId> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    const SectorId should = latest_[first + i];
    if (should != unknown && should != ids[i])
      return fmt::format("sector {} holds {}, should hold {}", first + i, in_words(ids[i]),
                         in_words(should));
  }
  return std::nullopt;
}

std::vector<SectorId> Oracle::allowed(uint64_t sector, size_t position) const {
  std::vector<SectorId> ids{durable_[sector]};
  for (const Change& change : changes_) {
    if (!change.covers(sector) || change.when.begin > position) continue;
    if (is_durable(change, position)) ids.clear();
    ids.push_back(change.ids[sector - change.first]);
  }
  return ids;
}

std::optional<std::string> Oracle::adopt(std::span<const SectorId> ids, size_t position) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (changes_.empty() && durable_[i] == ids[i]) continue;
    const auto all = allowed(i, position);
    const bool any = std::ranges::find(all, unknown) != all.end();
    if (any || std::ranges::find(all, ids[i]) != all.end()) continue;
    std::vector<std::string> words;
    for (const SectorId id : all) words.push_back(in_words(id));
    return fmt::format("after a power cut sector {} holds {}, may hold {}", i, in_words(ids[i]),
                       fmt::join(words, " or "));
  }
  latest_.assign(ids.begin(), ids.end());
  std::ranges::replace(latest_, mixed, unknown);
  settle();
  return std::nullopt;
}

}  // namespace volfs::sim
