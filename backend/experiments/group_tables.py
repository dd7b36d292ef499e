"""Tables that give each scan or volume of a folder a group: CSV files with a column `name`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from backend.errors import ConfigError
from backend.experiments.scans import ScanReader


def opened(table: Path) -> TextIO:
    """Open a CSV file; files from spreadsheets begin with a byte order mark."""
    return table.open(newline="", encoding="utf-8-sig", errors="replace")


def values(table: Path, columns: Sequence[str], scans: Sequence[ScanReader]) -> dict[str, str]:
    """Return the value of a column by the name of the scan; scans without a line are left out.

    Args:
        table: Names scans, or the volumes of slices, with or without the ending of the file.
        columns: The first of these that the table has is read.
        scans: The scans of the folder.

    Raises:
        ConfigError: If a column is missing, or a line names no scan.
    """
    with opened(table) as file:
        rows = csv.DictReader(file)
        header = rows.fieldnames or ()
        column = next((name for name in columns if name in header), "")
        if "name" not in header or not column:
            raise ConfigError(
                f"{table} has the columns {', '.join(header) or '(none)'}.",
                f"Give it the columns name and {columns[0]}, one line a scan.",
            )
        listed = {row["name"]: row[column] for row in rows}
    _check_names(table, listed, [_listed(scan) for scan in scans])
    found = {
        scan.name: listed.get(_listed(scan), listed.get(_stem(_listed(scan)), "")) for scan in scans
    }
    return {name: value for name, value in found.items() if value}


def _check_names(table: Path, listed: dict[str, str], names: Sequence[str]) -> None:
    strangers = sorted(set(listed) - {*names, *map(_stem, names)})
    if strangers:
        raise ConfigError(
            f"{table.name} names {len(strangers)} scans that do not exist, such as "
            f"{strangers[0]!r}; the scans have names such as {names[0]!r}.",
            "Correct the names in the column `name`, or remove those lines: otherwise scans of one "
            "patient could be in the pool and held out.",
        )


def _listed(scan: ScanReader) -> str:
    return scan.volume or scan.name


def _stem(name: str) -> str:
    return Path(name.removesuffix(".gz")).stem
