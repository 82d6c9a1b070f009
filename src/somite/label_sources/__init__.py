"""What the values of a label image mean: one module per kind of source, all ending in `tuple[Label, ...]`.

The tables of published numberings are in `tables/`, each with the file and commit that it was read from.
"""
