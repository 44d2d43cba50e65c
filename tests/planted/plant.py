#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts the bugs of bugs.txt into a copy of the sources, one at a time, and runs the test that must
catch it. usage: plant.py [TEXT]: only bugs whose words have TEXT in them."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = {
    "sim": "tests/sim/volfs-sim",
    "unit-block": "tests/unit/block/unit-block",
    "unit-dm": "tests/unit/dm/unit-dm",
    "unit-lvm": "tests/unit/lvm/unit-lvm",
    "unit-md": "tests/unit/md/unit-md",
    "unit-snapshot": "tests/unit/snapshot/unit-snapshot",
}
LONGEST = 600  # seconds for a test; one that hangs has caught its bug, too


def bugs(text):
    """Yields each as (words, file, lines, lines instead, test)."""
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        entry = {"-": [], "+": []}
        for line in lines:
            if line[0] in "-+":
                entry[line[0]].append(line[2:])
            else:
                key, value = line.split(": ", 1)
                entry[key] = value
        yield entry["bug"], entry["in"], "\n".join(entry["-"]), "\n".join(entry["+"]), entry["test"]


def put_in(path, old, new):
    text = path.read_text()
    # Whole lines, of which the last may be only begun.
    if text.count("\n" + old) != 1:
        sys.exit(f"{path}: the lines of the bug are there {text.count(chr(10) + old)} times:\n{old}")
    if new == "":
        old += "\n"
    path.write_text(text.replace("\n" + old, "\n" + new))
    return text


def build(folder, target):
    return subprocess.run(["ninja", "-C", folder / "build", target], capture_output=True, text=True)


def caught(folder, test):
    """How the test ends: '' if it is content."""
    name, *arguments = test.split()
    environment = dict(os.environ, VOLFS_SEED="20261126")
    try:
        ended = subprocess.run([folder / "build" / TESTS[name], *arguments], env=environment,
                               capture_output=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return "does not end"
    return f"fails ({ended.returncode})" if ended.returncode != 0 else ""


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = total = 0
    with tempfile.TemporaryDirectory(prefix="volfs-planted-") as scratch:
        folder = pathlib.Path(scratch) / "volfs"
        shutil.copytree(ROOT, folder, ignore=lambda where, names: [
            n for n in names if where == str(ROOT) and (n.startswith("build") or n == ".git")])
        subprocess.run(["meson", "setup", folder / "build", folder, "--buildtype=debug", "-Dman=disabled"],
                       check=True, stdout=subprocess.DEVNULL)
        for words, file, old, new, test in bugs((ROOT / "tests/planted/bugs.txt").read_text()):
            if wanted not in words:
                continue
            path = folder / file
            before = put_in(path, old, new)
            start = time.monotonic()
            made = build(folder, TESTS[test.split()[0]])
            how = caught(folder, test) if made.returncode == 0 else ""
            path.write_text(before)
            total += 1
            missed += how == ""
            if made.returncode != 0:
                print("\n".join(made.stdout.splitlines()[-20:]))
            verdict = f"caught: {test.split()[0]} {how}" if how else "NOT CAUGHT by " + test
            print(f"{verdict} [{time.monotonic() - start:.0f} s]: {words}", flush=True)
    print(f"{total} bugs, {total - missed} caught, {missed} not")
    sys.exit(missed != 0)


main()
