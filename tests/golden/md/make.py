#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the golden files of this directory with a real mdadm and kernel.

Run as root on a machine to spare, naming four block devices of at least 20 MiB whose content does
not matter: make.py /dev/vda /dev/vdb /dev/vdc /dev/vdd >golden.txt; then "make.py --split DIR
<golden.txt" writes one file a case. A file has, for each member, its size and the bytes of the
superblock, of the bitmap and of the bad-block log: rows of 16, those of zeroes left out, "xN"
where a row comes N times.
"""
import glob, os, struct, subprocess, sys, time

CASES = {
    "v0_90-raid5-bitmap-spare": ("0.90", ["-l5", "-n3", "-x1", "--assume-clean", "-b", "internal"], 4),
    "v0_90-raid1-degraded": ("0.90", ["-l1", "-n3", "--assume-clean"], 3),
    "v1_0-raid1-bitmap": ("1.0", ["-l1", "-n2", "--assume-clean", "-b", "internal"], 2),
    "v1_1-raid6-ddf": ("1.1", ["-l6", "-n4", "-p", "ddf-N-continue", "--assume-clean"], 4),
    "v1_2-raid5-recovered": ("1.2", ["-l5", "-n3"], 3),
    "v1_2-raid5-degraded": ("1.2", ["-l5", "-n4", "--assume-clean"], 4),
    "v1_2-raid1-write-mostly": ("1.2", ["-l1", "-n2", "--assume-clean", "-b", "internal",
                                        "--write-behind=128"], 2),
    "v1_2-raid0-zones": ("1.2", ["-l0", "-n3"], 3),
    "v1_2-raid10-far": ("1.2", ["-l10", "-n3", "-p", "f2", "--assume-clean"], 3),
    "v1_2-raid5-ppl": ("1.2", ["-l5", "-n3", "--assume-clean", "--consistency-policy=ppl"], 3),
    "v1_2-raid1-bad-blocks": ("1.2", ["-l1", "-n2", "--assume-clean"], 2),
}


def run(*args):
    result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            stdin=subprocess.DEVNULL)
    if result.returncode:
        print("#", args, result.stdout, file=sys.stderr)


def dump(kind, data, offset):
    print("area", kind, offset, len(data))
    rows = [data[i:i + 16] for i in range(0, len(data), 16)]
    i = 0
    while i < len(rows):
        n = 1
        while i + n < len(rows) and rows[i + n] == rows[i]:
            n += 1
        if any(rows[i]):
            print(i * 16, rows[i].hex(), "x%d" % n if n > 1 else "")
        i += n


def member(version, path):
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        position = {"0.90": size // 65536 * 65536 - 65536, "1.0": (size - 8192) // 4096 * 4096,
                    "1.1": 0, "1.2": 4096}[version]
        f.seek(position)
        sb = f.read(4096)
        print("member", size)
        dump("super", sb, position)
        if version == "0.90":
            state, = struct.unpack_from("<I", sb, 132)
            areas = [("bitmap", 4096, 4096)] if state & 256 else []
        else:
            features, = struct.unpack_from("<I", sb, 8)
            bitmap, = struct.unpack_from("<i", sb, 96)
            log_size, log = struct.unpack_from("<Hi", sb, 186)
            areas = [("bitmap", bitmap * 512, 4096)] if features & 1 else []
            if features & 8:
                areas.append(("bad-blocks", log * 512, log_size * 512))
        for kind, offset, length in areas:
            f.seek(position + offset)
            dump(kind, f.read(length), position + offset)


def after(name, devices):
    md = glob.glob("/sys/block/md*/md")[0]
    last = devices[-1]
    if "degraded" in name:
        run("mdadm", "/dev/md9", "-f", last)
        time.sleep(1)
    if "bad-blocks" in name:
        with open("%s/dev-%s/bad_blocks" % (md, os.path.basename(last)), "w") as f:
            f.write("4200 8")
        with open("%s/dev-%s/bad_blocks" % (md, os.path.basename(last)), "w") as f:
            f.write("9000 1030")
        # The log reaches the disk with the next superblock.
        run("dd", "if=/dev/urandom", "of=/dev/md9", "bs=4096", "count=1", "oflag=direct")
        time.sleep(1)
    run("mdadm", "--wait", "/dev/md9")


def make(devices):
    for name, (version, args, count) in CASES.items():
        use = devices[:count]
        for path in devices:
            run("wipefs", "-aq", path)
            run("mdadm", "--zero-superblock", path)
        print("case", name, version)
        listed = list(use)
        if "write-mostly" in name:
            listed[1:] = ["--write-mostly"] + use[1:]
        run("mdadm", "-C", "/dev/md9", "--run", "-e", version, "--homehost=host", "--name=" + name[:12],
            *args, *listed)
        after(name, use)
        run("mdadm", "-S", "/dev/md9")
        for path in use:
            member(version, path)


def split(directory):
    out = None
    for line in sys.stdin:
        if line.startswith("case "):
            out = open(os.path.join(directory, line.split()[1] + ".txt"), "w")
            out.write("version " + line.split()[2] + "\n")
        elif out and (line[0].isdigit() or line.startswith(("member ", "area "))):
            # Anything else is a message of the kernel on the same console.
            out.write(line.rstrip() + "\n")


if sys.argv[1] == "--split":
    split(sys.argv[2])
else:
    make(sys.argv[1:])
