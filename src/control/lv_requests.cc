// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on logical volumes: what lvm2's lv* commands do. "lv" is GROUP/VOLUME.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "requests.h"
#include "schema.h"
#include "volfs/lvm/edit.h"
#include "volfs/units.h"

namespace volfs::control {
namespace {

using nlohmann::json;

struct Named {
  std::shared_ptr<engine::VolumeGroup> group;
  std::string volume;
};
Result<Named> named(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string path, fields.text("lv"));
  const size_t slash = path.find('/');
  if (slash == path.npos || slash + 1 == path.size())
    return fail_invalid(fmt::format("'lv' is '{}'; expected GROUP/VOLUME", path));
  VOLFS_TRY_ASSIGN(auto group, context.engine.volume_group(path.substr(0, slash)));
  return Named{std::move(group), path.substr(slash + 1)};
}

// "size": bytes or with a unit; "extents": a number or a share ("50%VG"). Either may have a sign.
struct Signed {
  lvm::SizeRequest size;
  char sign = 0;
};
Result<Signed> size_of(const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string size, fields.text_or("size", ""));
  VOLFS_TRY_ASSIGN(const std::string extents, fields.text_or("extents", ""));
  if (size.empty() == extents.empty())
    return fail_invalid("expected one of 'size' (as 128MiB) and 'extents' (as 32 or 100%FREE)");
  std::string_view text = size.empty() ? extents : size;
  Signed out;
  if (text.starts_with('+') || text.starts_with('-')) {
    out.sign = text.front();
    text.remove_prefix(1);
  }
  if (!extents.empty() && text.find('%') == text.npos) {
    VOLFS_TRY_ASSIGN(const uint64_t count, in("'extents'", parse_u64(text)));
    out.size = {lvm::SizeRequest::Of::extents, count};
  } else {
    VOLFS_TRY_ASSIGN(out.size, lvm::parse_size_request(text));
  }
  return out;
}

Result<lvm::AllocationPolicy> allocation_of(const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text_or("alloc", "normal"));
  if (name == "contiguous") return lvm::AllocationPolicy::contiguous;
  if (name == "anywhere") return lvm::AllocationPolicy::anywhere;
  if (name == "normal" || name == "inherit" || name == "cling")
    return lvm::AllocationPolicy::normal;
  return fail_invalid(fmt::format(
      "'alloc' is '{}'; expected inherit, normal, contiguous, cling or anywhere", name));
}

// What both kinds of new volumes have.
template <class Parameters>
Status fill(const Named& target, const Fields& fields, Parameters& out) {
  out.name = target.volume;
  VOLFS_TRY_ASSIGN(const Signed size, size_of(fields));
  if (size.sign != 0) return fail_invalid("the size of a new volume has no sign");
  out.size = size.size;
  VOLFS_TRY_ASSIGN(out.allocation, allocation_of(fields));
  VOLFS_TRY_ASSIGN(out.allocation_policy, fields.text_or("alloc", ""));
  if (out.allocation_policy == "inherit") out.allocation_policy.clear();
  VOLFS_TRY_ASSIGN(const auto pvs, fields.texts("pvs"));
  VOLFS_TRY_ASSIGN(out.pvs, target.group->pvs(pvs));
  VOLFS_TRY_ASSIGN(out.tags, fields.texts("tags"));
  VOLFS_TRY_ASSIGN(out.read_only, fields.flag_or("readonly", false));
  return {};
}

Result<json> create_snapshot(const RequestContext& context, const Named& target,
                             const Fields& fields, std::string origin) {
  lvm::SnapshotParameters parameters;
  VOLFS_TRY(fill(target, fields, parameters));
  const std::string prefix = target.group->name() + "/";
  if (origin.starts_with(prefix)) origin.erase(0, prefix.size());
  parameters.origin = std::move(origin);
  VOLFS_TRY_ASSIGN(parameters.chunk_size, fields.positive_or("chunk_size", parameters.chunk_size));
  VOLFS_TRY(target.group->create_snapshot(parameters, context.trial));
  return json();
}

