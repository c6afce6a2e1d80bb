"""`python -m benchmarks [name ...] [options]`: every benchmark in turn, or those named, each in a process of its own.

A benchmark is a module of this folder with `main(options)`; a new file is found by itself. What follows the
names goes to each of them (`--help` of any one lists it).
"""

import pkgutil
import subprocess
import sys
from pathlib import Path

NOT_BENCHMARKS = {"__main__", "measure"}


def names() -> list[str]:
    """Every benchmark, in the order of the alphabet."""
    return [m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in NOT_BENCHMARKS]


def main(arguments: list[str]) -> int:
    """Run them; 1 if one failed, after the others had their turn, and 2 for a name that is none."""
    at = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    chosen, options = arguments[:at] or names(), arguments[at:]
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        print(f"There is no benchmark {unknown[0]}: choose from {', '.join(names())}.", file=sys.stderr)
        return 2
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode != 0:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
