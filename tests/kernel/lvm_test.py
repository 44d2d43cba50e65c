#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Volume groups that lvm2 made are the same files, tables and bytes to volfs as to Linux."""

import re
import struct

import device_io
import kernel_lab
import lvm_lab
from lab import MiB, SEED, equal, holds, raises, sha256

FIRST = 2048  # where the partition with the first physical volume begins, in sectors
PVS = ["pv0.img", "pv1.img", "pv2.img", "pv3.img"]
ALL = [*PVS, "other.img"]
PLAIN = ["vg0/lin", "vg0/stripe", "vg0/moved", "vg0/renamed", "vg0/spread", "vg0/base", "vg0/early", "vg0/late",
         "vg0/nought", "vg1/data"]
WRITTEN = [volume for volume in PLAIN if volume != "vg0/nought"]  # whose contents mean something
ON_PV3 = ["vg0/moved", "vg0/spread"]

# Where the images are, as $d0 to $d3 and $other; a partition is a loop device with an offset.
ATTACH = f"""
d0=$(losetup --find --show --offset {FIRST * 512} pv0.img)
disks=($(attach pv1.img pv2.img pv3.img other.img))
d1=${{disks[0]}} d2=${{disks[1]}} d3=${{disks[2]}} other=${{disks[3]}}
"""
# One lvm for many commands: starting programs is slow.
MAKE = """
lvm <<END
pvcreate -q -q --metadatasize 64k --dataalignment 64k $d0 $d1 $d2 $d3 $other
vgcreate -q -q -s 512k vg0 $d0 $d1 $d2 $d3
vgcreate -q -q vg1 $other
lvcreate -q -q -y -Zn -n lin -l 7 vg0 $d0
lvcreate -q -q -y -Zn -n moved -l 6 vg0 $d1
lvcreate -q -q -y -Zn -n stripe -i 3 -I 16k -l 12 vg0 $d0 $d1 $d2
lvcreate -q -q -y -Zn -n old -l 3 vg0 $d1
lvextend -q -q -l +5 vg0/lin $d2
lvextend -q -q -l +3 vg0/lin $d1
lvrename -q -q vg0/old vg0/renamed
lvcreate -q -q -y -Zn -n spread -l 4 vg0 $d2
lvextend -q -q -l +4 vg0/spread $d3
lvcreate -q -q -y -Zn -n base -l 5 vg0 $d0
lvcreate -q -q -y -Zn --type error -n bad -l 3 vg0
lvcreate -q -q -y -Zn --type zero -n nought -l 3 vg0
lvcreate -q -q -y -Zn -n inner -l 8 vg0 $d3
lvcreate -q -q -y -Zn -n data -l 2 vg1
pvcreate -q -q NESTING --metadatasize 64k --dataalignment 64k /dev/vg0/inner
vgcreate -q -q NESTING -s 256k vg2 /dev/vg0/inner
lvcreate -q -q -y -Zn NESTING -n nested -l 6 vg2
END
PROGRAM scribble SEED /dev/vg0/{lin,moved,stripe,renamed,spread,base} /dev/vg1/data /dev/vg2/nested
lvm <<END
pvmove -q -q -i 1 -n moved $d1 $d3
lvcreate -q -q -y -s -n early -c 4k -l 5 vg0/base $d1
END
PROGRAM scribble $((SEED + 10)) /dev/vg0/{base,early}
lvcreate -q -q -y -s -n late -c 16k -l 5 vg0/base $d2
PROGRAM scribble $((SEED + 20)) /dev/vg0/{base,early,late}
for i in {1..12}; do echo vgchange -q -q --addtag tag$i vg0; echo vgchange -q -q --deltag tag$i vg0; done | lvm
"""