// What lvcreate refuses of options that the type has no use for.
Status check_options(const Fields& fields, std::string_view type, uint64_t stripes,
                     uint64_t mirrors) {
  const bool raid = type.starts_with("raid"), raid0 = type.starts_with("raid0");
  const bool striped = type == "striped" || (raid && type != "raid1");
  const auto refuse = [&](std::string_view what) {
    return fail_invalid(fmt::format("{} cannot be used with segment type {}", what, type));
  };
  if (type == "mirror")
    return fail_invalid("volumes of type mirror are not made; expected raid1, which replaced it");
  if (type == "raid1" && fields.has("mirrors") && mirrors == 0)
    return fail_invalid("mirrors must be at least 1 with segment type raid1");
  if (type.starts_with("raid10") && mirrors > 1)
    return fail_invalid("raid10 supports only 2-way mirroring (1 mirror)");
  if (mirrors > 0 && type != "raid1" && !type.starts_with("raid10")) return refuse("mirrors");
  if (stripes > 1 && !striped) return refuse("stripes");
  if (fields.has("stripe_size") && !striped) return refuse("the stripe size");
  if (fields.has("region_size") && (!raid || raid0)) return refuse("the region size");
  VOLFS_TRY_ASSIGN(const bool nosync, fields.flag_or("nosync", false));
  if (nosync && (!raid || raid0 || type.starts_with("raid6"))) return refuse("nosync");
  if (fields.has("chunk_size")) return refuse("the chunk size");
  return {};
}

Result<json> create_lv(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY_ASSIGN(const std::string origin, fields.text_or("origin", ""));
  VOLFS_TRY_ASSIGN(const std::string given_type, fields.text_or("type", ""));
  if (!origin.empty()) {
    for (const char* key : {"stripes", "stripe_size", "mirrors", "region_size", "nosync"})
      if (fields.has(key)) return fail_invalid(fmt::format("a snapshot takes no '{}'", key));
    if (!given_type.empty() && given_type != "snapshot")
      return fail_invalid(fmt::format("a snapshot takes no type {}", given_type));
    return create_snapshot(context, target, fields, origin);
  }
  lvm::VolumeParameters parameters;
  VOLFS_TRY(fill(target, fields, parameters));
  VOLFS_TRY_ASSIGN(const uint64_t stripes, fields.positive_or("stripes", 0));
  VOLFS_TRY_ASSIGN(const uint64_t mirrors, fields.number_or("mirrors", 0));
  constexpr uint64_t most = 253;
  if (stripes > most || mirrors > most)
    return fail_invalid(fmt::format("more than {} stripes or mirrors", most));
  const char* usual = mirrors > 0   ? (stripes > 1 ? "raid10" : "raid1")
                      : stripes > 1 ? "striped"
                                    : "linear";
  parameters.type = given_type.empty() ? usual : given_type;
  VOLFS_TRY(check_options(fields, parameters.type, stripes, mirrors));
  parameters.stripes = static_cast<unsigned>(stripes);
  if (mirrors > 0) parameters.mirrors = static_cast<unsigned>(mirrors);
  VOLFS_TRY_ASSIGN(parameters.stripe_size,
                   fields.positive_or("stripe_size", parameters.stripe_size));
  VOLFS_TRY_ASSIGN(parameters.region_size,
                   fields.positive_or("region_size", parameters.region_size));
  VOLFS_TRY_ASSIGN(parameters.nosync, fields.flag_or("nosync", false));
  VOLFS_TRY(target.group->create(parameters, context.trial));
  return json();
}

