# SPDX-License-Identifier: GPL-2.0-or-later
"""What the way requests come costs: a linear map by io_uring and by threads, and the kernel's loop device,
all over the same image in the page cache."""
import json
import os
import pathlib
import statistics

import lab

IMAGE_SIZE = 256 << 20
ROUNDS = int(os.environ.get("VOLFS_BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("VOLFS_BENCH_SECONDS", "1"))
ROWS = [("read 4k, 1 job", "--rw=randread", "--bs=4k"),
        ("read 4k, 4 jobs", "--rw=randread", "--bs=4k", "--numjobs=4"),
        ("write 4k, 4 jobs", "--rw=randwrite", "--bs=4k", "--numjobs=4"),
        ("read 128k", "--rw=read", "--bs=128k"),
        ("write 128k", "--rw=write", "--bs=128k"),
        ("read 1M", "--rw=read", "--bs=1M"),
        ("write 1M", "--rw=write", "--bs=1M")]


def fio(path, name, *options):
    """Bytes a second."""
    out = lab.run("fio", "--name=x", f"--filename={path}", "--direct=1", f"--runtime={SECONDS}",
                  "--time_based", "--group_reporting", "--output-format=json", *options)
    job = json.loads(out)["jobs"][0]
    return job["read" if name.startswith("read") else "write"]["bw_bytes"]


def shown(name, rate):
    return f"{rate / 4096 / 1000:.0f} k/s" if " 4k" in name else f"{rate / 1e6:.0f} MB/s"


def table(results, base):
    """The medians of RESULTS (by server, row) and what each is of BASE's, in Markdown."""
    servers = list(dict.fromkeys(server for server, _ in results))
    others = [server for server in servers if server != base]
    print("| O_DIRECT | " + " | ".join(servers) + " | " +
          " | ".join(f"{server} / {base}" for server in others) + " |")
    print("|---" * (1 + len(servers) + len(others)) + "|")
    for name, *_ in ROWS:
        median = {server: statistics.median(results[server, name]) for server in servers}
        print(f"| {name} | " + " | ".join(shown(name, median[server]) for server in servers) + " | " +
              " | ".join(f"{median[server] / median[base]:.2f}" for server in others) + " |")
    print(flush=True)


def transport(t):
    lab.need_loop()
    lab.need_program("fio")
    lab.offer_ring()
    where = "/dev/shm" if os.path.isdir("/dev/shm") else str(t.path)
    image = pathlib.Path(where) / f"volfs-bench-{os.getpid()}.img"
    t.cleanup.callback(image.unlink, missing_ok=True)
    image.write_bytes(b"\1" * IMAGE_SIZE)
    definition = t.define(f"volfs: 1\nimages: {{disk: {image}}}\nmaps:\n  linear:\n"
                          f"    table: 0 {IMAGE_SIZE // 512} linear disk 0\n")
    results = {}

    def measure(server, path):
        for name, *options in ROWS:
            results.setdefault((server, name), []).append(fio(path, name, *options))

    for _ in range(ROUNDS):
        loop = t.loop(image)
        measure("loop", loop)
        lab.run("losetup", "-d", loop)
        for way in ("ring", "threads"):
            lab.TRANSPORT = way
            t.mount(definition)
            measure(way, t.mnt / "linear")
            t.umount()
    table(results, "loop")
