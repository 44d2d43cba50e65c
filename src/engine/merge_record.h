// SPDX-License-Identifier: GPL-2.0-or-later
// What the next mount must know to go on with a merge that the end of a daemon interrupted, as
// JSON: an object with "volfs_merge": 1 and the fields of MergeRecord by their names.
//
// STORE.merging, beside the store's file, says that its snapshot is not to be shown but merged; it
// is there for a snapshot of the definition. One that was taken at run time is known to no
// definition: for it there is DIRECTORY/NAME.merging, too, beside the definition. Paths are written
// relative to the folder of the file, so that all may be moved together.
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
  bool made = false;    // the store's file goes when the merge is done
  bool merged = false;  // it is done: what is left is the store's file, if it was made

  // By these the next mount knows that it has the same devices.
  uint64_t origin_size = 0, store_size = 0;  // bytes
  std::vector<std::string> stands_on;  // what the origin is, or lies on: "uuid U", "image PATH"
  // The first exception of the store, the last one to be merged; 0 and 0: there is none.
  uint64_t first_old = 0, first_new = 0;
};

std::string marker_of(const std::string& store);
std::string record_of(const std::string& directory, const std::string& snapshot);

Status write_record(const std::string& path, const MergeRecord& record);
// ENOENT; EUCLEAN: PATH is no record of a merge, or one that cannot be understood.
Result<MergeRecord> read_record(const std::string& path);

struct FoundRecords {
  std::vector<MergeRecord> records;
  std::vector<std::string> foreign;  // what files are that have only the name of a record
  std::vector<Error> broken;         // records that cannot be understood
};
// Those in DIRECTORY of a definition and an overlay.
FoundRecords read_records(const std::string& directory, const std::string& definition,
                          const std::string& overlay);

// ESTALE, with what differs, if NOW cannot be what the merge BEGUN was left as; EUCLEAN if its
// store is none any more.
Status check_record(const MergeRecord& begun, const MergeRecord& now);

}  // namespace volfs::engine