Result<engine::VolumeGroup::Resize> resize_of(const Named& target, const Fields& fields) {
  engine::VolumeGroup::Resize resize;
  VOLFS_TRY_ASSIGN(const Signed size, size_of(fields));
  resize.size = size.size;
  resize.sign = size.sign;
  VOLFS_TRY_ASSIGN(resize.allocation, allocation_of(fields));
  VOLFS_TRY_ASSIGN(const auto pvs, fields.texts("pvs"));
  VOLFS_TRY_ASSIGN(resize.pvs, target.group->pvs(pvs));
  return resize;
}

Result<json> extend(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY_ASSIGN(const auto resize, resize_of(target, fields));
  if (resize.sign == '-') return fail_invalid("to make a volume smaller there is lv.reduce");
  VOLFS_TRY(target.group->extend(target.volume, resize, context.trial));
  return json();
}

Result<json> reduce(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY_ASSIGN(const auto resize, resize_of(target, fields));
  VOLFS_TRY_ASSIGN(const bool force, fields.flag_or("force", false));
  if (resize.sign == '+') return fail_invalid("to make a volume larger there is lv.extend");
  VOLFS_TRY(target.group->reduce(target.volume, resize, force, context.trial));
  return json();
}

Result<json> remove_lv(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY_ASSIGN(const bool snapshots, fields.flag_or("snapshots", false));
  VOLFS_TRY(target.group->remove(target.volume, snapshots, context.trial));
  return json();
}

Result<json> rename_lv(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY_ASSIGN(std::string to, fields.text("to"));
  const std::string prefix = target.group->name() + "/";
  if (to.starts_with(prefix)) to.erase(0, prefix.size());
  VOLFS_TRY(target.group->rename(target.volume, to));
  return json();
}

Result<json> change_lv(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  engine::VolumeGroup::Changes changes;
  VOLFS_TRY_ASSIGN(changes.add_tags, fields.texts("add_tags"));
  VOLFS_TRY_ASSIGN(changes.remove_tags, fields.texts("remove_tags"));
  VOLFS_TRY_ASSIGN(const std::string action, fields.text_or("syncaction", ""));
  VOLFS_TRY_ASSIGN(const std::string permission, fields.text_or("permission", ""));
  if (!permission.empty()) {
    if (permission != "r" && permission != "rw")
      return fail_invalid(fmt::format("'permission' is '{}'; expected r or rw", permission));
    changes.writable = permission == "rw";
  }
  const bool attributes =
      !changes.add_tags.empty() || !changes.remove_tags.empty() || changes.writable;
  if (attributes != action.empty())
    return fail_invalid(
        "expected 'syncaction', or some of 'add_tags', 'remove_tags' and "
        "'permission'");
  if (!action.empty()) {
    if (action != "check" && action != "repair")
      return fail_invalid(fmt::format("'syncaction' is '{}'; expected check or repair", action));
    if (context.trial) return json();
    VOLFS_TRY(target.group->sync_action(target.volume, action));
    return json();
  }
  VOLFS_TRY(target.group->change(target.volume, changes, context.trial));
  return json();
}

Result<json> merge_lv(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY(target.group->merge(target.volume));
  return json();
}

template <bool active>
Result<json> set_active(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Named target, named(context, fields));
  VOLFS_TRY(target.group->set_active(target.volume, active));
  return json();
}

Result<lvm::ActivationMode> mode_of(const Fields& fields) {
  using Mode = lvm::ActivationMode;
  static constexpr std::array<std::pair<std::string_view, Mode>, 3> modes{
      {{"complete", Mode::complete}, {"degraded", Mode::degraded}, {"partial", Mode::partial}}};
  VOLFS_TRY_ASSIGN(const std::string name, fields.text_or("activation", "degraded"));
  for (const auto& [word, mode] : modes)
    if (word == name) return mode;
  return fail_invalid(
      fmt::format("'activation' is '{}'; expected complete, degraded or partial", name));
}