def make_images(lab):
    for name in ALL:
        lab.file(name, 13 * MiB)
    entry = struct.pack("<8B2I", 0, 254, 255, 255, 0x8E, 254, 255, 255, FIRST, 13 * MiB // 512 - FIRST)
    with open(lab.path / "pv0.img", "r+b") as image:
        image.seek(446)
        image.write(entry + bytes(48) + b"\x55\xaa")


def in_guest(lab, script, volumes):
    return lvm_lab.in_guest(lab, script, volumes, ATTACH)


def compare(lab, found, volumes, what, groups=("vg0-", "vg1-")):
    lvm_lab.compare(lab, found, volumes, what, groups, [("pv0.img", "pv0.imgp1")])  # a partition to volfs


def sums(lab):
    return {name: sha256(lab.path / name) for name in ALL}


def definition(lab, images, groups):
    lines = ["volfs: 1", "images:"]
    for name in images:
        lines.append("  pv0.imgp1: {path: pv0.img, partition: 1}" if name == "pv0.img" else f"  {name}: {name}")
    return lab.define("\n".join([*lines, "volume_groups:", *groups]))


def reading_changes_nothing(lab, made):
    before = sums(lab)
    lab.mount(*(lab.path / name for name in ALL))
    compare(lab, made, [*PLAIN, "vg0/inner"], "as lvm2 made it")
    raises(30, open, lab.mnt / "vg0/lin", "r+b")  # EROFS
    with open(lab.mnt / "vg0/bad", "rb", buffering=0) as file:
        raises(5, file.read, 1)  # EIO
    lab.umount()
    equal(sums(lab), before, "the images after a read-only mount")


def nested_group(lab, made):
    path = definition(lab, PVS, ["  vg0: {physical_volumes: [pv0.imgp1, pv1.img, pv2.img, pv3.img]}",
                                 "  vg2: {physical_volumes: [vg0/inner]}"])
    lab.mount(path, options=["ro"])
    compare(lab, made, ["vg2/nested"], "a group on a volume", ("vg0-", "vg2-"))
    lab.umount()


def linux_reads_what_volfs_writes(lab):
    lab.mount(*(lab.path / name for name in ALL), options=["rw"])
    for seed, volume in enumerate([*WRITTEN, "vg0/base", "vg0/early"], SEED):
        device_io.scribble(lab.mnt / volume, seed, 30)
    lab.umount()
    found = in_guest(lab, "vgchange -q -q -ay; vgck vg0; vgck vg1", [*PLAIN, "vg0/inner"])
    lab.mount(*(lab.path / name for name in ALL))
    compare(lab, found, PLAIN, "written by volfs")
    lab.umount()
    return found


def missing_disk(lab, whole):
    left = PVS[:3]
    kept = [v for v in PLAIN if v.startswith("vg0/") and v not in ON_PV3]
    groups = "  vg0: {{physical_volumes: [pv0.imgp1, pv1.img, pv2.img], activation: {}}}"
    # Nothing here has copies, so complete is as degraded, which is what images are mounted with.
    for sources in ([lab.path / name for name in left], [definition(lab, left, [groups.format("complete")])]):
        lab.mount(*sources, options=["ro"])
        for volume in kept:
            equal(device_io.sha256(lab.mnt / volume), whole["sums"][volume], f"without a disk: {volume}")
        unavailable = [each["volume"] for each in lab.status()["unavailable"]]
        equal(sorted(unavailable), sorted([*ON_PV3, "vg0/inner"]), "volumes that need the missing disk")
        for volume in unavailable:
            holds(not (lab.mnt / volume).exists(), f"{volume} is shown")
        lab.umount()
    partial = in_guest(lab, "losetup -d $d3; vgchange -q -q -ay --activationmode partial vg0", kept)
    lab.mount(definition(lab, left, [groups.format("partial")]), options=["ro"])
    compare(lab, partial, kept, "activation partial")
    with open(lab.mnt / "vg0/spread", "rb", buffering=0) as file:
        equal(len(file.read(2 * MiB)), 2 * MiB, "the half that is there")
        raises(5, file.read, 1)  # EIO
    lab.umount()


def test_groups_of_lvm2(lab):
    make_images(lab)
    made = in_guest(lab, MAKE, [*PLAIN, "vg0/inner", "vg2/nested"])
    area = (lab.path / "pv1.img").read_bytes()[:256 << 10]
    kept = [int(number) for number in re.findall(rb"seqno = (\d+)", area)]
    holds(max(kept) > 30 and 2 not in kept, f"the ring of metadata has wrapped: it holds {kept}")
    reading_changes_nothing(lab, made)
    nested_group(lab, made)
    missing_disk(lab, linux_reads_what_volfs_writes(lab))


if __name__ == "__main__":
    kernel_lab.main(globals())
