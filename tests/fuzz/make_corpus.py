#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the first inputs of the fuzz targets from the golden files and examples of this project:
tests/fuzz/make_corpus.py. What fuzzing finds later is added beside them by hand."""
import io
import pathlib
import struct
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = ROOT / "tests/golden"
SECTOR = 512
ZEROS = bytes(SECTOR)


def put(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def records(pieces):
    """(offset, bytes) as sparse_input.h reads it: runs of sectors that are not zero."""
    out = b""
    for offset, data in pieces:
        data = data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
        at = 0
        while at < len(data):
            if data[at:at + SECTOR] == ZEROS:
                at += SECTOR
                continue
            end = at
            while end < len(data) and data[end:end + SECTOR] != ZEROS and end - at < 63 * SECTOR:
                end += SECTOR
            run = data[at:end].rstrip(b"\0")
            out += struct.pack("<HH", (offset + at) // SECTOR, len(run)) + run
            at = end
    return out


def from_bytes_file(path, most):
    """A golden file of lines `OFFSET HEX`."""
    device = bytearray(most)
    for line in path.read_text().splitlines():
        words = line.split()
        offset, data = int(words[0]), bytes.fromhex(words[1])
        if offset + len(data) <= most:
            device[offset:offset + len(data)] = data
    return device


def md_superblocks():
    for path in sorted((GOLDEN / "md").glob("v*.txt")):
        version = {"0_90": 0, "1_0": 1, "1_1": 2, "1_2": 3}[path.name[1:path.name.index("-")]]
        area, members, inside = bytearray(), 0, False
        for line in path.read_text().splitlines() + ["member"]:
            words = line.split()
            if not words:
                continue
            if words[0] in ("member", "area"):
                if inside and members <= 2:
                    put("md", f"{path.stem}-{members}", bytes([version]) + records([(0, bytes(area))]))
                inside = words[0] == "area" and words[1] == "super"
                if inside:
                    area, members = bytearray(8192), members + 1
            elif inside and words[0].isdigit():
                data = bytes.fromhex(words[1]) * (int(words[2][1:]) if len(words) > 2 else 1)
                area[int(words[0]):int(words[0]) + len(data)] = data


def lvm():
    for path in sorted((GOLDEN / "lvm").glob("*.text")):
        put("lvm-text", path.stem, path.read_bytes())
    for name in ("odd.0", "ring.0", "ring.2"):
        device = from_bytes_file(GOLDEN / f"lvm/{name}.bytes", 1 << 20)
        put("lvm-device", name, records([(0, bytes(device[:64 * 1024]))]))
        put("image", f"lvm-{name}", records([(0, bytes(device[:64 * 1024]))]))


def stores():
    for name in ("chunks-of-4k", "chunks-of-16k", "half-merged-4k"):
        with tarfile.open(GOLDEN / f"snapshot/{name}.tar.xz") as tar:
            for member in tar.getmembers():
                if not member.isfile():
                    continue
                data = tar.extractfile(member).read(256 * 1024)
                if data[:4] == b"SnAp":
                    put("exception-store", f"{name}-{pathlib.Path(member.name).stem}", records([(0, data[:32 * 1024])]))


def texts():
    for path in sorted((ROOT / "conf/examples").glob("*.yaml")):
        put("definition", path.stem, path.read_bytes())
    tables = {"linear": "0 2048 linear disk 0\n", "striped": "0 128 striped 2 16 aa 0 bb 0\n128 8 zero\n",
              "snapshot": "0 64 snapshot aa bb P 8 1 discard_zeroes_cow\n", "origin": "0 64 snapshot-origin aa\n",
              "merge": "0 64 snapshot-merge aa bb P 8\n", "flakey": "0 64 flakey aa 0 5 5 1 drop_writes\n",
              "dust": "0 64 dust aa 0 512\n", "unstriped": "0 64 unstriped 2 8 1 aa 0\n", "delay": "0 64 delay aa 0 10\n",
              "words": "# a comment\n0 8 error\n  8 16 linear a\\ b 3 \n"}
    for name, text in tables.items():
        put("table", name, text.encode())
    requests = ['{"request": "status"}', '{"request": "map.load", "map": "a", "table": "0 8 zero", "readonly": true}',
                '{"request": "array.create", "array": "md0", "devices": ["a", "b"], "level": "raid1"}',
                '{"request": "array.wait", "array": "md0", "timeout_ms": 5}', '{"request": 1}', "[1, {}]",
                '{"request": "lv.create", "lv": "vg/a", "size": "1G", "pvs": ["x"], "\\u00e9": null}']
    for number, text in enumerate(requests):
        put("request", str(number), text.encode())


def partitions():
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xfd, b"\0\0\0", 2048, 8192)
    put("image", "mbr", records([(0, bytes(446) + entry + bytes(48) + b"\x55\xaa")]))
    for path in sorted((HERE / "corpus/md").glob("v1_2-*-1")):
        data = path.read_bytes()[1:]
        # The records begin at the superblock, which is at sector 8 of a member.
        out, at = b"", io.BytesIO(data)
        while head := at.read(4):
            sector, length = struct.unpack("<HH", head)
            out += struct.pack("<HH", sector + 8, length) + at.read(length)
        put("image", f"md-{path.name}", out)


if __name__ == "__main__":
    md_superblocks()
    lvm()
    stores()
    texts()
    partitions()
