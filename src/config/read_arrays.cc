// SPDX-License-Identifier: GPL-2.0-or-later
// Section `arrays`: mdadm's words and mdadm's rules.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "md_words.h"
#include "names.h"
#include "sections.h"

namespace volfs::config {
namespace {

constexpr std::array<std::string_view, 21> array_keys{
    "level",        "devices",        "spares",        "chunk",        "layout", "metadata",
    "bitmap",       "bitmap_chunk",   "consistency",   "write_behind", "size",   "data_offset",
    "assume_clean", "force",          "readonly",      "hidden",       "name",   "homehost",
    "uuid",         "sync_speed_min", "sync_speed_max"};
constexpr std::array<std::string_view, 3> device_keys{"device", "write_mostly", "failfast"};

constexpr std::array<Word<ArrayMetadata>, 8> metadata_words{{{"0.90", ArrayMetadata::v0_90},
                                                             {"1.0", ArrayMetadata::v1_0},
                                                             {"1.1", ArrayMetadata::v1_1},
                                                             {"1.2", ArrayMetadata::v1_2},
                                                             {"default", ArrayMetadata::v1_2},
                                                             {"1", ArrayMetadata::v1_2},
                                                             {"0", ArrayMetadata::v0_90},
                                                             {"0.9", ArrayMetadata::v0_90}}};
constexpr std::array<Word<ArrayBitmap>, 2> bitmap_words{
    {{"internal", ArrayBitmap::internal}, {"none", ArrayBitmap::none}}};
constexpr std::array<Word<ArrayConsistency>, 3> consistency_words{
    {{"resync", ArrayConsistency::resync},
     {"bitmap", ArrayConsistency::bitmap},
     {"ppl", ArrayConsistency::ppl}}};

// Roles that a superblock has room for: 0.90's array of 27, 1.x's up to the end of 4 KiB.
constexpr size_t most_devices_0_90 = 27;
constexpr size_t most_devices_1 = 1920;

class ArrayReader {
 public:
  ArrayReader(Context& context, const Node& node, Array& array)
      : reader_(context, node, fmt::format("array {}", quote(array.name.value)), array_keys),
        array_(array) {}

  void read() {
    if (!reader_.is_map()) return;
    reader_.require("level", "'level: raid5' or another level");
    reader_.require("devices", "'devices:' with a list of them");
    reader_.read("level", array_.level, level_words(),
                 "linear, raid0, raid1, raid4, raid5, raid6 or raid10");
    level_known_ = array_.level.at.given();
    read_devices("devices", array_.devices);
    read_devices("spares", array_.spares);
    read_format();
    read_flags();
    if (!level_known_) return;
    check_counts();
    check_level();
    check_format();
  }

 private:
  bool is(ArrayLevel level) const { return level_known_ && array_.level.value == level; }
  const LevelRule& rule() const { return level_rule(array_.level.value); }
  std::string with_level() const { return fmt::format("level {}", rule().name); }

  void report(Position at, std::string_view found, std::string_view expected) {
    reader_.context().report(at, found, expected);
  }

  void read_devices(std::string_view key, std::vector<ArrayDevice>& out) {
    const Node* list = reader_.find(key);
    if (list == nullptr) return;
    for_each_item(reader_, key, *list, "a list of devices", [&](const Node& item) {
      if (auto device = read_device(key, item)) out.push_back(std::move(*device));
    });
    if (list->kind == Node::Kind::list && &out == &array_.devices)
      devices_whole_ = !out.empty() && out.size() == list->items.size();
  }

  std::optional<ArrayDevice> read_device(std::string_view key, const Node& item) {
    const bool may_miss = key == "devices";
    ArrayDevice device;
    if (item.kind == Node::Kind::map) {
      MapReader entry(reader_.context(), item, fmt::format("a device of {}", reader_.owner()),
                      device_keys);
      entry.require("device", "'device: NAME'");
      entry.read("device", device.device, "a device's name");
      entry.read("write_mostly", device.write_mostly);
      entry.read("failfast", device.failfast);
      if (device.device.value.empty()) return std::nullopt;
      return device;
    }
    if (item.kind != Node::Kind::scalar || item.text.empty() ||
        (item.text == "missing" && !may_miss)) {
      report(item.at,
             fmt::format("an item of '{}' of {} is {}", key, reader_.owner(), item.describe()),
             may_miss ? "a device's name or 'missing'" : "a device's name");
      return std::nullopt;
    }
    device.missing = item.text == "missing";
    device.device = {device.missing ? std::string() : item.text, item.at};
    return device;
  }

