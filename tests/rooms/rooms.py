# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms of the source tree and what each may include.

A room is a folder of src/ with its public headers in include/volfs/ROOM/; those of base and block
lie flat in include/volfs/. Includes point one way. Every function here yields complaints as
"FILE:LINE: what is wrong".
"""

import os
import pathlib
import re

# What each room may include, besides itself.
ALLOWED = {
    "base": set(),
    "block": {"base"},
    "backing": {"base", "block"},
    "md": {"base", "block"},
    "dm": {"base", "block"},
    "lvm": {"base", "block", "dm"},
    "config": {"base"},
    "engine": {"base", "block", "backing", "md", "dm", "lvm", "config"},
    "control": {"base", "block", "backing", "md", "dm", "lvm", "config", "engine"},
    "fuse": {"base", "block", "engine"},
    "cli": {"base", "block", "backing", "md", "dm", "lvm", "config", "engine", "control", "fuse"},
}
# Single files that may include more than their room: dm's targets raid and mirror stand on md's arrays.
ALSO_ALLOWED = [(re.compile(r"src/dm/targets/(raid|mirror|array_target)\.(cc|h)$"), {"md"})]

# Flat public headers that belong to base; the other flat ones belong to block.
BASE_HEADERS = {"bytes", "checksum", "endian", "error", "inline_vector", "log", "random",
                "process_name", "scheduler", "sync", "text", "unique_fd", "units", "uuid", "worker_pool"}

# Only base may use these: everything else waits, locks, starts threads and tells the time through
# volfs/sync.h, so that tests can run it under a seeded scheduler and a simulated clock.
# (<mutex> itself is welcome for std::lock_guard over volfs::Mutex.)
BASE_ONLY_TEXT = re.compile(
    r"\bstd::(\w*mutex|condition_variable\w*|j?thread|this_thread|async|future|promise|counting_semaphore|"
    r"binary_semaphore|latch|barrier)\b|\b(steady|system|high_resolution)_clock::now\b|"
    r"\bclock_gettime\s*\(|\bpthread_(create|mutex|cond|rwlock)\w*\s*\(")

# These cost seconds of compile time, so no public header may carry them into other rooms.
HEAVY_INCLUDES = re.compile(r"<(nlohmann/json\.hpp|spdlog/|CLI/|yaml-cpp/)")

# Marks of the place where this was written, which mean nothing to a reader of the project.
FOREIGN = re.compile(r"/wor" r"k/(wt|main|shared)\b|\bshare" r"d/(DESIGN|EXAMPLES|RING|tools)\b")

INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")')
LICENCE = "SPDX-License-Identifier: GPL-2.0-or-later"
LICENSED_NAMES = re.compile(r"(\.(cc|c|h|py|sh)|^meson\.build|^meson_options\.txt|^dev)$")
SKIPPED_FOLDERS = re.compile(r"^(build.*|\.git|\.cache|__pycache__|golden|corpus)$")


def source_files(root):
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not SKIPPED_FOLDERS.match(s))
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if name != ".git" and path.is_file() and not path.is_symlink():
                yield path.relative_to(root)


def room_of(path):
    """The room of a path relative to the root, or None outside the rooms."""
    parts = path.parts
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ("include", "volfs"):
        if len(parts) > 3:
            return parts[2]
        return "base" if path.stem in BASE_HEADERS else "block"
    return None


def resolve(root, path, quoted):
    """The file, relative to the root, that #include "quoted" in path means, or None."""
    for start in (path.parent, pathlib.Path("include"), pathlib.Path("src")):
        target = pathlib.Path(os.path.normpath(start / quoted))
        if (root / target).is_file():
            return target
    # A header not in a folder searched above may be found by an include path of its own room.
    own = [p for p in (root / "src" / (room_of(path) or "")).rglob(quoted) if p.is_file()]
    return own[0].relative_to(root) if own else None


def allowed_rooms(path, room):
    allowed = ALLOWED[room] | {room}
    for pattern, more in ALSO_ALLOWED:
        if pattern.search(path.as_posix()):
            allowed |= more
    return allowed


def check_quoted_include(root, path, room, quoted):
    target = resolve(root, path, quoted)
    if target is None:
        yield f'"{quoted}" is not found'
        return
    other = room_of(target)
    if other not in allowed_rooms(path, room):
        yield f"{room} may not include {other} ({target})"
    elif target.parts[0] == "src" and (path.parts[0] == "include" or other != room):
        yield f"{target} is private to {other}; what crosses rooms is in include/volfs"


def check_code_line(root, path, room, line):
    match = INCLUDE.match(line)
    if match and match[1].startswith('"'):
        yield from check_quoted_include(root, path, room, match[1][1:-1])
    elif match and path.parts[0] == "include" and HEAVY_INCLUDES.match(match[1]):
        yield f"{match[1]} is too heavy for a public header"
    elif room != "base" and (found := BASE_ONLY_TEXT.search(line.split("//")[0])):
        yield f"{found[0]} is for base only; use volfs/sync.h"


def check_rooms(root):
    for path in source_files(root):
        room = room_of(path)
        if room is None or path.suffix not in (".cc", ".h", ".c"):
            continue
        if room not in ALLOWED:
            yield f"{path}:1: '{room}' is not a room; tests/rooms/rooms.py lists them"
            continue
        for number, line in enumerate((root / path).read_text().splitlines(), 1):
            for complaint in check_code_line(root, path, room, line):
                yield f"{path}:{number}: {complaint}"


def check_licences(root):
    for path in source_files(root):
        if not LICENSED_NAMES.search(path.name):
            continue
        first_two = (root / path).read_text().splitlines()[:2]
        if not any(LICENCE in line for line in first_two):
            yield f"{path}:1: the first line is not '{LICENCE}'"


def check_foreign_words(root):
    for path in source_files(root):
        try:
            text = (root / path).read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if FOREIGN.search(line):
                yield f"{path}:{number}: names a folder outside the project"
