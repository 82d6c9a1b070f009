"""What the review page asks for, and what it is told. No sockets here: a request in, a reply out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from somite import record
from somite.errors import DatasetError, Problem, SomiteError
from somite.files import parse_json
from somite.record import Record
from somite.review import agreement, guard, layers, sessions, verdicts
from somite.review.guard import Reply, Request
from somite.review.paths import Refused, inside, parts
from somite.review.verdicts import Key, Row, Verdict
from somite.segments import NA

STATIC: Mapping[str, tuple[str, str, str]] = {
    "style.css": ("somite.report", "templates/style.css", "text/css"),
    "review.css": ("somite.review", "page/review.css", "text/css"),
    "review.js": ("somite.review", "page/review.js", "text/javascript"),
    "viewer.js": ("somite.review", "page/viewer.js", "text/javascript"),
    "niivue.js": ("somite.review", "niivue/niivue.umd.js", "text/javascript"),
}
"""Name -> package, file and media type: what the page is made of."""
ALONE = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
"""For a picture: opened by itself it runs nothing."""
REPORT = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups; default-src 'none'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:"
}
"""For a session page: its scripts run, but as those of no site, with no word to this server."""


@dataclass(frozen=True)
class Application:
    """One rater on one output dataset."""

    out_dir: Path
    rater: str
    token: str
    port: int

    def answer(self, request: Request) -> Reply:
        """The reply to a request, also to one that is refused or fails."""
        try:
            guard.check(request, self.token, self.port)
            return self._route(request)
        except Refused as no:
            return Reply(no.status, "text/plain; charset=utf-8", f"{no.words}\n".encode())
        except SomiteError as error:
            return _json({"problem": str(error)}, 500)
        except OSError as error:
            return _json({"problem": f"{error.strerror or error}: {error.filename or ''}"}, 500)

    def _route(self, request: Request) -> Reply:
        here = parts(request.path)
        if request.method == "POST":
            if here != ("api", "verdict"):
                raise Refused(404, "nothing is written here")
            return self._save(request)
        routes: Mapping[tuple[str, int], Callable[..., Reply]] = {
            ("", 1): self._page,
            ("static", 2): self._static,
            ("picture", 3): self._picture,
            ("layer", 3): self._layer,
            ("session", 2): self._session,
            ("sessions", 1): self._sessions,
            ("agreement", 1): self._agreement,
        }
        if here[0] == "files":
            return self._file("/".join(here[1:]))
        if here[0] == "api":
            here = here[1:] or ("",)
        serve = routes.get((here[0], len(here)))
        if serve is None:
            raise Refused(404, "there is no such page")
        return serve(*here[1:])

    def _page(self) -> Reply:
        page = files("somite.review").joinpath("page/review.html").read_bytes()
        kept = {"Set-Cookie": guard.cookie(self.token, self.port)}
        return Reply(200, "text/html; charset=utf-8", page, kept)

    def _static(self, name: str) -> Reply:
        if name not in STATIC:
            raise Refused(404, "there is no such file")
        package, path, kind = STATIC[name]
        return Reply(200, f"{kind}; charset=utf-8", files(package).joinpath(path).read_bytes())

    def _sessions(self) -> Reply:
        rows = verdicts.read(self.out_dir)
        mine = {row.key: row for row in rows if row.rater == self.rater}
        judged = {key for key, row in mine.items() if row.verdict}
        listed = sessions.in_order(sessions.entries(self.out_dir), judged)
        return _json(
            {
                "rater": self.rater,
                "table": str(verdicts.path_of(self.out_dir)),
                "sessions": [{**asdict(one), "mine": _said(mine.get(one.key))} for one in listed],
            }
        )

    def _session(self, label: str) -> Reply:
        one = self._record(label)
        report = f"{label}.html"
        try:
            inside(self.out_dir, report)
        except Refused:
            report = ""
        return _json(
            {
                "label": one.label,
                "problems": [asdict(problem) for problem in one.problems],
                "warnings": [asdict(problem) for problem in one.warnings],
                "quality": [dict(row) for row in sessions.quality_rows(one, self.out_dir)],
                "pictures": sessions.pictures(one, self.out_dir),
                "layers": [layer.described() for layer in layers.layers(one, self.out_dir)],
                "report": report,
            }
        )

    def _record(self, label: str) -> Record:
        """The record of a session.

        Raises:
            Refused: 403, 404.
        """
        if not label.startswith("sub-") or any(sign in label for sign in "/\\\0"):
            raise Refused(404, "there is no such session")
        found = record.read(inside(self.out_dir, f"logs/{label}.json"))
        if found is None:
            raise Refused(404, "the record of the session cannot be read")
        return found

    def _picture(self, label: str, name: str) -> Reply:
        kind = {".png": "image/png", ".svg": "image/svg+xml"}.get(Path(name).suffix, "")
        found = sessions.picture(self._record(label), self.out_dir, name) if kind else None
        if found is None:
            raise Refused(404, "there is no such picture")
        return Reply(200, kind, found, ALONE)

    def _layer(self, label: str, name: str) -> Reply:
        layer = layers.find(layers.layers(self._record(label), self.out_dir), name)
        return Reply(200, "application/octet-stream", layer.read())

    def _file(self, relative: str) -> Reply:
        """A page of the output: `sub-01.html`."""
        path = inside(self.out_dir, relative)
        if path.suffix != ".html":
            raise Refused(403, "only pages are shown")
        return Reply(200, "text/html; charset=utf-8", path.read_bytes(), REPORT)

    def _agreement(self) -> Reply:
        labels = {one.key: one.label for one in sessions.entries(self.out_dir)}
        found = agreement.between(verdicts.read(self.out_dir))
        return _json(
            {
                "categories": agreement.CATEGORIES,
                "pairs": [
                    {
                        **asdict(pair),
                        "sessions": pair.sessions,
                        "same": pair.same,
                        "differ": [labels.get(key, " ".join(filter(None, key))) for key in pair.differ],
                    }
                    for pair in found
                ],
            }
        )

    def _save(self, request: Request) -> Reply:
        said = _posted(request)
        label, verdict, note = said["label"], said["verdict"], said["note"]
        if verdict not in get_args(Verdict):
            raise Refused(400, "the verdict is not pass, fail, unsure or none")
        one = self._record(label)
        key: Key = (one.participant_id, one.session_id, one.run)
        new = verdicts.row(self.rater, key, verdict, note)  # type: ignore[arg-type]
        verdicts.append(self.out_dir, new)
        return _json({"label": label, "mine": _said(new)})


def check(out_dir: Path, rater: str) -> str:
    """Whether there is something to look at, and a table that can be added to; returns the rater's name.

    Raises:
        DatasetError: `NOTHING_TO_REVIEW`, `REVIEW_TABLE`, `REVIEW_RATER`.
    """
    name = verdicts.one_line(rater, verdicts.RATER_LENGTH)
    if name in ("", NA):
        problem = Problem("REVIEW_RATER", "the rater has no name", found=rater, do="give --rater NAME")
        raise DatasetError(problem)
    if not record.read_all(out_dir):
        raise DatasetError(
            Problem(
                "NOTHING_TO_REVIEW",
                "no session has run, so there is nothing to look at",
                where=str(out_dir / "logs"),
                expected="the record of a session: logs/sub-01.json",
                do="run the participant level first",
            )
        )
    verdicts.read(out_dir)
    return name


def _posted(request: Request) -> dict[str, str]:
    if request.header("content-type").partition(";")[0].strip() != "application/json":
        raise Refused(415, "a verdict is sent as JSON")
    try:
        said = parse_json(request.body)
    except ValueError:
        raise Refused(400, "what was sent is not JSON") from None
    wanted = ("label", "verdict", "note")
    if not isinstance(said, dict) or any(not isinstance(said.get(name), str) for name in wanted):
        raise Refused(400, "label, verdict and note are wanted, all of them text")
    return {name: said[name] for name in wanted}


def _said(row: Row | None) -> dict[str, str] | None:
    return None if row is None else {"verdict": row.verdict, "note": row.note, "time": row.time}


def _json(content: Any, status: int = 200) -> Reply:
    return Reply(status, "application/json", json.dumps(content).encode())
