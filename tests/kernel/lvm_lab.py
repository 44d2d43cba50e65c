# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of volume groups share: lvm2 in the guest, and its volumes beside those of volfs."""

import json

import device_io
from lab import SEED, equal, holds

NESTING = "--config devices/scan_lvs=1"  # lets lvm2 look for physical volumes on logical ones


def in_guest(lab, script, volumes, attach=""):
    """Runs a script in the lab's folder, after ATTACH, which attaches the images; then surveys the volumes.
    PROGRAM, SEED and NESTING stand for what they say."""
    paths = " ".join(f"/dev/{volume}" for volume in volumes)
    script = script.replace("PROGRAM", lab.program()).replace("SEED", str(SEED % 1000)).replace("NESTING", NESTING)
    output = lab.linux.check(f"cd {lab.path}\n{attach}\n{script}\n{lab.program('survey')} {paths}", timeout=900)
    # The clean-up after the script speaks, too.
    reply = [line for line in output.splitlines() if line.startswith("{")]
    holds(reply, output)
    found = json.loads(reply[-1])
    found["sums"] = {path.removeprefix("/dev/"): digest for path, digest in found["sums"].items()}
    found["output"] = output
    return found


def rows_of(text, other_names=()):
    """Rows by device, in the same words on both sides: OTHER_NAMES are pairs of Linux's and volfs's."""
    names, rows = dict(other_names), {}
    for line in text.splitlines():
        words = [names.get(word, word) for word in line.split(" ")]
        rows.setdefault(words[0], []).append(" ".join(words))
    return rows


def compare(lab, found, volumes, what, groups, other_names=()):
    """The volumes have the same bytes, and all devices of the groups ("vg0-") the same tables and status."""
    for volume in volumes:
        equal(device_io.sha256(lab.mnt / volume), found["sums"][volume], f"{what}: {volume}")
    for text in ("table", "status"):
        theirs = {name: rows for name, rows in rows_of(found[text], other_names).items() if name.startswith(groups)}
        equal(rows_of(lab.text(text)), theirs, f"{what}: {text}")
