// SPDX-License-Identifier: GPL-2.0-or-later
#include "lvm/allocate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "lvm/segment_type.h"

namespace volfs::lvm {

FreeMap::FreeMap(const VolumeGroup& group, std::span<const uint32_t> allowed)
    : runs_(group.pvs.size()) {
  for (uint32_t i = 0; i < group.pvs.size(); i++) {
    const bool wanted = allowed.empty()
                            ? group.pvs[i].allocatable() && !group.pvs[i].marked_missing()
                            : std::ranges::find(allowed, i) != allowed.end();
    if (wanted && group.pvs[i].extent_count > 0) runs_[i].push_back({0, group.pvs[i].extent_count});
  }
  std::vector<std::vector<Run>> used(group.pvs.size());
  for (const LogicalVolume& lv : group.lvs)
    for (const Segment& segment : lv.segments)
      if (const SegmentType* type = segment.known_type(); type != nullptr && !segment.areas.empty())
        for (const Area& area : segment.areas)
          if (area.kind == Area::Kind::pv)
            used[area.index].push_back({area.extent, type->area_length(segment)});
  for (uint32_t pv = 0; pv < runs_.size(); pv++) {
    if (runs_[pv].empty()) continue;
    std::ranges::sort(used[pv], {}, &Run::start);
    std::vector<Run> free;
    uint32_t at = 0;
    for (const Run& run : used[pv]) {
      if (run.start > at) free.push_back({at, run.start - at});
      at = std::max(at, run.start + run.length);
    }
    if (at < group.pvs[pv].extent_count) free.push_back({at, group.pvs[pv].extent_count - at});
    runs_[pv] = std::move(free);
  }
}

uint64_t FreeMap::total() const {
  uint64_t sum = 0;
  for (const auto& runs : runs_)
    for (const Run& run : runs) sum += run.length;
  return sum;
}

uint32_t FreeMap::free_at(uint32_t pv, uint32_t extent) const {
  for (const Run& run : runs_[pv])
    if (run.start <= extent && extent - run.start < run.length)
      return run.length - (extent - run.start);
  return 0;
}

void FreeMap::take(uint32_t pv, uint32_t extent, uint32_t count) {
  std::vector<Run>& runs = runs_[pv];
  for (size_t i = 0; i < runs.size(); i++) {
    const Run run = runs[i];
    if (run.start > extent || extent - run.start >= run.length) continue;
    runs.erase(runs.begin() + static_cast<std::ptrdiff_t>(i));
    const uint32_t end = extent + count, run_end = run.start + run.length;
    auto at = runs.begin() + static_cast<std::ptrdiff_t>(i);
    if (run_end > end) at = runs.insert(at, {end, run_end - end});
    if (extent > run.start) runs.insert(at, {run.start, extent - run.start});
    return;
  }
}

namespace {

class Allocator {
 public:
  Allocator(FreeMap& free, const LegRequest& request)
      : free_(free), request_(request), pieces_(request.legs), need_(request.legs) {
    std::ranges::fill(need_, request.extents);
    own_ = request.own_pvs;
    own_.resize(request.legs);
  }

  Result<std::vector<std::vector<Piece>>> run() {
    grow_in_place();
    if (request_.same_pieces) {
      while (need_[0] > 0) VOLFS_TRY(next_stripe());
    } else {
      // Whole legs first, so that the PVs with room for one are not cut by another.
      for (unsigned leg = 0; leg < request_.legs; leg++)
        while (need_[leg] > 0) VOLFS_TRY(next_piece(leg));
    }
    return std::move(pieces_);
  }

 private:
  Status no_space(std::string_view what) const {
    return fail(Error::make(ENOSPC, fmt::format("not enough free extents: {}", what)));
  }

  void take(unsigned leg, uint32_t pv, uint32_t extent, uint32_t count) {
    free_.take(pv, extent, count);
    std::vector<Piece>& pieces = pieces_[leg];
    if (!pieces.empty() && pieces.back().pv == pv &&
        pieces.back().extent + pieces.back().count == extent && !request_.same_pieces)
      pieces.back().count += count;
    else
      pieces.push_back({pv, extent, count});
    need_[leg] -= count;
    if (std::ranges::find(own_[leg], pv) == own_[leg].end()) own_[leg].push_back(pv);
  }

  // Right behind where the legs end now, as far as that is free.
  void grow_in_place() {
    if (request_.behind.empty()) return;
    uint32_t common = UINT32_MAX;
    for (unsigned leg = 0; leg < request_.legs; leg++) {
      const auto& end = request_.behind[leg];
      common = std::min(common, end ? free_.free_at(end->pv, end->extent) : 0);
    }
    for (unsigned leg = 0; leg < request_.legs; leg++) {
      const auto& end = request_.behind[leg];
      const uint32_t here =
          request_.same_pieces ? common : (end ? free_.free_at(end->pv, end->extent) : 0);
      if (const uint32_t count = std::min(here, need_[leg]); count > 0)
        take(leg, end->pv, end->extent, count);
    }
  }

