// SPDX-License-Identifier: GPL-2.0-or-later
// The header of a partial parity log: one block, then the partial parity of its entries in their
// order (struct ppl_header and ppl_header_entry of the kernel's md_p.h; raid5-ppl.c).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "volfs/md/uuid.h"

namespace volfs::md {

inline constexpr size_t ppl_header_size = 4096;
inline constexpr size_t ppl_max_entries = 148;
using PplHeaderBytes = std::array<std::byte, ppl_header_size>;

// A write to consecutive data chunks of one row, or to a part of each that begins and ends alike.
struct PplEntry {
  uint64_t data_offset = 0;   // array bytes: where the first new byte lies
  uint32_t data_size = 0;     // new bytes, in all chunks together
  uint32_t partial_size = 0;  // bytes of partial parity; 0 if all chunks of the row are new
  uint32_t parity_slot = 0;
  uint32_t checksum = 0;  // of the partial parity
};

// What the logs of an array are known by.
uint32_t ppl_signature(const Uuid& array);
// Of partial parity that comes in one or more pieces: starts with ~0, and is inverted in the end.
uint32_t ppl_checksum(uint32_t so_far, std::span<const std::byte> bytes);

// ENTRIES: at most ppl_max_entries.
void encode_ppl_header(uint32_t signature, uint64_t generation, std::span<const PplEntry> entries,
                       std::span<std::byte, ppl_header_size> out);
struct PplHeader {
  uint64_t generation = 0;
  std::vector<PplEntry> entries;
  uint64_t partial_size() const;
};
// Nothing if it is no valid header of this array.
std::optional<PplHeader> decode_ppl_header(uint32_t signature,
                                           std::span<const std::byte, ppl_header_size> bytes);

}  // namespace volfs::md
