#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`volfs lv` on a mount: volumes come, change and go while they and their neighbours are in use."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab as lab_module
import volfs as client
from lab import MiB, VOLFS, Failed, equal, holds, sha256, stderr_of, volfs

EXTENT = MiB
DEFINITION = """
volfs: 1
images:
  d0: {path: d0.img, size: 40MiB}
  d1: {path: d1.img, size: 40MiB}
  d2: {path: d2.img, size: 40MiB}
volume_groups:
  vg0:
    physical_volumes: [d0, {device: d1, tags: [slow]}, d2]
    extent_size: 1MiB
"""
IMAGES = ["d0.img", "d1.img", "d2.img"]
AREA = MiB  # where the metadata ends


def mounted(lab):
    path = lab.define(DEFINITION)
    volfs("create", path)
    lab.mount(path)
    return lab.mnt / "vg0"


def table(lab):
    return (lab.mnt / ".volfs/table").read_text()


def size(path):
    return os.stat(path).st_size


def output(*command):
    """The exit status of a command, and all that it says."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


def refused(*words):
    return stderr_of(VOLFS, "lv", *words)


def test_sizes_are_lvm2s(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "3")
    equal(size(vg / "a"), 3 * MiB, "-L counts in MiB")
    volfs("lv", "create", "-n", "b", "-l", "5", vg, "d2")
    equal(size(vg / "b"), 5 * EXTENT, "-l counts extents")
    volfs("lv", "create", vg / "c", "-L", "2500k", "@slow")
    equal(size(vg / "c"), 3 * EXTENT, "sizes are rounded up to extents")
    holds("vg0-b: 0 10240 linear d2 2048\n" in table(lab), f"b is on d2:\n{table(lab)}")
    holds("vg0-c: 0 6144 linear d1 2048\n" in table(lab), f"c is on what is tagged slow:\n{table(lab)}")
    volfs("lv", "create", vg / "wide", "-i", "3", "-I", "8", "-l", "4")
    equal(size(vg / "wide"), 6 * EXTENT, "and to whole stripes")
    holds(" striped 3 16 " in table(lab), "-I counts in KiB")
    volfs("lv", "extend", vg / "a", "-L", "+2M")
    equal(size(vg / "a"), 5 * MiB, "extended by")
    volfs("lv", "extend", vg / "a", "-l", "150%LV")
    equal(size(vg / "a"), 8 * MiB, "extended to a share of itself, rounded up")
    volfs("lv", "reduce", "--yes", vg / "a", "-L", "-4M")
    equal(size(vg / "a"), 4 * MiB, "reduced by")
    free = 3 * 39 - 4 - 5 - 3 - 6
    volfs("lv", "create", vg / "half", "-l", "50%FREE")
    equal(size(vg / "half"), free // 2 * EXTENT, "half of what is free")
    volfs("lv", "extend", vg / "half", "-l", "+100%FREE")
    equal(size(vg / "half"), free * EXTENT, "all that is free")
    holds("not enough free extents" in refused("create", vg / "more", "-l", "1"), "nothing is left")


def test_mistakes_change_nothing(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "3")
    before = [sha256(lab.path / name) for name in IMAGES]
    for words, said in (
            (("create", vg / "a", "-L", "3"), "there is an LV a"),
            (("create", vg / "snapshot", "-L", "3"), "snapshot"),
            (("create", vg / "b", "-L", "3", "nowhere"), "there is no physical volume nowhere"),
            (("create", vg / "b", "-L", "3", "d2", "d2"), "physical volume d2 is named twice"),
            (("create", vg / "b", "-L", "3", "@slow", "d1"), "physical volume d1 is named twice"),
            (("create", vg / "b", "-L", "3", "--type", "raid1", "d0", "d0"), "physical volume d0 is named twice"),
            (("extend", vg / "a", "-L", "+1", "d2", "d2"), "physical volume d2 is named twice"),
            (("create", vg / "b", "--type", "raid7", "-L", "3"), "raid7"),
            (("create", vg / "b", "-s", "c", "-L", "3"), "there is no origin c"),
            (("extend", vg / "a", "-L", "2"), "it has 3 extents already"),
            (("extend", vg / "a", "-l", "+0"), "the size is 0"),
            (("extend", vg / "b", "-L", "2"), "there is no such volume"),
            (("rename", vg / "a", "b/c"), "b/c"),
            (("create", vg / "b", "--type", "raid5", "-m", "1", "-L", "3"), "mirrors cannot be used with segment type raid5"),
            (("create", vg / "b", "--type", "linear", "-m", "1", "-L", "3"), "mirrors cannot be used with segment type linear"),
            (("create", vg / "b", "--type", "raid10", "-m", "3", "-L", "3"), "raid10 supports only 2-way mirroring"),
            (("create", vg / "b", "--type", "raid1", "-m", "0", "-L", "3"), "mirrors must be at least 1 with segment type raid1"),
            (("create", vg / "b", "--type", "raid1", "-s", "a", "-L", "3"), "a snapshot takes no type raid1"),
            (("create", vg / "b", "-i", "2", "-s", "a", "-L", "3"), "a snapshot takes no 'stripes'"),
            (("create", vg / "b", "-c", "8", "-L", "3"), "the chunk size cannot be used with segment type linear"),
            (("create", vg / "b", "-R", "1", "-L", "3"), "the region size cannot be used with segment type linear"),
            (("create", vg / "b", "-I", "8", "--type", "raid1", "-L", "3"), "the stripe size cannot be used with segment type raid1"),
            (("create", vg / "b", "-i", "2", "--type", "zero", "-L", "3"), "stripes cannot be used with segment type zero"),
            (("create", vg / "b", "--nosync", "--type", "raid6", "-L", "3"), "nosync cannot be used with segment type raid6"),
            (("create", vg / "b", "-R", "4EiB", "--type", "raid1", "-L", "3"), "the region size must be a power of 2 from 4KiB to 1TiB"),
            (("create", vg / "b", "-R", "3", "--type", "raid1", "-L", "3"), "the region size must be a power of 2"),
            (("remove", "--yes", vg / "b"), "there is no such volume"),
            (("reduce", "--yes", vg / "a", "-L", "5"), "it has 3 extents")):
        text = refused(*words)
        holds(said in text, f"{words}: {text}")
    equal([sha256(lab.path / name) for name in IMAGES], before, "the images")
    stderr_of(VOLFS, "lv", "remove", vg / "a")  # asks, and nobody answers
    equal(sorted(os.listdir(vg)), ["a"])


def test_what_is_in_use_stays(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    with open(vg / "a", "rb"):
        holds("1 open file" in refused("remove", "--yes", vg / "a"), "open")
        holds("1 open file" in refused("deactivate", vg / "a"), "open")
        holds("1 open file" in refused("reduce", "--yes", vg / "a", "-L", "2"), "open")
    volfs("map", "create", lab.mnt / "above", "--table", "0 100 linear vg0/a 0")
    for words in (("remove", "--yes", vg / "a"), ("deactivate", vg / "a"), ("reduce", "--yes", vg / "a", "-L", "2")):
        holds("in use by above" in refused(*words), "a map stands on it")
    volfs("map", "remove", lab.mnt / "above")
    volfs("lv", "deactivate", vg / "a")
    holds(not vg.exists(), "the last volume is gone, and the folder")
    volfs("lv", "activate", vg / "a")
    volfs("lv", "create", vg / "before", "-s", "a", "-L", "2")
    holds("it has a snapshot" in refused("remove", "--yes", vg / "a"), "an origin")
    volfs("lv", "remove", "--yes", "--force", vg / "a")
    holds(not vg.exists(), "origin and snapshot are gone")


def test_inner_volumes_are_only_looked_at(lab):
    """Whoever wrote to an image of a raid would make it disagree with the others, and nobody would know."""
    vg = mounted(lab)
    volfs("lv", "create", vg / "root", "-L", "4", "--type", "raid1", "-m", "1")
    volfs("lv", "create", vg / "before", "-s", "root", "-L", "2")
    write = lab.mnt / "above"
    for inner in ("vg0-root_rimage_0", "vg0-root_rmeta_1", "vg0-before-cow", "vg0-root-real"):
        rows = f"0 8 linear {inner} 0"
        told = stderr_of(VOLFS, "map", "create", write, "--table", rows)
        holds(f"\"{inner}\": in use by logical volume 'vg0-" in told, told)
        holds("only a map that is read-only may look at it" in told, told)
        volfs("map", "create", write, "-r", "--table", rows)
        told = stderr_of(VOLFS, "map", "load", write, "--table", rows)
        holds("only a map that is read-only may look at it" in told, told)
        volfs("map", "remove", write)
        told = stderr_of(VOLFS, "array", "create", lab.mnt / "md", "-l", "1", "-n", "2", "--yes", inner, "missing")
        holds("in use by" in told, told)
    volfs("map", "create", write, "--table", "0 8 linear vg0/root 0")
    volfs("map", "remove", write)
    # Shown, they are no better.
    lab.umount()
    lab.mount(lab.path / "lab.yaml", options=["hidden"])
    told = stderr_of(VOLFS, "map", "create", write, "--table", "0 8 linear vg0/root_rimage_0 0")
    holds("only a map that is read-only may look at it" in told, told)


def attributes(lab, name):
    return next((lv["tags"], lv["writable"]) for lv in lab.status()["volume_groups"][0]["logical_volumes"] if lv["name"] == name)


def test_what_cannot_join_is_told(lab):
    mounted(lab)
    volfs("lv", "create", lab.mnt / "vg0/a", "-L", "4")
    volfs("umount", lab.mnt)
    (lab.path / "copy.img").write_bytes((lab.path / IMAGES[0]).read_bytes())
    lab.mount(lab.path / "lab.yaml")
    told = stderr_of(VOLFS, "image", "add", lab.mnt, "copy", lab.path / "copy.img", status=0)
    holds("copy: is a copy of the physical volume" in told, told)
    holds("copy" in [device["name"] for device in lab.status()["devices"]], "the image is there all the same")


def test_tags_and_permission_change_while_a_volume_is_open(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4", "--addtag", "old")
    with open(vg / "a", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * 512, 0)
        volfs("lv", "change", vg / "a", "--addtag", "new", "--deltag", "old", "--permission", "r")
        equal(attributes(lab, "a"), (["new"], False), "changed")
        lab_module.raises(30, os.pwrite, file.fileno(), b"y" * 512, 0)
        equal(os.stat(vg / "a").st_mode & 0o777, 0o440, "the mode of what cannot be written")
        equal(os.pread(file.fileno(), 1, 0), b"x", "what it reads")
        number = lab.status()["volume_groups"][0]["seqno"]
        volfs("lv", "change", vg / "a", "--addtag", "new", "--deltag", "never", "-p", "r")
        equal(lab.status()["volume_groups"][0]["seqno"], number, "nothing was to be changed")
        volfs("lv", "change", vg / "a", "-p", "rw")
        os.pwrite(file.fileno(), b"y" * 512, 0)
    for words, said in ((("--addtag", "a b"), "no tag"), ((), "expected --addtag"), (("-p", "w"), "w not in")):
        text = stderr_of(VOLFS, "lv", "change", vg / "a", *words, status=1 if words[:1] == ("--addtag",) else 2)
        holds(said in text, f"{words}: {text}")
    lab.umount()
    lab.mount(lab.path / "lab.yaml")
    equal(attributes(lab, "a"), (["new"], True), "after a new mount")


JOINING = """
volfs: 1
images: {e0: {path: e0.img, size: 16MiB}, e1: {path: e1.img, size: 16MiB}}
volume_groups:
  vg1:
    physical_volumes: [e0, e1]
    extent_size: 1MiB
    logical_volumes: {one: {size: 4MiB, physical_volumes: [e0]}, wide: {size: 8MiB, stripes: 2}}
