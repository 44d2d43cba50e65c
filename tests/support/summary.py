#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Adds up what several `meson test` runs wrote and ends with one line for all of them.

usage: summary.py [--broken FILE] BUILD_DIR...

Prints the output of each failed test and the reason of each skipped one. A skipped test counts
as failed when CI=true: there everything must run. A sanitizer report that no failed test
explains (a daemon wrote it) is a failure too. FILE names builds that did not build, one a line.
"""

import argparse
import json
import os
import pathlib
import sys

TAIL_LINES = 200
PASSED = {"OK", "EXPECTEDFAIL"}


def tail(text, lines=TAIL_LINES):
    return "\n".join(text.rstrip().splitlines()[-lines:])


def read_results(build):
    """Yields (name, result, output) of every test that ran in one build folder."""
    log = build / "meson-logs" / "testlog.json"
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        test = json.loads(line)
        output = test.get("stdout", "") + test.get("stderr", "")
        yield f"{build.name}: {test['name']}", test["result"], output


def read_reports(build):
    folder = build / "sanitizer-reports"
    return sorted(folder.iterdir()) if folder.is_dir() else []


class Summary:
    def __init__(self, ci):
        self.ci = ci
        self.passed = self.failed = self.skipped = 0

    def fail(self, name, why, output):
        self.failed += 1
        print(f"\n--- {name}: {why}\n{tail(output)}")

    def add_test(self, name, result, output):
        if result in PASSED:
            self.passed += 1
        elif result != "SKIP":
            self.fail(name, result, output)
        elif self.ci:
            self.fail(name, "skipped, which counts as a failure here (CI=true)", output)
        else:
            self.skipped += 1
            print(f"\n--- {name}: skipped\n{tail(output, 5)}")

    def add_build(self, build):
        failed_before = self.failed
        for name, result, output in read_results(build):
            self.add_test(name, result, output)
        reports = read_reports(build)
        for report in reports:
            print(f"\n--- {build.name}: {report.name}\n{tail(report.read_text(errors='replace'))}")
        if reports and self.failed == failed_before:
            self.failed += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--broken", type=pathlib.Path)
    parser.add_argument("builds", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    summary = Summary(ci=os.environ.get("CI") == "true")
    for build in args.builds:
        summary.add_build(build)
    if args.broken and args.broken.exists():
        for name in args.broken.read_text().split():
            summary.fail(f"build {name}", "did not build", "its output is above")
    print(f"\n{summary.passed} passed, {summary.failed} failed, {summary.skipped} skipped")
    return 1 if summary.failed or not summary.passed else 0


if __name__ == "__main__":
    sys.exit(main())
