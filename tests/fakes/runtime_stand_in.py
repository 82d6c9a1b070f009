"""A container runtime as seen from outside: apptainer, singularity, docker or podman, by its own name.

It runs the command with the search path of a fake image, and shows it only what the real one would: of the
files those in its binds, of the variables those that reach the inside. FAKE_MODE=broken: nothing starts.
"""

import os
import sys
from pathlib import Path

me = Path(sys.argv[0]).name
words = sys.argv[1:]
images = Path(os.environ["FAKE_IMAGES"])


def refuse(text: str, status: int = 255) -> None:
    print(f"{me.upper()}: {text}", file=sys.stderr)
    sys.exit(status)


if os.environ.get("FAKE_MODE") == "broken":
    refuse("failed to open the user namespace")
if words[:2] == ["image", "inspect"]:
    root = images / f"{words[-1].replace(':', '_')}.root"
    if not root.is_dir():
        refuse(f"No such image: {words[-1]}", 1)
    print("sha256:" + (root / "id").read_text().strip())
    sys.exit(0)

like_apptainer = me in ("apptainer", "singularity")
assert words.pop(0) == ("exec" if like_apptainer else "run"), words
binds: dict[str, bool] = {}
folder, given, clean, user = "", {}, False, ""
while words[0].startswith("-"):
    option = words.pop(0)
    if option in ("--bind", "--volume"):
        source, target, *mode = words.pop(0).split(":")
        assert source == target and Path(source).is_dir(), source
        binds[source] = mode == ["ro"]
    elif option in ("--pwd", "--workdir"):
        folder = words.pop(0)
    elif option == "--env" and not like_apptainer:
        name, _, value = words.pop(0).partition("=")
        given[name] = value
    elif option == "--user" and not like_apptainer:
        user = words.pop(0)
    elif option == "--cleanenv" and like_apptainer:
        clean = True
    elif option not in ("--rm", "--nv"):
        refuse(f"unknown option {option}")
image = words.pop(0)
root = Path(image + ".root") if like_apptainer else images / f"{image.replace(':', '_')}.root"
if not root.is_dir() or (like_apptainer and not Path(image).exists()):
    refuse(f"no image {image}")

inside = dict(os.environ) if like_apptainer and not clean else {}
if like_apptainer:
    mark = f"{me.upper()}ENV_"
    inside |= {name.removeprefix(mark): value for name, value in os.environ.items() if name.startswith(mark)}
inside |= given
inside["PATH"] = f"{root / 'bin'}:/usr/bin:/bin"
if (root / "fsl").is_dir():  # as images converted from docker do it: a value from outside stays
    inside["FSLDIR"] = inside.get("FSLDIR") or str(root / "fsl")
inside |= {name: os.environ[name] for name in ("FAKE_MODE", "FAKE_IMAGES") if name in os.environ}
if user:
    inside["FAKE_USER"] = user

for word in words:
    path = word.split("=", 1)[-1]
    is_path = path.startswith("/") and "\n" not in path
    shown = path.startswith((str(root), "/usr", "/bin")) or any(f"{path}/".startswith(f"{b}/") for b in binds)
    if is_path and not shown:
        refuse(f"{path}: no such file inside; binds are {binds}")
if folder:
    assert binds.get(folder) is False, "the working folder must be there, and be writable"
    os.chdir(folder)
try:
    os.execvpe(words[0], words, inside)
except FileNotFoundError:
    refuse(f'FATAL: "{words[0]}": executable file not found in $PATH')