"""


def test_groups_come_with_their_images_and_leave(lab):
    other = lab.define(JOINING, "other.yaml")
    volfs("create", other)
    mounted(lab)
    volfs("image", "add", lab.mnt, "e1", lab.path / "e1.img")
    equal([each["volume"] for each in lab.status()["unavailable"]], ["vg1/one", "vg1/wide"], "half a group")
    try:
        client.Mount(lab.mnt).request("vg.activate", vg="vg1", devices=["e0", "e0"])
        raise Failed("a device was given twice")
    except client.Error as wrong:
        holds("'devices' has e0 twice" in wrong.message, wrong.message)
    holds("in use by volume group vg1" in stderr_of(VOLFS, "image", "remove", lab.mnt, "e1"), "its image stays")
    volfs("image", "add", lab.mnt, "e0", lab.path / "e0.img")
    equal(sorted(os.listdir(lab.mnt / "vg1")), ["one", "wide"], "the whole group")
    equal(lab.status()["unavailable"], [], "nothing is missing")
    data = lab.random.randbytes(8 * MiB)
    (lab.mnt / "vg1/wide").open("r+b", buffering=0).write(data)
    volfs("lv", "create", lab.mnt / "vg1/new", "-L", "1")
    volfs("map", "create", lab.mnt / "above", "--table", "0 100 linear vg1/one 0")
    holds("in use by above" in refused("deactivate", lab.mnt / "vg1"), "a map stands on it")
    volfs("map", "remove", lab.mnt / "above")
    with open(lab.mnt / "vg1/wide", "rb"):
        holds("1 open file" in refused("deactivate", lab.mnt / "vg1"), "open")
    equal(sorted(os.listdir(lab.mnt / "vg1")), ["new", "one", "wide"], "what a refused end leaves")
    volfs("lv", "deactivate", lab.mnt / "vg1")
    holds(not (lab.mnt / "vg1").exists(), "the group is gone")
    holds("no volume group 'vg1'" in refused("create", lab.mnt / "vg1/x", "-L", "1"), "it takes no changes")
    volfs("image", "remove", lab.mnt, "e1")
    volfs("image", "add", lab.mnt, "e1", lab.path / "e1.img", "--no-activate")
    holds(not (lab.mnt / "vg1").exists(), "not asked for")
    volfs("lv", "activate", lab.mnt / "vg1")
    equal((lab.mnt / "vg1/wide").read_bytes(), data, "what was written")
    holds("on the mount already" in refused("activate", lab.mnt / "vg1"), "twice")
    holds("no volume group 'vg2'" in refused("activate", lab.mnt / "vg2"), "one that there is not")
    # A copy of a physical volume is no other one.
    shutil.copy(lab.path / "e0.img", lab.path / "copy.img")
    volfs("image", "add", lab.mnt, "copy", lab.path / "copy.img")
    volfs("image", "remove", lab.mnt, "copy")
    # A half that was left behind is older, and becomes whole all the same; one from the future is refused.
    volfs("lv", "deactivate", lab.mnt / "vg1")
    volfs("image", "remove", lab.mnt, "e0")
    shutil.copy(lab.path / "e0.img", lab.path / "old.img")
    lab.umount()
    lab.mount(other)
    volfs("lv", "create", lab.mnt / "vg1/newest", "-L", "1")
    lab.umount()
    lab.mount(lab.path / "lab.yaml")
    volfs("image", "add", lab.mnt, "old", lab.path / "old.img")
    volfs("image", "add", lab.mnt, "e1", lab.path / "e1.img")
    holds(not (lab.mnt / "vg1/newest").exists(), "newer metadata was taken in")
    volfs("lv", "deactivate", lab.mnt / "vg1")
    volfs("lv", "activate", lab.mnt / "vg1")
    equal(sorted(os.listdir(lab.mnt / "vg1")), ["new", "newest", "one", "wide"], "of two the newest")


def test_groups_come_and_leave_under_load(lab):
    other = lab.define(JOINING, "other.yaml")
    volfs("create", other)
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    for name in ("e0", "e1"):
        volfs("image", "add", lab.mnt, name, lab.path / f"{name}.img", "--no-activate")
    mount, failures, stop = client.Mount(lab.mnt), [], threading.Event()

    def look():
        while not stop.is_set():
            mount.request("status")
            mount.request("lv.change", lv="vg0/a", add_tags=["x"])
            mount.request("lv.change", lv="vg0/a", remove_tags=["x"])

    def come_and_go():
        for _ in range(15):
            for request in ("vg.activate", "vg.deactivate"):
                try:
                    mount.request(request, vg="vg1")
                except client.Error as error:  # the other thread was first
                    if error.code not in ("EEXIST", "ENOENT"):
                        failures.append(str(error))

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    looking = threading.Thread(target=look)
    for thread in (*threads, looking):
        thread.start()
    for thread in threads:
        thread.join(120)
    stop.set()
    looking.join(60)
    equal(failures, [], "failures")
    volfs("lv", "activate", lab.mnt / "vg1", status=None)
    equal(sorted(os.listdir(lab.mnt / "vg1")), ["one", "wide"], "the group at the end")


def merging(lab):
    return [lv.get("merging") for lv in lab.status()["volume_groups"][0]["logical_volumes"] if lv["name"] == "a"][0]


def test_a_snapshot_is_merged_into_an_origin_that_has_grown(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    before = lab.random.randbytes(4 * MiB)
    (vg / "a").open("r+b", buffering=0).write(before)
    for name in ("snap", "other"):
        volfs("lv", "create", vg / name, "-s", "a", "-L", "8")
    (vg / "a").open("r+b", buffering=0).write(lab.random.randbytes(4 * MiB))
    volfs("lv", "extend", vg / "a", "-L", "+4")
    after = lab.random.randbytes(4 * MiB)
    with open(vg / "a", "r+b", buffering=0) as file:
        file.seek(4 * MiB)
        file.write(after)
    volfs("lv", "merge", vg / "snap", "--yes")
    equal((vg / "a").read_bytes(), before + after, "the origin, merged")
    equal((vg / "other").read_bytes(), before, "the other snapshot")
    lab.umount()
    lab.mount(lab.path / "lab.yaml")
    equal((vg / "a").read_bytes(), before + after, "the origin after a new mount")
    equal(sorted(os.listdir(vg)), ["a", "other"], "what is left")


def test_a_snapshot_is_merged_into_its_origin(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "16")
    before = lab.random.randbytes(16 * MiB)
    (vg / "a").open("r+b", buffering=0).write(before)
    volfs("lv", "create", vg / "snap", "-s", "a", "-L", "18")
    volfs("lv", "create", vg / "other", "-s", "a", "-L", "18")
    (vg / "a").open("r+b", buffering=0).write(lab.random.randbytes(16 * MiB))
    with open(vg / "a", "rb"):
        told = refused("merge", vg / "snap", "--yes")
        holds("a: in use by 1 open file: " in told and f"(pid {os.getpid()})" in told, told)
    with open(vg / "snap", "rb"):
        holds("snap: in use by 1 open file" in refused("merge", vg / "snap", "--yes"), "the snapshot is open")
    holds("is no snapshot" in refused("merge", vg / "a"), "no snapshot")
    # What is lost is said first, and without a terminal nothing is done.
    lost = "what was written to vg0/a since vg0/snap was taken"
    holds(f"nothing was done: this would be lost: {lost}" in refused("merge", vg / "snap"), "a merge in a pipe")
    volfs("lv", "merge", vg / "snap", "--dry-run")
    equal((merging(lab), sorted(os.listdir(vg))), (None, ["a", "other", "snap"]), "after a dry run")
    # Over the end of a daemon that is killed meanwhile.
    volfs("lv", "merge", vg / "snap", "-b", "--yes")
    equal((merging(lab), sorted(os.listdir(vg))), ("snap", ["a", "other"]), "while it is merged")
    holds("already being merged" in refused("merge", vg / "other", "--yes"), "another snapshot at once")
    pid = lab.pid()
    os.kill(pid, signal.SIGKILL)
    volfs("umount", lab.mnt)
    lab.mount(lab.path / "lab.yaml")
    equal(merging(lab), "snap", "after a new mount")
    lab_module.wait_until(lambda: merging(lab) is None, "the merge")
    equal((vg / "a").read_bytes(), before, "what was merged")
    equal((sorted(os.listdir(vg)), [name for name in table(lab).split("\n") if "vg0-snap" in name]), (["a", "other"], []),
          "what is left of the snapshot")
    # In the foreground; the group can leave and come back meanwhile.
    equal(volfs("lv", "merge", vg / "other", "--yes", "--json"), "null\n", "the answer")
    equal(os.listdir(vg), ["a"], "all are merged")
    holds("linear" in table(lab) and "snapshot" not in table(lab), table(lab))


def test_snapshots_from_outside_keep_a_volume(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    volfs("snapshot", "create", lab.mnt / "outside", "--origin", vg / "a", "--cow", lab.path / "outside.cow")
    for words in (("remove", "--yes", vg / "a"), ("extend", vg / "a", "-L", "6"),
                  ("create", vg / "inside", "-s", "a", "-L", "2")):
        holds("a snapshot from outside the group" in refused(*words), f"{words}")
    volfs("lv", "create", vg / "b", "-L", "4")
    volfs("snapshot", "remove", "--yes", lab.mnt / "outside")
    volfs("lv", "extend", vg / "a", "-L", "6")
    equal(size(vg / "a"), 6 * MiB)


def test_snapshots_from_outside_take_turns_with_changes(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    over = threading.Event()

    def ask(mount, name, **keys):
        try:
            mount.request(name, **keys)
        except client.Error as error:
            # The other is at it, or what was refused before is not there now.
            holds(error.code in ("EBUSY", "ENOENT", "EINVAL", "EEXIST"), f"{name}: {error}")

    def resize():
        mount = client.Mount(lab.mnt)
        while not over.is_set():
            ask(mount, "lv.extend", lv="vg0/a", size="+1MiB")
            ask(mount, "lv.reduce", lv="vg0/a", size="-1MiB")

    resizer = threading.Thread(target=resize, daemon=True)
    resizer.start()
    mount = client.Mount(lab.mnt)
    for _ in range(200):
        ask(mount, "snapshot.create", snapshot="outside", origin="vg0/a")
        ask(mount, "snapshot.remove", snapshot="outside")
    over.set()
    resizer.join(60)
    holds(not resizer.is_alive(), "a change never ends")
    volfs("snapshot", "create", lab.mnt / "outside", "--origin", vg / "a")
    volfs("snapshot", "remove", "--yes", lab.mnt / "outside")
    before = size(vg / "a")
    volfs("lv", "extend", vg / "a", "-L", "+1")
    equal(size(vg / "a"), before + MiB)
    holds("-real" not in table(lab) and "snapshot" not in table(lab), table(lab))


class Writer(threading.Thread):
    """Writes numbered blocks to a volume and remembers them, until it is stopped."""

    def __init__(self, path, blocks, random):
        super().__init__()
        self.file = open(path, "r+b", buffering=0)
        self.blocks, self.random = blocks, random
        self.content = {}
        self.error = None
        self.ended = threading.Event()

    def run(self):
        number = 0
        try:
            while not self.ended.is_set():
                number += 1
                block = self.random.randrange(self.blocks)
                data = number.to_bytes(8, "little") * 512
                os.pwrite(self.file.fileno(), data, block * 4096)
                self.content[block] = data
        except OSError as error:
            self.error = error

    def stop(self):
        self.ended.set()
        self.join()
        self.file.close()
        if self.error:
            raise Failed(f"a write failed: {self.error}")
        return self.content


def test_changes_under_load(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "busy", "-L", "4")
    writer = Writer(vg / "busy", 1024, lab.random)
    writer.start()
    try:
        frozen = {}
        for step in range(3):
            volfs("lv", "create", vg / f"snap{step}", "-s", "busy", "-L", "6")
            frozen[step] = sha256(vg / f"snap{step}")
            volfs("lv", "extend", vg / "busy", "-L", "+1M")
            volfs("lv", "create", vg / f"new{step}", "-L", "1")
        volfs("lv", "rename", vg / "busy", "calm")
        volfs("lv", "remove", "--yes", vg / "snap1")
        for step in (0, 2):
            equal(sha256(vg / f"snap{step}"), frozen[step], f"snapshot {step} shows the past")
        volfs("lv", "remove", "--yes", vg / "snap0")
        volfs("lv", "remove", "--yes", vg / "snap2")
        holds("snapshot-origin" not in table(lab), "the origin is plain again")
    finally:
        content = writer.stop()
    equal(size(vg / "calm"), 7 * MiB, "extended three times")
    data = (vg / "calm").read_bytes()
    for block, expected in content.items():
        equal(data[block * 4096:][:4096], expected, f"block {block}")
    lab.umount()
    lab.mount(lab.path / "lab.yaml")
    equal((vg / "calm").read_bytes() == data, True, "the same after a remount")
    equal(sorted(os.listdir(vg)), ["calm", "new0", "new1", "new2"])


def test_a_foreign_change_is_refused(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    saved = [(lab.path / name).read_bytes()[:AREA] for name in IMAGES]
    volfs("lv", "create", vg / "b", "-L", "4")
    now = [(lab.path / name).read_bytes()[:AREA] for name in IMAGES]

    def put(areas):
        for name, area in zip(IMAGES, areas):
            with open(lab.path / name, "r+b") as image:
                image.write(area)

    put(saved)  # an older state: somebody restored it
    holds("changed by another" in refused("create", vg / "c", "-L", "4"), "a gap")
    put(now)
    (lab.path / "copy").mkdir()
    for name in IMAGES:
        shutil.copy(lab.path / name, lab.path / "copy" / name)
    there = lab.path / "copy/mnt"
    there.mkdir()
    shutil.copy(lab.path / "lab.yaml", lab.path / "copy/lab.yaml")
    lab.mount(lab.path / "copy/lab.yaml", mnt=there)
    volfs("lv", "create", there / "vg0/c", "-L", "4")
    lab.umount(there)
    put([(lab.path / "copy" / name).read_bytes()[:AREA] for name in IMAGES])
    holds("changed by another" in refused("create", vg / "d", "-L", "4"), "a newer state")
    equal(sorted(os.listdir(vg)), ["a", "b"])
    put(now)
    volfs("lv", "create", vg / "d", "-L", "4")
    equal(sorted(os.listdir(vg)), ["a", "b", "d"])


def test_read_only_mounts_change_nothing(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4")
    lab.umount()
    before = [sha256(lab.path / name) for name in IMAGES]
    lab.mount(*(lab.path / name for name in IMAGES))
    holds("read-only" in refused("create", vg / "b", "-L", "4"), "a read-only mount")
    volfs("lv", "deactivate", vg / "a")
    volfs("lv", "activate", vg / "a")
    lab.umount()
    equal([sha256(lab.path / name) for name in IMAGES], before, "the images")


def test_an_older_copy_of_the_metadata_undeletes(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "lost", "-L", "4")
    (vg / "lost").write_bytes(content := lab.random.randbytes(4 * MiB))
    volfs("lv", "remove", "--yes", vg / "lost")
    volfs("lv", "create", vg / "other", "-L", "4", "d2")
    lab.umount()
    images = [lab.path / name for name in IMAGES]
    before = [sha256(image) for image in images]
    found = json.loads(volfs("inspect", "--json", *images))
    copies = found[0]["lvm"]["metadata_areas"][0]["copies"]
    equal([copy["seqno"] for copy in copies], [1, 2, 3, 4])
    equal([copy["current"] for copy in copies], [False, False, False, True])
    holds("lv create vg0/lost" in copies[1]["description"], f"{copies[1]}")
    lab.mount(*images, options=["metadata=2"])
    equal(os.listdir(vg), ["lost"])
    equal((vg / "lost").read_bytes() == content, True, "what the removed volume held")
    lab_module.raises(30, open, vg / "lost", "r+b")  # EROFS
    lab.umount()
    holds("found 1, 2, 3, 4" in stderr_of(VOLFS, "mount", *images, lab.mnt, "-o", "metadata=9"), "those there are")
    equal([sha256(image) for image in images], before, "the images")
    # A damaged area is told, with the text that its header points to no more.
    with open(images[0], "r+b") as image:
        image.seek(4096 + 100)
        image.write(b"x")
    text = volfs("inspect", images[0])
    holds("DAMAGED" in text and "LVM physical volume" in text, text)
    holds("seqno 2 of vg0" in text, "the copies in the ring of a damaged header")
    # So on all: what inspect lists is mounted as well.
    for image in images[1:]:
        with open(image, "r+b") as file:
            file.seek(4096 + 100)
            file.write(b"x")
    said = stderr_of(VOLFS, "mount", *images, lab.mnt, status=2)
    equal(said.count("d0.img: metadata area"), 1, said)
    lab.mount(*images, options=["metadata=2"])
    equal(os.listdir(vg), ["lost"])
    equal((vg / "lost").read_bytes() == content, True, "with damaged headers")
    lab.umount()
    holds("exclude each other" in stderr_of(VOLFS, "mount", *images, lab.mnt, "-o", "rw,metadata=2", status=2), "rw")


def test_copies_of_physical_volumes_are_not_mixed(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "a", "-L", "4", "d0")
    volfs("lv", "create", vg / "b", "-L", "4", "d1")
    lab.umount()
    images, copies = [lab.path / name for name in IMAGES], [lab.path / f"x{name}" for name in IMAGES]
    for image, copy in zip(images, copies):
        shutil.copy(image, copy)
    before = [sha256(image) for image in images + copies]

    text = f"is on {images[0].name} and {copies[0].name}: it is taken as missing"
    scan = volfs("scan", *images, copies[0])
    holds(text in scan and f"1 missing; on several devices: {images[0].name} {copies[0].name}" in scan, scan)
    status, said = output(VOLFS, "mount", *images, copies[0], lab.mnt, "-o", "rw")
    equal((status, said.count(text)), (0, 1), said)
    equal(os.listdir(vg), ["b"])
    lab_module.raises(30, open, vg / "b", "r+b")  # EROFS
    said = stderr_of(VOLFS, "lv", "create", vg / "new", "-L", "1")
    holds(text in said, said)
    lab.umount()

    for command in (["scan", *images, *copies], ["mount", *images, *copies, lab.mnt]):
        said = output(VOLFS, *command)[1]
        equal(said.count("each of its PVs is on several devices (" + f"{images[0].name} and {copies[0].name}"), 1, said)
        holds("0 of" not in said, said)
    equal([sha256(image) for image in images + copies], before, "the images")

    # A definition says which belong together.
    listed = "".join(f"  c{i}: {copy.name}\n" for i, copy in enumerate(copies))
    listed += "".join(f"  d{i}: {image.name}\n" for i, image in enumerate(images))
    names = [", ".join(f"{letter}{i}" for i in range(len(images))) for letter in "dc"]
    head = f"volfs: 1\nimages:\n{listed}volume_groups:\n"
    path = lab.define(head + f"  vg0: {{physical_volumes: [{names[0]}]}}\n")
    lab.mount(path)
    equal(sorted(os.listdir(vg)), ["a", "b"])
    lab.umount()
    both = head + f"  vg0: {{physical_volumes: [{names[0]}]}}\n  vg1: {{physical_volumes: [{names[1]}]}}\n"
    said = stderr_of(VOLFS, "mount", lab.define(both), lab.mnt)
    holds("there is no volume group 'vg1' on its physical volumes; found vg0" in said, said)


RAID = """
volfs: 1
images: {e0: {path: e0.img, size: 16MiB}, e1: {path: e1.img, size: 16MiB}, e2: {path: e2.img, size: 16MiB}}
volume_groups:
  vg1:
    physical_volumes: [e0, e1, e2]
    extent_size: 64KiB
    logical_volumes:
      pair: {size: 4MiB, type: raid1, region_size: 64KiB, physical_volumes: [e0, e1]}
      five: {size: 4MiB, type: raid5, region_size: 64KiB}
      plain: {size: 1MiB, physical_volumes: [e1]}
