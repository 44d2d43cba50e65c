# SPDX-License-Identifier: GPL-2.0-or-later
"""Seeded writes to devices and files, and their checksums, for host and guest alike: the same seed
gives the same writes on both. In the guest it is a program, copied there by kernel_lab."""

import fcntl
import glob
import hashlib
import json
import os
import random
import stat
import subprocess
import sys

BLKFLSBUF = 0x1261
LOOP_SET_FD = 0x4C00
LOOP_SET_STATUS64 = 0x4C04
LOOP_CTL_GET_FREE = 0x4C82


def size_of(path):
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)


def settle(file):
    """Nothing of the device stays in its page cache: what is below it may be used by its own name."""
    os.fsync(file.fileno())
    if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
        fcntl.ioctl(file, BLKFLSBUF)


def scribble(path, seed, count, longest=40000):
    """Writes at COUNT random places, of any length and alignment."""
    chance = random.Random(seed)
    size = size_of(path)
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            offset = chance.randrange(size)
            length = min(chance.choice((1, 511, 512, 4096, longest)), size - offset)
            data = chance.randbytes(chance.randint(1, length))
            done = 0
            while done < len(data):
                done += os.pwrite(file.fileno(), data[done:], offset + done)
        settle(file)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
            fcntl.ioctl(file, BLKFLSBUF)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def attach(image):
    """Makes a loop device of an image; returns its number. The guest's clean-up takes it away."""
    with open("/dev/loop-control", "rb") as control:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    with open(image, "r+b") as file, open(f"/dev/loop{number}", "r+b", buffering=0) as loop:
        fcntl.ioctl(loop, LOOP_SET_FD, file.fileno())
    return number


def device_mapper_major():
    with open("/proc/devices") as devices:
        return next(line.split()[0] for line in devices if line.split()[1:] == ["device-mapper"])


class Maps:
    """Images and maps over them in the guest, by one dmsetup for all: starting programs is slow there.
    Each is at path(NAME)."""

    def __init__(self, images, maps):
        self.paths, numbers = {}, {}
        for name, file in images.items():
            number = attach(file)
            self.paths[name], numbers[name] = f"/dev/loop{number}", f"7:{number}"
        major = device_mapper_major()
        concise = []
        for minor, (name, table) in enumerate(maps.items()):
            rows = [" ".join(numbers.get(word, word) for word in row.split()) for row in table.splitlines()]
            numbers[name], self.paths[name] = f"{major}:{minor}", f"/dev/mapper/{name}"
            concise.append(f"{name},,{minor},rw,{','.join(rows)}")
        if concise:
            subprocess.run(["dmsetup", "create", "--concise", ";".join(concise)], check=True)
        self.names = {number: name for name, number in numbers.items()}

    def path(self, name):
        return self.paths[name]

    def text(self, what):
        """`dmsetup table` or `status` with names for devices."""
        output = subprocess.run(["dmsetup", what], check=True, text=True, stdout=subprocess.PIPE).stdout
        return "\n".join(" ".join(self.names.get(word, word) for word in line.split(" "))
                         for line in output.splitlines())


def perform(plan):
    """Sets up the maps of a plan, makes its writes in order, and returns what is there then."""
    maps = Maps(plan["images"], plan["maps"])
    for name, seed, count in plan.get("writes", []):
        scribble(maps.path(name), seed, count)
    return {"sums": {name: sha256(maps.path(name)) for name in plan["read"]},
            "table": maps.text("table"), "status": maps.text("status")}


def main(command, *arguments):
    if command == "perform":
        print(json.dumps(perform(json.load(open(arguments[0])))))
    elif command == "scribble":
        for seed, path in enumerate(arguments[1:], int(arguments[0])):
            scribble(path, seed, 30)
    elif command == "sums":
        print(json.dumps({path: sha256(path) for path in arguments}))
    elif command == "loops":
        # The file behind every loop device, by device number.
        print(json.dumps({open(f"{path}/dev").read().strip(): open(f"{path}/loop/backing_file").read().strip()
                          for path in glob.glob("/sys/block/loop*") if os.path.exists(f"{path}/loop")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
