# SPDX-License-Identifier: GPL-2.0-or-later
"""What loses data shows what would be lost and asks on a terminal; elsewhere it wants --yes."""
import json
import os
import pty
import select
import subprocess

import lab
from lab import MiB, equal, holds, run, sha256, stderr_of, volfs

DEFINITION = """
volfs: 1
images:
  d0: {path: d0.img, size: 16MiB}
  d1: {path: d1.img, size: 16MiB}
  d2: {path: d2.img, size: 16MiB}
  p: {path: p.img, size: 32MiB}
arrays:
  md0: {level: raid1, devices: [d0, d1], assume_clean: true}
volume_groups:
  vg: {physical_volumes: [p], logical_volumes: {root: {size: 8MiB}}}
"""


def on_a_terminal(answer, *command):
    """Runs a command on a terminal, types the answer when it asks; its exit status and what was on the screen."""
    master, terminal = pty.openpty()
    process = subprocess.Popen([lab.VOLFS, *map(str, command)], stdin=terminal, stdout=terminal, stderr=terminal,
                               env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    screen, answered = b"", False
    while True:
        try:
            if select.select([master], [], [], 60)[0]:
                screen += os.read(master, 4096)
            else:
                process.kill()
        except OSError:  # nobody has the terminal any more
            break
        if b"[y/N]" in screen and not answered:
            os.write(master, answer.encode() + b"\n")
            answered = True
    os.close(master)
    return process.wait(60), screen.decode()


def fresh(t):
    lab.need_program("mke2fs")
    definition = t.define(DEFINITION)
    volfs("create", definition)
    run("mke2fs", "-q", "-t", "ext4", "-L", "precious", t.path / "d2.img")
    t.mount(definition)
    return definition


def members(t):
    return sorted(m["device"] for d in t.status()["devices"] if d["name"] == "md0" for m in d["array"]["members"])


def test_a_device_that_holds_something_is_added_only_when_asked_for(t):
    fresh(t)
    before = sha256(t.path / "d2.img")
    told = stderr_of(lab.VOLFS, "array", "add", t.mnt / "md0", "d2")
    holds("d2: ext4 file system" in told and "precious" in told and "--yes" in told, told)
    status, screen = on_a_terminal("n", "array", "add", t.mnt / "md0", "d2")
    equal(status, 1, "exit status")
    holds("This will be lost:" in screen and "d2: ext4 file system" in screen and "nothing was done" in screen, screen)
    equal((members(t), sha256(t.path / "d2.img")), (["d0", "d1"], before), "after no")
    status, screen = on_a_terminal("y", "array", "add", t.mnt / "md0", "d2")
    equal((status, members(t)), (0, ["d0", "d1", "d2"]), f"after yes: {screen}")
    # A member that comes back loses nothing of anybody's.
    volfs("array", "fail", t.mnt / "md0", "d1")
    volfs("array", "remove", t.mnt / "md0", "d1")
    volfs("array", "add", t.mnt / "md0", "d1")
    equal(members(t), ["d0", "d1", "d2"], "after a member came back")


def test_create_by_force_asks(t):
    lab.need_program("mke2fs")
    definition = t.define(DEFINITION)
    for name in ("d0", "p"):
        run("mke2fs", "-q", "-t", "ext4", "-L", "precious", t.file(f"{name}.img", 32 * MiB))
    before = [sha256(t.path / f"{name}.img") for name in ("d0", "p")]
    shown = volfs("create", "--force", "--dry-run", definition)
    equal(shown.count("what is lost: "), 2, shown)
    told = stderr_of(lab.VOLFS, "create", "--force", definition)
    holds("d0: ext4 file system" in told and "p: ext4 file system" in told and "--yes" in told, told)
    status, screen = on_a_terminal("", "create", "--force", definition)
    equal(status, 1, screen)
    equal([sha256(t.path / f"{name}.img") for name in ("d0", "p")], before, "images after no")
    holds(not (t.path / "d1.img").exists(), "something was made")
    done = json.loads(volfs("create", "--force", "--yes", "--json", definition))
    equal(len(done["loses"]), 2, "what was lost")
    t.mount(definition)
    equal(members(t), ["d0", "d1"], "the array")


def test_volumes_are_removed_and_cut_only_when_asked_for(t):
    fresh(t)
    root = t.mnt / "vg/root"
    run("mke2fs", "-q", "-t", "ext4", "-L", "home", root)
    for words in (("remove", root), ("reduce", root, "-L", "4M")):
        told = stderr_of(lab.VOLFS, "lv", *words)
        holds("of vg/root, 8MiB" in told and "label \"home\"" in told and "--yes" in told, told)
        status, screen = on_a_terminal("no", "lv", *words)
        equal(status, 1, screen)
        holds("This will be lost:" in screen, screen)
    equal(root.stat().st_size, 8 * MiB, "size")
    equal(on_a_terminal("yes", "lv", "remove", root)[0], 0, "exit status")
    holds(not root.exists(), "it is still there")


if __name__ == "__main__":
    lab.main(globals())
