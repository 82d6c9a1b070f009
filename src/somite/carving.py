"""Structures of a label image cut into the segments that are measured, each rule with its options.

A rule takes structures that are one label and gives their parts, with a reason where a part has no voxel.
Cuts are made in world millimetres; levels keep the names that the label table gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from somite import cutting
from somite.centreline import Floats, NoCentreline
from somite.images import Grid
from somite.registry import Context
from somite.rootline import Canal, Mask, RootOptions, points_of, root_line
from somite.segments import Label, Segment, Word

Regions = tuple[Word, ...]
Fraction = Annotated[float, Field(gt=0, le=1)]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Zone(_Rule):
    """A part of a root between two arc lengths from the dural exit."""

    name: Word
    """As in the column `segment`."""
    from_mm: float
    """Arc length of its proximal end; below 0 lies before the dural exit."""
    to_mm: float
    """Arc length of its distal end."""

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.to_mm <= self.from_mm:
            raise ValueError(f"zone {self.name}: to_mm {self.to_mm:g} is not above from_mm {self.from_mm:g}")
        return self


class Roots(RootOptions):
    """Roots into zones by arc length from the dural exit."""

    regions: Regions = ("nerve_root",)
    """Regions to cut."""
    zones: Annotated[tuple[Zone, ...], Field(min_length=1)] = (
        Zone(name="intraspinal", from_mm=0, to_mm=10),
        Zone(name="foraminal_drg", from_mm=10, to_mm=20),
        Zone(name="extraforaminal", from_mm=20, to_mm=30),
    )
    """The zones, from proximal to distal."""
    ganglion: Word = "drg"
    """Region of labels of the ganglia: where a root has one, its extent is the ganglion's zone."""
    ganglion_zone: Word = "foraminal_drg"
    """The zone that a ganglion's label stands for; those before and after it end and begin there."""


class Discs(_Rule):
    """Discs into nucleus (np) and annulus before and behind it (af_anterior, af_posterior).

    The nucleus is an ellipsoid in the disc's own plane; the coronal plane through its centre parts the
    annulus. Depth and offset are those of L4-L5 in 41 young adults (nucleus 64.0 %, anterior annulus 20.5 %,
    posterior 15.6 % of the disc's length: In vivo morphological features of human lumbar discs, Medicine,
    December 2014); the fraction of the width is taken to be that of the depth.
    """

    region: Word = "disc"
    """Region to cut."""
    canal: Word = "canal"
    """Region of the labels behind the discs: it tells where posterior is."""
    nucleus_width_fraction: Fraction = 0.64
    """Width of the nucleus over that of the disc."""
    nucleus_depth_fraction: Fraction = 0.64
    """Depth, from front to back, of the nucleus over that of the disc."""
    nucleus_height_fraction: float = Field(1.0, gt=0, le=5)
    """Height of the nucleus over that of the disc, at its centre; above 1 the endplates cut it flat."""
    nucleus_offset_fraction: float = Field(0.025, ge=-0.25, le=0.25)
    """How far the nucleus' centre lies behind the disc's, over the depth of the disc."""


class Slabs(_Rule):
    """Canal and muscles in slabs at the levels of the discs."""

    regions: Regions = ("canal", "multifidus", "erector_spinae", "psoas_major")
    """Regions to cut; labels that have a level of their own are not cut."""
    disc: Word = "disc"
    """Region of the labels that give the levels."""
    height_mm: float = Field(8.0, gt=0, le=100)
    """Height of a slab, both halves."""
    axis: Literal["disc", "canal"] = "disc"
    """What slabs are perpendicular to: the normal of the disc's plane, or the long axis of the canal."""
    canal: Word = "canal"
    """Region of the labels of the canal, for `axis: canal`."""


class Thirds(_Rule):
    """Structures in equal parts along a bone, from proximal to distal."""

    regions: Regions | Literal["all"] = "all"
    """Regions to cut; `all`: every one but the bone."""
    bone: Word = "femur"
    """Region of the labels along whose long axis parts are counted, on the same side."""
    parts: Annotated[tuple[Word, ...], Field(min_length=1)] = ("proximal", "middle", "distal")
    """Names of the parts."""


