"""Verdicts of raters: nothing is lost, nobody else writes them, and how far the raters agree."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import reviewed

from somite.errors import ConfigError, DatasetError, ResourceError
from somite.review import agreement, layers, sessions, verdicts
from somite.review.server import Server, open_server
from somite.review.verdicts import Row


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sessions: the second fails its quality limits, the fourth comes near, the fifth did not run."""
    folder = tmp_path_factory.mktemp("out")
    reviewed.write_output(folder, 6, {2: "fail", 4: "warn"}, failed=(5,))
    (folder / "sub-001.html").write_text("<!doctype html><title>sub-001</title>")
    (folder / "secret.json").write_text("{}")
    return folder


@pytest.fixture
def server(out_dir: Path) -> Iterator[Server]:
    verdicts.path_of(out_dir).unlink(missing_ok=True)
    with open_server(out_dir, "AB") as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


class Answer:
    """An answer to a request over a socket."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self):  # type: ignore[no-untyped-def]
        return json.loads(self.body)


def ask(
    server: Server, path: str, method: str = "GET", body: object = None, *, token: bool = True, **headers: str
) -> Answer:
    """A request as the page sends it; further headers override its own, and `-` leaves one away."""
    host = f"127.0.0.1:{server.server_port}"
    own = {"Host": host, "Cookie": f"somite_review_{server.server_port}={server.application.token}"}
    if not token:
        del own["Cookie"]
    if method == "POST":
        own |= {"Origin": f"http://{host}", "Content-Type": "application/json"}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    data = b"" if body is None else json.dumps(body).encode()
    if method == "POST" and "Content-Length" not in own:
        own["Content-Length"] = str(len(data))
    for name, value in own.items():
        if value != "-":
            connection.putheader(name, value)
    connection.endheaders(data or None)
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


def verdict(label: str = "sub-001", said: str = "pass", note: str = "") -> dict[str, str]:
    return {"label": label, "verdict": said, "note": note}


# --- who may ask ---


def test_the_page_answers_to_its_address_and_keeps_the_token_in_a_cookie(server: Server) -> None:
    page = ask(server, server.url.partition(str(server.server_port))[2], token=False)
    assert page.status == 200
    assert b"<title>Somite review</title>" in page.body
    kept = page.headers["Set-Cookie"]
    assert server.application.token in kept
    assert "HttpOnly" in kept
    assert "SameSite=Strict" in kept
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert server.application.token.encode() not in page.body
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["/", "/api/sessions", "/static/review.js", "/layer/sub-001/b0.nii", "/files/sub-001.html"]
)
@pytest.mark.parametrize("cookie", ["-", "somite_review_1=x", "{name}=wrong", "{name}="])
def test_nothing_is_shown_without_the_token(server: Server, path: str, cookie: str) -> None:
    given = cookie.format(name=f"somite_review_{server.server_port}")
    answer = ask(server, path, Cookie=given)
    assert answer.status == 403
    assert ask(server, path).status == 200
    wrong = ask(server, f"{path}?token={server.application.token[:-1]}", Cookie=given)
    assert wrong.status == 403
    if path != "/":
        assert ask(server, f"{path}?token={server.application.token}", Cookie=given).status == 403


def test_nothing_is_written_without_the_token(server: Server, out_dir: Path) -> None:
    answer = ask(server, "/api/verdict", "POST", verdict(), token=False)
    assert answer.status == 403
    assert not verdicts.path_of(out_dir).exists()


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "example.org:80",
        "127.0.0.1.example.org",
        "-",
        "",
        "[::1",
        "10.0.0.1",
        "localhost.evil.org",
    ],
)
def test_another_name_of_the_host_is_refused(server: Server, host: str) -> None:
    assert ask(server, "/api/sessions", Host=host).status == 403
    assert ask(server, "/api/verdict", "POST", verdict(), Host=host, Origin=f"http://{host}").status == 403


def test_the_end_of_a_tunnel_may_have_another_port(server: Server, out_dir: Path) -> None:
    assert ask(server, "/api/sessions", Host="localhost:9999").status == 200
    answer = ask(
        server, "/api/verdict", "POST", verdict(), Host="localhost:9999", Origin="http://localhost:9999"
    )
    assert answer.status == 200


@pytest.mark.parametrize(
    "origin", ["-", "null", "http://example.org", "http://127.0.0.1:1", "https://127.0.0.1:{port}", ""]
)
def test_another_page_cannot_write(server: Server, out_dir: Path, origin: str) -> None:
    answer = ask(server, "/api/verdict", "POST", verdict(), Origin=origin.format(port=server.server_port))
    assert answer.status == 403
    assert not verdicts.path_of(out_dir).exists()


def test_another_page_cannot_read(server: Server) -> None:
    assert ask(server, "/api/sessions", Origin="http://example.org").status == 403
    for site in ("cross-site", "same-site"):
        assert ask(server, "/api/sessions", Sec_Fetch_Site=site).status == 403
        assert ask(server, "/layer/sub-001/b0.nii", Sec_Fetch_Site=site).status == 403
    answer = ask(server, "/api/sessions", Sec_Fetch_Site="same-origin")
    assert answer.status == 200
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    assert ask(server, "/api/sessions", method).status in (405, 501)


def test_a_large_or_endless_request_is_refused_unread(server: Server, out_dir: Path) -> None:
    for headers, status in [
        ({"Content_Length": "16385"}, 413),
        ({"Content_Length": "9" * 30}, 413),
        ({"Content_Length": "-1"}, 411),
        ({"Transfer_Encoding": "chunked"}, 411),
    ]:
        assert ask(server, "/api/verdict", "POST", **headers).status == status
    assert not verdicts.path_of(out_dir).exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ([1], 400),
        (verdict(said="excellent"), 400),
        ({**verdict(), "note": 3}, 400),
        (verdict(label="sub-999"), 404),
        (verdict(label="../logs/sub-001"), 404),
        (verdict(label="sub-001/../sub-001"), 404),
        (verdict(label="sub-\0"), 404),
    ],
)
def test_what_is_no_verdict_is_refused(server: Server, out_dir: Path, body: object, status: int) -> None:
    answer = ask(server, "/api/verdict", "POST", body)
    assert answer.status == status
    assert ask(server, "/api/verdict", "POST", verdict(), Content_Type="text/plain").status == 415
    assert not verdicts.path_of(out_dir).exists()


# --- which files ---


@pytest.mark.parametrize(
    "path",
    [
        "/files/../out/sub-001.html",
        "/files/%2e%2e/secret.html",
        "/files/..%2fsecret.html",
        "/files/%2fetc%2fpasswd",
        "/files//etc/hostname",
        "/files/..%5csecret.html",
        "/files/%252e%252e/secret.html",
        "/files/link.html",
        "/files/linked/secret.html",
        "/files/sub-001.html%00.png",
        "/files/secret.json",
        "/files/logs/sub-001.json",
        "/files/",
        "/files",
        "/static/../server.py",
        "/static/..%2f..%2fserver.py",
        "/layer/..%2f..%2fsub-001/b0.nii",
        "/layer/sub-001/..%2fb0.nii",
        "/layer/sub-001/secret",
        "/picture/sub-001/index.json",
        "/picture/sub-001/..%2f..%2fsub-001.png",
        "/api/session/..%2fgroup",
        "/api/session/group",
        "/%ff",
    ],
)
def test_a_path_outside_is_refused(server: Server, out_dir: Path, path: str) -> None:
    outside = out_dir.parent / "secret.html"
    outside.write_text("secret")
    for name, target in (("link.html", outside), ("linked", out_dir.parent)):
        if not (out_dir / name).is_symlink():
            (out_dir / name).symlink_to(target)
    answer = ask(server, path)
    assert answer.status in (400, 403, 404)
    assert b"secret" not in answer.body


def test_an_image_that_is_a_link_to_the_outside_is_not_shown(server: Server, tmp_path: Path) -> None:
    reviewed.write_output(tmp_path / "out", 1)
    fa = tmp_path / "out" / "sub-001" / "dwi" / f"sub-001_{reviewed.ENDINGS[2]}"
    fa.rename(tmp_path / "fa.nii.gz")
    fa.symlink_to(tmp_path / "fa.nii.gz")
    one = sessions.record.read_all(tmp_path / "out")[0]
    assert [layer.name for layer in layers.layers(one, tmp_path / "out")] == ["b0", "dwi", "md", "segments"]


def test_a_page_of_the_output_runs_as_that_of_no_site(server: Server) -> None:
    answer = ask(server, "/files/sub-001.html")
    assert answer.status == 200
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")
    assert "allow-same-origin" not in answer.headers["Content-Security-Policy"]


# --- what is shown ---


def test_doubtful_sessions_come_first_and_seen_ones_last(server: Server) -> None:
    def order() -> list[str]:
        return [one["label"] for one in ask(server, "/api/sessions").json["sessions"]]

    assert order() == ["sub-002", "sub-004", "sub-001", "sub-003", "sub-006", "sub-005"]
    assert ask(server, "/api/verdict", "POST", verdict("sub-002", "fail", "no  roots\nat all")).status == 200
    assert ask(server, "/api/verdict", "POST", verdict("sub-004", "")).status == 200
    assert order() == ["sub-004", "sub-001", "sub-003", "sub-006", "sub-005", "sub-002"]
    mine = ask(server, "/api/sessions").json["sessions"][-1]["mine"]
    assert (mine["verdict"], mine["note"]) == ("fail", "no roots at all")


def test_the_pictures_that_matter_come_first_and_a_missing_one_is_told(server: Server) -> None:
    detail = ask(server, "/api/session/sub-001").json
    assert [one["name"] for one in detail["pictures"]] == ["segments", "lost", "before", "after", "noise"]
    assert [one["shown"] for one in detail["pictures"]][:2] == ["segments.png", None]
    assert ask(server, "/picture/sub-001/segments.png").body == reviewed.DOT
    assert detail["report"] == "sub-001.html"
    assert ask(server, "/api/session/sub-005").json["problems"][0]["code"] == "NO_LABELS"


def test_an_archive_that_is_broken_harms_nothing(tmp_path: Path) -> None:
    reviewed.write_output(tmp_path, 1)
    (tmp_path / "sub-001" / "dwi" / "sub-001_pictures.zip").write_bytes(b"PK no")
    (tmp_path / "sub-001" / "dwi" / "sub-001_desc-qc_stats.tsv").write_text("nothing\n")
    one = sessions.record.read_all(tmp_path)[0]
    assert sessions.pictures(one, tmp_path) == []
    assert sessions.picture(one, tmp_path, "segments.png") is None
    assert sessions.entries(tmp_path)[0].quality == ""


def image(answer: Answer) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_stream(io.BytesIO(answer.body))


def test_mean_images_and_segments_are_where_the_scan_is(server: Server) -> None:
    b0, dwi = (image(ask(server, f"/layer/sub-001/{name}.nii")) for name in ("b0", "dwi"))
    series = reviewed.series()
    np.testing.assert_allclose(b0.get_fdata(), series[..., [0, 2]].mean(-1), rtol=1e-6)
    np.testing.assert_allclose(dwi.get_fdata(), series[..., [1, 3]].mean(-1), rtol=1e-6)
    drawn = image(ask(server, "/layer/sub-001/segments.nii"))
    for found in (b0, dwi, drawn):
        np.testing.assert_allclose(found.affine, reviewed.AFFINE, atol=1e-6)
    listed = ask(server, "/api/session/sub-001").json["layers"][-1]["segments"]
    assert [one["name"] for one in listed] == ["root_right", "root_left", "label 9, in no table"]
    values = np.asarray(drawn.dataobj)
    for one in listed:
        np.testing.assert_array_equal(values == one["value"], reviewed.labels() == one["index"])
        voxel = np.linalg.solve(reviewed.AFFINE, [*one["mm"], 1])[:3].round().astype(int)
        assert values[tuple(voxel)] == one["value"]
    assert len({tuple(one["colour"]) for one in listed}) == 3


# --- the table ---


def row(rater: str, who: str, said: str, note: str = "") -> Row:
    return verdicts.row(rater, (who, "", ""), said, note)  # type: ignore[arg-type]


def test_every_row_is_kept_and_the_last_counts(tmp_path: Path) -> None:
    told = [
        row("AB", "sub-01", "fail"),
        row("CD", "sub-01", "pass"),
        row("AB", "sub-01", "pass", "tab\there"),
    ]
    for one in told:
        verdicts.append(tmp_path, one)
    rows = verdicts.read(tmp_path)
    assert [one.verdict for one in rows] == ["fail", "pass", "pass"]
    assert rows[-1].note == "tab here"
    assert verdicts.latest(rows)["sub-01", "", ""]["AB"].verdict == "pass"
    text = verdicts.path_of(tmp_path).read_text()
    assert text.splitlines()[0].split("\t") == list(verdicts.COLUMNS)
    assert all(len(line.split("\t")) == 7 for line in text.splitlines())
    assert text.splitlines()[1].split("\t")[2:4] == ["n/a", "n/a"]


@pytest.mark.parametrize(
    ("said", "any_one", "all_of_them"),
    [
        (["AB fail"], True, True),
        (["AB fail", "CD pass"], True, False),
        (["AB fail", "CD unsure"], True, False),
        (["AB fail", "CD fail"], True, True),
        (["AB unsure"], False, False),
        (["AB fail", "AB pass"], False, False),
        (["AB fail", "AB "], False, False),
        (["AB fail", "CD pass", "CD "], True, True),
    ],
)
def test_who_is_excluded(said: list[str], any_one: bool, all_of_them: bool) -> None:
    rows = [row(one.split(" ")[0], "sub-01", one.split(" ")[1], "why") for one in said]
    assert bool(verdicts.excluded(rows, "any")) == any_one
    assert bool(verdicts.excluded(rows, "all")) == all_of_them
    assert not verdicts.excluded(rows, "ignore")
    if any_one:
        assert "AB (why)" in verdicts.excluded(rows, "any")["sub-01", "", ""]


@pytest.mark.parametrize(
    "damage",
    ["AB\tsub-01\tn/a\n", "AB\tsub-01\tn/a\tn/a\tnow\tgood\tn/a\n", "\tsub-01\tn/a\tn/a\tt\tpass\tn/a\n"],
)
def test_a_damaged_table_is_neither_read_nor_replaced(tmp_path: Path, damage: str) -> None:
    verdicts.append(tmp_path, row("AB", "sub-01", "fail"))
    path = verdicts.path_of(tmp_path)
    path.write_text(path.read_text() + damage)
    before = path.read_bytes()
    with pytest.raises(DatasetError) as caught:
        verdicts.append(tmp_path, row("AB", "sub-01", "pass"))
    assert caught.value.problems[0].code == "REVIEW_TABLE"
    assert "line 3" in caught.value.problems[0].where
    assert path.read_bytes() == before


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    verdicts.append(tmp_path, row("AB", "sub-01", "fail", "Übel"))
    path = verdicts.path_of(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert verdicts.append(tmp_path, row("AB", "sub-02", "pass"))[0].note == "Übel"


WRITE = """
import sys
from pathlib import Path
from somite.review import verdicts
for i in range(int(sys.argv[3])):
    verdicts.append(Path(sys.argv[1]), verdicts.row(sys.argv[2], (f"sub-{i}", "", ""), "pass", "x" * 500))
    print(i, flush=True)
