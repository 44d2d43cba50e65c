// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/id.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>

#include "lvm/crc.h"
#include "volfs/sync.h"

namespace volfs::lvm {
namespace {

constexpr std::string_view alphabet =
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::array<size_t, 7> groups = {6, 4, 4, 4, 4, 4, 6};

bool allowed(char c) {
  return alphabet.find(c) != alphabet.npos || c == '!' || c == '#';
}

}  // namespace

Result<Id> Id::from_disk(std::string_view bytes) {
  if (bytes.size() != length || !std::ranges::all_of(bytes, allowed))
    return fail_invalid("not a uuid: expected 32 characters of 0-9A-Za-z");
  Id id;
  std::ranges::copy(bytes, id.characters_.begin());
  return id;
}

Result<Id> Id::parse(std::string_view text) {
  std::string plain;
  for (char c : text)
    if (c != '-') plain += c;
  if (plain.size() > 2 * length) plain.resize(2 * length);
  auto id = from_disk(plain);
  if (!id)
    return fail_invalid(fmt::format(
        "'{}' is not a uuid: expected 32 characters of 0-9A-Za-z in groups of 6-4-4-4-4-4-6",
        text.substr(0, 64)));
  return id;
}

Id Id::generate(const std::array<uint8_t, length>& random) {
  Id id;
  for (size_t i = 0; i < length; i++) id.characters_[i] = alphabet[random[i] % alphabet.size()];
  return id;
}

std::string Id::dashed() const {
  std::string out;
  if (empty()) return out;
  size_t at = 0;
  for (size_t group : groups) {
    if (at != 0) out += '-';
    out.append(characters_.data() + at, group);
    at += group;
  }
  return out;
}

IdSource random_ids() {
  return [] {
    std::array<uint8_t, Id::length> bytes;
    random_bytes(std::as_writable_bytes(std::span(bytes)));
    return Id::generate(bytes);
  };
}

IdSource seeded_ids(std::string seed) {
  auto taken = std::make_shared<uint64_t>(0);
  return [seed = std::move(seed), taken] {
    const std::string text = fmt::format("{}/{}", seed, (*taken)++);
    std::array<uint8_t, Id::length> bytes;
    // Any even spread will do: these ids are to be reproducible, not secret.
    uint64_t state = (uint64_t{crc(text)} << 32) | crc(text + "x");
    for (auto& byte : bytes) {
      state += 0x9e3779b97f4a7c15;
      uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
      mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
      byte = static_cast<uint8_t>(mixed >> 40);
    }
    return Id::generate(bytes);
  };
}

}  // namespace volfs::lvm
