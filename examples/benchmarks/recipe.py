"""
Time and memory of a recipe
===========================

The script runs the code blocks of one section of a documentation page in one process, as a reader
would copy them. After each block it prints the block's processor time and the peak of the resident
memory so far. ``--replace OLD NEW`` changes the code first. ``--also`` adds lines, each of which is
timed like a block. It works on Linux only.

Run it with ``OMP_NUM_THREADS=1 python examples/benchmarks/recipe.py docs/recipes/training.rst
"A million users" --replace "2_000, 1_000" "1_000_000, 20_000"``.
"""

from __future__ import annotations

import argparse
import re
import resource
import textwrap
import time
from pathlib import Path

from machine import print_machine


def blocks(page, title):
    """Return the code blocks between a heading and the next heading of its kind."""
    heading = re.search(rf"^{re.escape(title)}\n(\S)\1+\n", page, flags=re.MULTILINE)
    section = page[heading.end() :]
    end = re.search(rf"^.+\n\{heading[1]}{{3,}}\n", section, flags=re.MULTILINE)
    section = section[: end.start() if end else None]
    found = re.findall(r"^\.\. testcode::\n((?:\n|   .*\n)+)", section, flags=re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("title")
    parser.add_argument("--replace", nargs=2, action="append", default=[], metavar=("OLD", "NEW"))
    parser.add_argument("--also", nargs="*", default=[])
    options = parser.parse_args()

    print_machine()
    names = {}
    for code in [*blocks(options.page.read_text(), options.title), *options.also]:
        for old, new in options.replace:
            code = code.replace(old, new)
        print(code.splitlines()[0], "...", flush=True)
        started = time.process_time()
        exec(compile(code, str(options.page), "exec"), names)
        seconds = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"    {seconds:.1f} s, peak memory {peak:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
