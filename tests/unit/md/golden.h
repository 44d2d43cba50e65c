// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the files of tests/golden/md.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "volfs/md/superblock.h"

namespace golden {

struct Area {
  std::string kind;
  uint64_t offset = 0;
  std::vector<std::byte> bytes;
};
struct Member {
  uint64_t size = 0;
  std::vector<Area> areas;
  const Area* find(const std::string& kind) const {
    auto it = std::find_if(areas.begin(), areas.end(), [&](auto& a) { return a.kind == kind; });
    return it == areas.end() ? nullptr : &*it;
  }
};
struct Case {
  volfs::md::SuperblockVersion version{};
  std::vector<Member> members;
};

inline void put_row(std::vector<std::byte>& bytes, size_t at, const std::string& hex,
                    size_t times) {
  for (size_t n = 0; n < times; ++n)
    for (size_t i = 0; i < 16; ++i, ++at)
      if (at < bytes.size())
        bytes[at] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
}

inline Case load(const std::string& name) {
  Case result;
  std::ifstream file(std::string(VOLFS_GOLDEN_DIR) + "/" + name + ".txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "version") {
      words >> word;
      result.version = *volfs::md::parse_version(word);
    } else if (word == "member") {
      words >> result.members.emplace_back().size;
    } else if (word == "area") {
      Area area;
      size_t length = 0;
      words >> area.kind >> area.offset >> length;
      area.bytes.resize(length);
      result.members.back().areas.push_back(std::move(area));
    } else {
      std::string hex, repeat;
      words >> hex >> repeat;
      put_row(result.members.back().areas.back().bytes, std::stoul(word), hex,
              repeat.empty() ? 1 : std::stoul(repeat.substr(1)));
    }
  }
  return result;
}

inline volfs::Result<volfs::md::MemberMetadata> decode(const Case& c, size_t member) {
  return decode_superblock(c.version, c.members.at(member).find("super")->bytes,
                           c.members.at(member).size);
}

}  // namespace golden
