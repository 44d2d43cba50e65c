# SPDX-License-Identifier: GPL-2.0-or-later
"""What loses data shows what would be lost and asks on a terminal; elsewhere it wants --yes."""
import json
import os
import pathlib
import pty
import select
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab
import volfs as client
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


def test_what_is_no_number_and_no_command_is_said(t):
    fresh(t)
    mount = client.Mount(t.mnt)
    for request, keys in (("lv.create", {"lv": "vg/x", "size": "4MiB", "stripes": 0}),
                          ("lv.create", {"lv": "vg/x", "size": "4MiB", "origin": "root", "chunk_size": 0}),
                          ("snapshot.create", {"snapshot": "s", "origin": "md0", "chunk_size": 0}),
                          ("mount.add_image", {"image": "x", "path": str(t.path / "d2.img"), "length": 0})):
        try:
            mount.request(request, **keys)
        except OSError as error:
            holds("is 0; expected a number from 1 on" in str(error), str(error))
        else:
            raise lab.Failed(f"{request} {keys} was taken")
    holds("COUNT" in stderr_of(lab.VOLFS, "top", t.mnt, "-n", "0", status=2).upper(), "top -n 0")
    holds("there is no command 'array foo'" in stderr_of(lab.VOLFS, "array", "foo", status=2), "array foo")
    holds("'pad' of the image 'd0' is 1048576" in
          stderr_of(lab.VOLFS, "check", t.define("volfs: 1\nimages: {d0: {path: d2.img, pad: 1MiB}}\n", "pad.yaml"), status=2), "pad")


