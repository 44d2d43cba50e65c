# SPDX-License-Identifier: GPL-2.0-or-later
"""fio writes and verifies what it wrote, by every way a program may do I/O, also while the table
below is swapped again and again."""
import subprocess
import threading

import lab
from lab import holds, run, volfs

IMAGES = "volfs: 1\nimages:\n  disk0: {path: disk0.img, size: 24MiB}\n  disk1: {path: disk1.img, size: 24MiB}\n"
TABLES = {
    "linear": ["0 32768 linear disk0 2048"],
    "striped": ["0 32768 striped 2 32 disk0 0 disk1 2048"],
    "mixed": ["0 8192 linear disk1 32768", "8192 16384 striped 2 8 disk0 0 disk1 0",
              "24576 8192 linear disk0 32768"],
}
WAYS = [
    ("psync direct", ["--ioengine=psync", "--direct=1"]),
    ("psync buffered", ["--ioengine=psync", "--direct=0"]),
    ("io_uring direct", ["--ioengine=io_uring", "--direct=1", "--iodepth=16"]),
    ("mmap", ["--ioengine=mmap"]),
]


def fio_command(path, *options):
    return ["fio", "--name=verify", f"--filename={path}", "--size=16M", "--verify=crc32c",
            "--do_verify=1", "--verify_fatal=1", "--end_fsync=1", "--randrepeat=0",
            f"--randseed={lab.SEED}", "--output-format=terse", *options]


def verify(t, name):
    lab.need_program("fio")
    rows = "".join(f"      {row}\n" for row in TABLES[name])
    definition = t.define(f"{IMAGES}maps:\n  data:\n    table: |\n{rows}")
    volfs("create", definition)
    t.mount(definition)
    for _, options in WAYS:
        for pattern, sizes in (("randwrite", "4k-64k"), ("write", "1M"), ("randrw", "4k")):
            run(*fio_command(t.mnt / "data", f"--rw={pattern}",
                             f"--bsrange={sizes}" if "-" in sizes else f"--bs={sizes}", *options))
    t.umount()


def test_linear(t):
    verify(t, "linear")


def test_striped(t):
    verify(t, "striped")


def test_mixed(t):
    verify(t, "mixed")


def test_while_tables_are_swapped(t):
    lab.need_program("fio")
    tables = ["0 32768 linear disk0 0",
              "0 8192 linear disk0 0\n8192 24576 linear disk0 8192",
              "0 100 linear disk0 0\n100 32668 linear disk0 100"]
    definition = t.define(f"{IMAGES}maps:\n  data:\n    table: {tables[0]}\n")
    volfs("create", definition)
    t.mount(definition)
    path = t.mnt / "data"
    stop, swaps, trouble = threading.Event(), [0], []

    def swap():
        try:
            while not stop.is_set():
                volfs("map", "load", path, "--table", tables[swaps[0] % 3])
                volfs("map", "suspend", path)
                volfs("map", "resume", path)
                swaps[0] += 1
        except Exception as error:  # told by the test's own thread
            trouble.append(error)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _, options in WAYS[:3]:
            for _ in range(2):
                subprocess.run(fio_command(path, "--rw=randwrite", "--bs=4k", *options), check=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=300)
    finally:
        stop.set()
        swapper.join()
    holds(not trouble, f"swapping failed: {trouble}")
    holds(swaps[0] >= 3, f"only {swaps[0]} swaps happened")
    t.umount()


lab.main(globals())
