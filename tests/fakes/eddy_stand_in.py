"""FSL eddy as seen from outside: checks its arguments as eddy does, and writes files of eddy's names.

The body turns by 2 degrees about FSL's first axis and moves 1.5 mm along it from the second volume on; slice
3 of the third volume is an outlier; the field has one number per term, the same in all volumes but the first.

FAKE_MODE: "" works; "late" writes all its outputs and then fails with 7; "quiet" ends with 0 and no outputs;
"crash" dies by SIGSEGV after its outputs; "garbage" writes an image that is none; "short" loses a volume;
"nan" writes a directions file with nan; "empty" writes an empty image; "back" gives movements the other way
round; "linear" writes the parameters of another model; "words" writes an outlier map without numbers.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

me = Path(sys.argv[0]).name


def refuse(words: str) -> None:
    print(f"EDDY::: {words}", file=sys.stderr)
    print("Terminating program", file=sys.stderr)
    sys.exit(1)


if sys.argv[1:] == ["--help"]:
    print("Part of FSL\neddy\n\t--imain\tFile containing all the images to estimate distortions for")
    if me == "eddy_cpu":
        print("\t--nthr\tNumber of threads to use when running eddy (default 1)")
    sys.exit(1)
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
known = (
    "imain mask acqp index bvecs bvals out flm slm interp nvoxhp ff niter resamp repol data_is_shelled field "
    "mporder s2v_niter s2v_lambda s2v_interp slspec" + (" nthr" if me == "eddy_cpu" else "")
)
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
if "field" in options:
    if options["field"].endswith((".nii", ".gz")):
        refuse("--field: name with extension")
    if nib.load(options["field"] + ".nii").shape != image.shape[:3]:
        refuse("--field does not fit --imain")
if int(options.get("mporder", 0)):
    if not me.startswith("eddy_cuda"):
        refuse("--mporder>0 is not implemented for this version")
    groups = [line.split() for line in Path(options["slspec"]).read_text().splitlines()]
    if sorted(int(k) for group in groups for k in group) != list(range(image.shape[2])):
        refuse("--slspec: not every slice once")
    if int(options["mporder"]) >= len(groups):
        refuse("--mporder: as many as excitations")
print("threads", options.get("nthr", os.environ["OMP_NUM_THREADS"]), "FSLDIR", os.environ.get("FSLDIR"))
assert os.environ["FSLOUTPUTTYPE"] == "NIFTI_GZ"

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
    turned = np.column_stack([bvecs[:, :1], turn.T @ bvecs[:, 1:]])
    turned[0, -1] = np.nan if mode == "nan" else turned[0, -1]
    np.savetxt(out + ".eddy_rotated_bvecs", turned)
    parameters = np.zeros((n, 10 if mode == "linear" else 16))
    parameters[1:, 0], parameters[1:, 3] = 1.5, angle
    parameters[:, :6] *= -1 if mode == "back" else 1
    if mode != "linear":
        linear, second = [0.1, -0.2, 0.05], [1e-3, -2e-3, 5e-4, 3e-3, -1e-3, 2e-3]
        parameters[1:, 6:] = [*linear, *second, 1.5]
    np.savetxt(out + ".eddy_parameters", parameters)
    np.savetxt(out + ".eddy_movement_rms", np.column_stack([np.arange(n) * 0.1, np.zeros(n)]))
    table = np.zeros((n, image.shape[2]))
    table[2, 3] = 1
    header = "One row per scan, one column per slice. Outlier: 1, Non-outlier: 0"
    np.savetxt(out + ".eddy_outlier_map", table, "%d", header=header, comments="")
    table = np.tile(np.linspace(-1, 1, image.shape[2]), (n, 1))
    table[2, 3] = -6.25
    np.savetxt(out + ".eddy_outlier_n_stdev_map", table, header="One row per scan", comments="")
    if mode == "words":
        Path(out + ".eddy_outlier_map").write_text("nothing\n")
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
