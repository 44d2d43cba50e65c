// SPDX-License-Identifier: GPL-2.0-or-later
// volfs graph: what stands on what, for graphviz.
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "client.h"
#include "display.h"
#include "tree.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

std::string dot_quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

const char* shape_of(const std::string& kind) {
  if (kind == "image") return "cylinder";
  if (kind == "array") return "box3d";
  if (kind == "snapshot") return "note";
  return "box";
}

std::string to_dot(const json& status) {
  std::string dot =
      "digraph volfs {\n  rankdir=BT;\n  node [fontname=\"sans-serif\", fontsize=11, "
      "style=filled, fillcolor=\"#f4f4f4\"];\n";
  for (const json& device : status["devices"]) {
    const std::string name = device.value("name", "");
    const std::string state = state_of(device);
    const char* colour = "#2e7d32";
    if (colour_of_state(state) == Colour::bad) colour = "#c62828";
    if (colour_of_state(state) == Colour::warning) colour = "#8e24aa";
    // graphviz' own line break, which must not be quoted once more.
    const std::string label =
        dot_quoted(device.value("volume", name)) + "\\n" +
        fmt::format("{} {}", type_of(device),
                    short_bytes(static_cast<double>(device.value("size", uint64_t{0})))) +
        "\\n" + state;
    std::string one = label;
    std::erase(one, '"');
    dot += fmt::format("  {} [label=\"{}\", shape={}, color=\"{}\"{}];\n", dot_quoted(name), one,
                       shape_of(device.value("kind", "")), colour,
                       device.contains("volume") ? ", penwidth=2" : "");
  }
  for (const json& device : status["devices"])
    for (const json& below : device["devices"])
      dot += fmt::format("  {} -> {};\n", dot_quoted(below.get<std::string>()),
                         dot_quoted(device.value("name", "")));
  return dot + "}\n";
}

json to_json(const json& status) {
  json nodes = json::array(), edges = json::array();
  for (const json& device : status["devices"]) {
    json node{{"name", device["name"]},
              {"kind", device["kind"]},
              {"type", type_of(device)},
              {"size", device["size"]},
              {"state", device["state"]}};
    if (device.contains("volume")) node["volume"] = device["volume"];
    nodes.push_back(std::move(node));
    for (const json& below : device["devices"])
      edges.push_back({{"from", below}, {"to", device["name"]}});
  }
  return {{"nodes", std::move(nodes)}, {"edges", std::move(edges)}};
}

// Writes all, whatever the pipe takes at a time.
Status write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t done = write(fd, text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_sys(errno, "dot");
    text.remove_prefix(static_cast<size_t>(done));
  }
  return {};
}

// graphviz reads DOT and writes SVG to our standard output.
Status run_graphviz(const std::string& dot) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail_sys(errno, "pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
  std::string program = "dot", format = "-Tsvg";
  char* arguments[] = {program.data(), format.data(), nullptr};
  pid_t child = 0;
  std::fflush(stdout);
  const int error = posix_spawnp(&child, "dot", &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[0]);
  if (error != 0) {
    close(ends[1]);
    return fail(Error::make(
        error, error == ENOENT
                   ? "SVG needs the program dot: install the package graphviz, or leave out --svg"
                   : fmt::format("dot: {}", std::strerror(error))));
  }
  Status written = write_all(ends[1], dot);
  close(ends[1]);
  int how = 0;
  while (waitpid(child, &how, 0) < 0 && errno == EINTR) {
  }
  VOLFS_TRY(std::move(written));
  if (!WIFEXITED(how) || WEXITSTATUS(how) != 0)
    return fail(Error::make(EIO, "dot did not draw the graph"));
  return {};
}

Status graph(const std::string& path, bool svg, bool as_json) {
  VOLFS_TRY_ASSIGN(const std::string mountpoint, find_mount(path));
  VOLFS_TRY_ASSIGN(const json status, request(mountpoint, {{"request", "status"}}));
  if (as_json) {
    print_json(to_json(status));
    return {};
  }
  const std::string dot = to_dot(status);
  if (svg) return run_graphviz(dot);
  fmt::print("{}", dot);
  return {};
}

}  // namespace

void add_graph(CLI::App& app, Session& session) {
  auto path = std::make_shared<std::string>();
  auto svg = std::make_shared<bool>(false);
  auto* command = app.add_subcommand("graph", "draw what stands on what, for graphviz");
  command->add_option("MOUNTPOINT", *path)->required();
  command->add_flag("--svg", *svg, "a picture, by graphviz' dot");
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs graph /mnt > lab.dot\n"
               "  volfs graph /mnt --svg > lab.svg\n");
  command->callback([path, svg, &session] {
    if (auto done = graph(*path, *svg, session.json); !done) session.fail(done.error());
  });
}

}  // namespace volfs::cli
