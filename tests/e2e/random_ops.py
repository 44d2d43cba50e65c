# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on a mounted volume against a byte model, as fsx does: reads and writes of any
alignment, buffered and O_DIRECT, holes, zeros, seeks, mapped memory, flushes, remounts.
VOLFS_ITERATIONS sets how many in all."""
import ctypes
import mmap
import os

import lab
from lab import KiB, MiB, equal, holds, run

COUNT = int(os.environ.get("VOLFS_ITERATIONS", "6000"))

TABLES = {
    "linear": "0 16384 linear disk0 8192",
    "striped": "0 16384 striped 2 16 disk0 0 disk1 0",
    "mixed": "0 4096 linear disk1 100\n      4096 2048 zero\n"
             "      6144 8192 striped 2 8 disk0 4096 disk1 8192\n      14336 2048 linear disk0 0",
}
# Bytes of "mixed" that a zero target holds. Nothing is written there: the page cache, as of every
# block device, would show it until it is dropped.
ZERO = {"mixed": (2 * MiB, 3 * MiB)}

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


class Model:
    def __init__(self, t, table, direct, options):
        self.t, self.dropped, self.options = t, ZERO.get(table, (0, 0)), options
        keys = f"size: 16MiB, direct: {'true' if direct else 'false'}"
        self.definition = t.define(
            f"volfs: 1\nimages:\n  disk0: {{path: disk0.img, {keys}}}\n"
            f"  disk1: {{path: disk1.img, {keys}}}\nmaps:\n  data:\n    table: |\n"
            f"      {TABLES[table]}\n", f"{table}.yaml")
        run(lab.VOLFS, "create", self.definition)
        self.bytes = bytearray(8 * MiB)
        self.open()

    def open(self):
        self.t.mount(self.definition, options=self.options)
        path = self.t.mnt / "data"
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.map = mmap.mmap(self.fd, len(self.bytes))
        self.page = mmap.mmap(-1, 256 * KiB)

    def close(self):
        self.map.close()
        os.close(self.fd)
        os.close(self.direct)
        self.t.umount()

    def put(self, offset, data):
        self.bytes[offset:offset + len(data)] = data

    def range_to_write(self, align):
        while True:
            offset, length = self.range(align)
            if offset + length <= self.dropped[0] or offset >= self.dropped[1]:
                return offset, length

    def range(self, align):
        size = len(self.bytes)
        offset = self.t.random.randrange(size // align) * align
        length = (1 + self.t.random.randrange(1 << self.t.random.randrange(1, 18)) // align) * align
        return offset, min(length, size - offset)

    def data(self, length):
        return self.t.random.randbytes(length)

    def step(self):
        name = self.t.random.choices(
            ["read", "write", "read_direct", "write_direct", "punch", "zero", "map_read",
             "map_write", "sync", "seek", "remount"],
            [20, 20, 10, 10, 5, 5, 8, 8, 3, 4, 0.05])[0]
        getattr(self, name)()

    def read(self):
        offset, length = self.range(1)
        equal(os.pread(self.fd, length, offset), self.bytes[offset:offset + length], "read")

    def write(self):
        offset, length = self.range_to_write(1)
        data = self.data(length)
        equal(os.pwrite(self.fd, data, offset), length, "write")
        self.put(offset, data)

    def read_direct(self):
        offset, length = self.range(512)
        view = memoryview(self.page)[:length]
        equal(os.preadv(self.direct, [view], offset), length, "direct read")
        equal(bytes(view), self.bytes[offset:offset + length], "direct read")
        view.release()

    def write_direct(self):
        offset, length = self.range_to_write(512)
        data = self.data(length)
        view = memoryview(self.page)[:length]
        view[:] = data
        equal(os.pwritev(self.direct, [view], offset), length, "direct write")
        view.release()
        self.put(offset, data)

    def punch(self):
        offset, length = self.range(1)
        fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
        self.bytes[offset:offset + length] = bytes(length)

    def zero(self):
        offset, length = self.range(1)
        fallocate(self.fd, ZERO_RANGE | KEEP_SIZE, offset, length)
        self.bytes[offset:offset + length] = bytes(length)

    def map_read(self):
        offset, length = self.range(1)
        equal(self.map[offset:offset + length], self.bytes[offset:offset + length], "mapped read")

    def map_write(self):
        offset, length = self.range_to_write(1)
        data = self.data(length)
        self.map[offset:offset + length] = data
        self.map.flush()
        self.put(offset, data)

    def sync(self):
        os.fsync(self.fd)

    def seek(self):
        offset = self.t.random.randrange(len(self.bytes))
        try:
            data = os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError:
            data = len(self.bytes)
        holds(not any(self.bytes[offset:data]), f"hole from {offset} to {data} holds data")

    def remount(self):
        self.close()
        self.open()

    def whole(self):
        equal(os.pread(self.fd, len(self.bytes), 0) == self.bytes, True, "the whole volume")


def exercise(t, table, direct=False, options=()):
    model = Model(t, table, direct, options)
    for index in range(COUNT // 5):
        try:
            model.step()
        except Exception as error:
            raise lab.Failed(f"operation {index} on {table}: {error}") from error
    model.whole()
    model.remount()
    model.whole()
    model.close()


def test_linear(t):
    exercise(t, "linear")


def test_striped(t):
    exercise(t, "striped")


def test_mixed(t):
    exercise(t, "mixed")


def test_mixed_on_images_that_bypass_the_page_cache(t):
    exercise(t, "mixed", direct=True)


def test_striped_with_the_writeback_cache(t):
    """By two descriptors and mapped memory, as all the others."""
    exercise(t, "striped", options=["writeback_cache"])


lab.main(globals())
