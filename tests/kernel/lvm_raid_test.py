#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""RAID volumes of lvm2: the same to volfs as to Linux, whole, with a disk missing, and written by either."""

import hashlib
import os
import random
import signal

import device_io
import kernel_lab
import lvm_lab
from lab import MiB, SEED, VOLFS, equal, holds, sha256, stderr_of, volfs, wait_until

DISKS = [f"d{i}.img" for i in range(6)]
ATTACH = "".join(f"{name.removesuffix('.img')}=$(losetup --find --show {name})\n" for name in DISKS)
PARITY = ["raid4", "raid5_la", "raid5_ra", "raid5_ls", "raid5_rs", "raid5_n", "raid6_zr", "raid6_nr", "raid6_nc",
          "raid6_n_6", "raid6_la_6", "raid6_ra_6", "raid6_ls_6", "raid6_rs_6"]
# What to create of each volume: the disks may be left to lvm2.
HOW = {name: f"--type {name} -i 3 -I 16k -l 12 {{}} $d0 $d1 $d2 $d3" + (" $d4" if "raid6" in name else "") for name in PARITY}
HOW["raid1"] = "--type raid1 -m 1 -l 5 {} $d4 $d0"
HOW["raid1x3"] = "--type raid1 -m 2 -l 5 {} $d5 $d2 $d0"
HOW["raid10"] = "--type raid10 -i 2 -m 1 -I 16k -l 8 {} $d0 $d1 $d2 $d3"
REDUNDANT = list(HOW)
HOW["raid0"] = "--type raid0 -i 3 -I 16k -l 9 {} $d0 $d1 $d2"
HOW["raid0_meta"] = "--type raid0_meta -i 3 -I 16k -l 9 {} $d0 $d1 $d2"
FEW = ["raid1", "raid5_ls", "raid6_zr", "raid10"]  # one of a kind
# Waits until no set has anything left to do.
SETTLED = "while dmsetup status --target raid | grep -Eq ' (resync|recover|check|repair) | [Aa]*a[Aa]* '; do sleep 0.1; done"


def paths(names):
    return [f"vg0/{name}" for name in names]


def create(names, options=""):
    region = lambda name: "" if "raid0" in name else "-R 64k "
    return "\n".join([
        "lvm <<END",
        "pvcreate -q -q --metadatasize 64k --dataalignment 64k $d0 $d1 $d2 $d3 $d4 $d5",
        "vgcreate -q -q -s 64k vg0 $d0 $d1 $d2 $d3 $d4 $d5",
        *(f"lvcreate -q -q -y -Zn -Wn {options} {region(name)}-n {name} {HOW[name].format('vg0')}" for name in names),
        "END"])


def scribble(names, seed):
    return f"PROGRAM scribble {SEED % 1000 + seed} " + " ".join(f"/dev/{path}" for path in paths(names))


def make_disks(lab):
    for name in DISKS:
        lab.file(name, 8 * MiB)


def in_guest(lab, script, names):
    return lvm_lab.in_guest(lab, script, paths(names), ATTACH)


def mount(lab, disks=DISKS, activation="degraded", options=("rw",)):
    lab.mount(lab.define("\n".join([
        "volfs: 1", "images:", *(f"  {name}: {name}" for name in disks), "volume_groups:",
        f"  vg0: {{physical_volumes: [{', '.join(disks)}], activation: {activation}}}"])), options=list(options))


def sums_here(lab, names):
    return {f"vg0/{name}": device_io.sha256(lab.mnt / "vg0" / name) for name in names}


def raid_status(lab, name):
    """The words of the status line behind the type: name, devices, health, progress, action, mismatches."""
    line = next(line for line in lab.text("status").splitlines() if line.startswith(f"vg0-{name}: "))
    return line.split()[4:]


def in_sync(lab, names):
    for name in names:
        wait_until(lambda name=name: set(raid_status(lab, name)[2]) == {"A"} and raid_status(lab, name)[4] == "idle",
                   f"{name} in sync: {raid_status(lab, name)}")


def linux_agrees(lab, names, sums, what):
    """Linux activates what volfs left, has the same bytes and nothing to sync, and finds no mismatch."""
    found = in_guest(lab, "\n".join([
        "vgck vg0; vgchange -q -q -ay vg0", "dmsetup status --target raid >status.before",
        *(f"lvchange -q -q --syncaction check vg0/{name}" for name in names), SETTLED,
        "lvs --noheadings -o name,raid_sync_action,raid_mismatch_count,copy_percent,lv_health_status vg0 >lvs"]), names)
    equal(found["sums"], sums, f"{what}: the bytes")
    for line in (lab.path / "status.before").read_text().splitlines():
        words = line.split()
        holds(set(words[6]) == {"A"} and words[8] == "idle", f"{what}: Linux began with {line}")
    rows = [row for line in (lab.path / "lvs").read_text().splitlines() if (row := line.split())[0] in names]
    equal(sorted(rows), sorted([name, "idle", "0", "100.00"] for name in names), f"{what}: lvs")


