"""FSL bet as seen from outside: input, output, then options. It ends with 0 whatever happened, as bet does.

FAKE_MODE: "" works; "quiet" writes nothing; "blank" writes an empty mask; "words" writes and complains.
"""

import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

mode = os.environ.get("FAKE_MODE", "")
source, made, *options = sys.argv[1:]
assert "-m" in options and options[options.index("-f") + 1] == "0.40", options
assert os.environ["FSLOUTPUTTYPE"] == "NIFTI"
image = nib.load(source)
data = image.get_fdata()
if mode != "quiet":
    mask = (data > np.median(data)) * (mode != "blank")
    nib.save(
        nib.Nifti1Image(mask.astype("u1"), image.affine), Path(made).with_name(Path(made).stem + "_mask.nii")
    )
    nib.save(nib.Nifti1Image((data * mask).astype("f4"), image.affine), made)
if mode == "words":
    print("Cannot open volume for reading!", file=sys.stderr)
