"""Run the benchmarks: `python benchmarks/run.py [name ...]`, all of them without a name.

Each `bench_<name>.py` has a function `rows()`. Results go to docs/benchmarks.md and .json, where those of
benchmarks that are not named stay as they were; the exit status is 1 when a goal is missed.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import fields
from pathlib import Path

import harness

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def main(names: list[str]) -> int:
    """Run the named benchmarks and write their results."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    by_name = kept(DOCS / "benchmarks.json")
    for name in names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        by_name[name] = importlib.import_module(f"bench_{name}").rows()
    rows = [row for name in known for row in by_name.get(name, [])]
    text = harness.as_markdown(rows)
    (DOCS / "benchmarks.md").write_text(text)
    results = {"machine": harness.machine(), "rows": harness.as_records(rows)}
    (DOCS / "benchmarks.json").write_text(json.dumps(results, indent=2) + "\n")
    print(text)
    return 1 if any(row.met is False for row in rows) else 0


def kept(path: Path) -> dict[str, list[harness.Row]]:
    """Name -> rows of the results that are there."""
    found: dict[str, list[harness.Row]] = {}
    for record in json.loads(path.read_text())["rows"] if path.is_file() else []:
        row = harness.Row(**{field.name: record[field.name] for field in fields(harness.Row)})
        found.setdefault(row.benchmark, []).append(row)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