class Erosion(_Rule):
    """Structures without their borders, eroded before they are cut."""

    regions: Regions | Literal["all"] = "all"
    """Regions to erode."""
    voxels: int = Field(0, ge=0, le=10)
    """Layers of voxels to take off; 0: none."""
    within: Literal["slice", "space"] = "slice"
    """Neighbours in the plane of the slices, or in all three directions."""


@dataclass(frozen=True)
class Part:
    """A segment of the result: its voxels, or why it has none."""

    segment: Segment
    mask: Mask
    reason: str = ""
    flags: tuple[str, ...] = ()


@dataclass
class Body:
    """The labels of a session: masks of structures by region, side and level."""

    labels: NDArray[np.int32]
    grid: Grid
    table: tuple[Label, ...]
    erosion: Erosion
    context: Context
    landmarks: Mapping[Segment, Floats] = field(default_factory=dict)
    """Root -> point of its dural exit (3,), world mm."""
    taken: set[Segment] = field(default_factory=set)
    """Structures that a rule has cut already."""

    def segments(self) -> list[Segment]:
        """Segment of each label."""
        return [label.segment for label in self.table]

    def mask(self, segments: Sequence[Segment]) -> Mask:
        """Voxels (x, y, z) of all labels of these segments."""
        indices = [label.index for label in self.table if label.segment in segments]
        return np.isin(self.labels, indices)

    def where(self, region: str, side: str | None = None, level: str | None = None) -> Mask:
        """Voxels (x, y, z) of a region, of one side and level where they are given, whatever the part."""
        return self.mask(
            [
                one.segment
                for one in self.table
                if one.segment.region == region
                and side in (None, one.segment.side)
                and level in (None, one.segment.level)
            ]
        )

    def whole(
        self, regions: Regions | Literal["all"], but: Regions = (), *, with_level: bool = True
    ) -> list[Segment]:
        """Segments of the table, each once, that are not parts already; they count as cut from here on."""
        found = [
            one.segment
            for one in self.table
            if not one.segment.segment
            and one.segment not in self.taken
            and one.segment.region not in but
            and (with_level or not one.segment.level)
            and (regions == "all" or one.segment.region in regions)
        ]
        self.taken.update(found)
        return list(dict.fromkeys(found))

    def eroded(self, segment: Segment) -> tuple[Mask, str]:
        """Voxels of a structure after erosion, and why there are none."""
        mask, rule = self.mask([segment]), self.erosion
        if rule.voxels == 0 or not (rule.regions == "all" or segment.region in rule.regions):
            return mask, "" if mask.any() else "no voxel of its label in the label image"
        axes = (0, 1, 2)
        if rule.within == "slice":
            axes = tuple(a for a in axes if a != cutting.slice_axis(self.grid))  # type: ignore[assignment]
        left = cutting.erode(mask, rule.voxels, axes)
        if left.any():
            return left, ""
        if not mask.any():
            return left, "no voxel of its label in the label image"
        return left, f"none of its {int(mask.sum())} voxels is left after eroding {rule.voxels} voxel(s)"


def cut_roots(body: Body, rule: Roots) -> Iterator[Part]:
    """Zones of every root that is one label."""
    roots = [one for one in body.segments() if one.region in (*rule.regions, rule.ganglion)]
    canal = Canal(body.where(rule.canal), body.grid, rule.canal_close_mm, body.mask(roots))
    for root in body.whole(rule.regions):
        mask, reason = body.eroded(root)
        if reason:
            yield from _empty(body, root, [zone.name for zone in rule.zones], reason)
            continue
        ganglion = body.where(rule.ganglion, root.side, root.level)
        whole = body.mask([root]) | ganglion
        if ganglion.any():
            _use_ganglion(body, rule, root)
        try:
            line = root_line(whole, canal, body.landmarks.get(root), rule)
        except NoCentreline as error:
            yield from _empty(body, root, [zone.name for zone in rule.zones], str(error))
            continue
        index = np.argwhere(mask | ganglion)
        s, _ = line.project(points_of(mask | ganglion, body.grid))
        in_ganglion = ganglion[tuple(index.T)]
        zones = _around_ganglion(rule, s[in_ganglion]) if in_ganglion.any() else rule.zones
        for zone in zones:
            here = (s >= zone.from_mm) & (s < zone.to_mm)
            if in_ganglion.any():
                here = (here & ~in_ganglion) | (in_ganglion & (zone.name == rule.ganglion_zone))
            reason = (
                ""
                if here.any()
                else (
                    f"the label holds nothing between {zone.from_mm:g} and {zone.to_mm:g} mm from the dural "
                    f"exit: it reaches from {s.min():.1f} to {s.max():.1f} mm"
                )
            )
            yield Part(replace(root, segment=zone.name), _mask_at(mask.shape, index[here]), reason)


