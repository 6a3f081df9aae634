"""Signed distances, smooth noise and tubes: what the phantom is built of. Lengths in mm."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def smin(a, b, k):
    """Minimum with its corner rounded over k."""
    h = np.maximum(k - np.abs(a - b), 0.0)
    return np.minimum(a, b) - h * h / (4.0 * k)


def norm(u, v, s=0.0):
    """Norm whose unit ball is a circle at s = 0 and a square at s = 1."""
    u2, v2 = u * u, v * v
    w = u2 + v2
    if s == 0.0:
        return np.sqrt(w)
    return np.sqrt(0.5 * (w + np.sqrt(np.maximum(w * w - (4.0 * s * s) * u2 * v2, 0.0))))


def oval(x, y, rx, ry, s=0.0):
    """Signed distance to an oval round the origin, measured along the radius."""
    return norm(x, y) * (1.0 - 1.0 / np.maximum(norm(x / rx, y / ry, s), 1e-3))


def capsule(x, y, x0, y0, x1, y1):
    """Distance to the segment (x0, y0)-(x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return norm(x - x0 - t * dx, y - y0 - t * dy)


def rod(x, y, z, start, end, r0, r1):
    """Signed distance to a tapering rod in space from `start` to `end` (x, y, z), radii r0 to r1."""
    (x0, y0, z0), (dx, dy, dz) = start, (b - a for a, b in zip(start, end, strict=True))
    qx, qy, qz = x - x0, y - y0, z - z0
    t = np.clip((qx * dx + qy * dy + qz * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
    away = (qx - t * dx) ** 2 + (qy - t * dy) ** 2 + (qz - t * dz) ** 2
    return np.sqrt(away) - (r0 + t * (r1 - r0))


def bump(z, low, high):
    """Cross-section radius, 0..1, of a unit ellipsoid that reaches from low to high."""
    t = (2.0 * z - low - high) / (high - low)
    return np.sqrt(np.maximum(1.0 - t * t, 0.0))


def over(hu, distance, value, px):
    """Paint `value` where distance < 0, mixed over one pixel at the edge (partial volume)."""
    hu += np.clip(0.5 - distance / px, 0.0, 1.0) * (value - hu)


def noise(lattice, x, y, z, spacing):
    """Smooth unit-variance noise at the grid z (D,), y (H,), x (W,): cubic B-spline, periodic."""
    for axis, v in enumerate((z, y, x)):
        n = lattice.shape[axis]
        i = np.floor(v / spacing)
        t = v / spacing - i
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        shape = [1, 1, 1]
        shape[axis] = -1
        # Four taps written out: the same sum in the same order on every machine, as BLAS is not.
        lattice = sum(
            np.take(lattice, (i.astype(int) + j - 1) % n, axis)
            * (w / 6).reshape(shape).astype(lattice.dtype)
            for j, w in enumerate(weights)
        )
    return lattice / 0.335


# Tubes are rows (x, y, z, dx, dy, dz, r0, r1): where they start, where they go, both radii.


def _patches(low, high, columns, rows, x0, y0, px):
    """Squares of pixels that hold boxes low..high: (tube numbers, rows (n, s, 1), columns (n, 1, s)).

    Tubes are grouped by the size of their square, so that few large ones cost nothing to the many.
    """
    col = np.floor((low[0] - x0) / px).astype(int)
    row = np.floor((low[1] - y0) / px).astype(int)
    side = np.ceil(np.maximum(*(high - low)) / px).astype(int) + 2
    for s, least in ((6, 0), (9, 6), (14, 9), (24, 14), (48, 24), (1 << 12, 48)):
        these = np.flatnonzero((side > least) & (side <= s))
        if these.size:
            step = np.arange(min(s, side[these].max()))
            yield these, (row[these, None] + step)[:, :, None], (col[these, None] + step)[:, None]


def cut_tubes(tubes, z, x, y):
    """Coverage 0..1 (H, W) of tubes cut at height z, on the grid x (W,), y (H,)."""
    cover = np.zeros(y.size * x.size)
    px = x[1] - x[0]
    wide = np.maximum(tubes[:, 6], tubes[:, 7]) + 0.5 * px
    low = np.minimum(tubes[:, 2], tubes[:, 2] + tubes[:, 5]) - wide
    high = np.maximum(tubes[:, 2], tubes[:, 2] + tubes[:, 5]) + wide
    near = (low < z) & (z < high)
    tubes, wide = tubes[near], wide[near]
    # The part of each tube that can touch this plane.
    dz = np.where(np.abs(tubes[:, 5]) < 1e-6, 1e-6, tubes[:, 5])
    ends = np.clip((z - tubes[:, 2] + np.stack([-wide, wide])) / dz, 0.0, 1.0)
    ends = np.stack([tubes[:, i] + ends * tubes[:, i + 3] for i in (0, 1)])
    patches = _patches(ends.min(1) - wide, ends.max(1) + wide, x.size, y.size, x[0], y[0], px)
    for these, r, c in patches:
        x0, y0, z0, dx, dy, dz, r0, r1 = (v[:, None, None] for v in tubes[these].T)
        qx, qy, qz = x[0] + px * c - x0, y[0] + px * r - y0, z - z0
        f = np.clip((qx * dx + qy * dy + qz * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
        d = np.sqrt((qx - f * dx) ** 2 + (qy - f * dy) ** 2 + (qz - f * dz) ** 2)
        radius = r0 + f * (r1 - r0)
        value = np.clip(0.5 - (d - radius) / px, 0.0, 1.0) * np.minimum(1.0, 2.0 * radius / px)
        value *= (c >= 0) & (c < x.size) & (r >= 0) & (r < y.size)
        hit = value > 0
        np.maximum.at(cover, (r * x.size + c)[hit], value[hit])
    return cover.reshape(y.size, x.size)


def project_tubes(tubes, x, z, weight=1.0):
    """Length in mm (H, W) that rays along y spend in tubes; rows z (H,) from the head down, x (W,).

    `weight` scales each tube, scalar or (n,). Along a ray a tube counts its own length at most.
    """
    path = np.zeros(z.size * x.size)
    px = x[1] - x[0]
    weight = np.broadcast_to(weight, len(tubes))
    wide = np.maximum(tubes[:, 6], tubes[:, 7]) + 0.5 * px
    ends = np.stack([tubes[:, [0, 0]], -tubes[:, [2, 2]]]) + 0.0
    ends[0, :, 1] += tubes[:, 3]
    ends[1, :, 1] -= tubes[:, 5]
    patches = _patches(ends.min(2) - wide, ends.max(2) + wide, x.size, z.size, x[0], -z[0], px)
    for these, r, c in patches:
        x0, _, z0, dx, dy, dz, r0, r1 = (v[:, None, None] for v in tubes[these].T)
        qx, qz = x[0] + px * c - x0, z[0] - px * r - z0
        flat = dx * dx + dz * dz
        f = (qx * dx + qz * dz) / np.maximum(flat, 1e-6)
        along = (np.abs(f - 0.5) <= 0.5) | (flat < r0 * r0)  # no caps: the next tube goes on there
        f = np.clip(f, 0.0, 1.0)
        d2 = (qx - f * dx) ** 2 + (qz - f * dz) ** 2
        radius = r0 + f * (r1 - r0)
        wide_ = np.maximum(radius, 0.5 * px)  # thinner than a pixel: wider, and fainter by as much
        tilt = np.sqrt(1.0 + dy * dy / np.maximum(flat, 1e-6))
        chord = 2.0 * np.sqrt(np.maximum(wide_**2 - d2, 0.0)) * (radius / wide_) ** 2
        value = np.minimum(chord * tilt, np.maximum(chord, np.abs(dy))) * weight[these, None, None]
        value *= along & (c >= 0) & (c < x.size) & (r >= 0) & (r < z.size)
        hit = value != 0
        path += np.bincount((r * x.size + c)[hit], value[hit], path.size)
    return path.reshape(z.size, x.size)


def grow_tree(root, points):
    """Tubes of a vessel tree from `root` to all `points` (n, 3).

    Each point hangs on that neighbour nearer to the root which makes the way there shortest;
    radii follow Murray's law from the number of ends a branch feeds.
    """
    reach = np.linalg.norm(points - root, axis=1)
    order = np.argsort(reach, kind="stable")
    nodes, reach = np.vstack([root, points[order]]), np.r_[0.0, reach[order]]
    gap, near = cKDTree(nodes).query(nodes, k=min(20, len(nodes)))
    cost = gap + 2.0 * (reach[near] + gap - reach[:, None])
    cost[near >= np.arange(len(nodes))[:, None]] = np.inf
    best = np.argmin(cost, axis=1)
    rows = np.arange(len(nodes))
    parent = np.where(np.isfinite(cost[rows, best]), near[rows, best], 0)
    ends = [1] * len(nodes)
    for child in range(len(nodes) - 1, 0, -1):
        ends[parent[child]] += ends[child]
    radius = np.minimum(0.5 * np.array(ends) ** 0.36, 6.0)
    start, r0 = nodes[parent[1:]], np.minimum(radius[parent[1:]], 1.25 * radius[1:])
    return np.column_stack([start, nodes[1:] - start, r0, radius[1:]])
