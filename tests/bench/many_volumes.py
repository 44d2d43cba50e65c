#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a mount of a volume group of very many volumes takes, and its status.json: 10,000 of 5 segments each.

    many_volumes.py VOLFS [VOLUMES] [SEGMENTS]
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time
import zlib

MiB = 1 << 20
AREA, AREA_SIZE = 4096, 128 * MiB
DATA = AREA + AREA_SIZE + MiB - 4096
SECTOR = 512


def crc(data):
    """lvm2's: CRC-32 without the final inversion, from a start of its own."""
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def identifier(kind, number):
    text = f"{kind}{number:031d}"
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(text[a:b] for a, b in zip(cuts, cuts[1:]))


def volume(number, segments, extents):
    lines = [f"v{number} {{", f'id = "{identifier("l", number)}"', 'status = ["READ", "WRITE", "VISIBLE"]',
             "flags = []", "creation_time = 1700000000", 'creation_host = "bench"', f"segment_count = {segments}"]
    for i in range(segments):
        # Far from its neighbours, so that no two segments are one.
        place = i * extents // segments + number
        lines += [f"segment{i + 1} {{", f"start_extent = {i}", "extent_count = 1", 'type = "striped"',
                  "stripe_count = 1", "stripes = [", f'"pv0", {place}', "]", "}"]
    return lines + ["}"]


def metadata(volumes, segments):
    extents = volumes * segments
    lines = ["vg0 {", f'id = "{identifier("g", 0)}"', "seqno = 1", 'format = "lvm2"',
             'status = ["RESIZEABLE", "READ", "WRITE"]', "flags = []", "extent_size = 8", "max_lv = 0", "max_pv = 0",
             "metadata_copies = 0", "physical_volumes {", "pv0 {", f'id = "{identifier("p", 0)}"',
             'device = "/dev/bench"', 'status = ["ALLOCATABLE"]', "flags = []", f"dev_size = {DATA // SECTOR + 8 * extents}",
             f"pe_start = {DATA // SECTOR}", f"pe_count = {extents}", "}", "}", "logical_volumes {"]
    for number in range(volumes):
        lines += volume(number, segments, extents)
    lines += ["}", "}", 'contents = "Text Format Volume Group"', "version = 1", 'description = ""',
              'creation_host = "bench"', "creation_time = 1700000000"]
    return "\n".join(lines).encode() + b"\n\0", DATA + extents * 4096


def make_image(path, volumes, segments):
    text, size = metadata(volumes, segments)
    if len(text) > AREA_SIZE - SECTOR:
        raise SystemExit("too many for the metadata area")
    header = b"\x20LVM2\x20x[5A%r0N*>" + struct.pack("<IQQ", 1, AREA, AREA_SIZE)
    header += struct.pack("<QQII", SECTOR, len(text), crc(text), 0)
    header = header.ljust(SECTOR - 4, b"\0")
    pv = identifier("p", 0).replace("-", "").encode() + struct.pack("<Q", size)
    pv += struct.pack("<4Q", DATA, 0, 0, 0) + struct.pack("<4Q", AREA, AREA_SIZE, 0, 0)
    label = struct.pack("<I8s", 32, b"LVM2 001") + pv
    label = label.ljust(SECTOR - 20, b"\0")
    with open(path, "wb") as image:
        image.truncate(size)
        image.seek(SECTOR)
        image.write(b"LABELONE" + struct.pack("<QI", 1, crc(label)) + label)
        image.seek(AREA)
        image.write(struct.pack("<I", crc(header)) + header + text)
    return len(text)


def main(program, volumes="10000", segments="5"):
    with tempfile.TemporaryDirectory(prefix="volfs-bench-") as folder:
        folder = pathlib.Path(folder)
        length = make_image(folder / "pv.img", int(volumes), int(segments))
        (folder / "lab.yaml").write_text("volfs: 1\nimages: {pv: pv.img}\nvolume_groups: {vg0: {physical_volumes: [pv]}}\n")
        (folder / "mnt").mkdir()
        begin = time.monotonic()
        subprocess.run([program, "mount", folder / "lab.yaml", folder / "mnt", "-o", "ro"], check=True)
        taken = time.monotonic() - begin
        try:
            shown = len(os.listdir(folder / "mnt/vg0"))
            begin = time.monotonic()
            told = len(json.loads((folder / "mnt/.volfs/status.json").read_text())["devices"])
            telling = time.monotonic() - begin
        finally:
            subprocess.run([program, "umount", folder / "mnt"], check=True)
        print(f"{shown} volumes of {segments} segments, {length} bytes of metadata: mounted in {taken:.2f} s, "
              f"status.json of {told} devices in {telling:.2f} s")
        if shown != int(volumes) or told != shown + 1:
            raise SystemExit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