def whole(lab, made):
    before = [sha256(lab.path / name) for name in DISKS]
    lab.mount(*(lab.path / name for name in DISKS))
    lvm_lab.compare(lab, made, paths(HOW), "as lvm2 made it", ("vg0-",))
    lab.umount()
    equal([sha256(lab.path / name) for name in DISKS], before, "the images after a read-only mount")


def without_a_disk(lab, made, lost):
    left = [name for name in DISKS if name != lost]
    lab.mount(*(lab.path / name for name in left))
    equal(sums_here(lab, REDUNDANT), {path: made["sums"][path] for path in paths(REDUNDANT)}, f"without {lost}")
    lab.umount()


def as_linux_without_a_disk(lab):
    found = in_guest(lab, "losetup -d $d0; vgchange -q -q -ay --activationmode degraded vg0", REDUNDANT)
    lab.mount(*(lab.path / name for name in DISKS[1:]))
    lvm_lab.compare(lab, found, paths(REDUNDANT), "without d0.img", ("vg0-",))
    lab.umount()


def test_raid_volumes_of_lvm2(lab):
    make_disks(lab)
    made = in_guest(lab, "\n".join([create(HOW), scribble(HOW, 0), scribble(HOW, 40), SETTLED]), HOW)
    whole(lab, made)
    for lost in DISKS:
        without_a_disk(lab, made, lost)
    mount(lab, DISKS[1:], "complete", ["ro"])
    equal({each["volume"] for each in lab.status()["unavailable"]},
          set(paths(HOW)), "what activation complete leaves out without d0.img")
    lab.umount()
    as_linux_without_a_disk(lab)


def test_linux_reads_what_volfs_writes(lab):
    make_disks(lab)
    in_guest(lab, "\n".join([create(HOW), scribble(HOW, 0), SETTLED]), HOW)
    mount(lab)
    in_sync(lab, REDUNDANT)
    for seed, name in enumerate(HOW, SEED):
        device_io.scribble(lab.mnt / "vg0" / name, seed, 40)
    sums = sums_here(lab, HOW)
    lab.umount()
    linux_agrees(lab, REDUNDANT, {path: sums[path] for path in paths(REDUNDANT)}, "written by volfs")


def test_members_that_are_out_of_date(lab):
    """A disk that was away while Linux wrote: what it holds is old, is not read, and is recovered."""
    make_disks(lab)
    in_guest(lab, "\n".join([create(FEW), scribble(FEW, 0), SETTLED]), FEW)
    found = in_guest(lab, "\n".join([
        "losetup -d $d0", "vgchange -q -q -ay --activationmode degraded vg0", scribble(FEW, 80)]), FEW)
    lab.mount(*(lab.path / name for name in DISKS))
    equal(sums_here(lab, FEW), found["sums"], "with an old member, read only")
    lab.umount()
    mount(lab)
    equal(sums_here(lab, FEW), found["sums"], "with an old member")
    in_sync(lab, FEW)
    equal(sums_here(lab, FEW), found["sums"], "with a recovered member")
    lab.umount()
    linux_agrees(lab, FEW, found["sums"], "recovered by volfs")


def write_without_the_first_disk(lab):
    make_disks(lab)
    in_guest(lab, "\n".join([create(FEW), scribble(FEW, 0), SETTLED]), FEW)
    mount(lab, DISKS[1:])
    for seed, name in enumerate(FEW, SEED):
        device_io.scribble(lab.mnt / "vg0" / name, seed, 40)


def test_linux_recovers_what_volfs_wrote_without(lab):
    write_without_the_first_disk(lab)
    equal(raid_status(lab, "raid5_ls")[2], "DAAA", "the health of a set without its first member")
    sums = sums_here(lab, FEW)
    lab.umount()
    found = in_guest(lab, f"vgchange -q -q -ay vg0; {SETTLED}; dmsetup status --target raid >status", FEW)
    equal(found["sums"], sums, "recovered by Linux")
    for line in (lab.path / "status").read_text().splitlines():
        equal(set(line.split()[6]), {"A"}, f"the health after recovery: {line}")
    linux_agrees(lab, FEW, sums, "after that")


