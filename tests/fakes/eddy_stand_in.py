"""FSL eddy as seen from outside: checks its arguments as eddy does, and writes files of eddy's names.

FAKE_MODE: "" works; "late" writes all its outputs and then fails with 7; "quiet" ends with 0 and no outputs;
"crash" dies by SIGSEGV after its outputs; "garbage" writes an image that is none; "short" loses a volume;
"nan" writes a directions file with nan; "empty" writes an empty image.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def refuse(words: str) -> None:
    print(f"EDDY::: {words}", file=sys.stderr)
    print("Terminating program", file=sys.stderr)
    sys.exit(1)


options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
known = "imain mask acqp index bvecs bvals out flm slm interp nvoxhp ff niter resamp repol data_is_shelled"
if not set(options) <= set(known.split()):
    refuse(f"unrecognised option {set(options) - set(known.split())}")
for needed in ("imain", "mask", "acqp", "index", "bvecs", "bvals", "out"):
    if needed not in options:
        refuse(f"--{needed} missing")
for given in ("imain", "mask", "acqp", "index", "bvecs", "bvals"):
    if not Path(options[given]).is_file():
        refuse(f"cannot open {options[given]}")
image, mask = nib.load(options["imain"]), nib.load(options["mask"])
acqp, index = np.loadtxt(options["acqp"], ndmin=2), np.loadtxt(options["index"], ndmin=1).astype(int)
bvals, bvecs = np.loadtxt(options["bvals"], ndmin=1), np.loadtxt(options["bvecs"])
n = image.shape[3]
if mask.shape != image.shape[:3] or not (np.asarray(mask.dataobj) > 0).any():
    refuse("--mask does not fit --imain")
if acqp.shape[1] != 4 or not np.allclose(np.abs(acqp[:, :3]).sum(1), 1) or not (acqp[:, 3] > 0.01).all():
    refuse("--acqp: not a direction and a readout time")
if index.shape != (n,) or index.min() < 1 or index.max() > len(acqp):
    refuse("--index: mismatch with --imain or --acqp")
if bvals.shape != (n,) or bvecs.shape != (3, n):
    refuse("--bvals or --bvecs: mismatch with --imain")
print("threads", os.environ["OMP_NUM_THREADS"])

mode = os.environ.get("FAKE_MODE", "")
out = options["out"]
angle = np.deg2rad(2.0)
turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
data = image.get_fdata()
if mode != "quiet":
    nib.save(
        nib.Nifti1Image((data[..., 1:] if mode == "short" else data).astype("f4"), image.affine),
        out + ".nii.gz",
    )
    turned = turn @ bvecs
    turned[0, -1] = np.nan if mode == "nan" else turned[0, -1]
    np.savetxt(out + ".eddy_rotated_bvecs", turned)
    parameters = np.zeros((n, 16))
    parameters[1:, 0], parameters[1:, 3] = 1.5, angle
    np.savetxt(out + ".eddy_parameters", parameters)
    np.savetxt(out + ".eddy_movement_rms", np.column_stack([np.arange(n) * 0.1, np.zeros(n)]))
    np.savetxt(Path(out).parent / "eddy_saw_acqp.txt", acqp)
    shutil.copy(options["index"], Path(out).parent / "eddy_saw_index.txt")
if mode == "garbage":
    Path(out + ".nii.gz").write_bytes(b"not an image at all")
if mode == "empty":
    Path(out + ".nii.gz").write_bytes(b"")
if mode == "late":
    for k in range(40):
        print(f"EDDY::: line {k} of what it said", file=sys.stderr)
    sys.exit(7)
if mode == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
