#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the golden stores of this directory with a real kernel's dm-snapshot.

Run as root on a machine to spare, naming three block devices of at least 16 MiB whose content does
not matter: make.py /dev/vda /dev/vdb /dev/vdc [CASE...] >golden.txt; then "make.py --split DIR <golden.txt"
writes two files a case: NAME.tar.xz with the origin and its stores, each cut off behind its last
byte that is not zero, and NAME.json with what the kernel showed: sizes, chunk size, dmsetup's status,
SHA-256 of what was read. tests/e2e/snapshots.py reads them.
"""
import base64
import hashlib
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
import time

KIB = 1024
STORE = 12 * KIB * KIB
ORIGIN = 2 * KIB * KIB
BLOCK = 4 * KIB


def run(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def block(chance):
    """Bytes that are told from all others, and are nothing when compressed."""
    return struct.pack("<Q", chance.getrandbits(64)) * (BLOCK // 8)


def fill(path, size, chance):
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // BLOCK):
            file.write(block(chance))
        os.fsync(file.fileno())


def write(path, size, chance, count):
    fd = os.open(path, os.O_RDWR | os.O_SYNC)
    for _ in range(count):
        os.pwrite(fd, block(chance), chance.randrange(size // BLOCK) * BLOCK)
    os.close(fd)


def content(path, size):
    run("blockdev", "--flushbufs", path)
    with open(path, "rb") as file:
        return file.read(size)


def sha256(path, size):
    return hashlib.sha256(content(path, size)).hexdigest()


class Stack:
    """An origin, two stores, and the maps over them."""

    def __init__(self, name, devices, chunk, size=ORIGIN, stores=(STORE, STORE)):
        self.name, self.chunk, self.size, self.stores = name, chunk, size, stores
        self.chance = random.Random(name)
        self.disk = devices[0]
        self.cows = devices[1:]
        fill(self.disk, size, self.chance)
        for cow, length in zip(self.cows, stores):
            with open(cow, "wb") as file:
                file.write(bytes(16 << 20))
                os.fsync(file.fileno())
        for index, (cow, length) in enumerate(zip(self.cows, stores)):
            self.create(f"c{index}", f"0 {length // 512} linear {cow} 0")

    def create(self, name, table):
        run("dmsetup", "create", name, "--table", table)

    def snapshot(self, index, kind="P"):
        self.create(f"s{index}", f"0 {self.size // 512} snapshot {self.disk} /dev/mapper/c{index} {kind} {self.chunk // 512}")

    def origin(self):
        # After the snapshots: it looks at their chunk sizes when it is resumed.
        self.create("o", f"0 {self.size // 512} snapshot-origin {self.disk}")

    def take_down(self, *names):
        for name in names:
            run("dmsetup", "remove", "--retry", name)

    def files(self):
        lengths = (self.size, *self.stores)
        return {name: content(path, length)
                for name, path, length in zip(("origin", "store0", "store1"), (self.disk, *self.cows), lengths)}

    def emit(self, shown):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:xz") as tar:
            for name, data in self.files().items():
                data = data.rstrip(b"\0")
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        facts = {"chunk_size": self.chunk, "origin": self.size, "stores": self.stores,
                 "release": os.uname().release, **shown}
        print("file", self.name + ".json", base64.b64encode((json.dumps(facts, indent=1) + "\n").encode()).decode())
        print("file", self.name + ".tar.xz", base64.b64encode(archive.getvalue()).decode(), flush=True)


def status(name):
    return " ".join(run("dmsetup", "status", name).split()[3:])


def both_written(name, devices, chunk, size=ORIGIN, stores=(STORE, STORE), writes=60):
    """Two snapshots taken at different times; origin and the first one are written to."""
    stack = Stack(name, devices, chunk, size, stores)
    stack.snapshot(0)
    stack.origin()
    write("/dev/mapper/o", size, stack.chance, writes)
    run("dmsetup", "suspend", "o")
    stack.snapshot(1)
    run("dmsetup", "resume", "o")
    for _ in range(4):
        write("/dev/mapper/o", size, stack.chance, writes)
        if "Invalid" not in status("s0"):
            write("/dev/mapper/s0", size, stack.chance, writes // 4)
    shown = {"status": [status("s0"), status("s1")],
             "sums": [None if "Invalid" in status(s) else sha256(f"/dev/mapper/{s}", size) for s in ("s0", "s1")],
             "origin_sum": sha256("/dev/mapper/o", size)}
    stack.take_down("s0", "s1", "o", "c0", "c1")
    stack.emit(shown)


def half_merged(name, devices, chunk):
    """A merge of the first snapshot that was stopped; what it showed all the time."""
    stack = Stack(name, devices, chunk)
    stack.snapshot(0)
    stack.origin()
    write("/dev/mapper/o", ORIGIN, stack.chance, 100)
    write("/dev/mapper/s0", ORIGIN, stack.chance, 200)
    total = sha256("/dev/mapper/s0", ORIGIN)
    stack.take_down("s0", "o")
    stack.create("slow", f"0 {ORIGIN // 512} delay {stack.disk} 0 0 {stack.disk} 0 60")
    stack.create("m", f"0 {ORIGIN // 512} snapshot-merge /dev/mapper/slow /dev/mapper/c0 P {chunk // 512}")
    first = int(status("m").split("/")[0])
    while int(status("m").split("/")[0]) > first * 2 // 3:
        time.sleep(0.01)
    run("dmsetup", "suspend", "m")
    stopped = status("m")
    stack.take_down("m", "slow", "c0", "c1")
    stack.emit({"merging": True, "status": [stopped, None], "sums": [total, None]})


CASES = {f"chunks-of-{kib}k": lambda *at, kib=kib: both_written(*at, kib * KIB)
         for kib in (4, 8, 16, 32, 64, 128, 256, 512)}
CASES["full-areas-of-4k"] = lambda *at: both_written(*at, 4 * KIB, 4 * ORIGIN, writes=500)
CASES["one-is-full"] = lambda *at: both_written(*at, 16 * KIB, stores=(20 * 16 * KIB, STORE))
CASES["half-merged-4k"] = lambda *at: half_merged(*at, 4 * KIB)
CASES["half-merged-64k"] = lambda *at: half_merged(*at, 64 * KIB)


def make(devices, names):
    for name in names or CASES:
        CASES[name](name, devices)


def split(directory):
    for line in sys.stdin:
        found = re.fullmatch(r"file (\S+) (\S+)\s*", line)
        if found:  # anything else is a message of the kernel on the same console
            with open(os.path.join(directory, found[1]), "wb") as file:
                file.write(base64.b64decode(found[2]))


if sys.argv[1] == "--split":
    split(sys.argv[2])
else:
    make(sys.argv[1:4], sys.argv[4:])
