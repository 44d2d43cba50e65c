#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores of snapshots go back and forth between volfs and Linux, half-done merges too."""

import re
import shutil

import device_io
import kernel_lab
from lab import MiB, SEED, equal, holds, sha256, volfs, wait_until

KiB = 1024
SIZE = 4 * MiB
SECTORS = SIZE // 512
CHUNKS = tuple(4 * KiB << i for i in range(8))  # to 512 KiB


class Case:
    """An origin with two snapshots of one chunk size, twice: in folders a and b."""

    def __init__(self, lab, chunk, store_size=None):
        self.k = f"k{chunk // KiB}" + ("full" if store_size else "")
        self.chunk = chunk
        self.names = [f"{self.k}{name}" for name in ("o", "s1", "s2")]
        self.readable = [name for name in self.names if not (store_size and name.endswith("s1"))]
        data = lab.random.randbytes(SIZE)
        for folder in ("a", "b"):
            (lab.path / folder).mkdir(exist_ok=True)
            (lab.path / folder / f"{self.k}i").write_bytes(data)
            for name, size in zip(self.names[1:], (store_size or 2 * SIZE + 2 * MiB, 2 * SIZE + 2 * MiB)):
                lab.file(f"{folder}/{name}c", size)

    def images(self):
        return [f"{self.k}i", *(f"{name}c" for name in self.names[1:])]

    def maps(self):
        """What volfs makes of the definition, in Linux's words."""
        origin, *snapshots = self.names
        tables = {f"{origin}-real": f"0 {SECTORS} linear {self.k}i 0",
                  origin: f"0 {SECTORS} snapshot-origin {origin}-real"}
        for name in snapshots:
            tables[name] = f"0 {SECTORS} snapshot {origin}-real {name}c P {self.chunk // 512}"
        return tables

    def definition(self, folder):
        origin, *snapshots = self.names
        return {"images": [f"  {self.k}i: {folder}/{self.k}i"],
                "snapshots": [f"  {name}: {{origin: {origin}, cow: {{path: {folder}/{name}c}}, chunk_size: {self.chunk}}}"
                              for name in snapshots],
                "maps": [f"  {origin}: {{table: 0 {SECTORS} linear {self.k}i 0}}"]}


def define(lab, cases, folder):
    lines = ["volfs: 1"]
    for section in ("images", "snapshots", "maps"):
        lines += [f"{section}:", *(line for case in cases for line in case.definition(folder)[section])]
    return lab.define("\n".join(lines), f"{folder}.yaml")


def with_volfs(lab, cases, folder, writes):
    lab.mount(define(lab, cases, folder))
    for name, seed, count in writes:
        device_io.scribble(lab.mnt / name, seed, count)
    lab.umount()
    lab.mount(define(lab, cases, folder))
    sums = {name: device_io.sha256(lab.mnt / name) for case in cases for name in case.readable}
    found = {"sums": sums, "table": lab.text("table"), "status": lab.text("status")}
    lab.umount()
    return found


def with_linux(lab, cases, folder, writes):
    return lab.perform({"images": {name: f"{lab.path}/{folder}/{name}" for case in cases for name in case.images()},
                        "maps": {name: table for case in cases for name, table in case.maps().items()},
                        "writes": writes, "read": [name for case in cases for name in case.readable]})


def lines_of(text):
    """dmsetup lists maps in another order, and a store's device by its file's name."""
    return sorted(re.sub(r"(k\d+(full)?s\d)-cow", r"\1c", line) for line in text.splitlines())


def same(ours, linux, what):
    for name, digest in linux["sums"].items():
        equal(ours["sums"][name], digest, f"{what}: {name}")
    for text in ("table", "status"):
        equal(lines_of(ours[text]), lines_of(linux[text]), f"{what}: {text}")


def test_stores_written_by_turns(lab):
    cases = [Case(lab, chunk) for chunk in CHUNKS]
    names = [name for case in cases for name in case.names]

    def writes():
        # As many that areas of 4 KiB, which have 256 exceptions, fill; those of larger chunks hold all.
        chosen = [(name, lab.random.randrange(1 << 31), 40 if name.startswith("k4") else 4) for name in names for _ in range(2)]
        lab.random.shuffle(chosen)
        return chosen

    first, second = writes(), writes()
    same(with_volfs(lab, cases, "a", first), with_linux(lab, cases, "b", first), "each its own")
    for name in (case.names[0][:-1] + "i" for case in cases):
        equal(sha256(lab.path / "a" / name), sha256(lab.path / "b" / name), f"origin {name}")
    # Now each goes on with the other's stores.
    same(with_volfs(lab, cases, "b", second), with_linux(lab, cases, "a", second), "each the other's")
    same(with_volfs(lab, cases, "a", []), with_linux(lab, cases, "b", []), "read back")


def test_a_full_store_is_invalid_to_both(lab):
    cases = [Case(lab, 16 * KiB, 6 * 16 * KiB)]  # a header, an area, four chunks
    origin, full, _ = cases[0].names
    writes = [(origin, seed, 10) for seed in range(SEED, SEED + 2)]
    same(with_volfs(lab, cases, "a", writes), with_linux(lab, cases, "b", writes), "filled")
    ours, linux = with_volfs(lab, cases, "b", []), with_linux(lab, cases, "a", [])
    same(ours, linux, "filled by the other")
    for found in (ours, linux):
        holds(f"{full}: 0 {SECTORS} snapshot Invalid" in found["status"].splitlines(), found["status"])


