"""FSL topup as seen from outside: checks its arguments as topup does, and writes files of topup's names.

FAKE_MODE: "" works; "late" writes its outputs and then fails; "quiet" ends with 0 and no outputs; "garbage"
writes an image that is none; "short" loses a volume; "nan" writes a field with nan.
"""

import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def refuse(words: str) -> None:
    print(f"topup: {words}", file=sys.stderr)
    sys.exit(1)


options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
known = "config datain imain out iout fout jacout logout rbmout dfout"
if not set(options) <= set(known.split()):
    refuse(f"unrecognised option {set(options) - set(known.split())}")
for needed in ("imain", "datain", "out"):
    if needed not in options:
        refuse(f"--{needed} missing")
image, rows = nib.load(options["imain"]), np.loadtxt(options["datain"], ndmin=2)
if rows.shape != (image.shape[3], 4) or not np.allclose(np.abs(rows[:, :3]).sum(1), 1):
    refuse("--datain: mismatch with --imain")
if options["config"] == "b02b0.cnf" and any(n % 2 for n in image.shape[:3]):
    refuse("Subsampling levels incompatible with image data")
mode = os.environ.get("FAKE_MODE", "")
data = image.get_fdata()
if mode != "quiet":
    field = np.full(image.shape[:3], 12.5, "f4")
    field[0, 0, 0] = np.nan if mode == "nan" else 12.5
    nib.save(nib.Nifti1Image(field, image.affine), options["fout"])
    kept = data[..., 1:] if mode == "short" else data
    nib.save(nib.Nifti1Image(kept.astype("f4"), image.affine), options["iout"])
    Path(options["out"] + "_movpar.txt").write_text("0 0 0 0 0 0\n" * image.shape[3])
    for number in range(1, image.shape[3] + 1):
        for name in ("jacout", "dfout"):
            Path(f"{options[name]}_{number:02d}.nii.gz").touch()
        Path(f"{options['rbmout']}_{number:02d}.mat").touch()
    Path(options["out"] + "_fieldcoef.nii.gz").touch()
    Path(options["logout"]).touch()
if mode == "garbage":
    Path(options["fout"]).write_bytes(b"not an image at all")
if mode == "late":
    print("topup: what it said", file=sys.stderr)
    sys.exit(7)