  void read_format() {
    // Without a good level, levels that allow most judge the chunk.
    const bool raid0 = is(ArrayLevel::raid0);
    const SizeRule chunk_rule{
        .least = 4 * KiB, .most = GiB, .multiple = 4 * KiB, .power_of_two = !raid0};
    const SizeRule bitmap_rule{.least = 4 * KiB, .most = 2 * GiB, .power_of_two = true};
    const SizeRule offset_rule{.least = 4 * KiB, .multiple = 4 * KiB};
    const SizeRule size_rule{.least = 4 * KiB, .multiple = KiB};
    reader_.read("chunk", array_.chunk, chunk_rule);
    reader_.read<ArrayMetadata>("metadata", array_.metadata, metadata_words,
                                "0.90, 1.0, 1.1 or 1.2");
    reader_.read<ArrayBitmap>("bitmap", array_.bitmap, bitmap_words);
    reader_.read("bitmap_chunk", array_.bitmap_chunk, bitmap_rule);
    reader_.read<ArrayConsistency>("consistency", array_.consistency, consistency_words);
    reader_.read("write_behind", array_.write_behind, 1, 16383);
    reader_.read("size", array_.size, size_rule);
    reader_.read("data_offset", array_.data_offset, offset_rule);
    const SizeRule speed_rule{.least = KiB, .multiple = 1};
    reader_.read("sync_speed_min", array_.sync_speed_min, speed_rule);
    reader_.read("sync_speed_max", array_.sync_speed_max, speed_rule);
    if (array_.sync_speed_min && array_.sync_speed_max &&
        array_.sync_speed_min->value > array_.sync_speed_max->value)
      report(array_.sync_speed_min->at,
             fmt::format("'sync_speed_min' of {} is above 'sync_speed_max'", reader_.owner()),
             fmt::format("at most {}", format_size(array_.sync_speed_max->value)));
    read_identity();
  }

  void read_identity() {
    reader_.read("name", array_.array_name, "a name");
    reader_.read("homehost", array_.homehost, "a host's name");
    size_t length = array_.array_name ? array_.array_name->value.size() : 0;
    if (array_.homehost) length += array_.homehost->value.size() + 1;
    if (length > 32)
      report(array_.array_name ? array_.array_name->at : array_.homehost->at,
             fmt::format("'name' of {} with its host takes {} bytes", reader_.owner(), length),
             "at most 32, the room in a superblock");
    if (const Node* node = reader_.find("uuid")) {
      const auto uuid =
          node->kind == Node::Kind::scalar ? parse_md_uuid(node->text) : std::optional<Uuid>{};
      if (uuid)
        array_.uuid = Located<Uuid>{*uuid, node->at};
      else
        reader_.report("uuid", *node, "32 hexadecimal digits as mdadm writes them (8:8:8:8)");
    }
  }

  void read_flags() {
    reader_.read("assume_clean", array_.assume_clean);
    reader_.read("force", array_.force);
    reader_.read("readonly", array_.readonly);
    reader_.read("hidden", array_.hidden);
  }

  void check_counts() {
    if (!devices_whole_) return;
    const size_t count = array_.devices.size();
    const size_t missing = static_cast<size_t>(
        std::count_if(array_.devices.begin(), array_.devices.end(),
                      [](const ArrayDevice& device) { return device.missing; }));
    const Position at = array_.devices.front().device.at;
    const bool one = count == 1 && rule().one_with_force;
    if (count < rule().least_devices && !(one && array_.force.value))
      report(at,
             fmt::format("{} of {} has {} device{}", reader_.owner(), with_level(), count,
                         count == 1 ? "" : "s"),
             fmt::format("at least {}{}", rule().least_devices, one ? ", or 'force: true'" : ""));
    const bool old = array_.metadata.value == ArrayMetadata::v0_90;
    const size_t most = old ? most_devices_0_90 : most_devices_1;
    if (count + array_.spares.size() > most)
      report(at,
             fmt::format("{} has {} devices and spares", reader_.owner(),
                         count + array_.spares.size()),
             fmt::format("at most {} with metadata {}", most, old ? "0.90" : "1.x"));
    check_missing(count, missing);
  }

  void check_missing(size_t count, size_t missing) {
    if (missing == 0) return;
    if (is(ArrayLevel::raid10)) return;  // Its layout decides, see check_layout.
    const size_t most = is(ArrayLevel::raid1) ? count - 1 : rule().may_miss;
    if (missing <= most) return;
    const auto first = std::find_if(array_.devices.begin(), array_.devices.end(),
                                    [](const ArrayDevice& device) { return device.missing; });
    report(first->device.at,
           fmt::format("{} of {} has {} of {} devices missing", reader_.owner(), with_level(),
                       missing, count),
           most == 0 ? "none missing" : fmt::format("at most {} missing", most));
  }

