#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Volume groups that volfs makes are sound to lvm2, which goes on with them; and volfs with what lvm2 did."""

import os

import device_io
import kernel_lab
import lvm_lab
from lab import MiB, SEED, equal, holds, sha256, stderr_of, VOLFS, volfs

DISKS = ["d0", "d1", "d2"]
ATTACH = "".join(f"{name}=$(losetup --find --show {name}.img)\n" for name in DISKS)
DEFINITION = """
volfs: 1
images:
  d0: {path: d0.img, size: 32MiB}
  d1: {path: d1.img, size: 32MiB}
  d2: {path: d2.img, size: 32MiB}
volume_groups:
  vg0:
    uuid: 3LMdpd-1uzo-JlMX-FkZY-FfqV-K3Ai-wAjbQ1
    physical_volumes: [d0, {device: d1, uuid: U3NMbZ-Bn5a-0zdJ-5tZd-Aj1t-yPcq-T0Mbru, tags: [slow]}, d2]
    extent_size: 512KiB
    tags: [lab, "a=b"]
    alloc: cling
    logical_volumes:
      before: {type: snapshot, origin: root, size: 4MiB, chunk_size: 8KiB}
      root: {size: 9MiB, uuid: wUNWMF-tJoK-s53Y-fUdA-KZnw-RNyI-fTkd0Q}
      fast: {size: 6MiB, stripes: 3, stripe_size: 16KiB, tags: [x]}
      nought: {size: 2MiB, type: zero}
      bad: {size: 1MiB, type: error}
      only: {size: 3MiB, physical_volumes: [d2], alloc: contiguous, permission: read-only}
      half: {extents: 50%FREE}
"""
MADE = ["vg0/root", "vg0/before", "vg0/fast", "vg0/nought", "vg0/only", "vg0/half"]
CHECK = """
vgck vg0 || exit
for disk in $d0 $d1 $d2; do
  pvck $disk && pvck --dump metadata $disk >/run/text && grep -q 'seqno = ' /run/text || exit
done
vgchange -q -q -ay vg0
lvs -a --noheadings -o lv_name,lv_attr,lv_tags,seg_type vg0
vgs --noheadings -o vg_tags,vg_seqno,vg_uuid,vg_extent_size,vg_attr vg0
pvs --noheadings -o pv_tags,pv_uuid $d1
"""
CHANGE = """
vgchange -q -q -ay vg0
PROGRAM scribble SEED /dev/vg0/{root,before,fast,half}
lvm <<END
lvextend -q -q -l +5 vg0/root
lvextend -q -q -l +3 vg0/fast
lvcreate -q -q -y -Zn -n more -l 4 vg0
lvcreate -q -q -y -s -n later -l 6 vg0/root
lvremove -q -q -y vg0/half
END
PROGRAM scribble $((SEED + 50)) /dev/vg0/{root,before,fast,more,later}
vgck vg0
"""


def create(lab, folder="."):
    (lab.path / folder).mkdir(exist_ok=True)
    path = lab.define(DEFINITION, f"{folder}/lab.yaml")
    return volfs("create", path, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})


def one_definition_gives_the_same_bytes(lab):
    create(lab, "again")
    equal({f"{d}.img": sha256(lab.path / f"{d}.img") for d in ("d1",)},
          {f"{d}.img": sha256(lab.path / "again" / f"{d}.img") for d in ("d1",)}, "made twice")
    equal(volfs("create", lab.path / "lab.yaml"), "nothing to do\n")


def lvm2_finds_what_was_asked_for(output):
    lines = [line.split() for line in output.splitlines()]
    for expected in (["root", "owi-a-s---", "linear"], ["before", "swi-a-s---", "linear"],
                     ["fast", "-wi-a-----", "x", "striped"], ["nought", "vwi-a-v---", "zero"],
                     ["bad", "vwi-a-v---", "error"], ["only", "-ri-a-----", "linear"]):
        # Contiguous allocation shows as a capital or "c" in the second attribute.
        found = [line for line in lines if line and line[0] == expected[0]]
        holds(found, f"lvs does not show {expected[0]}:\n{output}")
        attributes = found[0][1][:2] + "i" + found[0][1][3:]
        equal([found[0][0], attributes, *found[0][2:]], expected, "lvs")
    holds(["a=b,lab", "1", "3LMdpd-1uzo-JlMX-FkZY-FfqV-K3Ai-wAjbQ1", "512.00k", "wz--l-"] in lines, output)
    holds(["slow", "U3NMbZ-Bn5a-0zdJ-5tZd-Aj1t-yPcq-T0Mbru"] in lines, output)


def test_volfs_creates_and_lvm2_goes_on(lab):
    create(lab)
    one_definition_gives_the_same_bytes(lab)
    lab.mount(lab.path / "lab.yaml")
    for seed, volume in enumerate(("vg0/root", "vg0/fast", "vg0/half", "vg0/before", "vg0/root"), SEED):
        device_io.scribble(lab.mnt / volume, seed, 30)
    lab.umount()
    found = lvm_lab.in_guest(lab, CHECK, MADE, ATTACH)
    lvm2_finds_what_was_asked_for(found["output"])
    names = [(f"{name}.img", name) for name in DISKS]
    lab.mount(lab.path / "lab.yaml", options=["ro"])
    lvm_lab.compare(lab, found, MADE, "made by volfs", ("vg0-",), names)
    lab.umount()
    changed = [volume for volume in MADE if volume != "vg0/half"] + ["vg0/more", "vg0/later"]
    found = lvm_lab.in_guest(lab, CHANGE, changed, ATTACH)
    lab.mount(*(lab.path / f"{name}.img" for name in DISKS))
    lvm_lab.compare(lab, found, changed, "changed by lvm2", ("vg0-",))
    lab.umount()
    # What lvm2 removed is missing again, and is made of what is free now.
    holds("vg0/half: linear" in create(lab), "create makes the volume anew")
    lvm_lab.in_guest(lab, CHECK, ["vg0/half"], ATTACH)


def test_devices_in_use_are_refused(lab):
    lab.linux.check(f"""cd {lab.path}
        truncate -s 32M d0.img d1.img d2.img; mkfs.ext4 -q -L precious d1.img
        {ATTACH}
        vgcreate -q -q -s 1M theirs $d2 && lvcreate -q -q -an -Zn -l 3 -n data theirs""")
    before = [sha256(lab.path / f"{name}.img") for name in DISKS]
    path = lab.define(DEFINITION)
    refused = stderr_of(VOLFS, "create", path)
    holds('d1 holds ext4 file system, label "precious"' in refused and "--force overwrites it" in refused, refused)
    (lab.path / "d1.img").unlink()
    lab.file("d1.img", 32 * MiB)
    refused = stderr_of(VOLFS, "create", path)
    holds("d2 is a physical volume of volume group 'theirs'" in refused, refused)
    equal(sha256(lab.path / "d2.img"), before[2], "the refused image")
    lab.linux.check(f"cd {lab.path}; mkfs.ext4 -q -F d1.img 2>/dev/null")
    told = stderr_of(VOLFS, "create", "--force", path)
    holds("d1: ext4 file system" in told and "theirs" in told or "LVM2_member" in told, told)
    volfs("create", "--force", "--yes", path)
    found = lvm_lab.in_guest(lab, CHECK, MADE, ATTACH)
    lvm2_finds_what_was_asked_for(found["output"])


if __name__ == "__main__":
    kernel_lab.main(globals())
