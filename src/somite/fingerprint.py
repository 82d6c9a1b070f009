"""What makes two computations the same: file contents, a step's code, and the versions it stands on."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from somite.files import write_atomically

_CHUNK = 1 << 22


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class HashCache:
    """Checksums of files that have not changed since they were last read, kept in one JSON file.

    A file counts as unchanged when its path, size, modification and change time (ns) and inode are the
    same. The change time is set by the system, so an edit that puts the old modification time back is seen;
    `verify` reads every file anew, for file systems whose times cannot be trusted.
    Use as a context manager: it is saved on leaving.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path = path
        self.verify = verify
        self._fresh: set[str] = set()
        self._known: dict[str, tuple[list[int], str]] = {}
        try:
            stored = json.loads(path.read_text())
            self._known = {name: (list(stamp), str(digest)) for name, (stamp, digest) in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}  # absent or damaged: every file is read again
        self._changed = False

    @staticmethod
    def _stamp(path: Path) -> list[int]:
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

    def peek(self, path: Path) -> str | None:
        """The checksum if it is known without reading the file."""
        name = str(path)
        if self.verify and name not in self._fresh:
            return None
        stamp, digest = self._known.get(name, ([], ""))
        return digest if stamp == self._stamp(path) else None

    def sha256(self, path: Path) -> str:
        """The checksum, read from the file unless it is known."""
        known = self.peek(path)
        if known is not None:
            return known
        stamp = self._stamp(path)
        digest = sha256(path)
        self._known[str(path)] = (stamp, digest)
        self._fresh.add(str(path))
        self._changed = True
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._changed:
            write_atomically(self.path, json.dumps(self._known))


@cache
def _folders(package: str) -> tuple[Path, ...]:
    spec = importlib.util.find_spec(package)
    found = spec.submodule_search_locations if spec is not None else None
    return tuple(Path(folder) for folder in found or ())


@cache
def _module_file(name: str) -> Path | None:
    """The source of a module of a package, found without importing anything on the way."""
    package, *parts = name.split(".")
    for folder in _folders(package):
        at = folder.joinpath(*parts)
        for file in (at / "__init__.py", at.with_name(at.name + ".py")):
            if file.is_file():
                return file
    return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                child
                for child in node.body
                if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
            ] or [ast.Pass()]
    return tree


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _read_module(name: str) -> tuple[str, frozenset[str]]:
    file = _module_file(name)
    assert file is not None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = frozenset(_imports(tree, package))
    return hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest(), imports


@cache
def _closure(module: str) -> tuple[dict[str, str], frozenset[str]]:
    """Project modules that `module` imports, itself included, with digests; and all names imported."""
    project = module.partition(".")[0] + "."
    digests: dict[str, str] = {}
    outside: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        digests[name], imports = _read_module(name)
        for found in imports:
            if found.startswith(project):
                if _module_file(found) is not None:
                    waiting.append(found)
            else:
                outside.add(found.partition(".")[0])
    return digests, frozenset(outside)


@cache
def code(module: str) -> str:
    """Digest of a module's code and of the code of the project's modules that it imports.

    Comments, docstrings and layout do not count.
    """
    digests, _ = _closure(module)
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


@cache
def libraries(module: str) -> dict[str, str]:
    """Versions of Python and of the installed packages that a module, or what it imports, imports."""
    _, outside = _closure(module)
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in sorted(outside - sys.stdlib_module_names):
        for distribution in _distributions().get(name, []):
            versions[distribution.lower()] = importlib.metadata.version(distribution)
    return versions


def forget_code() -> None:
    """Read modules anew: for tests that edit a step."""
    for cached in (_folders, _module_file, _read_module, _closure, code, libraries):
        cached.cache_clear()


def processor() -> str:
    """Name of the processor: results are the same to the bit only where it is."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or os.uname().machine


_ARITHMETIC = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "neon", "asimd", "sve", "fp")


def processor_flags() -> str:
    """What the processor can do with numbers: libraries choose their kernels by it, and round accordingly."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features"))).partition(":")[2]
    except (OSError, StopIteration):
        return platform.machine()
    return " ".join(sorted(flag for flag in flags.split() if flag.startswith(_ARITHMETIC)))