Result<json> activate_group(const RequestContext& context, const Fields& fields) {
  engine::GroupActivation options;
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("vg"));
  VOLFS_TRY_ASSIGN(options.devices, fields.texts("devices"));
  for (const std::string& device : options.devices)
    if (std::ranges::count(options.devices, device) > 1)
      return fail_invalid(fmt::format("'devices' has {} twice", device));
  VOLFS_TRY_ASSIGN(options.mode, mode_of(fields));
  VOLFS_TRY_ASSIGN(options.read_only, fields.flag_or("readonly", false));
  VOLFS_TRY_ASSIGN(const auto inactive, fields.texts("inactive"));
  options.inactive = {inactive.begin(), inactive.end()};
  VOLFS_TRY_ASSIGN(const auto hidden, fields.texts("hidden"));
  options.hidden = {hidden.begin(), hidden.end()};
  VOLFS_TRY(context.engine.group_activate(name, options));
  return json();
}

Result<json> deactivate_group(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("vg"));
  VOLFS_TRY(context.engine.group_deactivate(name));
  return json();
}

Result<json> check_group(const RequestContext& context, const Fields& fields);

constexpr std::array lv_rows{
    RequestType{"lv.create",
                "lv:name,size:text?,extents:text?,type:text?,stripes:number?,stripe_size:number?,"
                "mirrors:number?,region_size:number?,nosync:flag?,origin:text?,chunk_size:number?,"
                "alloc:text?,"
                "pvs:list?,tags:list?,readonly:flag?",
                create_lv},
    RequestType{"lv.extend", "lv:name,size:text?,extents:text?,alloc:text?,pvs:list?", extend},
    RequestType{"lv.reduce", "lv:name,size:text?,extents:text?,force:flag?", reduce},
    RequestType{"lv.remove", "lv:name,snapshots:flag?", remove_lv},
    RequestType{"lv.rename", "lv:name,to:name", rename_lv},
    RequestType{"lv.change",
                "lv:name,add_tags:list?,remove_tags:list?,permission:text?,"
                "syncaction:text?",
                change_lv},
    RequestType{"lv.merge", "lv:name", merge_lv},
    RequestType{"lv.activate", "lv:name", set_active<true>},
    RequestType{"lv.deactivate", "lv:name", set_active<false>},
    RequestType{"vg.activate",
                "vg:name,devices:list?,activation:text?,readonly:flag?,inactive:list?,hidden:list?",
                activate_group},
    RequestType{"vg.check", "vg:name,requests:requests", check_group},
    RequestType{"vg.deactivate", "vg:name", deactivate_group},
};

// What of the requests would fail, one after the other, of those that change the group's metadata.
Result<json> check_group(const RequestContext& context, const Fields& fields) {
  constexpr std::array<std::string_view, 5> tried{"lv.create", "lv.extend", "lv.reduce",
                                                  "lv.remove", "lv.change"};
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("vg"));
  VOLFS_TRY_ASSIGN(const auto group, context.engine.volume_group(name));
  lvm::VolumeGroup model = group->model();
  RequestContext trial = context;
  trial.trial = &model;
  json problems = json::array();
  for (const json& body : fields.list("requests")) {
    const std::string which = body.value("request", json()).dump();
    const auto row = std::ranges::find_if(lv_rows, [&](const RequestType& each) {
      return std::ranges::count(tried, each.name) > 0 && json(each.name).dump() == which;
    });
    if (row == lv_rows.end())
      return fail_invalid(
          fmt::format("{} cannot be tried; expected {}", which, fmt::join(tried, ", ")));
    if (auto mistake = check_keys(row->name, row->keys, body))
      return fail(std::move(mistake->error));
    if (!body.value("lv", "").starts_with(name + "/"))
      return fail_invalid(fmt::format("{}: not a volume of {}", body.value("lv", ""), name));
    if (auto done = row->run(trial, Fields(body)); !done) problems.push_back(done.error().text());
  }
  return problems;
}

}  // namespace

std::span<const RequestType> lv_requests() {
  return lv_rows;
}

}  // namespace volfs::control