"""


def raid_of(lab, name):
    device = next(d for d in lab.status()["devices"] if d.get("volume") == f"vg1/{name}")
    return device["state"], device["raid"]


def in_sync(lab, *names):
    def whole(name):
        state, raid = raid_of(lab, name)
        return state == "active" and raid["raid_sync_action"] == "idle"
    for name in names:
        lab_module.wait_until(lambda name=name: whole(name), f"{name} in sync")


def test_a_device_that_joins_makes_raids_whole(lab):
    """The group is up without a device; volumes are written to, and it joins: legs are recovered, under load."""
    path = lab.define(RAID)
    volfs("create", path)
    lab.mount(path)
    in_sync(lab, "pair", "five")
    for name in ("pair", "five", "plain"):
        (lab.mnt / "vg1" / name).open("r+b", buffering=0).write(lab.random.randbytes(MiB))
    volfs("lv", "create", lab.mnt / "vg1/before", "-s", "pair", "-L", "2")
    plain = sha256(lab.mnt / "vg1/plain")
    lab.umount()
    told = mounted_with_words(lab, lab.path / "e0.img", lab.path / "e2.img", options=["rw"])
    equal([line for line in told.splitlines() if "missing" in line and "plain" not in line][1:], [], f"it is told once: {told}")
    equal([raid_of(lab, "five")[0], each_slot(lab, "five")], ["degraded", [0, 2]], "without e1")
    equal(next(d["state"] for d in lab.status()["devices"] if d.get("volume") == "vg1/pair"), "degraded", "an origin")
    holds(not (lab.mnt / "vg1/plain").exists(), "plain is not there")
    expected = {name: lab.random.randbytes(4 * MiB) for name in ("pair", "five")}
    for name, data in expected.items():
        (lab.mnt / "vg1" / name).open("r+b", buffering=0).write(data)
    writer = Writer(lab.mnt / "vg1/five", 256, lab.random)
    writer.start()
    try:
        volfs("image", "add", lab.mnt, "e1", lab.path / "e1.img")
        in_sync(lab, "five")
    finally:
        written = writer.stop()
    equal(each_slot(lab, "five"), [0, 1, 2], "with e1")
    equal(sha256(lab.mnt / "vg1/plain"), plain, "what was not there")
    lab_module.wait_until(lambda: "pair-real: 0 8192 raid raid1 2 AA 8192/8192 idle" in (lab.mnt / ".volfs/status").read_text(),
                          "pair in sync")
    for name in ("pair", "five"):
        volfs("lv", "change", lab.mnt / "vg1" / name, "--syncaction", "check")
    in_sync(lab, "five")
    equal(raid_of(lab, "five")[1]["raid_mismatch_count"], 0, "mismatches")
    for block, data in written.items():
        expected["five"] = expected["five"][:block * 4096] + data + expected["five"][block * 4096 + 4096:]
    lab.umount()
    # What was recovered serves alone.
    lab.mount(lab.path / "e1.img", lab.path / "e2.img", options=["rw"])
    for name, data in expected.items():
        equal((lab.mnt / "vg1" / name).read_bytes(), data, f"{name} from what joined")


def mounted_with_words(lab, *sources, options):
    words = [word for option in options for word in ("-o", option)]
    done = lab_module.subprocess.run([VOLFS, "mount", *sources, lab.mnt, *words], stdin=lab_module.subprocess.DEVNULL,
                                     stderr=lab_module.subprocess.PIPE, text=True, check=True)
    lab.cleanup.callback(lab.take_off, lab.mnt)
    return done.stderr


def each_slot(lab, name):
    return sorted(member["slot"] for member in raid_of(lab, name)[1]["members"] if "slot" in member)


def test_a_raid_stays_as_large_as_its_region(lab):
    vg = mounted(lab)
    volfs("lv", "create", vg / "r", "--type", "raid1", "-R", "2", "-L", "4")
    holds("a raid cannot be smaller than its region size of 2MiB" in refused("reduce", vg / "r", "-L", "1", "--yes"), "refused")
    volfs("lv", "reduce", vg / "r", "-L", "2", "--yes")
    equal(size(vg / "r"), 2 * MiB, "reduced")


def test_a_raid_is_scrubbed(lab):
    path = lab.define(RAID)
    volfs("create", path)
    lab.mount(path)
    in_sync(lab, "pair", "five")
    for words, said in ((("plain", "check"), "LV type linear has nothing to check"), (("none", "check"), "no such volume")):
        told = refused("change", lab.mnt / "vg1" / words[0], "--syncaction", words[1])
        holds(said in told, told)
    told = stderr_of(VOLFS, "lv", "change", lab.mnt / "vg1/five", "--syncaction", "check", "--addtag", "x")
    holds("expected 'syncaction', or some of" in told, told)
    lab.umount()
    # The first extents of pair's second leg, on e1: behind its metadata.
    with open(lab.path / "e1.img", "r+b") as image:
        image.seek(MiB + 2 * 65536)
        image.write(b"spoilt" * 100)
    lab.mount(path)
    for action, found in (("check", True), ("repair", True), ("check", False)):
        volfs("lv", "change", lab.mnt / "vg1/pair", "--syncaction", action)
        in_sync(lab, "pair")
        equal(raid_of(lab, "pair")[1]["raid_mismatch_count"] > 0, found, action)
        equal(" mismatches " in volfs("tree", lab.mnt), found, f"what the tree says after {action}")


def test_a_leg_that_fails_is_told(lab):
    """The table of a leg's device is an error: the raid is degraded in the status, the tree and the events."""
    path = lab.define(RAID)
    volfs("create", path)
    lab.mount(path)
    in_sync(lab, "pair", "five")
    events = lab_module.subprocess.Popen([VOLFS, "events", str(lab.mnt)], stdout=lab_module.subprocess.PIPE, text=True)
    lab.cleanup.callback(events.kill)
    os.truncate(lab.path / "e1.img", MiB)
    with open(lab.mnt / "vg1/five", "r+b", buffering=0) as file:
        file.write(lab.random.randbytes(MiB))
        os.fsync(file.fileno())
    lab_module.wait_until(lambda: raid_of(lab, "five")[0] == "degraded", "five to be degraded")
    states = {member["device"]: member["state"] for member in raid_of(lab, "five")[1]["members"]}
    equal(states, {"vg1-five_rimage_0": "in_sync", "vg1-five_rimage_1": "faulty", "vg1-five_rimage_2": "in_sync"}, "legs")
    tree = volfs("tree", lab.mnt)
    holds("faulty in vg1-five" in tree and "degraded" in tree, tree)
    seen = set()
    for line in events.stdout:
        event = json.loads(line)
        seen.add((event["event"], event.get("subject", event.get("device"))))
        if event["event"] == "array.state":
            equal((event["state"], event["before"]), ("degraded", "active"), line)
            break
    events.kill()


if __name__ == "__main__":
    lab_module.main(globals())
