"""References: our own BibTeX file read, shown in words, and the entries that are cited written again.

Reads the BibTeX that we write: an entry per reference, a field per line, braces around every value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}\n?", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", re.MULTILINE)


@dataclass(frozen=True)
class Reference:
    """An entry of the bibliography."""

    key: str
    kind: str
    fields: Mapping[str, str]
    source: str
    """The entry as it stands in the file."""

    @property
    def doi(self) -> str:
        """Its DOI, where it has one."""
        return self.fields.get("doi", "")

    @property
    def authors(self) -> list[str]:
        """Family name and initials of each author; a name in braces is one of a group."""
        return [_author(name.strip()) for name in self.fields["author"].split(" and ")]

    @property
    def short(self) -> str:
        """`Veraart et al., 2016`."""
        return f"{self._who}, {self.fields['year']}"

    @property
    def in_text(self) -> str:
        """`Veraart et al. (2016)`."""
        return f"{self._who} ({self.fields['year']})"

    @property
    def _who(self) -> str:
        families = [name.partition(",")[0] for name in self.authors]
        return " and ".join(families) if len(families) < 3 else f"{families[0]} et al."

    @property
    def in_words(self) -> str:
        """Authors, year, title, and where it appeared."""
        names = [name.replace(",", "") for name in self.authors]
        who = ", ".join(names if len(names) < 7 else [*names[:6], "et al."])
        where = [
            _bare(self.fields[key]) for key in ("journal", "booktitle", "publisher") if key in self.fields
        ]
        volume = self.fields.get("volume", "") + (
            f"({self.fields['number']})" if "number" in self.fields else ""
        )
        pages = self.fields.get("pages", "").replace("--", "–")
        place = ":".join(part for part in (volume, pages) if part)
        title = _bare(self.fields["title"])
        ends = " ".join(part for part in (where[0] if where else "", place) if part)
        return f"{who.rstrip('.')}. {title}. {ends}{', ' if ends else ''}{self.fields['year']}."


def _bare(text: str) -> str:
    return text.replace("{", "").replace("}", "")


def _author(name: str) -> str:
    if name.startswith("{"):
        return _bare(name)
    family, _, given = name.partition(", ")
    initials = "".join(part[0] for part in re.split(r"[\s.-]+", given) if part)
    return f"{family}, {initials}" if initials else family


def read_bib(text: str) -> dict[str, Reference]:
    """The entries of a BibTeX text, by key."""
    found = {}
    for match in _ENTRY.finditer(text):
        kind, key, body = match.groups()
        found[key] = Reference(key, kind, dict(_FIELD.findall(body)), match[0].strip())
    return found


def bibtex(references: Iterable[Reference]) -> str:
    """Entries as a BibTeX text."""
    return "\n\n".join(reference.source for reference in references) + "\n"
