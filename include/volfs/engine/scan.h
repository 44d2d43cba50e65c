// SPDX-License-Identifier: GPL-2.0-or-later
// Finding what is on images: partition tables, members of md arrays and LVM physical volumes, also
// on top of one another. The answer is a definition, the same that could be written by hand.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/error.h"

namespace volfs::engine {

struct FoundMember {
  std::string device;
  std::optional<uint32_t> slot;  // the one it is in; of a stale or faulty member: was in
  uint64_t events = 0;
  enum class State : uint8_t {
    in_sync,
    recovering,
    spare,
    stale,        // its event count is lower than the others'
    faulty,       // the others say so, or that it is none of them
    replacement,  // was to replace the member in its slot
    journal,
    copy,   // of another that is given; with force one of them is taken
    apart,  // was written, or may have been, without the freshest, and that without it
  } state = State::spare;
  bool taken = false;  // with force, although it is out of date, faulty or was written apart
};
// "in sync", "out of date", ...
std::string_view to_string(FoundMember::State state);

// The members of one array that were found, and what can be said of it.
struct FoundArray {
  std::string name;      // of its file; what it would be if it cannot be assembled
  std::string md_name;   // as its superblocks say: "nas:0"; of metadata 0.90 "md0" and the like
  std::string uuid;      // as mdadm writes it
  std::string metadata;  // "1.2"
  config::Array definition;
  std::vector<FoundMember> members;  // by slot, then the others
  uint64_t size = 0;                 // 0 if it is not assembled
  // Why it cannot be assembled, and what would change that; empty if it can.
  std::string problem;
  // What else its user should know, each a line: missing slots, members that are left out, an
  // unclean stop.
  std::vector<std::string> notes;
};

// An image whose file ends before what is on it, a member of an array or a physical volume.
struct CutImage {
  std::string name;
  uint64_t size = 0;    // of its file
  uint64_t wanted = 0;  // what it was, at least
};

struct Scan {
  config::Definition definition;   // paths absolute, places not given
  std::vector<FoundArray> arrays;  // those that cannot be assembled, too: not in the definition
  struct PhysicalVolumes {
    size_t all = 0;                    // those that were not found, too
    size_t missing = 0;                // those on several devices, too
    std::vector<std::string> doubles;  // the devices of the latter
  };
  std::map<std::string, PhysicalVolumes> physical_volumes;  // by the volume group's name
  std::vector<CutImage> cut_off;
  std::vector<std::string> remarks;  // for people: what was found and is not part of it
};

struct ScanOptions {
  bool force = false;   // assemble what needs force
  std::string overlay;  // look at the images as this overlay has them, if it is there
  // Look for volume groups whose newest metadata cannot be read in its older copies of this number.
  std::optional<uint32_t> metadata_seqno = {};
  // Give images that are cut off the size that what is on them had; else members of arrays are left
  // out, as md does.
  bool pad = false;
};

// Opens the images read-only, changes nothing. Errors name the image.
Result<Scan> scan_images(const std::vector<std::string>& paths, const ScanOptions& options = {});

}  // namespace volfs::engine