def test_an_overlay_is_a_device_that_linux_takes(lab):
    (lab.path / "i").write_bytes(lab.random.randbytes(SIZE))
    before = sha256(lab.path / "i")
    definition = lab.define(f"volfs: 1\nimages: {{i: i}}\nmaps: {{m: {{table: 0 {SECTORS} linear i 0}}}}\n")
    for _ in range(2):
        lab.mount(definition, options=[f"overlay={lab.path}/changes"])
        device_io.scribble(lab.mnt / "m", lab.random.randrange(1 << 31), 40)
        shown = device_io.sha256(lab.mnt / "m")
        lab.umount()
        plan = {"images": {"i": f"{lab.path}/i", "c": f"{lab.path}/changes/i.cow"},
                "maps": {"s": f"0 {SECTORS} snapshot i c P 32"}, "read": ["s"]}
        equal(lab.perform(plan)["sums"]["s"], shown, "what Linux reads")
        # Linux writes to it, too, and volfs goes on with that.
        found = lab.perform({**plan, "writes": [["s", lab.random.randrange(1 << 31), 40]]})
        lab.mount(definition, options=["ro", f"overlay={lab.path}/changes"])
        equal(device_io.sha256(lab.mnt / "m"), found["sums"]["s"], "what Linux wrote")
        lab.umount()
        equal(sha256(lab.path / "i"), before, "the image")


def allocated(status):
    """How much of a store holds something, and how much of that are metadata, in sectors."""
    used, metadata = re.search(r" snapshot-merge (\d+)/\d+ (\d+)", status).groups()
    return int(used), int(metadata)


SLOWED = f"0 {SECTORS} delay i 0 0 i 0 50"  # milliseconds a write


def merging(origin, store):
    return f"0 {SECTORS} snapshot-merge {origin} {store} P 8"


def make_store(lab):
    """An origin i and a store c in which every other chunk is changed; returns what the snapshot shows."""
    (lab.path / "i").write_bytes(lab.random.randbytes(SIZE))
    lab.file("c", SIZE)
    text = f"""volfs: 1
images: {{i: i}}
maps: {{o: {{table: 0 {SECTORS} linear i 0}}}}
snapshots: {{s: {{origin: o, cow: {{path: c}}, chunk_size: 4KiB}}}}
"""
    lab.mount(lab.define(text))
    with open(lab.mnt / "s", "r+b", buffering=0) as file:
        for offset in range(0, SIZE, 8 * KiB):
            file.seek(offset)
            file.write(lab.random.randbytes(4 * KiB))
    lab.umount()
    lab.mount(lab.define(text), options=["ro"])
    shown = sha256(lab.mnt / "s")
    lab.umount()
    return shown


def merge_with_volfs(lab, maps, until):
    lab.mount(lab.define("\n".join(["volfs: 1", "images: {i: i, c: c}", "maps:", *maps])))
    wait_until(lambda: until(*allocated(volfs("map", "status", lab.mnt / "m"))), "the merge", 200)
    left = allocated(volfs("map", "status", lab.mnt / "m"))
    lab.umount()
    return left


def merge_with_linux(lab, slow, condition):
    """Merges until CONDITION of $used and $meta is true."""
    output = lab.linux.check(f"""cd {lab.path}
        loops=($(attach i c)); i=${{loops[0]}} c=${{loops[1]}} origin=$i
        modprobe dm-snapshot
        if [ {int(slow)} = 1 ]; then
          modprobe dm-delay
          dmsetup create slow --table "0 {SECTORS} delay $i 0 0 $i 0 50"
          origin=/dev/mapper/slow
        fi
        dmsetup create m --table "0 {SECTORS} snapshot-merge $origin $c P 8"
        while :; do
          status=$(dmsetup status m)
          [[ $status =~ \ ([0-9]+)/[0-9]+\ ([0-9]+) ]]
          used=${{BASH_REMATCH[1]}} meta=${{BASH_REMATCH[2]}}
          if (({condition})); then break; fi
          sleep 0.1
        done
        dmsetup remove m
        echo "$status" """)
    return allocated(output)


ALL_CHUNKS = SIZE // 8 // KiB * 8  # sectors of chunks in the store that make_store made


def half_done(used, metadata):
    return metadata < used < ALL_CHUNKS


def test_a_merge_that_linux_began_ends_in_volfs(lab):
    shown = make_store(lab)
    left = merge_with_linux(lab, True, f"used < {ALL_CHUNKS}")
    holds(half_done(*left), f"half done: {left}")
    merge_with_volfs(lab, [f"  m: {{table: {merging('i', 'c')}}}"], lambda used, metadata: used == metadata)
    equal(sha256(lab.path / "i"), shown, "the origin after the merge")


def test_a_merge_that_volfs_began_ends_in_linux(lab):
    shown = make_store(lab)
    left = merge_with_volfs(lab, [f"  slow: {{table: {SLOWED}}}", f"  m: {{table: {merging('slow', 'c')}}}"], half_done)
    holds(left[1] < left[0], f"half done: {left}")
    used, metadata = merge_with_linux(lab, False, "used == meta")
    equal(used, metadata, "what is left in the store")
    equal(sha256(lab.path / "i"), shown, "the origin after the merge")


if __name__ == "__main__":
    kernel_lab.main(globals())
