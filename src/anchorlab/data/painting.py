"""Painting of the synthetic images: textures, shapes and light; not which objects lie where.

Pictures are float32 (H, W, 3) in 0..255 while they are painted. A texture is a float32 field (H, W) in 0..1,
an outline a list of closed contours (n, 2) of x, y that touch all four sides of the unit square, a mask the
float32 share (h, w) of every pixel that an outline covers. Everything random comes from the generator that is
passed in.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, ...]
"""Height, width."""
Field = NDArray[np.floating]
Generator = np.random.Generator

COVERED = 0.5
"""A pixel belongs to an object when the object covers at least this share of it."""

_SUPERSAMPLING = 4  # masks are drawn this much larger and averaged down: smooth edges, exact shares


def background(size: Size, rng: Generator) -> Field:
    """A textured backdrop (H, W, 3): one coarse texture, one fine texture, uneven light."""
    coarse = _tint(_texture(size, rng), _palette(rng, spread=0.12))
    fine = _clouds(size, rng, octaves=3, finest=2) - 0.5
    light = 0.75 + 0.5 * _clouds(size, rng, octaves=1)
    return (coarse + rng.uniform(10, 50) * fine[..., None]) * light[..., None]


def scatter_clutter(picture: Field, count: int, rng: Generator) -> None:
    """Strew `count` marks that are no objects: lines, speckles, blurred blobs, *empty* outlines of shapes."""
    marks = (_line, _speckles, _blurred_blob, _empty_outline)
    for _ in range(count):
        layer = np.zeros(picture.shape[:2], np.float32)
        marks[rng.integers(len(marks))](layer, rng)
        colour, strength = _palette(rng)[0], rng.uniform(0.3, 0.9)
        x, y, width, height = cv2.boundingRect((layer > 0).astype(np.uint8))
        region = picture[y : y + height, x : x + width]
        region += strength * layer[y : y + height, x : x + width, None] * (colour - region)


def outline(kind: str, rng: Generator) -> list[Field]:
    """A random outline of one of `SHAPES`, stretched to touch all four sides of the unit square."""
    contours = SHAPES[kind](rng)
    low = np.min([contour.min(axis=0) for contour in contours], axis=0)
    high = np.max([contour.max(axis=0) for contour in contours], axis=0)
    return [((contour - low) / (high - low)).astype(np.float32) for contour in contours]


def rasterise(contours: list[Field], size: Size) -> Field:
    """The mask (h, w) of an outline stretched to `size`, cut down to the rows and columns the object reaches.

    A spike's very tip may cover less than `COVERED` of its pixels, so that the mask can be a little smaller
    than `size`; its own size is the object's box.
    """
    height, width = (_SUPERSAMPLING * side for side in size)
    large = np.zeros((height, width), np.uint8)
    corners = [np.rint(contour * (width - 1, height - 1)).astype(np.int32) for contour in contours]
    cv2.fillPoly(large, corners, 255)
    mask = cv2.resize(large, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    rows, columns = (np.flatnonzero((mask >= COVERED).any(axis=axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint_object(picture: Field, mask: Field, corner: tuple[int, int], rng: Generator) -> None:
    """Paint an object with its own texture, shading and shadow; its mask begins at `corner` (row, column)."""
    top, left = corner
    height, width = mask.shape
    if rng.random() < 0.5:
        _cast_shadow(picture, mask, corner, rng)
    region = picture[top : top + height, left : left + width]
    colours = _standing_out(region, rng)
    surface = _tint(_texture(mask.shape, rng), colours) * _shading(mask, rng)[..., None]
    region += mask[..., None] * (surface - region)


def develop(picture: Field, noise: float, rng: Generator) -> NDArray[np.uint8]:
    """What a camera makes of it, uint8 (H, W, 3): a slight blur, then Gaussian `noise` in grey levels."""
    blurred = cv2.GaussianBlur(picture, (0, 0), sigmaX=rng.uniform(0.3, 0.8))
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(blurred + noise * grain, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------- colour and light


def _palette(rng: Generator, spread: float = 0.35) -> Field:
    """Two RGB colours (2, 3) in 0..255 whose hues lie at most `spread` of the colour circle apart."""
    hue = rng.random() + rng.uniform(-spread, spread, size=2) / 2
    saturation, value = rng.uniform(0.1, 0.8, size=2), rng.uniform(0.2, 1.0, size=2)
    hsv = np.stack([360 * (hue % 1.0), saturation, value], axis=-1).astype(np.float32)
    return 255 * cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def _standing_out(region: Field, rng: Generator, contrast: float = 60.0, trials: int = 8) -> Field:
    """A palette whose mean lies `contrast` away from the region's in RGB, or the farthest of a few trials."""
    behind = region.mean(axis=(0, 1))
    best, distance = _palette(rng), -1.0
    for _ in range(trials):
        colours = _palette(rng)
        away = float(np.linalg.norm(colours.mean(axis=0) - behind))
        if away > distance:
            best, distance = colours, away
        if distance >= contrast:
            break
    return best


