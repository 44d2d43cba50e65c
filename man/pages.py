#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the page of one command, volfs-COMMAND(1), from what volfs(1) says of it.

usage: pages.py volfs.1.scd COMMAND > volfs-COMMAND.1.scd
       pages.py volfs.1.scd --list
"""
import re
import sys

ENTRY = re.compile(r"\*volfs ([a-z|*]+)")


def commands_of(line):
    """The commands that an entry or a line of the synopsis is about: "*volfs status*|*tree* X"."""
    match = ENTRY.match(line)
    return [word for word in re.split(r"[|*]+", match[1]) if word] if match else []


def sections(text):
    """(title, paragraphs, entries) of each section; an entry is a heading and what is indented below."""
    for part in re.split(r"(?m)^# ", text)[1:]:
        title, _, body = part.partition("\n")
        intro, entries = [], []
        for line in body.splitlines():
            if commands_of(line) and title != "SYNOPSIS":
                entries.append([line])
            elif entries and (line.startswith("\t") or not line.strip()):
                entries[-1].append(line)
            else:
                intro.append(line)
        yield title, "\n".join(intro).strip(), ["\n".join(entry).rstrip() for entry in entries]


def synopsis(text, command):
    for title, intro, _ in sections(text):
        if title == "SYNOPSIS":
            return [line.removesuffix("++") for line in intro.splitlines() if command in commands_of(line)]
    return []


def listed(text):
    seen = []
    for title, intro, _ in sections(text):
        for line in intro.splitlines() if title == "SYNOPSIS" else ():
            seen += [command for command in commands_of(line) if command not in seen]
    return seen


def first_sentence(entry):
    body = " ".join(line.strip() for line in entry.splitlines()[1:])
    sentence = re.split(r"(?<=[.:;])\s", body.strip())[0].rstrip(".:;")
    sentence = re.sub(r"[*_]", "", sentence)
    return sentence[:1].lower() + sentence[1:]


def page(text, command):
    body, lead = [], ""
    for title, intro, entries in sections(text):
        mine = [entry for entry in entries if command in commands_of(entry)]
        if not mine:
            continue
        others = [entry for entry in entries if command not in commands_of(entry)]
        if intro and not others:
            body.append(intro)
        lead = lead or (first_sentence(mine[0]) if others or not intro else f"work with {title.lower()} of a mount")
        body += mine
    if not body:
        sys.exit(f"pages.py: volfs(1) says nothing of {command}")
    status = next(intro + "\n" + "\n".join(entries) for title, intro, entries in sections(text)
                  if title == "EXIT STATUS")
    lines = "++\n".join(synopsis(text, command))
    return (f"volfs-{command}(1)\n\n# NAME\n\nvolfs-{command} - {lead}\n\n# SYNOPSIS\n\n{lines}\n\n# DESCRIPTION\n\n"
            + "\n\n".join(body)
            + f"\n\n# EXIT STATUS\n\n{status.strip()}\n\n# SEE ALSO\n\n*volfs*(1), *volfs.yaml*(5), *volfs.control*(5)\n")


if __name__ == "__main__":
    source = open(sys.argv[1]).read()
    print("\n".join(listed(source)) if sys.argv[2] == "--list" else page(source, sys.argv[2]), end="")
