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


def device_names():
    """Names by device number: of dm devices their own, of loop devices their image's file."""
    names = {}
    for block in glob.glob("/sys/block/dm-*") + glob.glob("/sys/block/loop*"):
        source = f"{block}/dm/name" if "/dm-" in block else f"{block}/loop/backing_file"
        if os.path.exists(source):
            number = open(f"{block}/dev").read().strip()
            names[number] = os.path.basename(open(source).read().strip())
    return names


def dm_text(what):
    """`dmsetup table` or `status` with names for devices."""
    output = subprocess.run(["dmsetup", what], check=True, text=True, stdout=subprocess.PIPE).stdout
    names = device_names()
    return "\n".join(" ".join(names.get(word, word) for word in line.split(" ")) for line in output.splitlines())


class Maps:
    """Images and maps over them in the guest, by one dmsetup for all: starting programs is slow there.
    Tables name devices; each is at path(NAME)."""

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

    def path(self, name):
        return self.paths[name]


def survey(paths):
    """What programs compare: checksums of devices by their paths, and all of dmsetup's text."""
    return {"sums": {path: sha256(path) for path in paths},
            "table": dm_text("table"), "status": dm_text("status")}


def scribble_all(writes, path, failing=()):
    """Scribbles on devices by name, PATH tells where they are; on those of FAILING errors are expected."""
    for name, seed, count in writes:
        try:
            scribble(path(name), seed, count)
        except OSError:
            if name not in failing:
                raise


def perform(plan):
    """Sets up the maps of a plan, makes its writes in order, and returns what is there then."""
    maps = Maps(plan["images"], plan["maps"])
    scribble_all(plan.get("writes", []), maps.path, plan.get("failing", ()))
    found = survey([maps.path(name) for name in plan["read"]])
    found["sums"] = {name: found["sums"][maps.path(name)] for name in plan["read"]}
    return found


def main(command, *arguments):
    if command == "perform":
        print(json.dumps(perform(json.load(open(arguments[0])))))
    elif command == "scribble":
        for seed, path in enumerate(arguments[1:], int(arguments[0])):
            scribble(path, seed, 30)
    elif command == "survey":
        print(json.dumps(survey(arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