def _around_ganglion(rule: Roots, s: Floats) -> tuple[Zone, ...]:
    """The zones, that of the ganglion where its voxels lie, at arc lengths `s`, its neighbours beside it."""
    names = [zone.name for zone in rule.zones]
    if rule.ganglion_zone not in names:
        return rule.zones
    k = names.index(rule.ganglion_zone)
    # A voxel is as long as the outermost tenth of them: single voxels do not move the border.
    low, high = (float(q) for q in np.quantile(s, (0.02, 0.98)))
    return tuple(
        Zone(
            name=zone.name,
            from_mm=low
            if n == k
            else high
            if n == k + 1
            else min(zone.from_mm, low - 1e-3)
            if n < k
            else zone.from_mm,
            to_mm=high
            if n == k
            else low
            if n == k - 1
            else max(zone.to_mm, high + 1e-3)
            if n > k
            else zone.to_mm,
        )
        for n, zone in enumerate(rule.zones)
    )


def cut_discs(body: Body, rule: Discs) -> Iterator[Part]:
    """Nucleus, anterior and posterior annulus of every disc that is one label."""
    names = ("np", "af_anterior", "af_posterior")
    canal = points_of(body.where(rule.canal), body.grid)
    fractions = np.array(
        [rule.nucleus_width_fraction, rule.nucleus_depth_fraction, rule.nucleus_height_fraction]
    )
    for disc in body.whole((rule.region,)):
        mask, reason = body.eroded(disc)
        points = points_of(body.mask([disc]), body.grid)
        if not reason and not len(canal):
            reason = f"no label of {rule.canal} that tells where posterior is"
        try:
            frame = None if reason else cutting.disc_frame(points, _beside(canal, points))
        except ValueError as error:
            reason = str(error)
        if reason or frame is None:
            yield from _empty(body, disc, names, reason)
            continue
        index, at = np.argwhere(mask), points_of(mask, body.grid)
        nucleus = cutting.in_nucleus(at, frame, fractions, rule.nucleus_offset_fraction)
        front = cutting.is_anterior(at, frame, rule.nucleus_offset_fraction)
        for name, here in zip(names, (nucleus, ~nucleus & front, ~nucleus & ~front), strict=True):
            why = "" if here.any() else f"the disc's {len(at)} voxels leave none for this part"
            yield Part(replace(disc, segment=name), _mask_at(mask.shape, index[here]), why)


def _beside(canal: Floats, disc: Floats) -> Floats:
    """Centre (3,) of the voxels of the canal in the plane of the disc, or of those nearest to it."""
    centre, normal = cutting.plane_of(disc)
    height = np.abs((canal - centre) @ normal)
    return np.asarray(canal[height <= max(3.0, float(height.min()) + 3.0)].mean(0))


