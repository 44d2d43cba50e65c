// SPDX-License-Identifier: GPL-2.0-or-later
// What the next mount must know to go on with a merge that the end of a daemon interrupted.
//
// STORE.merging, beside the store's file, says that its snapshot is not to be shown but merged: for
// a snapshot of the definition that is all. One that was taken at run time is known to no
// definition; for it DIRECTORY/NAME.merging, beside the definition, tells everything, as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volfs/error.h"

namespace volfs::engine {

struct MergeRecord {
  std::string definition;  // the name of its file, without folders
  std::string overlay;     // the directory of the mount's overlay; empty: none
  std::string snapshot, origin;
  std::string store;  // absolute path
  std::string kind;   // P or PO
  uint64_t chunk_size = 0;
  bool made = false;  // the store's file goes when the merge is done
};

std::string marker_of(const std::string& store);
std::string record_of(const std::string& directory, const std::string& snapshot);

Status write_record(const std::string& directory, const MergeRecord& record);
// Those in DIRECTORY of a definition and an overlay. Files of other contents are passed over.
std::vector<MergeRecord> read_records(const std::string& directory, const std::string& definition,
                                      const std::string& overlay);

}  // namespace volfs::engine
