# SPDX-License-Identifier: GPL-2.0-or-later
"""Fields of md superblocks on images, to look at and to change."""
import os
import struct

from lab import KiB, equal

RECOVERY_OFFSET, REPLACEMENT = 2, 16  # bits of features(), metadata 1.x


class Superblock:
    """Fields of the md superblock on an image, of 0.90 or 1.2; the checksum follows them."""

    def __init__(self, path, version):
        self.path, self.old = path, version == "0.90"
        size = os.path.getsize(path)
        self.at = (size & ~(64 * KiB - 1)) - 64 * KiB if self.old else 4096
        with open(path, "rb") as file:
            file.seek(self.at)
            self.bytes = bytearray(file.read(4096))
        equal(struct.unpack_from("<I", self.bytes)[0], 0xa92b4efc, "the magic number")

    def events(self):
        return struct.unpack_from("<Q", self.bytes, 156 if self.old else 200)[0]

    def set_events(self, events):
        struct.pack_into("<Q", self.bytes, 156 if self.old else 200, events)

    def set_utime(self, seconds):
        struct.pack_into("<I" if self.old else "<Q", self.bytes, 128 if self.old else 192, seconds)

    def set_dirty(self):
        if self.old:
            struct.pack_into("<I", self.bytes, 132, struct.unpack_from("<I", self.bytes, 132)[0] & ~1)
        else:
            struct.pack_into("<Q", self.bytes, 208, 0)

    def data_offset(self):
        return 0 if self.old else 512 * struct.unpack_from("<Q", self.bytes, 128)[0]

    def features(self):
        return struct.unpack_from("<I", self.bytes, 8)[0]

    def recovery_offset(self):
        return 512 * struct.unpack_from("<Q", self.bytes, 152)[0]

    def write(self):
        place, length = (152, 4096) if self.old else (216, 256 + 2 * struct.unpack_from("<I", self.bytes, 220)[0])
        struct.pack_into("<I", self.bytes, place, 0)
        whole = self.bytes[:length] + bytes(-length % 4)
        total = sum(struct.unpack(f"<{len(whole) // 4}I", whole))
        while total >> 32:
            total = (total & 0xffffffff) + (total >> 32)
        struct.pack_into("<I", self.bytes, place, total)
        with open(self.path, "r+b") as file:
            file.seek(self.at)
            file.write(self.bytes)
