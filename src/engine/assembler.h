// SPDX-License-Identifier: GPL-2.0-or-later
// One assembly of a definition: what the builders of the kinds of devices share.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/backing/image.h"
#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"

namespace volfs::lvm {
struct FoundGroup;
struct PvInfo;
}  // namespace volfs::lvm

namespace volfs::engine {

struct MergeRecord;
struct OverlayImage;

class Assembler {
 public:
  Assembler(const config::Definition& definition, const AssembleOptions& options);
  std::expected<std::unique_ptr<Engine>, config::Diagnostics> run();
  // The same in steps, for a scan, which learns from what is built what there is to build next:
  // begin(), then build() for each item, after all that it stands on.
  void begin();
  void build(const config::Item& item);
  // What was reported since the last call, in one line; "" if nothing. It is forgotten then.
  std::string take_problems();

  const config::Definition& definition() const { return definition_; }
  const AssembleOptions& options() const { return options_; }
  Engine& engine() { return *engine_; }

  // The builders, one file each. What is wrong goes to report().
  void build(const config::Image& image);
  void build(const config::Array& array);
  void build(const config::VolumeGroup& group);
  void build_older(const config::VolumeGroup& group, const std::vector<lvm::PvInfo>& found);
  void activate(const config::VolumeGroup& group, const lvm::FoundGroup& found_group,
                const std::vector<lvm::PvInfo>& found);
  void build(const config::Snapshot& snapshot);
  void build(const config::Map& map);

  void report(config::Position at, std::string text);
  bool has_problems() const { return !problems_.empty(); }
  // For the log, unless the options want it quiet.
  void warn(std::string_view text) const;
  // Takes a finished device into the graph and, unless hidden, into the catalog. If the definition
  // takes snapshots of it, it goes in as NAME-real, and a snapshot-origin on it under its name; an
  // array keeps its name, by which it is commanded: the map in front of it is the snapshot-origin.
  Node* add(const config::Text& name, Kind kind, std::unique_ptr<BlockDevice> device, bool hidden);
  // For the tables of maps.
  dm::Resolver resolver() const;
  dm::MappedDevice::LoadOptions load_options(bool read_only) const;
  // Builds a map of one table and takes it in; the error is the table's.
  Result<Node*> add_map(const std::string& name, Kind kind, const std::string& table,
                        bool read_only);
  // Shows a device of the graph under a path; reports what stands in the way.
  void expose(Node& node, const std::string& path, config::Position at);
  // The device of a name; null, with a report, if it could not be built (the first cause was told
  // then) or does not exist.
  BlockDevice* device(const config::Text& name);

 private:
  Exposure exposure();
  Result<Node*> add_snapshot(const config::Snapshot& snapshot, BlockDevice& origin, bool read_only);
  void continue_merges();
  Status continue_merge(const MergeRecord& record, bool read_only);
  bool merge_goes_on(const config::Snapshot& snapshot, Node& store);
  Status hold_merge(const config::Map& map, dm::MappedDevice& mapped,
                    std::vector<dm::TableRow> rows);
  void start_held_merges();
  void open_overlay();
  Result<Node*> add_internal(const std::string& name, Kind kind,
                             std::unique_ptr<BlockDevice> device);
  Result<std::unique_ptr<BlockDevice>> overlaid(const config::Image& image, const std::string& path,
                                                ImageOptions options);
  Result<std::unique_ptr<dm::MappedDevice>> lay_over(const std::string& name,
                                                     const OverlayImage& image,
                                                     const ImageOptions& options);
  bool is_origin(const std::string& name) const;
  // What the device that a definition calls NAME is called in the graph.
  std::string own_name(const std::string& name, Kind kind) const;
  // What snapshots of the device that a definition calls NAME are of; null if it has no place for
  // a snapshot-origin, or is not there.
  BlockDevice* below_origin(const std::string& name) const;

  const config::Definition& definition_;
  const AssembleOptions& options_;
  config::Diagnostics problems_;
  // Whether the definition's mount is read-only: where it is only looked at, everything is.
  bool mount_read_only() const {
    return options_.probe ? definition_.readonly.value : engine_->read_only();
  }
  std::unique_ptr<Engine> engine_;
  // Images of files with an overlay. They are open read-only, whether they can be written or not.
  struct Overlaid {
    std::string name;
    std::unique_ptr<FileImage> range;
    bool read_only = false;
  };
  std::vector<Overlaid> overlaid_;
  std::map<std::string, BlockDevice*> laid_over_;  // files with an overlay, by path
  struct HeldMerge {
    const config::Map* map = nullptr;
    dm::MappedDevice* mapped = nullptr;
    std::vector<dm::TableRow> rows;
  };
  std::vector<HeldMerge> held_merges_;
};

// The path that a definition means.
std::string resolve_path(const std::string& directory, const std::string& path);

// EBUSY: the image NAME, OTHER, has bytes of IMAGE, too, and one of the two can be written.
Error overlap(const FileImage& image, const std::string& name, const FileImage& other);
// EBUSY: an image of the graph has bytes of the same file as IMAGE, under whatever name, and one of
// the two is to be written, IMAGE unless READ_ONLY.
Status check_overlap(const Graph& graph, const FileImage& image, bool read_only = false);

}  // namespace volfs::engine
