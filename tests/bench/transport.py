# SPDX-License-Identifier: GPL-2.0-or-later
"""What the way requests come costs: a linear map by io_uring and by threads, servers that only pread and
pwrite or do nothing at all, and the kernel's loop device, all over the same image in the page cache."""
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess

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
        ("write 1M", "--rw=write", "--bs=1M"),
        ("write 1M, 4 jobs", "--rw=write", "--bs=1M", "--numjobs=4")]


def fio(path, name, *options):
    """Bytes a second."""
    out = lab.run("fio", "--name=x", f"--filename={path}", "--direct=1", f"--runtime={int(SECONDS * 1000)}ms",
                  "--time_based", "--group_reporting", "--output-format=json", *options)
    job = json.loads(out)["jobs"][0]
    return job["read" if name.startswith("read") else "write"]["bw_bytes"]


def shown(name, rate):
    return f"{rate / 4096 / 1000:.0f} k/s" if " 4k" in name else f"{rate / 1e6:.0f} MB/s"


def table(results, ratios):
    """The medians of RESULTS (by server, row) and RATIOS of pairs of servers, in Markdown."""
    servers = list(dict.fromkeys(server for server, _ in results))
    ratios = [pair for pair in ratios if set(pair) <= set(servers)]
    print("| O_DIRECT | " + " | ".join(servers + [f"{one} / {other}" for one, other in ratios]) + " |")
    print("|---" * (1 + len(servers) + len(ratios)) + "|")
    for name, *_ in ROWS:
        median = {server: statistics.median(results[server, name]) for server in servers}
        print("| " + " | ".join([name] + [shown(name, median[server]) for server in servers] +
                                [f"{median[one] / median[other]:.2f}" for one, other in ratios]) + " |")
    print(flush=True)


def report_machine():
    model = [line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    libfuse = lab.run("pkg-config", "--modversion", "fuse3", status=None).strip() or "?"
    print(f"{len(model)} x {model[0] if model else os.uname().machine}, Linux {os.uname().release}, libfuse {libfuse}, "
          f"{lab.run('fio', '--version').strip()}; {ROUNDS} interleaved rounds of {SECONDS} s, medians\n")


@contextlib.contextmanager
def loop_device(t, image):
    loop = t.loop(image)
    yield loop
    lab.run("losetup", "-d", loop)


@contextlib.contextmanager
def mounted(t, definition, way):
    lab.TRANSPORT = way
    t.mount(definition)
    yield t.mnt / "linear"
    t.umount()


@contextlib.contextmanager
def bare_server(t, image, mode):
    """One file over the image and nothing in between: see bare_fuse.cc."""
    program = pathlib.Path(os.environ["BUILD"]) / "tests/bench/bare-fuse"
    mnt = t.path / "bare"
    mnt.mkdir(exist_ok=True)
    server = subprocess.Popen([program, mode, image, mnt])
    t.cleanup.callback(lambda: (lab.run("umount", "-l", mnt, status=None), server.kill(), server.wait()))
    lab.wait_until(lambda: lab.is_mounted(mnt), f"the bare server ({mode})")
    yield mnt / "linear"
    lab.run("umount", mnt)
    server.wait(30)


@contextlib.contextmanager
def qemu_export(t, image):
    place = t.path / "export"
    place.touch()
    server = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={image}",
                               "--export", f"type=fuse,id=e,node-name=f,mountpoint={place},writable=on"])
    t.cleanup.callback(lambda: (lab.run("umount", "-l", place, status=None), server.kill(), server.wait()))
    lab.wait_until(lambda: lab.is_mounted(place), "qemu-storage-daemon's export")
    yield place
    server.terminate()
    server.wait(30)


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
    servers = {"loop": lambda: loop_device(t, image),
               "ring": lambda: mounted(t, definition, "ring"),
               "bare ring": lambda: bare_server(t, image, "ring"),
               "null ring": lambda: bare_server(t, image, "ring-null"),
               "threads": lambda: mounted(t, definition, "threads"),
               "bare libfuse": lambda: bare_server(t, image, "threads"),
               "the same, clone_fd": lambda: bare_server(t, image, "clone"),
               "null libfuse": lambda: bare_server(t, image, "threads-null")}
    if shutil.which("qemu-storage-daemon"):
        servers["qemu"] = lambda: qemu_export(t, image)
    wanted = os.environ.get("VOLFS_BENCH_SERVERS")
    if wanted:
        servers = {name: servers[name] for name in wanted.split(",")}
    results = {}
    for _ in range(ROUNDS):
        for server, start in servers.items():
            with start() as path:
                for name, *options in ROWS:
                    results.setdefault((server, name), []).append(fio(path, name, *options))
    report_machine()
    table(results, [("ring", "loop"), ("ring", "bare ring"), ("threads", "loop"), ("threads", "bare libfuse"),
                    ("ring", "qemu")])
