#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes that were made, changed and removed on a mount are the same to lvm2, and the other way round."""

import hashlib
import os
import signal

import device_io
import kernel_lab
import lvm_lab
from lab import SEED, equal, holds, volfs, wait_until

DISKS = ["d0", "d1", "d2", "d3"]
ATTACH = "".join(f"{name}=$(losetup --find --show {name}.img)\n" for name in DISKS)
DEFINITION = """
volfs: 1
images: {d0: {path: d0.img, size: 24MiB}, d1: {path: d1.img, size: 24MiB}, d2: {path: d2.img, size: 24MiB},
         d3: {path: d3.img, size: 24MiB}}
volume_groups:
  vg0: {physical_volumes: [d0, d1, d2, d3], extent_size: 256KiB}
"""
LINUX_GOES_ON = """
vgck vg0
vgchange -q -q -ay vg0
PROGRAM scribble SEED /dev/vg0/{root,wide,early,copy}
lvm <<END
lvextend -q -q -l +3 vg0/wide
lvremove -q -q -y vg0/early
lvcreate -q -q -y -Zn -n theirs -l 9 vg0
lvrename -q -q vg0/copy vg0/late
END
vgck vg0
lvs -a --noheadings -o lv_name,lv_size --units k --nosuffix vg0
"""
ATTRIBUTES = "lvs --noheadings --separator : -o lv_name,lv_tags,lv_permissions vg0"


def lv(lab, command, volume, *words):
    volfs("lv", command, lab.mnt / "vg0" / volume, *words)


def scribble(lab, *volumes):
    for seed, volume in enumerate(volumes, SEED):
        device_io.scribble(lab.mnt / "vg0" / volume, seed, 30)


def make_volumes(lab):
    lv(lab, "create", "root", "-l", "20")
    lv(lab, "create", "gone", "-l", "7")
    lv(lab, "create", "wide", "-i", "3", "-I", "16", "-l", "12", "--addtag", "x")
    lv(lab, "create", "tight", "-l", "5", "--alloc", "contiguous", "-p", "r")
    scribble(lab, "root", "wide", "gone")
    lv(lab, "create", "early", "-s", "root", "-l", "9", "-c", "8")
    scribble(lab, "root", "early")
    lv(lab, "extend", "root", "-l", "+8", "d1")
    lv(lab, "remove", "gone", "--yes")
    lv(lab, "create", "copy", "-s", "root", "-l", "8")
    lv(lab, "extend", "early", "-l", "+2")
    lv(lab, "extend", "wide", "-l", "+6")
    scribble(lab, "root", "copy", "wide", "early")
    lv(lab, "rename", "tight", "narrow")
    lv(lab, "create", "spare", "-l", "10%FREE")
    lv(lab, "reduce", "spare", "-l", "3", "--yes")
    lv(lab, "change", "wide", "--addtag", "y", "--addtag", "z", "--deltag", "x", "--deltag", "none")
    lv(lab, "change", "narrow", "--permission", "rw")
    lv(lab, "change", "spare", "-p", "r", "--addtag", "done")


def test_lvm2_and_volfs_take_turns(lab):
    path = lab.define(DEFINITION)
    volfs("create", path)
    lab.mount(path)
    make_volumes(lab)
    volumes = sorted(f"vg0/{name}" for name in os.listdir(lab.mnt / "vg0"))
    equal(volumes, [f"vg0/{name}" for name in ("copy", "early", "narrow", "root", "spare", "wide")])
    sums = {volume: device_io.sha256(lab.mnt / volume) for volume in volumes}
    live = {what: lvm_lab.rows_of(lab.text(what)) for what in ("table", "status")}
    lab.umount()
    found = lvm_lab.in_guest(lab, f"vgck vg0; vgchange -q -q -ay vg0; {ATTRIBUTES}", volumes, ATTACH)
    equal(found["sums"], sums, "volumes as volfs left them")
    lines = [line.strip() for line in found["output"].splitlines()]
    for line in ("wide:y,z:writeable", "narrow::writeable", "spare:done:read-only", "root::writeable"):
        holds(line in lines, f"{line} is not what lvm2 says:\n{found['output']}")
    names = [(f"{name}.img", name) for name in DISKS]
    for what, rows in live.items():
        equal(rows, lvm_lab.rows_of(found[what], names), f"{what}: what was loaded step by step")
    volumes = [f"vg0/{name}" for name in ("root", "wide", "late", "narrow", "spare", "theirs")]
    found = lvm_lab.in_guest(lab, LINUX_GOES_ON, volumes, ATTACH)
    lab.mount(path)
    lvm_lab.compare(lab, found, volumes, "changed by lvm2", ("vg0-",), names)
    lv(lab, "remove", "theirs", "--yes")
    lv(lab, "remove", "late", "--yes")
    lv(lab, "extend", "root", "-l", "+100%FREE")
    scribble(lab, "root", "wide")
    volumes = [f"vg0/{name}" for name in ("root", "wide", "narrow", "spare")]
    sums = {volume: device_io.sha256(lab.mnt / volume) for volume in volumes}
    lab.umount()
    found = lvm_lab.in_guest(lab, "vgck vg0; vgchange -q -q -ay vg0; vgs --noheadings -o vg_free_count vg0", volumes, ATTACH)
    equal(found["sums"], sums, "changed again by volfs")
    holds(["0"] in [line.split() for line in found["output"].splitlines()], f"nothing is free:\n{found['output']}")


