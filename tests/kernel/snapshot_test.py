#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores of snapshots go back and forth between volfs and Linux, half-done merges too."""

import hashlib
import re
import struct
import subprocess

import device_io
import kernel_lab
from lab import MiB, SEED, VOLFS, equal, holds, sha256, volfs, wait_until

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


def test_errors_cost_what_they_cost_in_linux(lab):
    """Stores and origins that are bad in places, and a full one that stays readable; the others go on."""
    maps = {"bad-store": f"0 64 linear c1 0\n64 {SECTORS - 64} error",
            "bad-origin": f"0 4096 linear i2 0\n4096 8 error\n4104 {SECTORS - 4104} linear i2 4104",
            "small": "0 48 linear c4 0",
            "origin": f"0 {SECTORS} snapshot-origin i1",
            "lost": f"0 {SECTORS} snapshot i1 bad-store P 8",
            "kept": f"0 {SECTORS} snapshot i1 c2 P 8 1 discard_zeroes_cow",
            "passing": f"0 {SECTORS} snapshot i1 c5 P 16 2 discard_zeroes_cow discard_passdown_origin",
            "transient": f"0 {SECTORS} snapshot i1 c6 N 32",
            "origin2": f"0 {SECTORS} snapshot-origin bad-origin",
            "lost2": f"0 {SECTORS} snapshot bad-origin c3 P 16",
            "good-page": "0 8 linear origin2 4104",  # of a chunk that cannot be copied
            "full": f"0 {SECTORS} snapshot i1 small PO 8"}
    images = [f"i{n}" for n in (1, 2)] + [f"c{n}" for n in range(1, 7)]
    data = {name: lab.random.randbytes(SIZE) if name[0] == "i" else bytes(2 * SIZE) for name in images}
    for folder in ("a", "b"):
        (lab.path / folder).mkdir()
        for name in images:
            (lab.path / folder / name).write_bytes(data[name])
    writes = [(name, lab.random.randrange(1 << 31), 10) for name in ("full", "origin", "kept", "good-page", "origin")]
    lines = ["volfs: 1", "images:", *(f"  {name}: a/{name}" for name in images), "maps:"]
    for name, table in maps.items():
        lines += [f"  {name}:", "    table: |", *(f"      {row}" for row in table.split("\n"))]
    lab.mount(lab.define("\n".join(lines)))
    device_io.scribble_all(writes, lambda name: lab.mnt / name, ["full"])
    read = ["origin", "kept", "passing", "transient", "good-page"]
    ours = {"sums": {name: sha256(lab.mnt / name) for name in read}, "table": lab.text("table"), "status": lab.text("status")}
    linux = lab.perform({"images": {name: f"{lab.path}/b/{name}" for name in images}, "maps": maps, "writes": writes,
                         "failing": ["full"], "read": read})
    same(ours, linux, "errors")
    for name, word in (("lost", "Invalid"), ("lost2", "Invalid"), ("full", "Invalid")):
        holds(f"{name}: 0 {SECTORS} snapshot {word}" in ours["status"].splitlines(), ours["status"])


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


WORDS = ("N 0", "N 8", "n 16", "NX 8", "NO 8", "P 0", "P 8", "p 8", "po 8", "PO 0", "POX 8", "PX 8", "Q 8", "X", "P", "P 1",
         "P 7", "P 08", "P x", "P -8", "P 8 0", "P 8 0 left over", "P 8 x", "P 8 -1", "P 8 3 a b c", "P 8 2 a", "P 8 1",
         "P 8 1 unheard_of", "P 8 1 discard_zeroes_cow", "P 8 1 DISCARD_zeroes_cow left over",
         "P 8 1 discard_passdown_origin", "P 8 2 discard_passdown_origin discard_zeroes_cow",
         "P 8 2 discard_zeroes_cow discard_zeroes_cow")