def _tint(texture: Field, colours: Field) -> Field:
    """(H, W) in 0..1 -> (H, W, 3) between the two colours."""
    return colours[0] + texture[..., None] * (colours[1] - colours[0])


def _shading(mask: Field, rng: Generator) -> Field:
    """Brightness (h, w) around 1: light from one side, and mostly a dark edge or a rounded rim."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = _unit_grid(mask.shape)
    light = 1 + rng.uniform(0.1, 0.35) * ((columns - 0.5) * np.cos(angle) + (rows - 0.5) * np.sin(angle)) * 2
    inside = np.pad((mask >= COVERED).astype(np.uint8), 1)  # the pad makes the mask's own border count as an edge
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rim = rng.choice([1.5, 0.2 * min(mask.shape), np.inf], p=[0.4, 0.4, 0.2])  # a line, a bevel, flat
    dark = 0.0 if np.isinf(rim) else rng.uniform(0.2, 0.6) * np.clip(1 - depth / rim, 0, 1)
    return (light * (1 - dark)).astype(np.float32)


def _cast_shadow(picture: Field, mask: Field, corner: tuple[int, int], rng: Generator) -> None:
    """Darken what lies behind an object: its mask moved a little, and blurred."""
    (top, left), (height, width) = corner, mask.shape
    layer = np.zeros(picture.shape[:2], np.float32)
    layer[top : top + height, left : left + width] = mask
    reach = max(2, round(0.12 * min(height, width)))
    moved = np.column_stack([np.eye(2), rng.integers(-reach, reach + 1, size=2)])
    shade = cv2.GaussianBlur(cv2.warpAffine(layer, moved, layer.shape[::-1]), (0, 0), sigmaX=reach / 2)
    picture *= (1 - rng.uniform(0.2, 0.6) * shade)[..., None]


# --------------------------------------------------------------------------------------------------- textures


def _texture(size: Size, rng: Generator) -> Field:
    """A texture of a random kind."""
    kinds = (_clouds, _gradient, _stripes, _checks, _camouflage, _grain)
    return kinds[rng.integers(len(kinds))](size, rng)


def _clouds(size: Size, rng: Generator, octaves: int = 4, finest: int = 4) -> Field:
    """Noise of several octaves, each half as strong as the next coarser, the finest `finest` pixels wide."""
    height, width = size
    field = np.zeros(size, np.float32)
    for octave in range(octaves):
        cell = finest * 2**octave if octaves > 1 else max(size) // 2
        grid = (height // cell + 2, width // cell + 2)
        noise = rng.random(grid, dtype=np.float32)
        field += 2.0**octave * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return _stretched(field)


def _gradient(size: Size, rng: Generator) -> Field:
    return _stretched(_slope(size, rng))


def _stripes(size: Size, rng: Generator) -> Field:
    """Wavy stripes, soft or hard."""
    period = rng.uniform(4, 24)
    bend = rng.uniform(0, 3) * _clouds(size, rng, octaves=2, finest=16)
    wave = np.sin(2 * np.pi * _slope(size, rng) / period + bend)
    return np.clip(0.5 + rng.uniform(0.4, 2) * wave, 0, 1).astype(np.float32)


def _checks(size: Size, rng: Generator) -> Field:
    """A board of squares at an angle."""
    period, angle = rng.uniform(6, 28), rng.uniform(0, np.pi)
    first, second = (np.sin(2 * np.pi * _slope(size, rng, a) / period) for a in (angle, angle + np.pi / 2))
    return np.clip(0.5 + 3 * first * second, 0, 1).astype(np.float32)


def _camouflage(size: Size, rng: Generator) -> Field:
    """Clouds cut into a few flat levels."""
    levels = rng.integers(2, 5)
    return (np.floor(_clouds(size, rng) * levels) / levels).astype(np.float32)


def _grain(size: Size, rng: Generator) -> Field:
    """Nearly plain: fine noise around one tone."""
    return (rng.random() * 0.7 + 0.3 * rng.random(size, dtype=np.float32)).astype(np.float32)


def _slope(size: Size, rng: Generator, angle: float | None = None) -> Field:
    """Distance in pixels along a direction (random if not given)."""
    angle = rng.uniform(0, 2 * np.pi) if angle is None else angle
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (columns * np.cos(angle) + rows * np.sin(angle)).astype(np.float32)


def _unit_grid(size: Size) -> tuple[Field, Field]:
    """Rows (H, 1) and columns (1, W), each running over 0..1."""
    height, width = size
    rows, columns = np.ogrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return rows.astype(np.float32), columns.astype(np.float32)


def _stretched(field: Field) -> Field:
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


# ----------------------------------------------------------------------------------------------------- shapes


def _ellipse(rng: Generator) -> list[Field]:
    return [_ring_of(np.ones(96), rng)]


def _bar(rng: Generator) -> list[Field]:
    """A rectangle with rounded corners (a superellipse): the shape that fills its box best."""
    angle = _angles(96)
    power = 2 / rng.uniform(4, 10)
    x, y = (np.sign(part) * np.abs(part) ** power for part in (np.cos(angle), np.sin(angle)))
    return [np.stack([x, y], axis=-1)]


def _polygon(rng: Generator) -> list[Field]:
    """Three to seven corners at uneven angles on a circle."""
    corners = int(rng.integers(3, 8))
    angle = _angles(corners) + rng.uniform(0, 2 * np.pi) + rng.uniform(-0.6, 0.6, size=corners) * np.pi / corners
    return [np.stack([np.cos(angle), np.sin(angle)], axis=-1)]


def _star(rng: Generator) -> list[Field]:
    points = int(rng.integers(4, 8))
    return [_ring_of(np.tile([1.0, rng.uniform(0.45, 0.7)], points), rng)]


def _blob(rng: Generator) -> list[Field]:
    """A wobbly closed curve: a circle whose radius is a short random Fourier series."""
    angle = _angles(96)
    waves = [rng.uniform(-0.35, 0.35) / n * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in range(2, 6)]
    return [_ring_of(1 + np.sum(waves, axis=0), rng)]


def _ring(rng: Generator) -> list[Field]:
    """An ellipse with a hole (the fill rule is even-odd)."""
    outer = _ring_of(np.ones(96), rng)
    return [outer, outer * rng.uniform(0.35, 0.65)]


def _cross(rng: Generator) -> list[Field]:
    """Two bars across each other; where they cross and how thick they are is random."""
    centre, half = rng.uniform(0.35, 0.65, size=2), rng.uniform(0.12, 0.22, size=2)
    left, top = centre - half
    right, bottom = centre + half
    x = [left, right, right, 1, 1, right, right, left, left, 0, 0, left]
    y = [0, 0, top, top, bottom, bottom, 1, 1, bottom, bottom, top, top]
    return [np.stack([x, y], axis=-1)]


def _arch(rng: Generator) -> list[Field]:
    """A U of random thickness, open to any of the four sides."""
    t, depth = rng.uniform(0.2, 0.35), rng.uniform(0.25, 0.45)
    x, y = np.array([0, t, t, 1 - t, 1 - t, 1, 1, 0]), np.array([0, 0, 1 - depth, 1 - depth, 0, 0, 1, 1])
    points = np.stack([x, y], axis=-1)
    points = points if rng.random() < 0.5 else 1 - points
    return [points if rng.random() < 0.5 else points[:, ::-1]]


SHAPES: dict[str, Callable[[Generator], list[Field]]] = {
    "ellipse": _ellipse,
    "bar": _bar,
    "polygon": _polygon,
    "star": _star,
    "blob": _blob,
    "ring": _ring,
    "cross": _cross,
    "arch": _arch,
}
"""Kind of object -> its outline before stretching; the names are the categories of the synthetic data."""


def _angles(count: int) -> Field:
    return np.linspace(0, 2 * np.pi, count, endpoint=False).astype(np.float32)


def _ring_of(radii: NDArray, rng: Generator) -> Field:
    """Points (n, 2) around the origin at the given radii, the first in a random direction."""
    angle = _angles(len(radii)) + rng.uniform(0, 2 * np.pi)
    return np.stack([radii * np.cos(angle), radii * np.sin(angle)], axis=-1).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- clutter


def _line(layer: Field, rng: Generator) -> None:
    """A straight or bent line, one to three pixels thick."""
    points = _points_around(layer.shape, rng, count=int(rng.integers(2, 5)), reach=0.4)
    cv2.polylines(layer, [points], isClosed=False, color=1.0, thickness=int(rng.integers(1, 4)), lineType=cv2.LINE_AA)


def _speckles(layer: Field, rng: Generator) -> None:
    """A swarm of dots."""
    for x, y in _points_around(layer.shape, rng, count=int(rng.integers(5, 30)), reach=0.15):
        cv2.circle(layer, (int(x), int(y)), int(rng.integers(1, 3)), 1.0, -1, cv2.LINE_AA)


def _blurred_blob(layer: Field, rng: Generator) -> None:
    """A patch without an edge: what is out of focus is not an object."""
    x, y = _points_around(layer.shape, rng, count=1, reach=0)[0]
    radius = rng.uniform(0.03, 0.12) * max(layer.shape)
    axes = np.maximum(1, radius * rng.uniform(0.6, 1.4, size=2)).astype(int)
    cv2.ellipse(layer, (int(x), int(y)), tuple(axes.tolist()), rng.uniform(0, 180), 0, 360, 1.0, -1)
    cv2.GaussianBlur(layer, (0, 0), sigmaX=0.4 * radius, dst=layer)


def _empty_outline(layer: Field, rng: Generator) -> None:
    """The bare contour of a shape: an object is filled, its contour alone is not."""
    contours = outline(str(rng.choice(list(SHAPES))), rng)
    x, y = _points_around(layer.shape, rng, count=1, reach=0)[0]
    sides = rng.uniform(0.06, 0.3, size=2) * min(layer.shape)
    points = [np.rint((contour - 0.5) * sides + (x, y)).astype(np.int32) for contour in contours]
    cv2.polylines(layer, points, isClosed=True, color=1.0, thickness=1, lineType=cv2.LINE_AA)


def _points_around(size: Size, rng: Generator, count: int, reach: float) -> NDArray[np.int32]:
    """Points (count, 2) of x, y within `reach` (share of the image) of one random place."""
    scale = np.array([size[1], size[0]])
    return ((rng.random(2) + rng.uniform(-reach, reach, size=(count, 2))) * scale).astype(np.int32)
