#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Volume groups on arrays on partitions, and on volumes of other groups; and the ring of metadata that lvm2 left:
each copy in it is listed, and can be mounted; and two groups that lvm2 gave one name."""

import json
import re
import struct

import device_io
import kernel_lab
import lvm_lab
from lab import MiB, SEED, equal, holds, sha256, volfs

FIRST = 2048  # where each image's partition begins, in sectors
DISKS = ["a.img", "b.img", "c.img"]
ATTACH = "".join(f"{name[0]}=$(losetup --find --show --offset {FIRST * 512} {name})\n" for name in DISKS)
VOLUMES = ["vg0/root", "vg0/inner", "vg1/deep"]
MAKE = """
mdadm --quiet --create /dev/md0 --run --level=5 --raid-devices=3 --chunk=64 --homehost=any --name=layers $a $b $c
lvm <<END
pvcreate -q -q --metadatasize 64k --dataalignment 64k /dev/md0
vgcreate -q -q -s 256k vg0 /dev/md0
lvcreate -q -q -y -Zn -Wn -n root -l 17 vg0
lvcreate -q -q -y -Zn -Wn -n inner -l 24 vg0
pvcreate -q -q NESTING --metadatasize 64k --dataalignment 64k /dev/vg0/inner
vgcreate -q -q NESTING -s 128k vg1 /dev/vg0/inner
lvcreate -q -q -y -Zn -Wn NESTING -n deep -l 21 vg1
END
PROGRAM scribble SEED /dev/vg0/root /dev/vg1/deep
mdadm --quiet --wait /dev/md0 || true
"""
ASSEMBLE = """
mdadm --quiet --assemble /dev/md0 $a $b $c
vgchange -q -q -ay vg0
vgchange -q -q -ay NESTING vg1
"""
CHECK = """
echo check >/sys/block/md0/md/sync_action
mdadm --quiet --wait /dev/md0 || true
echo mismatches $(cat /sys/block/md0/md/mismatch_cnt)
vgck vg0; vgck NESTING vg1
"""


def make_disks(lab):
    entry = struct.pack("<8B2I", 0, 254, 255, 255, 0xFD, 254, 255, 255, FIRST, 15 * MiB // 512)
    for name in DISKS:
        lab.file(name, 16 * MiB)
        with open(lab.path / name, "r+b") as image:
            image.seek(446)
            image.write(entry + bytes(48) + b"\x55\xaa")


def definition(lab):
    return lab.define("\n".join([
        "volfs: 1", "images:", *(f"  {name[0]}1: {{path: {name}, partition: 1}}" for name in DISKS),
        "arrays:", "  md0: {level: raid5, chunk: 64KiB, devices: [a1, b1, c1]}",
        "volume_groups:", "  vg0: {physical_volumes: [md0]}", "  vg1: {physical_volumes: [vg0/inner]}"]))


def test_groups_on_an_array_on_partitions(lab):
    make_disks(lab)
    made = lvm_lab.in_guest(lab, MAKE, VOLUMES, ATTACH)
    before = [sha256(lab.path / name) for name in DISKS]
    lab.mount(*(lab.path / name for name in DISKS))
    equal(device_io.sha256(lab.mnt / "vg0/root"), made["sums"]["vg0/root"], "found on the images")
    lab.umount()
    # One member is enough to lose.
    lab.mount(*(lab.path / name for name in DISKS[:2]))
    equal(device_io.sha256(lab.mnt / "vg0/root"), made["sums"]["vg0/root"], "found on two of the images")
    lab.umount()
    path = definition(lab)
    lab.mount(path, options=["ro"])
    for volume in VOLUMES:
        equal(device_io.sha256(lab.mnt / volume), made["sums"][volume], f"defined: {volume}")
    lab.umount()
    equal([sha256(lab.path / name) for name in DISKS], before, "the images after read-only mounts")
    lab.mount(path, options=["rw"])
    for seed, volume in enumerate(["vg0/root", "vg1/deep"], SEED + 3):
        device_io.scribble(lab.mnt / volume, seed, 30)
    volfs("lv", "extend", lab.mnt / "vg1/deep", "-l", "+1")
    sums = {volume: device_io.sha256(lab.mnt / volume) for volume in VOLUMES}
    lab.umount()
    found = lvm_lab.in_guest(lab, ASSEMBLE + CHECK, VOLUMES, ATTACH)
    equal(found["sums"], sums, "written by volfs")
    holds("mismatches 0" in found["output"], found["output"])


# Some changes; the text of one copy says what lvm2 was told to do. The lost volume is where nothing else will be.
CHANGES = """
lvm <<END
pvcreate -q -q --metadatasize 64k --dataalignment 64k $a
vgcreate -q -q -s 64k ring $a
lvcreate -q -q -y -Zn -Wn -n kept -l 5 ring
lvcreate -q -q -y -Zn -Wn -n lost -l 9 ring
END
PROGRAM scribble SEED /dev/ring/kept /dev/ring/lost
PROGRAM survey /dev/ring/kept /dev/ring/lost >sums
vgs --noheadings -o seqno ring >seqno
lvm <<END
lvremove -q -q -y ring/lost
lvextend -q -q -l +2 ring/kept
END
for i in {1..4}; do echo vgchange -q -q --addtag tag$i ring; done | lvm
pvck -q -q --dump metadata_search $a >search || true
"""


def test_the_ring_of_lvm2(lab):
    make_disks(lab)
    attach = f"a=$(losetup --find --show --offset {FIRST * 512} a.img)"
    lvm_lab.in_guest(lab, CHANGES, ["ring/kept"], attach)
    sums = json.loads((lab.path / "sums").read_text())["sums"]
    seqno = int((lab.path / "seqno").read_text())
    image = lab.path / "a.img"
    before = sha256(image)
    found = [disk["lvm"]["metadata_areas"][0]["copies"] for disk in json.loads(volfs("inspect", "--json", image)) if disk.get("lvm")]
    listed = [copy["seqno"] for copy in found[0]]
    theirs = sorted({int(number) for number in re.findall(r"seqno (\d+)", (lab.path / "search").read_text())})
    equal(sorted(listed), theirs, "the copies that pvck finds")
    holds(len(listed) > 5 and seqno in listed, f"{listed}")
    lab.mount(image, options=[f"metadata={seqno}"])
    for name in ("kept", "lost"):
        equal(device_io.sha256(lab.mnt / "ring" / name), sums[f"/dev/ring/{name}"], f"as of {seqno}: {name}")
    lab.umount()
    equal(sha256(image), before, "the image")
    # Wrapped, it has forgotten the oldest, to both alike.
    lvm_lab.in_guest(lab, "for i in {1..70}; do echo vgchange -q -q --addtag more$i ring; done | lvm\n"
                     "pvck -q -q --dump metadata_search $a >search || true", [], attach)
    found = [disk["lvm"]["metadata_areas"][0]["copies"] for disk in json.loads(volfs("inspect", "--json", image)) if disk.get("lvm")]
    listed = [copy["seqno"] for copy in found[0]]
    theirs = sorted({int(number) for number in re.findall(r"seqno (\d+)", (lab.path / "search").read_text())})
    holds(seqno not in listed, f"the ring has not wrapped: {listed}")
    equal(sorted(listed), theirs, "the copies that pvck finds, wrapped")


TWIN = """
lvm <<END
pvcreate -q -q --metadatasize 64k --dataalignment 64k $d
vgcreate -q -q -s 64k twin $d
lvcreate -q -q -y -Zn -Wn -n data -l 9 twin
END
PROGRAM scribble SEED /dev/twin/data
"""


def test_two_groups_of_one_name(lab):
    """lvm2 sees only one of the disks at a time, as on two machines; volfs both."""
    make_disks(lab)
    attach = {name: f"d=$(losetup --find --show --offset {FIRST * 512} {name})" for name in DISKS[:2]}
    sums = {name: lvm_lab.in_guest(lab, TWIN.replace("SEED", f"SEED{i}"), ["twin/data"], attach[name])["sums"]["twin/data"]
            for i, name in enumerate(attach)}
    groups = {}
    for order in (DISKS[:2], DISKS[1::-1]):
        lab.mount(*(lab.path / name for name in order))
        shown = lab.status()["volume_groups"]
        plain, full = sorted((group["name"] for group in shown), key=len)
        equal(plain, "twin", f"mounted as {order}")
        equal(full, "twin@" + max(group["uuid"] for group in shown), f"mounted as {order}")
        found = {group["name"]: group["physical_volumes"][0]["device"].removesuffix("p1") for group in shown}
        equal(groups or found, found, "who is who")
        groups = found
        for group, disk in groups.items():
            equal(device_io.sha256(lab.mnt / group / "data"), sums[disk], f"{group} on {disk}")
        lab.umount()
    first, second = groups["twin"], groups[full]
    before = sha256(lab.path / first)
    lab.mount(*(lab.path / name for name in DISKS[:2]), options=["rw"])
    volfs("lv", "create", lab.mnt / full / "new", "-l", "5")
    volfs("lv", "extend", lab.mnt / full / "data", "-l", "+3")
    for seed, volume in enumerate(["data", "new"], SEED):
        device_io.scribble(lab.mnt / full / volume, seed, 30)
    changed = {f"twin/{volume}": device_io.sha256(lab.mnt / full / volume) for volume in ("data", "new")}
    lab.umount()
    equal(sha256(lab.path / first), before, "the disk of the other")
    found = lvm_lab.in_guest(lab, "vgchange -q -q -ay twin\nvgck twin && echo sound $(vgs --noheadings -o vg_name,vg_uuid)",
                             list(changed), attach[second])
    equal(found["sums"], changed, "what lvm2 reads")
    holds(f"sound {full.replace('@', ' ')}" in found["output"], found["output"])


if __name__ == "__main__":
    kernel_lab.main(globals())
