# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of every kind of device: arrays, logical volumes, maps on partitions; of those that are in use."""
import json
import os
import signal
import struct
import threading

import lab
from lab import KiB, MiB, equal, holds, run, stderr_of, volfs

ARRAY = """
volfs: 1
images:
  d0: {path: d0.img, size: 24MiB}
  d1: {path: d1.img, size: 24MiB}
  d2: {path: d2.img, size: 24MiB}
  d3: {path: d3.img, size: 24MiB}
arrays:
  md0: {level: raid5, devices: [d0, d1, d2], chunk: 64KiB, assume_clean: true}
"""
OF_ARRAY = ARRAY + """
snapshots:
  before: {origin: md0, cow: {path: before.cow, size: 64MiB}, chunk_size: 16KiB}
"""
GROUP = ARRAY + """
volume_groups:
  vg:
    physical_volumes: [md0]
    logical_volumes:
      lv: {size: 16MiB}
      small: {size: 8MiB}
"""


def device(t, name):
    return next(each for each in t.status()["devices"] if each["name"] == name)


def snapshot(command, path, *arguments):
    return volfs("snapshot", command, path, *arguments)


def array(command, path, *arguments):
    return volfs("array", command, path, *arguments)


def overwrite(t, path, count):
    """Writes blocks at random places; returns what the volume held before."""
    before = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            block = t.random.randbytes(t.random.choice((512, 4096, 70000)))
            os.pwrite(file.fileno(), block, t.random.randrange((len(before) - len(block)) // 512) * 512)
        os.fsync(file.fileno())
    holds(path.read_bytes() != before, "nothing was written")
    return before


def test_an_array_with_snapshots_keeps_its_name(t):
    definition = t.define(OF_ARRAY)
    volfs("create", definition)
    t.mount(definition)
    equal(sorted(os.listdir(t.mnt)), [".volfs", "before", "md0"], "names")
    equal((t.mnt / ".volfs/mdstat").read_text().splitlines()[1].split()[:4], ["md0", ":", "active", "raid5"], "mdstat")
    equal((device(t, "md0")["kind"], device(t, "before")["kind"]), ("array", "snapshot"), "kinds")
    before = overwrite(t, t.mnt / "md0", 10)
    holds((t.mnt / "before").read_bytes() == before, "the snapshot")
    # It is commanded as any array is, and loses a member and gets another one with its snapshot.
    array("fail", t.mnt / "md0", "d1")
    holds((t.mnt / "before").read_bytes() == before, "the snapshot of a degraded array")
    equal((device(t, "md0")["state"], device(t, "before")["state"]), ("degraded", "degraded"), "states")
    array("remove", t.mnt / "md0", "d1")
    array("add", t.mnt / "md0", "d3")
    overwrite(t, t.mnt / "md0", 10)
    array("wait", t.mnt / "md0")
    array("check", t.mnt / "md0")
    holds("mismatch_cnt 0" in array("wait", t.mnt / "md0"), "mismatches")
    holds((t.mnt / "before").read_bytes() == before, "the snapshot of an array that recovered")
    holds("before" in stderr_of(lab.VOLFS, "array", "stop", t.mnt / "md0"), "stopped under its snapshot")
    equal(volfs("apply", definition, t.mnt, "--dry-run").count("before"), 0, "what apply would do to it")
    changed = (t.mnt / "md0").read_bytes()
    t.umount()
    after = definition.with_name("after.yaml")
    after.write_text(definition.read_text().replace("[d0, d1, d2]", "[d0, d3, d2]"))
    t.mount(after)
    holds((t.mnt / "md0").read_bytes() == changed and (t.mnt / "before").read_bytes() == before, "at the next mount")
    # A second one while it is in use, and the first one merged.
    snapshot("create", t.mnt / "second", "--origin", "md0")
    snapshot("merge", t.mnt / "before", "--yes")
    snapshot("wait", t.mnt / "before", "--timeout", "100")
    holds((t.mnt / "md0").read_bytes() == before, "the array after the merge")
    holds((t.mnt / "second").read_bytes() == changed, "the other snapshot after the merge")
    snapshot("remove", t.mnt / "second", "--yes")
    array("stop", t.mnt / "md0")


def test_create_makes_the_files_of_snapshots(t):
    holds("cow of snapshot 'before' has no size" in stderr_of(lab.VOLFS, "create", t.define(OF_ARRAY.replace(", size: 64MiB", ""))),
          "message")
    equal(list(t.path.glob("*.img")), [], "what was made")
    holds("before.cow, 64MiB" in volfs("create", t.define(OF_ARRAY)), "what is told")
    equal((t.path / "before.cow").stat().st_size, 64 * MiB, "size")


def test_a_merge_into_an_array_goes_on_at_the_next_mount(t):
    definition = t.define(OF_ARRAY)
    volfs("create", definition)
    t.mount(definition)
    before = overwrite(t, t.mnt / "md0", 100)
    snapshot("merge", t.mnt / "before", "--yes")
    t.umount()
    t.mount(definition)
    holds((t.mnt / "md0").read_bytes() == before, "the array")
    if "before" not in os.listdir(t.mnt):
        snapshot("wait", t.mnt / "before", "--timeout", "100")
    holds((t.mnt / "md0").read_bytes() == before, "the array at last")


def test_a_snapshot_of_an_image_under_an_array_is_there_before_the_array_writes(t):
    """Which it does as soon as it is assembled: the snapshot must have its copy of the superblock."""
    definition = t.define("""
volfs: 1
images: {d0: {path: d0.img, size: 16MiB}, d1: {path: d1.img, size: 16MiB}}
arrays: {md0: {level: raid1, devices: [d0, d1], assume_clean: true}}
snapshots: {before: {origin: d0, cow: {path: before.cow, size: 32MiB}, chunk_size: 4KiB}}
""")
    plain = t.define(definition.read_text().partition("snapshots:")[0], "plain.yaml")
    volfs("create", definition)
    t.mount(plain)
    overwrite(t, t.mnt / "md0", 10)
    pid = t.pid()
    with open(t.mnt / "md0", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"dirty", 0)
        os.kill(pid, signal.SIGKILL)
    lab.wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of a killed daemon")
    volfs("umount", t.mnt)
    before = (t.path / "d0.img").read_bytes()
    t.mount(definition)
    holds((t.mnt / "before").read_bytes() == before, "the snapshot")
    overwrite(t, t.mnt / "md0", 1)
    t.umount()
    t.mount(definition)
    holds((t.mnt / "before").read_bytes() == before, "the snapshot at the next mount")


class Counter(threading.Thread):
    """Writes rising numbers into a block and waits for each to be on disk; `synced` is the last one that is."""

    def __init__(self, path, offset):
        super().__init__(daemon=True)
        self.offset, self.synced, self.last, self.stop = offset, 0, 0, False
        self.fd = os.open(path, os.O_RDWR)

    def run(self):
        while not self.stop:
            self.last = self.synced + 1
            os.pwrite(self.fd, struct.pack("<Q", self.last) * 512, self.offset)
            os.fsync(self.fd)
            self.synced = self.last
        os.close(self.fd)


def take_under_writers(t, origin, name, count=3):
    """Takes snapshots while threads write to the origin: each holds what was synced, and nothing of later."""
    path = t.mnt / origin
    counters = [Counter(path, i * 512 * KiB + 4096) for i in range(4)]
    for counter in counters:
        counter.start()
    taken = []
    try:
        for i in range(count):
            lab.wait_until(lambda: all(each.synced > 3 * (i + 1) for each in counters), "writers")
            least = [each.synced for each in counters]
            snapshot("create", t.mnt / f"{name}{i}", "--origin", path)
            taken.append((t.mnt / f"{name}{i}", least, [each.last for each in counters]))
    finally:
        for counter in counters:
            counter.stop = True
        for counter in counters:
            counter.join()
    for path, least, most in taken:
        with open(path, "rb") as file:
            for counter, low, high in zip(counters, least, most):
                numbers = set(struct.unpack("<512Q", os.pread(file.fileno(), 4096, counter.offset)))
                holds(all(low <= n <= high for n in numbers), f"{path.name}: {sorted(numbers)}, not {low} to {high}")
                equal(len(numbers), 1, f"{path.name}: numbers in a block")


def test_snapshots_of_arrays_and_volumes_in_use_hold_what_was_synced(t):
    definition = t.define(GROUP)
    volfs("create", definition)
    t.mount(definition)
    array("fail", t.mnt / "md0", "d2")
    take_under_writers(t, "vg/lv", "of-lv")
    take_under_writers(t, "vg/small", "of-small", 1)
    array("remove", t.mnt / "md0", "d2")
    array("add", t.mnt / "md0", "d3")
    take_under_writers(t, "vg/lv", "again")  # which has snapshots already, on an array that recovers
    array("wait", t.mnt / "md0")
    # What has a snapshot keeps its size, and what stands on an origin keeps a merge away.
    for command in (("extend", t.mnt / "vg/lv", "--size", "20MiB"), ("remove", t.mnt / "vg/lv", "--yes"),
                    ("deactivate", t.mnt / "vg/lv")):
        holds("snapshot" in stderr_of(lab.VOLFS, "lv", *command), f"{command[0]} of an origin")
    snapshot("create", t.mnt / "of-array", "--origin", "md0")
    holds("in use by vg-lv" in stderr_of(lab.VOLFS, "snapshot", "merge", t.mnt / "of-array", "--yes"), "message")
    volfs("lv", "rename", t.mnt / "vg/lv", "other")
    equal(json.loads(snapshot("status", t.mnt / "again1", "--json"))["origin"], "vg-other", "the origin's name")
    volfs("lv", "rename", t.mnt / "vg/other", "lv")
    old = (t.mnt / "again1").read_bytes()
    snapshot("merge", t.mnt / "again1", "--yes")
    snapshot("wait", t.mnt / "again1", "--timeout", "100")
    equal("again1: merged of vg-lv\n", snapshot("status", t.mnt / "again1"), "status")
    holds((t.mnt / "vg/lv").read_bytes() == old, "the volume after the merge")
    # The name is free for another one, of which nothing was merged.
    snapshot("create", t.mnt / "again1", "--origin", "vg/lv")
    holds("not being merged" in stderr_of(lab.VOLFS, "snapshot", "wait", t.mnt / "again1"), "message")
    for name in sorted(os.listdir(t.mnt)):
        if name.startswith(("of-", "again")):
            snapshot("remove", t.mnt / name, "--yes")
    volfs("lv", "extend", t.mnt / "vg/lv", "--size", "20MiB")
    holds((t.mnt / "vg/lv").read_bytes()[:len(old)] == old, "the volume without snapshots")


def test_snapshots_of_a_partition(t):
    content = t.random.randbytes(32 * MiB)
    image = t.path / "disk.img"
    image.write_bytes(content)
    run("sfdisk", "-q", image, input="label: gpt\nstart=2048, size=16384\nstart=20480, size=32768\n")
    table = image.read_bytes()
    second = content[20480 * 512:(20480 + 32768) * 512]
    definition = t.define("""
volfs: 1
images:
  one: {path: disk.img, partition: 1}
  two: {path: disk.img, partition: 2}
maps:
  data: {table: 0 32768 linear two 0}
snapshots:
  before: {origin: two, cow: {path: before.cow, size: 32MiB}}
""")
    volfs("create", definition)
    t.mount(definition)
    take_under_writers(t, "data", "s", 2)
    overwrite(t, t.mnt / "data", 20)
    holds((t.mnt / "before").read_bytes() == second, "the definition's snapshot")
    snapshot("remove", t.mnt / "s1", "--yes")
    old = (t.mnt / "s0").read_bytes()
    snapshot("merge", t.mnt / "s0", "--yes")
    snapshot("wait", t.mnt / "s0", "--timeout", "100")
    holds((t.mnt / "data").read_bytes() == old, "after the merge")
    holds((t.mnt / "before").read_bytes() == second, "the definition's snapshot after the merge")
    t.umount()
    now = image.read_bytes()
    holds(now[:20480 * 512] == table[:20480 * 512] and now[(20480 + 32768) * 512:] == table[(20480 + 32768) * 512:],
          "the image outside the partition")
    holds(now[20480 * 512:(20480 + 32768) * 512] == old, "the partition")


lab.main(globals())