def test_new_sets_and_crashes(lab):
    """Sets that nobody has started yet get their superblocks and first sync; a daemon that is killed leaves what is
    resynced, by either."""
    make_disks(lab)
    in_guest(lab, create(FEW, "-an"), [])
    mount(lab)
    in_sync(lab, FEW)
    for seed, name in enumerate(FEW, SEED):
        device_io.scribble(lab.mnt / "vg0" / name, seed, 40)
    sums = sums_here(lab, FEW)
    lab.umount()
    linux_agrees(lab, FEW, sums, "first synced by volfs")
    for again in ("volfs", "Linux"):
        mount(lab)
        for seed, name in enumerate(FEW, SEED + 7):
            device_io.scribble(lab.mnt / "vg0" / name, seed, 40)
        sums = sums_here(lab, FEW)
        os.kill(lab.pid(), signal.SIGKILL)
        lab.take_off(lab.mnt)
        if again == "volfs":
            mount(lab)
            in_sync(lab, FEW)
            equal(sums_here(lab, FEW), sums, "after a crash")
            lab.umount()
        else:
            in_guest(lab, f"vgchange -q -q -ay vg0; {SETTLED}", [])
        linux_agrees(lab, FEW, sums, f"after a crash, resynced by {again}")



# Each type once, and what is asked for live.
MADE = {name: f"{{type: {name}, extents: 12, stripes: 3, stripe_size: 16KiB, region_size: 64KiB}}" for name in PARITY}
MADE["raid1"] = "{type: raid1, extents: 5, mirrors: 1, region_size: 64KiB}"
MADE["raid1x3"] = "{type: raid1, extents: 5, mirrors: 2, region_size: 64KiB}"
MADE["raid10"] = "{type: raid10, extents: 8, stripes: 2, stripe_size: 16KiB, region_size: 64KiB}"
MADE["raid0"] = "{type: raid0, extents: 9, stripes: 3, stripe_size: 16KiB}"
MADE["raid0_meta"] = "{type: raid0_meta, extents: 9, stripes: 3, stripe_size: 16KiB}"


def lv(lab, command, volume, *words):
    volfs("lv", command, lab.mnt / "vg0" / volume, *words)


def test_sets_that_volfs_makes(lab):
    # What is there before must not be taken for superblocks, nor for what is in sync.
    for name in DISKS:
        (lab.path / name).write_bytes(random.Random(SEED).randbytes(8 * MiB))
    definition = lab.define("\n".join([
        "volfs: 1", "images:", *(f"  {name}: {name}" for name in DISKS), "volume_groups:",
        f"  vg0: {{physical_volumes: [{', '.join(DISKS)}], extent_size: 64KiB, logical_volumes: {{",
        *(f"    {name}: {how}," for name, how in MADE.items()), "  }}"]))
    volfs("create", "--force", definition)
    lab.mount(definition)
    lv(lab, "create", "live", "--type", "raid5", "-i", "2", "-I", "16", "-R", "64k", "-l", "8")
    lv(lab, "create", "gone", "--type", "raid1", "-m", "1", "-R", "64k", "-l", "3")
    lv(lab, "create", "old", "--type", "raid6", "-R", "64k", "-l", "6")
    device_io.scribble(lab.mnt / "vg0/live", SEED, 30)
    before = device_io.sha256(lab.mnt / "vg0/live")
    lv(lab, "extend", "live", "-l", "+6")
    with open(lab.mnt / "vg0/live", "rb") as file:
        equal(hashlib.sha256(file.read(8 << 16)).hexdigest(), before, "what was there before it grew")
    lv(lab, "remove", "gone", "--yes")
    lv(lab, "rename", "old", "new")
    lv(lab, "extend", "raid10", "-l", "+4")
    lv(lab, "reduce", "raid1x3", "-l", "4", "--yes")
    names = [*MADE, "live", "new"]
    redundant = [name for name in names if "raid0" not in name]
    in_sync(lab, redundant)
    for seed, name in enumerate(names, SEED):
        device_io.scribble(lab.mnt / "vg0" / name, seed, 30)
    table = lvm_lab.rows_of(lab.text("table"))
    sums = sums_here(lab, names)
    lab.umount()
    linux_agrees(lab, redundant, {path: sums[path] for path in paths(redundant)}, "made by volfs")
    found = in_guest(lab, "vgck vg0; vgchange -q -q -ay vg0", names)
    equal(found["sums"], sums, "all that volfs made")
    equal(table, lvm_lab.rows_of(found["table"]), "the tables")


def test_a_disk_that_joins_a_running_group(lab):
    """Written to without it; it joins, is recovered and scrubbed, and Linux finds all whole."""
    write_without_the_first_disk(lab)
    sums = sums_here(lab, FEW)
    volfs("image", "add", lab.mnt, DISKS[0], lab.path / DISKS[0])
    in_sync(lab, FEW)
    equal(sums_here(lab, FEW), sums, "with the disk that joined")
    for name in FEW:
        lv(lab, "change", name, "--syncaction", "check")
    in_sync(lab, FEW)
    equal([raid_status(lab, name)[5] for name in FEW], ["0"] * len(FEW), "mismatches")
    lab.umount()
    linux_agrees(lab, FEW, sums, "completed while it ran")