def test_words_of_a_table(lab):
    """What is taken and what is refused, and how it is told again."""
    for name in ("i", "c"):
        lab.file(name, MiB)
    words = "\n".join(WORDS)
    linux = lab.linux.check(f"""cd {lab.path}
        loops=($(attach i c)); i=${{loops[0]}} c=${{loops[1]}}
        modprobe dm-snapshot
        while read -r words; do
          dd if=/dev/zero of=$c bs=16k count=1 status=none
          if dmsetup create s --table "0 2048 snapshot $i $c $words" 2> /dev/null; then
            dmsetup table s | sed -E 's/([0-9]+:[0-9]+) [0-9]+:[0-9]+/i c/'
            dmsetup status s
            dmsetup remove s
          else
            echo refused
          fi
        done << END
{words}
END""").splitlines()
    lab.mount(lab.define("volfs: 1\nimages: {i: i, c: c}\n"))
    ours = []
    for each in WORDS:
        with open(lab.path / "c", "r+b", buffering=0) as file:
            file.write(bytes(16 * KiB))
        taken = subprocess.run([VOLFS, "map", "create", lab.mnt / "s"], input=f"0 2048 snapshot i c {each}\n", text=True,
                               stderr=subprocess.PIPE, check=False)
        if taken.returncode == 0:
            ours += [volfs("map", what, lab.mnt / "s").strip() for what in ("table", "status")]
            volfs("map", "remove", lab.mnt / "s")
        else:
            holds("expected" in taken.stderr, f"{each}: {taken.stderr}")
            ours.append("refused")
    equal(ours, linux, "what is said of the words")


def allocated(status):
    """How much of a store holds something, and how much of that are metadata, in sectors."""
    used, metadata = re.search(r" snapshot-merge (\d+)/\d+ (\d+)", status).groups()
    return int(used), int(metadata)


MERGED_SIZE = 32 * MiB  # so that volfs, which merges 4 MiB at a time, is half done for a while with any chunk size
MERGED_SECTORS = MERGED_SIZE // 512