def failure(*words, status=1):
    """The one JSON object of a command that fails; the reason is on standard error, too."""
    done = subprocess.run([lab.VOLFS, *map(str, words), "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    equal(done.returncode, status, f"{words}: exit status; {done.stderr}")
    told = json.loads(done.stdout)
    equal(sorted(told["error"]), ["code", "message", "place"], f"{words}: keys of {told}")
    holds(told["error"]["message"].strip() and told["error"]["message"].split("\n")[0] in done.stderr,
          f"{words}: {told} and {done.stderr}")
    return told


def test_failures_are_json_where_that_is_asked_for(t):
    fresh(t)
    mnt = t.mnt
    volfs("map", "create", mnt / "m", "--table", "0 8 linear d2 0")
    volfs("map", "create", mnt / "top", "--table", "0 8 linear m 0")
    for words, code, place in (
            (("map", "table", mnt / "none"), "ENOENT", "none"),
            (("map", "remove", mnt / "m"), "EBUSY", "m"),
            (("map", "load", mnt / "m", "--table", "0 8 zero\n9 8 zero"), "EINVAL", "table:2"),
            (("array", "check", mnt / "m"), "ENOTTY", "m"),
            (("array", "fail", mnt / "md0", "d2"), "ENOENT", "md0"),
            (("array", "add", mnt / "md0", "d2", "--yes"), "EBUSY", "md0"),
            (("lv", "extend", mnt / "vg/none", "-L", "1"), "ENOENT", "vg/none"),
            (("lv", "activate", mnt / "vg"), "EEXIST", "vg"),
            (("lv", "remove", mnt / "vg/root"), "ECANCELED", ""),
            (("snapshot", "remove", mnt / "m", "--yes"), "ENOTTY", "m"),
            (("image", "add", mnt, "d9", t.path / "none"), "ENOENT", ""),
            (("image", "remove", mnt, "d2"), "EBUSY", "d2"),
            (("where", mnt / "m", "1M"), "EINVAL", "m"),
            (("status", t.path), "ENOENT", ""), (("tree", t.path), "ENOENT", ""), (("top", t.path), "ENOENT", ""),
            (("graph", t.path), "ENOENT", ""), (("events", t.path), "ENOENT", ""), (("umount", t.path), "ENOENT", ""),
            (("overlay", "status", t.path / "none"), "ENOENT", ""),
            (("scan", t.path / "none"), "ENOENT", ""), (("inspect", t.path / "none"), "ENOENT", "")):
        error = failure(*words)["error"]
        equal((error["code"], error["place"]), (code, place), f"{words}: {error['message']}")
    bad = t.define("volfs: 1\nimages: {a: a.img}\nmaps:\n  m: {tabel: 0 8 zero}\n", "bad.yaml")
    for words in (("check", bad), ("create", bad), ("apply", bad, mnt), ("mount", bad, t.path)):
        error = failure(*words, status=2)["error"]
        equal((error["code"], error["place"]), ("EINVAL", f"{bad}:4:6"), f"{words}: {error['message']}")
    for words in (("nothing",), ("map", "nothing"), ("map", "table"), ("lv", "change", mnt / "vg/root", "-p", "x")):
        equal(failure(*words, status=2)["error"]["code"], "EINVAL", f"{words}")
    error = failure("mount", t.define("volfs: 1\nimages: {d0: d0.img}\n", "again.yaml"), t.path)["error"]
    holds("d0.img" in error["message"], f"a second mount: {error}")
    error = failure("mount", t.path / "none", t.path, status=2)["error"]
    equal(error["code"], "ENOENT", f"an image that there is not: {error}")
    error = failure("mount", t.define("volfs: 1\nimages: {d0: none.img}\n", "none.yaml"), t.path)["error"]
    equal(error["code"], "ENOENT", f"the same in a definition: {error}")
    equal(failure("mount", "--rescue", t.path / "none", t.path)["error"]["code"], "ENOENT", "the same, to be rescued")
    told = failure("mount", "--rescue", t.path / "none", t.path)
    equal(told["left_out"][0]["image"], str(t.path / "none"), "what rescue leaves out")
    other = t.define(DEFINITION.replace("level: raid1", "level: raid1, readonly: true"), "other.yaml")
    told = failure("apply", other, mnt, "--yes")
    equal((told["done"], told["error"]["message"] in told["problems"]), (False, True), f"apply: {told}")


def test_who_uses_another_device_is_not_told(t):
    fresh(t)
    volfs("array", "fail", t.mnt / "md0", "d1")
    with open(t.mnt / "md0", "rb"):
        told = stderr_of(lab.VOLFS, "array", "fail", t.mnt / "md0", "d0")
        holds("cannot do without d0" in told and "pid" not in told, told)
        holds(f"(pid {os.getpid()})" in stderr_of(lab.VOLFS, "array", "stop", t.mnt / "md0"), "who uses it")
    holds("faulty in md0" in volfs("tree", t.mnt), volfs("tree", t.mnt))


def test_the_header_for_c_is_iso_c(t):
    lab.need_program("gcc")
    header = pathlib.Path(__file__).resolve().parents[2] / "clients/c/volfs_client.h"
    source = t.path / "c.c"
    source.write_text(f'#include "{header}"\nint main(void) {{ return 0; }}\n')
    for standard in ("c99", "gnu17"):
        run("gcc", f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source)


def test_names_that_are_not_utf8_are_refused_in_words(t):
    fresh(t)
    name = os.fsdecode(b"\xff")
    told = stderr_of(lab.VOLFS, "map", "rename", t.mnt / "x", name)
    equal(told, "volfs: 'to' is not UTF-8 text, as all of a request has to be\n", "on standard error")
    told = json.loads(run(lab.VOLFS, "map", "rename", t.mnt / "x", name, "--json", status=1))
    equal(told["error"]["code"], "EINVAL", "in JSON")
    image = t.file(os.fsdecode(b"\xff.img"), 1 << 20)
    done = subprocess.run([lab.VOLFS, "scan", image, "--yaml"], capture_output=True)
    equal((done.returncode, done.stdout), (1, b""), "a definition of it")
    holds(b"is not UTF-8 text, so that no definition can name it" in done.stderr, done.stderr)


if __name__ == "__main__":
    lab.main(globals())
