#!/usr/bin/env python3
"""Compares parameter totals of `tcast inspect` with a table of known ones.

FOLDER holds the config files and PARAMS.csv names them: column `file` (a file below FOLDER or
FOLDER/configs) or `name` (FOLDER/NAME.json), and `total_params` or `total_parameters`, which may be
empty where no total is known. Each config is one of

  exact         same total
  refused       tcast exits with 1 and says why: an unknown model type, an unsupported key
  no reference  tcast gives a total, the table has none
  WRONG         another total, or a crash, a hang, or output without total_parameters

Exits with 1 if anything is wrong. Active parameters are compared where both sides have them; a
difference is a remark, because such columns are estimates.
"""

import argparse
import collections
import csv
import json
import pathlib
import subprocess
import sys

TIMEOUT_S = 60


def config_path(folder, row):
    name = row.get("file") or row["name"] + ".json"
    candidates = [folder / name, folder / "configs" / name]
    return next((path for path in candidates if path.is_file()), None)


def find_member(value, key):
    """The first member of that name, breadth first, in nested maps."""
    level = [value]
    while level:
        for node in level:
            if key in node:
                return node[key]
        level = [child for node in level for child in node.values() if isinstance(child, dict)]
    return None


def first_line(text):
    return next((line.strip() for line in text.splitlines() if line.strip()), "(no message)")


def number(row, *columns):
    text = next((row[column] for column in columns if row.get(column)), "")
    return int(text) if text else None


def judge(binary, path, row):
    """(verdict, remark) of one config."""
    command = [binary, "inspect", str(path), "--format", "json"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return "WRONG", f"no answer within {TIMEOUT_S} s"
    if run.returncode == 1:
        return "refused", first_line(run.stderr)
    if run.returncode != 0:
        return "WRONG", f"exit status {run.returncode}: {first_line(run.stderr)}"
    try:
        output = json.loads(run.stdout)
    except json.JSONDecodeError as error:
        return "WRONG", f"not JSON: {error}"
    if not isinstance(output, dict) or find_member(output, "total_parameters") is None:
        return "WRONG", "output has no total_parameters"
    total = find_member(output, "total_parameters")
    known = number(row, "total_params", "total_parameters")
    if known is None:
        return "no reference", f"tcast says {total}"
    if total != known:
        detail = f", off by {total - known:+d}" if isinstance(total, int) else ""
        return "WRONG", f"tcast says {total}, known {known}{detail}"
    active = find_member(output, "active_parameters")
    known_active = number(row, "active_params_estimate", "active_parameters")
    if active is not None and known_active is not None and active != known_active:
        return "exact", f"active: tcast says {active}, listed {known_active}"
    return "exact", ""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", help="a built tcast")
    parser.add_argument("folder", type=pathlib.Path, help="folder of the configs")
    parser.add_argument("--params", type=pathlib.Path, help="default: FOLDER/params.csv")
    arguments = parser.parse_args()

    binary = pathlib.Path(arguments.binary).resolve()
    if not binary.is_file():
        parser.error(f"no such file: {arguments.binary}")
    table = arguments.params or arguments.folder / "params.csv"
    if not table.is_file():
        parser.error(f"no such file: {table}")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))

    counts = collections.Counter()
    width = max((len(row.get("file") or row["name"]) for row in rows), default=0)
    for row in rows:
        path = config_path(arguments.folder, row)
        if path is None:
            verdict, remark = "WRONG", "the table names a file that is not there"
        else:
            verdict, remark = judge(str(binary), path, row)
        counts[verdict] += 1
        name = row.get("file") or row["name"]
        line = f"{name:{width}}  {row.get('model_type') or '':28}  {verdict:12}  {remark}"
        print(line.rstrip(), flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if not rows:
        sys.exit("the table has no rows")
    sys.exit(1 if counts["WRONG"] else 0)


if __name__ == "__main__":
    main()
