#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirrors of lvm2 and pvmoves that have not ended: the same to volfs as to Linux, written by either, over crashes."""

import os
import signal

import device_io
import kernel_lab
import lvm_lab
from lab import MiB, SEED, equal, holds, raises, sha256, volfs, wait_until

DISKS = [f"d{i}.img" for i in range(5)]
ATTACH = "".join(f"{name.removesuffix('.img')}=$(losetup --find --show {name})\n" for name in DISKS)
MIRRORS = ["vg0/logged", "vg0/three", "vg0/two"]
VOLUMES = [*MIRRORS, "vg0/moved"]
# The logs of two are on disks, of one in memory; d4 has what is no mirror.
MAKE = """
lvm <<END
pvcreate -q -q --metadatasize 64k --dataalignment 64k $d0 $d1 $d2 $d3 $d4
vgcreate -q -q -s 64k vg0 $d0 $d1 $d2 $d3 $d4
lvcreate -q -q -y -Zn -Wn -n gap -l 3 vg0 $d1
lvcreate -q -q -y -Zn -Wn --type mirror -m 1 -R 64k -l 21 -n logged vg0 $d0 $d1 $d3:100-
lvcreate -q -q -y -Zn -Wn --type mirror -m 1 --mirrorlog core -R 128k -l 9 -n two vg0 $d0 $d1
lvcreate -q -q -y -Zn -Wn --type mirror -m 2 -R 64k -l 7 -n three vg0 $d0 $d1 $d2 $d3:100-
lvcreate -q -q -y -Zn -Wn -n moved -l 11 vg0 $d4
END
PROGRAM scribble SEED /dev/vg0/{logged,three,two,moved}
SETTLED
"""
SETTLED = """
while dmsetup status --target mirror | awk '{split($(6 + $5), n, "/"); if (n[1] != n[2]) bad = 1} END {exit !bad}'; do sleep 0.1; done
"""
# The legs of each mirror, byte for byte.
LEGS = """
for mirror in logged two three; do
  for leg in /dev/mapper/vg0-${mirror}_mimage_[12]; do [ ! -e $leg ] || cmp /dev/mapper/vg0-${mirror}_mimage_0 $leg; done
done
"""


def in_guest(lab, script, volumes=VOLUMES):
    return lvm_lab.in_guest(lab, script.replace("SETTLED", SETTLED).replace("LEGS", LEGS), volumes, ATTACH)


def make(lab):
    for name in DISKS:
        lab.file(name, 12 * MiB)
    return in_guest(lab, MAKE)


def mount(lab, *options, disks=DISKS, activation="degraded"):
    lab.mount(lab.define("\n".join([
        "volfs: 1", "images:", *(f"  {name}: {name}" for name in disks), "volume_groups:",
        f"  vg0: {{physical_volumes: [{', '.join(disks)}], activation: {activation}}}"])), options=list(options))


def mirror_rows(lab):
    return [line.split() for line in lab.text("status").splitlines() if line.split()[3:4] == ["mirror"]]


def in_sync(lab):
    def done():
        return all(words[5 + int(words[4])].split("/")[0] == words[5 + int(words[4])].split("/")[1] for words in mirror_rows(lab))
    wait_until(done, f"mirrors in sync: {mirror_rows(lab)}")


def sums_here(lab, volumes=VOLUMES):
    return {volume: device_io.sha256(lab.mnt / volume) for volume in volumes}


def images(lab):
    return [sha256(lab.path / name) for name in DISKS]


def reading_changes_nothing(lab, made, what):
    before = images(lab)
    lab.mount(*(lab.path / name for name in DISKS))
    equal(sums_here(lab), made["sums"], what)
    lab.umount()
    equal(images(lab), before, "the images after a read-only mount")


def test_mirrors_of_lvm2(lab):
    made = make(lab)
    # Tables and status come later: what is in sync in memory only is forgotten when nobody may write.
    reading_changes_nothing(lab, made, "as lvm2 made them")
    mount(lab, "rw")
    in_sync(lab)
    lvm_lab.compare(lab, made, VOLUMES, "as lvm2 made them", ("vg0-",))
    lab.umount()


