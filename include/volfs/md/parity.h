// SPDX-License-Identifier: GPL-2.0-or-later
// P and Q of raid4, raid5 and raid6, and the ways back. The arithmetic is Linux's: GF(2^8) modulo
// x^8+x^4+x^3+x^2+1 (0x11d), P the sum of the data, Q the sum of 2^i times the data with syndrome
// index i (see ParityLayout::syndrome_index).
//
// Buffers may have any alignment and any length; 64-byte aligned ones with a length that is a
// multiple of 64 are fastest. Everything is worked in pieces that stay in cache. No function
// allocates; all are thread-safe. Sources and targets must not overlap, except where a
// function says that it updates a buffer in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace volfs::md {

// At most this many blocks in a row (raid6 of Linux ends there, the field has no more).
inline constexpr size_t max_parity_sources = 256;

// target = sum of the sources (at least one; null sources count as zeroes).
void xor_blocks(std::span<const std::byte* const> sources, std::byte* target, size_t length);
// target ^= source.
void xor_into(std::byte* target, const std::byte* source, size_t length);

// P and Q of data given in syndrome order; a null block counts as zeroes (the holes of the DDF
// layouts). Either of p and q may be null: it is then not computed.
void generate_pq(std::span<const std::byte* const> data, std::byte* p, std::byte* q, size_t length);

// q ^= 2^syndrome_index * delta: with delta = old ^ new, the read-modify-write of Q.
void update_q(std::byte* q, uint32_t syndrome_index, const std::byte* delta, size_t length);

// Rebuilds one or two lost blocks of a raid6 row in place.
//   blocks: the data in syndrome order (null for a hole), then P, then Q: count + 2 in all.
//   a, b:   indices into blocks of what was lost, a < b; a == b when it is only one.
// The buffers of lost blocks are written; a lost P or Q may be null when it is not wanted, and
// a P or Q that the loss does not need is not read (it may then be null too).
void recover_pq(std::span<std::byte* const> blocks, size_t a, size_t b, size_t length);

// Where P or Q of the row disagree with the data: bit 0 for P, bit 1 for Q. Either may be null.
unsigned check_pq(std::span<const std::byte* const> data, const std::byte* p, const std::byte* q,
                  size_t length);

}  // namespace volfs::md