class Merge:
    """An origin i with two snapshots: of c, in which every other chunk is changed, and of c2, which must keep what i held."""

    def __init__(self, lab, chunk):
        self.lab, self.chunk = lab, chunk
        self.all = MERGED_SIZE // chunk // 2
        old = lab.random.randbytes(MERGED_SIZE)
        (lab.path / "i").write_bytes(old)
        self.old = hashlib.sha256(old).hexdigest()
        for name in ("c", "c2"):
            (lab.path / name).unlink(missing_ok=True)
            lab.file(name, 2 * MERGED_SIZE)
        text = f"""volfs: 1
images: {{i: i}}
maps: {{o: {{table: 0 {MERGED_SECTORS} linear i 0}}}}
snapshots:
  s: {{origin: o, cow: {{path: c}}, chunk_size: {chunk}}}
  t: {{origin: o, cow: {{path: c2}}, chunk_size: 16KiB}}
"""
        lab.mount(lab.define(text))
        with open(lab.mnt / "s", "r+b", buffering=0) as file:
            for offset in range(0, MERGED_SIZE, 2 * chunk):
                file.seek(offset)
                file.write(lab.random.randbytes(chunk))
        lab.umount()
        lab.mount(lab.define(text), options=["ro"])
        self.shown = sha256(lab.mnt / "s")
        lab.umount()

    def left(self):
        """How many exceptions the store has, counted in its areas."""
        store = (self.lab.path / "c").read_bytes()
        count, area = 0, self.chunk
        while True:
            for _, new in struct.iter_unpack("<QQ", store[area:area + self.chunk]):
                if new == 0:
                    return count
                count += 1
            area += self.chunk * (self.chunk // 16 + 1)

    def tables(self, origin, c="c", c2="c2"):
        # In this order: what is merged before a snapshot is there is not copied for it.
        return {"t": f"0 {MERGED_SECTORS} snapshot {origin} {c2} P 32",
                "m": f"0 {MERGED_SECTORS} snapshot-merge {origin} {c} P {self.chunk // 512}"}

    def with_volfs(self, slow, until):
        """Merges until UNTIL(allocated, metadata) is true."""
        lab = self.lab
        writes = self.all * max(1, self.chunk // (128 * KiB))  # a whole merge would take 20 s
        maps = [f"  slow: {{table: 0 {MERGED_SECTORS} delay i 0 0 i 0 {20000 // writes}}}"] if slow else []
        for name, table in self.tables("slow" if slow else "i").items():
            maps.append(f"  {name}: {{table: {table}}}")
        lab.mount(lab.define("\n".join(["volfs: 1", "images: {i: i, c: c, c2: c2}", "maps:", *maps])))
        wait_until(lambda: until(*allocated(volfs("map", "status", lab.mnt / "m"))), "the merge", 300)
        sums = sha256(lab.mnt / "m"), sha256(lab.mnt / "t")
        lab.umount()
        return sums

    def with_linux(self, slow, condition):
        """Merges until CONDITION of $used and $meta is true."""
        tables = self.tables("$origin", "$c", "$c2")
        output = self.lab.linux.check(f"""cd {self.lab.path}
            loops=($(attach i c c2)); i=${{loops[0]}} c=${{loops[1]}} c2=${{loops[2]}} origin=$i
            modprobe dm-snapshot
            if [ {int(slow)} = 1 ]; then
              modprobe dm-delay
              dmsetup create slow --table "0 {MERGED_SECTORS} delay $i 0 0 $i 0 50"
              origin=/dev/mapper/slow
            fi
            dmsetup create t --table "{tables['t']}"
            dmsetup create m --table "{tables['m']}"
            while :; do
              status=$(dmsetup status m)
              [[ $status =~ \ ([0-9]+)/[0-9]+\ ([0-9]+) ]]
              used=${{BASH_REMATCH[1]}} meta=${{BASH_REMATCH[2]}}
              if (({condition})); then break; fi
              sleep 0.1
            done
            sha256sum < /dev/mapper/m
            sha256sum < /dev/mapper/t
            dmsetup remove m
            dmsetup remove t
            echo "$status" """)
        m, t, *status = output.splitlines()
        allocated("\n".join(status))
        return m.split()[0], t.split()[0]


def test_a_merge_that_linux_began_ends_in_volfs(lab):
    for chunk in CHUNKS:
        merge = Merge(lab, chunk)
        want = merge.shown, merge.old
        equal(merge.with_linux(True, f"used - meta < {merge.all * chunk // 512}"), want, f"{chunk}: what Linux shows")
        holds(0 < merge.left() < merge.all, f"{chunk}: half done: {merge.left()} of {merge.all}")
        equal(merge.with_volfs(False, lambda used, metadata: used == metadata), want, f"{chunk}: what volfs shows")
        equal(merge.left(), 0, f"{chunk}: exceptions left")
        equal(sha256(lab.path / "i"), merge.shown, f"{chunk}: the origin after the merge")
        equal(merge.with_linux(False, "used == meta"), want, f"{chunk}: what Linux shows of it")


def test_a_merge_that_volfs_began_ends_in_linux(lab):
    for chunk in CHUNKS:
        merge = Merge(lab, chunk)
        want = merge.shown, merge.old
        whole = merge.all * chunk // 512
        equal(merge.with_volfs(True, lambda used, metadata: used - metadata < whole), want, f"{chunk}: what volfs shows")
        holds(0 < merge.left() < merge.all, f"{chunk}: half done: {merge.left()} of {merge.all}")
        equal(merge.with_linux(False, "used == meta"), want, f"{chunk}: what Linux shows")
        equal(merge.left(), 0, f"{chunk}: exceptions left")
        equal(sha256(lab.path / "i"), merge.shown, f"{chunk}: the origin after the merge")
        equal(merge.with_volfs(False, lambda used, metadata: used == metadata), want, f"{chunk}: what volfs shows of it")


if __name__ == "__main__":
    kernel_lab.main(globals())
