// SPDX-License-Identifier: GPL-2.0-or-later
// Counters as JSON and in Prometheus' text format.
#include <fmt/format.h>

#include <map>

#include "requests.h"
#include "volfs/backing/image.h"
#include "volfs/md/array.h"

namespace volfs::control {
namespace {

using nlohmann::json;

constexpr std::array<const char*, io_classes> class_names{"read", "write", "flush", "discard"};

uint64_t micros(uint64_t nanos) {
  return nanos / 1000;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

// One metric with all its series; the format wants them together.
class Family {
 public:
  Family(const char* name, const char* type, const char* help)
      : name_(name), head_(fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type)) {}
  template <class Value>
  void add(std::string_view suffix, const std::string& labels, Value value) {
    lines_ += fmt::format("{}{}{{{}}} {}\n", name_, suffix, labels, value);
  }
  template <class Value>
  void add(const std::string& labels, Value value) {
    add("", labels, value);
  }
  std::string text() const { return lines_.empty() ? std::string() : head_ + lines_; }

 private:
  const std::string name_, head_;
  std::string lines_;
};

struct Families {
  Family operations{"volfs_operations_total", "counter", "Operations that are done."};
  Family bytes{"volfs_bytes_total", "counter", "Bytes moved or discarded."};
  Family errors{"volfs_errors_total", "counter", "Operations that failed."};
  Family in_flight{"volfs_in_flight", "gauge", "Operations under way."};
  Family duration{"volfs_operation_duration_seconds", "histogram", "How long operations took."};
  Family size{"volfs_size_bytes", "gauge", "Size of a device."};
  Family open{"volfs_open_files", "gauge", "Open files of a volume."};
  Family failed{"volfs_failed", "gauge", "Whether a device cannot be used."};
  Family members{"volfs_array_members", "gauge", "Members of an array by state."};
  Family degraded{"volfs_array_degraded", "gauge", "Members that an array lacks."};
  Family sync{"volfs_array_sync_progress_ratio", "gauge", "How far a sync is, by action."};
  Family speed{"volfs_array_sync_bytes_per_second", "gauge", "Speed of a sync, by action."};
  Family mismatches{"volfs_array_mismatches_bytes", "gauge", "What a check found to differ."};

  std::string text() const {
    std::string all;
    for (const Family* each : {&operations, &bytes, &errors, &in_flight, &duration, &size, &open,
                               &failed, &members, &degraded, &sync, &speed, &mismatches})
      all += each->text();
    return all;
  }
};

void add_counters(Families& all, const std::string& labels, const IoCounters::Snapshot& snapshot) {
  all.in_flight.add(labels, snapshot.in_flight);
  for (size_t i = 0; i < io_classes; ++i) {
    const IoCounters::Totals& totals = snapshot.classes[i];
    const std::string with_class = fmt::format("{},op=\"{}\"", labels, class_names[i]);
    all.operations.add(with_class, totals.count);
    all.errors.add(with_class, totals.errors);
    if (static_cast<IoClass>(i) != IoClass::flush) all.bytes.add(with_class, totals.bytes);
    uint64_t sum = 0;
    for (size_t k = 0; k < IoCounters::buckets; ++k) {
      sum += totals.latency[k];
      const bool last = k + 1 == IoCounters::buckets;
      const double bound = static_cast<double>(IoCounters::bound(k).count()) / 1e9;
      all.duration.add("_bucket",
                       fmt::format("{},le=\"{}\"", with_class,
                                   last ? std::string("+Inf") : fmt::format("{:g}", bound)),
                       sum);
    }
    all.duration.add("_sum", with_class, static_cast<double>(totals.nanos) / 1e9);
    all.duration.add("_count", with_class, sum);
  }
}

void add_array(Families& all, const std::string& labels, const md::ArrayStatus& status) {
  std::map<std::string_view, unsigned> states;
  for (const md::MemberState state : {md::MemberState::in_sync, md::MemberState::recovering,
                                      md::MemberState::spare, md::MemberState::faulty})
    states[md::member_state_name(state)] = 0;
  for (const md::MemberStatus& member : status.members)
    ++states[md::member_state_name(member.state)];
  for (const auto& [state, count] : states)
    all.members.add(fmt::format("{},state=\"{}\"", labels, state), count);
  const unsigned in_sync = states[md::member_state_name(md::MemberState::in_sync)];
  const uint32_t wanted = status.geometry.raid_disks;
  all.degraded.add(labels, wanted > in_sync ? wanted - in_sync : 0);
  all.mismatches.add(labels, status.mismatches);
  if (status.sync.action == md::SyncAction::idle || status.sync.size == 0) return;
  const std::string with_action =
      fmt::format("{},action=\"{}\"", labels, md::sync_action_name(status.sync.action));
  all.sync.add(with_action,
               static_cast<double>(status.sync.position) / static_cast<double>(status.sync.size));
  all.speed.add(with_action, status.sync.speed);
}

}  // namespace

const IoCounters* counters_of(const engine::Node& node) {
  if (node.volume) return &node.volume->counters();
  const auto* image = dynamic_cast<const FileImage*>(node.device.get());
  return image ? &image->counters() : nullptr;
}

json to_json(const IoCounters::Snapshot& snapshot) {
  json latency = json::object(), time = json::object();
  uint64_t errors = 0;
  for (size_t i = 0; i < io_classes; ++i) {
    const IoCounters::Totals& totals = snapshot.classes[i];
    errors += totals.errors;
    time[class_names[i]] = micros(totals.nanos);
    json histogram = json::object();
    for (size_t k = 0; k < IoCounters::buckets; ++k) {
      if (totals.latency[k] == 0) continue;
      const bool last = k + 1 == IoCounters::buckets;
      const auto bound = static_cast<uint64_t>(IoCounters::bound(k).count());
      histogram[last ? "inf" : fmt::format("{}", micros(bound))] = totals.latency[k];
    }
    latency[class_names[i]] = std::move(histogram);
  }
  return {{"reads", snapshot.of(IoClass::read).count},
          {"writes", snapshot.of(IoClass::write).count},
          {"flushes", snapshot.of(IoClass::flush).count},
          {"discards", snapshot.of(IoClass::discard).count},
          {"bytes_read", snapshot.of(IoClass::read).bytes},
          {"bytes_written", snapshot.of(IoClass::write).bytes},
          {"bytes_discarded", snapshot.of(IoClass::discard).bytes},
          {"errors", errors},
          {"in_flight", snapshot.in_flight},
          {"time_us", std::move(time)},
          {"latency_us", std::move(latency)}};
}

std::string Control::metrics() const {
  Families all;
  engine_.for_each_node([&](const engine::Node& node) {
    const std::string labels = fmt::format("device=\"{}\",kind=\"{}\"",
                                           escaped(node.volume ? node.volume->path() : node.name),
                                           engine::to_string(node.kind));
    all.size.add(labels, node.device->size());
    all.failed.add(labels, node.problem.empty() ? 0 : 1);
    if (node.volume) all.open.add(labels, node.volume->open_count());
    if (const IoCounters* counters = counters_of(node))
      add_counters(all, labels, counters->snapshot());
    if (const auto* array = dynamic_cast<const md::Array*>(node.device.get()))
      add_array(all, labels, array->status());
  });
  return all.text();
}

}  // namespace volfs::control