  // Legs of mirrors and raids keep off each other's PVs.
  bool may_use(unsigned leg, uint32_t pv) const {
    if (request_.allocation == AllocationPolicy::anywhere) return true;
    for (unsigned other = 0; other < request_.legs; other++)
      if (other != leg && std::ranges::find(own_[other], pv) != own_[other].end()) return false;
    return true;
  }

  // The first run with room for COUNT, else the longest one.
  std::optional<Piece> best_run(uint32_t pv, uint32_t count) const {
    std::optional<Piece> best;
    for (const FreeMap::Run& run : free_.runs(pv)) {
      if (run.length >= count) return Piece{pv, run.start, count};
      if (!best || run.length > best->count) best = Piece{pv, run.start, run.length};
    }
    return best;
  }

  Status next_piece(unsigned leg) {
    if (request_.allocation == AllocationPolicy::contiguous &&
        (!pieces_[leg].empty() || !request_.behind.empty()))
      return no_space("the allocation is contiguous, and what follows is not free");
    std::optional<Piece> best;
    // A leg stays on its own PVs while they have room.
    for (bool own : {true, false})
      for (uint32_t pv = 0; pv < free_.pv_count() && (!best || best->count < need_[leg]); pv++) {
        if ((std::ranges::find(own_[leg], pv) != own_[leg].end()) != own || !may_use(leg, pv))
          continue;
        const auto run = best_run(pv, need_[leg]);
        if (run && (!best || run->count > best->count)) best = run;
      }
    if (!best)
      return no_space(request_.legs > 1
                          ? fmt::format("{} legs of {} extents on distinct PVs do not fit",
                                        request_.legs, request_.extents)
                          : fmt::format("{} more are needed", need_[leg]));
    if (request_.allocation == AllocationPolicy::contiguous && best->count < need_[leg])
      return no_space(fmt::format("no run of {} extents", need_[leg]));
    take(leg, best->pv, best->extent, best->count);
    return {};
  }

  // One piece of each stripe, of the same length, on distinct PVs.
  Status next_stripe() {
    const uint32_t need = need_[0];
    if (request_.allocation == AllocationPolicy::contiguous &&
        (!pieces_[0].empty() || !request_.behind.empty()))
      return no_space("the allocation is contiguous, and what follows is not free");
    std::vector<Piece> runs;
    if (request_.allocation == AllocationPolicy::anywhere) return next_stripe_anywhere(need);
    for (uint32_t pv = 0; pv < free_.pv_count(); pv++)
      if (const auto run = best_run(pv, need)) runs.push_back(*run);
    // Those with enough room come first, in the order of the PVs; then the largest.
    std::ranges::stable_sort(runs, std::ranges::greater(), &Piece::count);
    if (runs.size() < request_.legs)
      return no_space(fmt::format("{} stripes need as many PVs with free extents, and {} have some",
                                  request_.legs, runs.size()));
    const uint32_t count = runs[request_.legs - 1].count;
    if (request_.allocation == AllocationPolicy::contiguous && count < need)
      return no_space(fmt::format("no {} runs of {} extents", request_.legs, need));
    for (unsigned leg = 0; leg < request_.legs; leg++)
      take(leg, runs[leg].pv, runs[leg].extent, count);
    return {};
  }

  Status next_stripe_anywhere(uint32_t need) {
    FreeMap trial = free_;
    // The longest piece that all legs can have, found by halving.
    for (uint32_t count = need; count > 0; count /= 2) {
      std::vector<Piece> found;
      trial = free_;
      for (unsigned leg = 0; leg < request_.legs; leg++)
        for (uint32_t pv = 0; pv < trial.pv_count() && found.size() == leg; pv++)
          for (const FreeMap::Run& run : trial.runs(pv))
            if (run.length >= count) {
              found.push_back({pv, run.start, count});
              trial.take(pv, run.start, count);
              break;
            }
      if (found.size() < request_.legs) continue;
      for (unsigned leg = 0; leg < request_.legs; leg++)
        take(leg, found[leg].pv, found[leg].extent, count);
      return {};
    }
    return no_space(fmt::format("{} stripes do not fit", request_.legs));
  }

  FreeMap& free_;
  const LegRequest& request_;
  std::vector<std::vector<Piece>> pieces_;
  std::vector<uint32_t> need_;
  std::vector<std::vector<uint32_t>> own_;
};

}  // namespace

Result<std::vector<std::vector<Piece>>> allocate(FreeMap& free, const LegRequest& request) {
  return Allocator(free, request).run();
}

}  // namespace volfs::lvm