def test_a_disk_that_lvm2_takes_for_missing(lab):
    """It was away when lvm2 changed the group: volumes on it count as partial, and are mapped as lvm2 maps them."""
    make_disks(lab)
    names = ["plain", "pair", "mended"]
    found = in_guest(lab, "\n".join([
        create([]), "lvm <<END", "lvcreate -q -q -y -Zn -Wn -l 5 -n plain vg0 $d1",
        "lvcreate -q -q -y -Zn -Wn --type raid1 -m 1 -R 64k -l 5 -n pair vg0 $d0 $d1",
        "lvcreate -q -q -y -Zn -Wn --type raid1 -m 1 -R 64k -l 5 -n mended vg0 $d2 $d1", "END",
        scribble(names, 0), SETTLED, "vgchange -q -q -an vg0", "losetup -d $d1",
        "vgchange -q -q -ay --activationmode degraded vg0 || true", scribble(["pair", "mended"], 9),
        "lvconvert -q -q -y --repair vg0/mended $d3", SETTLED, "vgchange -q -q -an vg0", "d1=$(losetup --find --show d1.img)",
        "vgchange -q -q -ay --activationmode partial vg0", SETTLED]), names)
    mount(lab, activation="partial", options=["ro"])
    lvm_lab.compare(lab, found, paths(names), "partial", ("vg0-",))
    equal({d["volume"]: d["state"] for d in lab.status()["devices"] if "volume" in d},
          {"vg0/plain": "partial", "vg0/pair": "degraded", "vg0/mended": "active"}, "states")
    lab.umount()
    mount(lab)
    away = lab.status()["unavailable"]
    equal([each["volume"] for each in away], ["vg0/plain"], "what counts as partial")
    holds("vgextend --restoremissing" in away[0]["reason"], away)
    told = stderr_of(VOLFS, "lv", "create", lab.mnt / "vg0/new", "-l", "2")
    holds("cannot be changed while PV" in told and "is missing" in told, told)
    lab.umount()


def test_sets_that_are_not_synced_first(lab):
    for name in DISKS:
        (lab.path / name).write_bytes(random.Random(SEED).randbytes(8 * MiB))
    names = ["raid1", "raid4", "raid5_ls", "raid10"]
    definition = lab.define("\n".join([
        "volfs: 1", "images:", *(f"  {name}: {name}" for name in DISKS), "volume_groups:",
        f"  vg0: {{physical_volumes: [{', '.join(DISKS)}], extent_size: 64KiB, logical_volumes: {{",
        *(f"    {name}: {MADE[name].replace('}', ', nosync: true}')}," for name in names), "  }}"]))
    volfs("create", "--force", definition)
    lab.mount(definition)
    lv(lab, "create", "live", "--type", "raid5", "-i", "2", "-I", "16", "-R", "64k", "-l", "8", "--nosync")
    names.append("live")
    status = {name: raid_status(lab, name) for name in names}
    for name in names:
        equal((set(status[name][2]), status[name][4]), ({"A"}, "idle"), f"{name} at once: {status[name]}")
        holds(any(line.startswith(f"vg0-{name}: ") and " nosync region_size 128 " in line for line in lab.text("table").splitlines()),
              f"{name}: {lab.text('table')}")
        path = lab.mnt / "vg0" / name
        path.open("r+b", buffering=0).write(random.Random(name).randbytes(path.stat().st_size))
    sums = sums_here(lab, names)
    lab.umount()
    lab.mount(definition)
    holds("nosync" not in lab.text("table"), "the second time it is as it is")
    equal(sums_here(lab, names), sums, "mounted again")
    table = lvm_lab.rows_of(lab.text("table"))
    lab.umount()
    found = in_guest(lab, "vgck vg0; vgchange -q -q -ay vg0; dmsetup status --target raid >status.before; vgcfgbackup -q -f backup vg0",
                     names)
    equal(found["sums"], sums, "on Linux")
    equal(table, lvm_lab.rows_of(found["table"]), "the tables")
    for line in (lab.path / "status.before").read_text().splitlines():
        holds(set(line.split()[6]) == {"A"} and line.split()[8] == "idle", f"Linux syncs: {line}")
    equal((lab.path / "backup").read_text().count('"NOTSYNCED"'), len(names), "what the metadata says")


if __name__ == "__main__":
    kernel_lab.main(globals())
