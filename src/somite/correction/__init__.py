"""Motion and eddy-current distortion of a diffusion series, estimated from the series itself.

`series` knows where tissue lies in each volume, `fit` brings a volume onto a target, `believe` keeps of what
was found what can be true, `predict` foretells a volume from the others, `slices` finds slices that lost
signal, `estimation` joins them in rounds, and `corrector` makes the corrected series.
"""