"""


def test_raters_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", WRITE, str(tmp_path), rater, "25"] for rater in ("AB", "CD")]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(verdicts.read(tmp_path)) == 50


def test_a_kill_loses_nothing_that_was_told_to_be_saved(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path), "AB", "100000"]
    for _ in range(3):
        before = len(verdicts.read(tmp_path))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(20):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert len(verdicts.read(tmp_path)) >= before + 20


def test_a_table_that_is_held_is_told(tmp_path: Path) -> None:
    from filelock import FileLock

    verdicts.append(tmp_path, row("AB", "sub-01", "fail"))
    with (
        FileLock(tmp_path / "qc" / ".review.tsv.lock"),
        pytest.raises(ResourceError, match="REVIEW_LOCKED"),
    ):
        verdicts.append(tmp_path, row("AB", "sub-02", "fail"), wait_s=0.05)
    assert len(verdicts.read(tmp_path)) == 1


def test_what_cannot_be_saved_is_told_to_the_rater(server: Server, out_dir: Path) -> None:
    path = verdicts.path_of(out_dir)
    path.parent.mkdir(exist_ok=True)
    path.write_text("something else\n")
    answer = ask(server, "/api/verdict", "POST", verdict())
    assert answer.status == 500
    assert "REVIEW_TABLE" in answer.json["problem"]
    path.unlink()


@pytest.mark.parametrize("rater", ["", "  ", "n/a", "\t"])
def test_a_rater_has_a_name(out_dir: Path, rater: str) -> None:
    with pytest.raises(DatasetError, match="REVIEW_RATER"):
        open_server(out_dir, rater)


def test_a_port_that_is_taken_is_told(server: Server, out_dir: Path) -> None:
    with pytest.raises(ConfigError, match="REVIEW_PORT"):
        open_server(out_dir, "AB", server.server_port)


# --- agreement ---


def test_kappa_of_a_worked_example() -> None:
    """Fifty proposals read by two (Wikipedia, Cohen's kappa, simple example): 0.7 seen, 0.5 by chance."""
    assert agreement.kappa(np.array([[20, 5], [10, 15]])).value == pytest.approx(0.4)


def test_the_interval_of_kappa_is_that_of_the_delta_method() -> None:
    counts = np.array([[106, 10, 4], [22, 28, 10], [2, 12, 6]])
    n = counts.sum()

    def of(p: np.ndarray) -> float:
        chance = p.sum(0) @ p.sum(1)
        return float((np.trace(p) - chance) / (1 - chance))

    p, step = counts / n, 1e-6
    slope = np.zeros_like(p)
    for cell in np.ndindex(p.shape):
        moved = np.zeros_like(p)
        moved[cell] = step
        slope[cell] = (of(p + moved) - of(p - moved)) / (2 * step)
    se = np.sqrt(((p * slope**2).sum() - (p * slope).sum() ** 2) / n)
    found = agreement.kappa(counts)
    assert found.value == pytest.approx(of(p))
    assert (found.low, found.high) == pytest.approx((of(p) - 1.959964 * se, of(p) + 1.959964 * se), abs=1e-4)


def test_agreement_is_of_the_last_verdicts_on_common_sessions() -> None:
    rows = [row("AB", f"sub-{i}", "fail" if i % 3 == 0 else "pass") for i in range(12)]
    rows += [row("CD", f"sub-{i}", "fail" if i % 4 == 0 else "pass") for i in range(3, 15)]
    rows += [row("CD", "sub-3", "unsure"), row("EF", "sub-99", "pass"), row("CD", "sub-5", "")]
    (found,) = agreement.between(rows)
    assert found.raters == ("AB", "CD")
    pairs = [
        ("fail" if i % 3 == 0 else "pass", "fail" if i % 4 == 0 else "pass") for i in range(4, 12) if i != 5
    ]
    pairs.append(("fail", "unsure"))
    assert found.sessions == len(pairs)
    same = np.mean([a == b for a, b in pairs])
    chance = sum(
        np.mean([a == c for a, _ in pairs]) * np.mean([b == c for _, b in pairs])
        for c in agreement.CATEGORIES
    )
    assert found.same == same * len(pairs)
    assert found.kappa.value == pytest.approx((same - chance) / (1 - chance))
    assert [key[0] for key in found.differ] == [
        f"sub-{i}" for i in range(3, 12) if i == 3 or (i != 5 and (i % 3 == 0) != (i % 4 == 0))
    ]


def test_kappa_is_not_given_where_there_is_none() -> None:
    (found,) = agreement.between([row(rater, f"sub-{i}", "pass") for rater in ("AB", "CD") for i in range(5)])
    assert found.kappa.value is None
    assert found.kappa.reason
    assert (found.sessions, found.same) == (5, 5)
    perfect = agreement.kappa(np.diag([5, 0, 3]))
    assert (perfect.value, perfect.low, perfect.high) == (1, None, None)
    for counts in ([[5, 0, 2], [0, 0, 0], [0, 0, 0]], [[5, 0, 0], [0, 0, 0], [1, 0, 0]]):
        one_verdict = agreement.kappa(np.array(counts))
        assert (one_verdict.value, one_verdict.low) == (0, None)
        assert "one verdict" in one_verdict.reason
