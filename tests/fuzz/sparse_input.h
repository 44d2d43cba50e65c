// SPDX-License-Identifier: GPL-2.0-or-later
// Inputs that stand for a device: records of a sector's number (2 bytes, little-endian), a length
// (2 bytes) and so many bytes, which lie from that sector on. What no record has reads as zeros.
// make_corpus.py writes such inputs from images.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

namespace volfs::test {

// Calls PUT(offset, bytes) for each record that lies within DEVICE_SIZE bytes.
template <class Put>
void for_each_record(const uint8_t* data, size_t size, uint64_t device_size, Put put) {
  while (size >= 4) {
    uint16_t sector = 0, length = 0;
    std::memcpy(&sector, data, 2);
    std::memcpy(&length, data + 2, 2);
    data += 4;
    size -= 4;
    const size_t taken = std::min<size_t>(length, size);
    const uint64_t offset = uint64_t{sector} * 512;
    if (offset < device_size)
      put(offset, std::as_bytes(std::span(
                      data, static_cast<size_t>(std::min<uint64_t>(taken, device_size - offset)))));
    data += taken;
    size -= taken;
  }
}

}  // namespace volfs::test