def test_linux_goes_on_with_what_volfs_wrote(lab):
    make(lab)
    mount(lab, "rw")
    for seed, volume in enumerate(VOLUMES, SEED + 10):
        device_io.scribble(lab.mnt / volume, seed, 30)
    sums = sums_here(lab)
    lab.umount()
    found = in_guest(lab, "vgck vg0; vgchange -q -q -ay vg0; dmsetup status vg0-logged; dmsetup status vg0-three\nSETTLED\nLEGS")
    equal(found["sums"], sums, "written by volfs")
    # Nothing is to be done for logs that say so.
    for words in [line.split() for line in found["output"].splitlines() if " mirror " in line][:2]:
        holds(words[4 + int(words[3])] in ("21/21", "7/7"), f"Linux began with {words}")
    holds("differ" not in found["output"], found["output"])


def test_a_crash_leaves_what_the_first_leg_has(lab):
    make(lab)
    mount(lab, "rw")
    in_sync(lab)
    for seed, volume in enumerate(VOLUMES, SEED + 20):
        device_io.scribble(lab.mnt / volume, seed, 20)
        os.sync()
    os.kill(lab.pid(), signal.SIGKILL)
    volfs("umount", lab.mnt)
    mount(lab, "ro")
    sums = sums_here(lab)
    logged, = (words for words in mirror_rows(lab) if words[0] == "vg0-logged:")
    holds(logged[7] != "21/21", f"the log tells what was being written: {logged}")
    lab.umount()
    found = in_guest(lab, "vgchange -q -q -ay vg0\nSETTLED\nLEGS")
    equal(found["sums"], sums, "after a crash")
    holds("differ" not in found["output"], found["output"])


def test_partial_mirrors(lab):
    made = make(lab)
    for lost, dead in (("d1.img", ["vg0/logged", "vg0/three", "vg0/two"]), ("d4.img", ["vg0/moved"])):
        left = [name for name in DISKS if name != lost]
        mount(lab, "ro", disks=left)
        equal(sorted(each["volume"] for each in lab.status()["unavailable"]), sorted([*dead, *(["vg0/gap"] if lost == "d1.img" else [])]),
              f"without {lost}")
        lab.umount()
    left = [name for name in DISKS if name != "d1.img"]
    mount(lab, "ro", disks=left, activation="partial")
    equal(sums_here(lab, MIRRORS), {name: made["sums"][name] for name in MIRRORS}, "partial, by the first legs")
    lab.umount()
    # By the other ones where the logs say that they are the same.
    left = [name for name in DISKS if name != "d0.img"]
    mount(lab, "ro", disks=left, activation="partial")
    for volume in ("vg0/logged", "vg0/three"):
        equal(device_io.sha256(lab.mnt / volume), made["sums"][volume], f"partial, by the second leg: {volume}")
    with open(lab.mnt / "vg0/two", "rb", buffering=0) as file:
        raises(5, file.read, 1)  # EIO: nothing says that it holds the same
    lab.umount()


def test_a_pvmove_that_has_not_ended(lab):
    make(lab)
    script = """
vgchange -q -q -ay vg0
(cd /; pvmove -q -q -b -i +1000 -n moved $d4 $d2)  # what polls stays, and holds its folder
lvs -a --noheadings -o name,segtype,lv_attr vg0
"""
    made = in_guest(lab, script)
    holds("pvmove0" in made["output"], f"no pvmove is under way:\n{made['output']}")
    reading_changes_nothing(lab, made, "while it is moved")
    mount(lab, "rw")
    device_io.scribble(lab.mnt / "vg0/moved", SEED + 31, 30)
    sums = sums_here(lab)
    lab.umount()
    found = in_guest(lab, "vgchange -q -q -ay --poll n vg0; timeout 100 lvm pvmove -q -q -i 1; lvs -a --noheadings -o name,devices vg0\nSETTLED")
    equal(found["sums"], sums, "moved by Linux to the end")
    holds("pvmove0" not in found["output"] and "/dev/loop2" in found["output"], f"it has not ended:\n{found['output']}")


if __name__ == "__main__":
    kernel_lab.main(globals())
