#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random stacks of linear, striped and zero tables are the same volumes to volfs and to Linux.

Every stack exists twice, on equal images. The same writes go to all its levels, through volfs to
the one and through Linux to the other; then each reads what the other wrote.
VOLFS_ITERATIONS is the number of stacks.
"""

import os
import random
import shutil

import device_io
import kernel_lab
from lab import MiB, SEED, equal

STACKS = int(os.environ.get("VOLFS_ITERATIONS", "12"))
CHUNKS = (1, 8, 8, 24, 64, 128)  # sectors; the kernel takes any, not only powers of two
WRITES = 6  # to a device


class Stack:
    """One to three levels of maps over two to four images; no sector is used by two rows."""

    def __init__(self, chance, number):
        self.chance = chance
        self.free = []  # (device, first sector, sectors)
        self.maps = {}
        self.images = {f"c{number}i{i}": chance.randrange(256, 2048) for i in range(chance.randint(2, 4))}
        level = [(name, 0, size) for name, size in self.images.items()]
        for depth in range(chance.randint(2, 3)):
            self.free = [*level, *self.free]
            level = []
            for i in range(chance.randint(1, 2)):
                name = f"c{number}m{depth}{i}"
                size = self.add_map(name)
                if size:
                    level.append((name, 0, size))

    def take(self, sectors, at_most_from):
        """A free run of at most SECTORS sectors, from one of the first AT_MOST_FROM places."""
        i = self.chance.randrange(min(at_most_from, len(self.free)))
        device, start, size = self.free.pop(i)
        skip = self.chance.choice((0, 0, 1, 8, 40))
        sectors = min(sectors, size - skip)
        if sectors <= 0:
            return device, start, 0
        if size - skip - sectors > 0:
            self.free.append((device, start + skip + sectors, size - skip - sectors))
        return device, start + skip, sectors

    def row(self):
        kind = self.chance.choice(("linear", "linear", "striped", "striped", "zero"))
        if kind == "zero" or not self.free:
            return self.chance.randrange(1, 200), "zero"
        if kind == "linear":
            device, start, size = self.take(self.chance.randrange(1, 900), 4)
            return size, f"linear {device} {start}"
        chunk = self.chance.choice(CHUNKS)
        wanted = chunk * self.chance.randrange(1, 1 + 400 // chunk)
        legs = [self.take(wanted, 4) for _ in range(min(self.chance.randint(1, 4), len(self.free)))]
        each = min(size for _, _, size in legs) // chunk * chunk
        words = " ".join(f"{device} {start}" for device, start, _ in legs)
        return each * len(legs), f"striped {len(legs)} {chunk} {words}"

    def add_map(self, name):
        rows, at = [], 0
        for _ in range(self.chance.randint(1, 5)):
            size, arguments = self.row()
            if size:
                rows.append(f"{at} {size} {arguments}")
                at += size
        if rows:
            self.maps[name] = "\n".join(rows)
        return at


def definition(folder, images, maps):
    lines = ["volfs: 1", "images:", *(f"  {name}: {folder}/{name}" for name in images), "maps:"]
    for name, table in maps.items():
        lines += [f"  {name}:", "    table: |", *(f"      {row}" for row in table.splitlines())]
    return "\n".join(lines) + "\n"


def by_name(text):
    """Lines by map; dmsetup lists maps in another order."""
    maps = {}
    for line in text.splitlines():
        maps.setdefault(line.split(":")[0], []).append(line)
    return maps


def test_random_stacks_read_equal_whoever_wrote_them(lab):
    chance = random.Random(SEED)
    stacks = [Stack(chance, number) for number in range(STACKS)]
    images = {name: size for stack in stacks for name, size in stack.images.items()}
    maps = {name: table for stack in stacks for name, table in stack.maps.items()}
    writes = [(name, chance.randrange(1 << 31), WRITES) for name in maps]
    chance.shuffle(writes)
    print(f"{len(stacks)} stacks, {len(maps)} maps of {len(''.join(maps.values()).splitlines())} rows")
    for folder in ("ours", "linux"):
        (lab.path / folder).mkdir()
    for name, size in images.items():
        (lab.path / "ours" / name).write_bytes(chance.randbytes(size * 512))
        shutil.copy(lab.path / "ours" / name, lab.path / "linux" / name)

    def plan(folder, **more):
        return {"images": {name: f"{lab.path}/{folder}/{name}" for name in images}, "maps": maps,
                "read": list(maps), **more}

    lab.mount(lab.define(definition("ours", images, maps), "ours.yaml"))
    for name, seed, count in writes:
        device_io.scribble(lab.mnt / name, seed, count)
    lab.umount()
    wrote = lab.perform(plan("linux", writes=writes))
    read = lab.perform(plan("ours"))

    lab.mount(lab.define(definition("linux", images, maps), "linux.yaml"), options=["ro"])
    for name in maps:
        found = device_io.sha256(lab.mnt / name)
        equal(found, wrote["sums"][name], f"{name} as volfs and as Linux read what Linux wrote:\n{maps[name]}\n")
        equal(read["sums"][name], found, f"{name} as Linux reads what volfs wrote:\n{maps[name]}\n")
    for what in ("table", "status"):
        equal(by_name(lab.text(what)), by_name(wrote[what]), what)
    lab.umount()
    for name in images:
        equal((lab.path / "ours" / name).read_bytes() == (lab.path / "linux" / name).read_bytes(), True,
              f"image {name} is the same")


if __name__ == "__main__":
    kernel_lab.main(globals())