  void check_level() {
    check_layout();
    if (is(ArrayLevel::raid1)) reader_.forbid("chunk", with_level(), "no chunk, as it has none");
    if (!rule().has_redundancy) {
      for (std::string_view key :
           {"spares", "assume_clean", "bitmap_chunk", "sync_speed_min", "sync_speed_max"})
        reader_.forbid(key, with_level(), "it only with a level that has redundancy");
      if (array_.bitmap && array_.bitmap->value == ArrayBitmap::internal)
        reader_.forbid("bitmap", with_level(), "it only with a level that has redundancy");
      reader_.forbid("consistency", with_level(), "it only with a level that has redundancy");
    }
    if (!is(ArrayLevel::raid1))
      reader_.forbid("write_behind", with_level(), "it only with level raid1");
    for (const ArrayDevice& device : array_.devices) {
      if (device.write_mostly.value && !is(ArrayLevel::raid1))
        report(device.write_mostly.at,
               fmt::format("'write_mostly' in {} of {}", reader_.owner(), with_level()),
               "it only with level raid1");
      if (device.failfast.value && !is(ArrayLevel::raid1) && !is(ArrayLevel::raid10))
        report(device.failfast.at,
               fmt::format("'failfast' in {} of {}", reader_.owner(), with_level()),
               "it only with level raid1 or raid10");
    }
  }

  void check_layout() {
    const size_t count = array_.devices.size();
    if (const Node* node = reader_.find("layout")) {
      const auto layout = node->kind == Node::Kind::scalar
                              ? parse_layout(array_.level.value, count, node->text)
                              : parse_layout(array_.level.value, count, "");
      if (!layout) {
        reader_.context().report(node->at,
                                 fmt::format("'layout' of {} of {} is {}", reader_.owner(),
                                             with_level(), node->describe()),
                                 layout.error());
        return;
      }
      array_.layout = Located<uint32_t>{*layout, node->at};
    }
    if (!is(ArrayLevel::raid10) || !devices_whole_ || count < 2) return;
    const auto layout = raid10_layout(array_.layout ? array_.layout->value : raid10_default_layout);
    std::vector<bool> missing;
    for (const ArrayDevice& device : array_.devices) missing.push_back(device.missing);
    if (!raid10_loses(layout, missing)) return;
    const auto first = std::find(missing.begin(), missing.end(), true) - missing.begin();
    report(array_.devices[static_cast<size_t>(first)].device.at,
           fmt::format("{} of level raid10 misses all {} copies of some chunks", reader_.owner(),
                       layout.copies()),
           "one copy of every chunk on a device that is there");
  }

  void check_format() {
    if (array_.metadata.value == ArrayMetadata::v0_90)
      for (std::string_view key : {"name", "homehost", "data_offset"})
        reader_.forbid(key, "metadata 0.90", "metadata 1.0, 1.1 or 1.2, which can record it");
    const bool no_bitmap = array_.bitmap && array_.bitmap->value == ArrayBitmap::none;
    if (no_bitmap)
      for (std::string_view key : {"bitmap_chunk", "write_behind"})
        reader_.forbid(key, "'bitmap: none'", "'bitmap: internal'");
    if (!array_.consistency) return;
    const Position at = array_.consistency->at;
    const auto found = [&](std::string_view word, std::string_view with) {
      return fmt::format("'consistency: {}' of {} with {}", word, reader_.owner(), with);
    };
    if (array_.consistency->value == ArrayConsistency::ppl && rule().has_redundancy) {
      if (!is(ArrayLevel::raid5))
        report(at, found("ppl", with_level()), "it only with level raid5");
      if (array_.metadata.value == ArrayMetadata::v0_90)
        report(at, found("ppl", "metadata 0.90"), "metadata 1.0, 1.1 or 1.2");
      if (array_.bitmap && !no_bitmap)
        report(at, found("ppl", "'bitmap: internal'"), "either of the two");
    }
    if (array_.consistency->value == ArrayConsistency::bitmap && no_bitmap)
      report(at, found("bitmap", "'bitmap: none'"), "'bitmap: internal'");
    if (array_.consistency->value == ArrayConsistency::resync && array_.bitmap && !no_bitmap)
      report(at, found("resync", "'bitmap: internal'"), "'consistency: bitmap'");
  }

  MapReader reader_;
  Array& array_;
  bool level_known_ = false;
  bool devices_whole_ = false;
};

}  // namespace

void read_arrays(Context& context, const Node& section, Names& names, Definition& out) {
  for_each_entry(context, section, "'arrays'", "a map from names to arrays",
                 [&](const Node& key, const Node& value) {
                   names.add(context, key, {DeviceKind::array, out.arrays.size()});
                   Array& array = out.arrays.emplace_back();
                   array.name = {key.text, key.at};
                   ArrayReader(context, value, array).read();
                 });
}

}  // namespace volfs::config
