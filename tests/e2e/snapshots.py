# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of the volumes of a mount: those of a definition, and those taken while it is in use."""
import ctypes
import errno
import os

import lab
from lab import KiB, MiB, equal, holds, raises, volfs

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def device(t, name):
    return next(each for each in t.status()["devices"] if each["name"] == name)


def status_words(t, name):
    """What dmsetup status says of a snapshot after the type."""
    return device(t, name)["map"]["status"].split()[3:]


def test_a_hole_is_refused_where_it_would_only_copy(t):
    """As by Linux, whose snapshot-origin takes no discards, and a snapshot only with discard_zeroes_cow."""
    (t.path / "disk.img").write_bytes(b"o" * 8 * MiB)
    for name in ("plain", "zeroing"):
        t.file(f"{name}.cow", 16 * MiB)
    t.mount(t.define("""
volfs: 1
images: {disk: disk.img}
maps: {data: {table: 0 16384 linear disk 0}, top: {table: 0 16384 linear data 0}}
snapshots:
  plain: {origin: data, cow: {path: plain.cow, size: 16MiB}}
  zeroing: {origin: data, cow: {path: zeroing.cow, size: 16MiB}, discard_zeroes_cow: true}
"""))
    before = status_words(t, "plain")
    for name in ("data", "top", "plain"):
        with open(t.mnt / name, "r+b", buffering=0) as file:
            raises(errno.EOPNOTSUPP, fallocate, file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 4 * MiB)
    equal(status_words(t, "plain"), before, "what a refused hole costs a snapshot")
    # Zeros that are asked for are written, and copied before as any write is.
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        fallocate(file.fileno(), ZERO_RANGE, 64 * KiB, 64 * KiB)
        equal(os.pread(file.fileno(), 256 * KiB, 0), b"o" * 64 * KiB + bytes(64 * KiB) + b"o" * 128 * KiB, "the origin")
    with open(t.mnt / "zeroing", "r+b", buffering=0) as file:
        equal(file.read(256 * KiB), b"o" * 256 * KiB, "the snapshot")
        fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 128 * KiB)
        equal(os.pread(file.fileno(), 256 * KiB, 0), bytes(128 * KiB) + b"o" * 128 * KiB, "a hole in a snapshot")


if __name__ == "__main__":
    lab.main(globals())