def cut_slabs(body: Body, rule: Slabs) -> Iterator[Part]:
    """A slab of every structure without a level at each disc."""
    names = list(dict.fromkeys(s.level for s in body.segments() if s.region == rule.disc and s.level))
    planes = {}
    for level in names:
        points = points_of(body.where(rule.disc, level=level), body.grid)
        if len(points) >= 4:
            planes[level] = cutting.plane_of(points)
    if rule.axis == "canal":
        canal = points_of(body.where(rule.canal), body.grid)
        axis = cutting.long_axis(canal) if len(canal) >= 4 else None
        planes = {} if axis is None else {level: (centre, axis) for level, (centre, _) in planes.items()}
    centres = np.array([centre for centre, _ in planes.values()]).reshape(-1, 3)
    normals = np.array([normal for _, normal in planes.values()]).reshape(-1, 3)
    for whole in body.whole(rule.regions, with_level=False):
        mask, reason = body.eroded(whole)
        index, at = np.argwhere(mask), points_of(mask, body.grid)
        slab = cutting.slab_of(at, centres, normals, rule.height_mm) if planes else np.full(len(at), -1)
        if not names:
            yield Part(whole, np.zeros_like(mask), f"no label of a {rule.disc} with a level")
        for level in names:
            here = slab == list(planes).index(level) if level in planes else np.zeros(len(at), np.bool_)
            why = reason
            if not why and level not in planes:
                why = f"the {rule.disc} of this level has too few voxels, or there is no {rule.canal}"
            elif not why and not here.any():
                why = f"the label does not reach the slab of {rule.height_mm:g} mm at this level"
            yield Part(replace(whole, level=level), _mask_at(mask.shape, index[here]), why)


def cut_thirds(body: Body, rule: Thirds) -> Iterator[Part]:
    """Parts of every structure along the bone of its side, or along the field where it has no label."""
    for whole in body.whole(rule.regions, but=(rule.bone,)):
        mask, reason = body.eroded(whole)
        axis, low, high, voxel_axis = _along_bone(body, rule, whole.side)
        uncut = body.mask([whole])
        flags = ("clipped",) if cutting.touches_end(uncut, voxel_axis) else ()
        index = np.argwhere(mask)
        part = cutting.bin_from_top(points_of(mask, body.grid) @ axis, low, high, len(rule.parts))
        for number, name in enumerate(rule.parts):
            here = part == number
            why = reason or ("" if here.any() else f"the label does not reach the {name} part")
            yield Part(replace(whole, segment=name), _mask_at(mask.shape, index[here]), why, flags)


def _along_bone(body: Body, rule: Thirds, side: str) -> tuple[Floats, float, float, int]:
    """Superior axis (3,), the heights of its ends, and the voxel axis nearest to it, for one side."""
    grid = body.grid
    bone = body.where(rule.bone, side)
    what = f"axis of {rule.bone} {side}".strip()
    if bone.sum() >= 4:
        points = points_of(bone, grid)
        axis = cutting.long_axis(points)
        voxel_axis = int(np.abs(grid.axes.T @ axis).argmax())
        half = 0.5 * grid.voxel_mm[voxel_axis]
        low, high = float((points @ axis).min() - half), float((points @ axis).max() + half)
        seen = "as far as the field shows it" if cutting.touches_end(bone, voxel_axis) else "whole"
        value, reason = _round(axis), f"first principal axis of its label; {high - low:.0f} mm, {seen}"
    else:
        voxel_axis = int(np.abs(grid.axes[2]).argmax())
        axis = grid.axes[:, voxel_axis] * np.sign(grid.axes[2, voxel_axis] or 1.0)
        ends = [
            grid.affine[:3, 3] @ axis + k * (grid.affine[:3, voxel_axis] @ axis)
            for k in (-0.5, grid.shape[voxel_axis] - 0.5)
        ]
        low, high = float(min(ends)), float(max(ends))
        value, reason = (
            _round(axis),
            f"no label of {rule.bone}: the long axis of the field, {high - low:.0f} mm",
        )
    if what not in {fact.name for fact in body.context.facts}:
        body.context.infer(what, value, reason)
    return axis, low, high, voxel_axis


def _round(axis: Floats) -> str:
    return " ".join(f"{x:.3f}" for x in axis)


def _use_ganglion(body: Body, rule: Roots, root: Segment) -> None:
    body.taken.add(Segment(rule.ganglion, root.side, root.level))
    what = f"{rule.ganglion_zone} of {root}"
    body.context.infer(what, "the label of its ganglion", f"there is a label of {rule.ganglion}")


def _empty(body: Body, whole: Segment, names: Sequence[str], reason: str) -> Iterator[Part]:
    for name in names:
        yield Part(replace(whole, segment=name), np.zeros(body.labels.shape, np.bool_), reason)


def _mask_at(shape: tuple[int, ...], index: NDArray[np.intp]) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[tuple(index.T)] = True
    return mask