# Whatever is merged: to its end. lvm2's process in the background, which would note that, is left out: it was seen to sleep on.
MERGE = """
vgck vg0
lvs --noheadings -a --separator : -o lv_name,lv_attr,origin vg0
vgchange -q -q -ay --poll n vg0
timeout 300 lvm lvpoll --polloperation merge --interval 1 vg0/root
lvs --noheadings -a --separator : -o lv_name,origin vg0
"""
# lvm2 only notes it: the origin is not active.
BEGIN_MERGE = """
vgchange -q -q -an vg0
lvconvert -q -q --merge vg0/before
vgck vg0
"""


def with_snapshot(lab):
    """The origin as it was and as it became."""
    lv(lab, "create", "root", "-L", "16")
    lv(lab, "create", "other", "-L", "4")
    scribble(lab, "root", "other")
    then = device_io.sha256(lab.mnt / "vg0/root")
    lv(lab, "create", "before", "-s", "root", "-L", "20")
    (lab.mnt / "vg0/root").open("r+b", buffering=0).write(lab.random.randbytes(16 << 20))
    return then


def merging(lab):
    return [volume.get("merging") for volume in lab.status()["volume_groups"][0]["logical_volumes"] if volume["name"] == "root"]


def test_a_merge_goes_on_on_the_other_side(lab):
    path = lab.define(DEFINITION)
    volfs("create", path)
    lab.mount(path)
    then = with_snapshot(lab)
    volfs("lv", "merge", lab.mnt / "vg0/before", "-b", "--yes")
    equal(merging(lab), ["before"], "volfs merges")
    os.kill(lab.pid(), signal.SIGKILL)
    volfs("umount", lab.mnt)
    found = lvm_lab.in_guest(lab, MERGE, ["vg0/root", "vg0/other"], ATTACH)
    lines = [line.strip() for line in found["output"].splitlines()]
    holds(any(line.startswith("root:O") for line in lines), f"lvm2 sees no merge:\n{found['output']}")
    holds("root:" in lines and "before" not in found["output"].split("root:")[-1], f"lvm2 did not end it:\n{found['output']}")
    equal(found["sums"]["vg0/root"], then, "merged by Linux to the end")
    lab.mount(path)
    equal(device_io.sha256(lab.mnt / "vg0/root"), then, "merged, on volfs")
    lv(lab, "remove", "root", "--yes")
    lv(lab, "remove", "other", "--yes")
    then = with_snapshot(lab)
    lab.umount()
    lvm_lab.in_guest(lab, BEGIN_MERGE, [], ATTACH)
    lab.mount(path)
    wait_until(lambda: merging(lab) == [None], "the merge that lvm2 began")
    equal(device_io.sha256(lab.mnt / "vg0/root"), then, "merged by volfs")
    equal(sorted(os.listdir(lab.mnt / "vg0")), ["other", "root"], "volumes")
    lab.umount()
    found = lvm_lab.in_guest(lab, "vgck vg0; vgchange -q -q -ay vg0; lvs --noheadings -a -o lv_name vg0", ["vg0/root"], ATTACH)
    equal(found["sums"]["vg0/root"], then, "merged by volfs, on Linux")
    holds("before" not in found["output"], f"something is left:\n{found['output']}")


DM_TABLES = """
vgchange -q -q -ay --poll n vg0
dmsetup table vg0-root
"""


def test_an_origin_that_has_grown_is_merged_into_as_by_linux(lab):
    path = lab.define(DEFINITION)
    volfs("create", path)
    lab.mount(path)
    then = with_snapshot(lab)
    old = (lab.mnt / "vg0/root").stat().st_size
    lv(lab, "extend", "root", "-L", "+8")
    size = (lab.mnt / "vg0/root").stat().st_size
    with open(lab.mnt / "vg0/root", "r+b", buffering=0) as file:
        file.seek(old)
        file.write(lab.random.randbytes(size - old))
        file.seek(old)
        grown = file.read(size - old)
    lv(lab, "merge", "before", "-b", "--yes")
    os.kill(lab.pid(), signal.SIGKILL)
    volfs("umount", lab.mnt)
    found = lvm_lab.in_guest(lab, DM_TABLES + MERGE, ["vg0/root"], ATTACH)
    holds(any(line.startswith(f"0 {size // 512} snapshot-merge ") for line in found["output"].splitlines()),
          f"what Linux loads:\n{found['output']}")
    lab.mount(path)
    merged = (lab.mnt / "vg0/root").read_bytes()
    equal((device_io.sha256(lab.mnt / "vg0/root"), merged[old:] == grown), (found["sums"]["vg0/root"], True), "merged by Linux")
    equal(hashlib.sha256(merged[:old]).hexdigest(), then, "what the snapshot had")
    lab.umount()


if __name__ == "__main__":
    kernel_lab.main(globals())
