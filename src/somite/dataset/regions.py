"""Which segments of the configuration the labels carry. Reads label tables, no image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from somite.dataset.series import check_access
from somite.dataset.sessions import listing
from somite.errors import DatasetError, Problem
from somite.segments import Label, Segment, carries, read_label_table


@dataclass
class Tables:
    """Label tables, each read once; one at the root of the labels may serve all sessions."""

    _read: dict[Path, tuple[Label, ...] | DatasetError] = field(default_factory=dict)

    def read(
        self, path: Path, reader: Callable[[Path], tuple[Label, ...]] = read_label_table
    ) -> tuple[Label, ...]:
        """The labels of a file, by the reader of its kind.

        Raises:
            DatasetError: `UNREADABLE`; what the reader raises.
        """
        if path not in self._read:
            try:
                check_access(path, "the label table")
                self._read[path] = reader(path)
            except DatasetError as error:
                self._read[path] = error
        found = self._read[path]
        if isinstance(found, DatasetError):
            raise DatasetError.of(found.problems)
        return found


def check_regions(
    carried: set[Segment], expected: tuple[Segment, ...] | None, where: str, carrier: str
) -> list[Problem]:
    """`NO_REGION` where none of the expected segments is carried, `REGION_MISSING` where some are not.

    Args:
        carried: segments that have a label.
        expected: segments that the table shall hold; None: those that are carried.
        where: the file.
        carrier: what it is: `the label table`.
    """
    missing = tuple(
        segment for segment in expected or () if segment not in carried and not carries(carried, segment)
    )
    if carried and not missing:
        return []
    if not carried or len(missing) == len(expected or ()):
        return [
            Problem(
                "NO_REGION",
                f"{carrier} carries no region of the configuration",
                where=where,
                found=listing(sorted(carried, key=str)) or "no label",
                expected=listing(missing) or "at least one label",
                do="compare the columns region, side, level and segment with roi: segments: of the "
                "configuration; they are matched letter by letter",
            )
        ]
    return [
        Problem(
            "REGION_MISSING",
            f"{carrier} lacks {len(missing)} of the {len(expected or ())} segments of the configuration",
            where=where,
            found=f"no label for {listing(missing)}",
            expected="a label for each; without one, its rows in the table say so",
            do="nothing if they were not drawn on purpose",
            severity="warning",
        )
    ]
