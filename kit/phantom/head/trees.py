"""Vessel trees: where fluid lets vessels run, how they branch on their way through it, and how tubes become voxels.

Vessels of the brain's surface lie in the fluid of fissures and sulci. A tree is grown as the shortest ways through this
fluid from many ends back to a few roots, over ground that is uneven at random: ways meet and go on together, as veins
do. Radii follow Murray's law (1926, PNAS 12:207): at a branching, the cube of the trunk's radius is the sum of the
cubes of the branches' radii.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import ndimage, sparse, spatial
from scipy.sparse import csgraph
from torch.nn import functional as F

VENTRICLES = 5  # the number of `kit.phantom.head.template.REGIONS`
UNEVEN = 0.9  # s.d. of the logarithm of the ground's cost: what makes ways wind, and meet
POINT_MM = 0.6  # distance of the points that a tube is drawn at


@dataclass(frozen=True)
class Ground:
    """Where vessels may run, in template voxels (1 mm). Nodes are blocks of 2 x 2 x 2 voxels that hold enough fluid."""

    outside: np.ndarray  # (slice, row, column) float32: distance from the cranial cavity, mm, negative inside
    nodes: np.ndarray  # (n, 3) float32: centroid of a block's fluid
    fluid: np.ndarray  # (n,) float32: its fraction
    region: np.ndarray  # (n,) uint8: the region nearest to it
    depth: np.ndarray  # (n,) float32: below the inner table, mm
    edges: np.ndarray  # (e, 2): neighbouring nodes
    lengths: np.ndarray  # (e,) float32, mm
    near: spatial.cKDTree  # of the nodes


@dataclass(frozen=True)
class Tree:
    """Branches of one kind of vessel: n points in template voxels, each with the way back to its root."""

    points: np.ndarray  # (n, 3)
    parent: np.ndarray  # (n,) index of the next point towards the root; a root is its own
    radius: np.ndarray  # (n,) mm, of the piece from the point to its parent


@cache
def ground(maps, region, coarse):
    """Find out where vessels may run.

    Parameters
    ----------
    maps, region, coarse : torch.Tensor
        Of `kit.phantom.head.template.Template`.

    Returns
    -------
    Ground
    """
    region = region[0].numpy().astype(np.uint8)
    size = {"size": region.shape, "mode": "trilinear", "align_corners": True}
    outside = F.interpolate(coarse[None, :1], **size)[0, 0].numpy()
    fluid = np.clip(1 - maps[0].numpy() - maps[1].numpy(), 0, 1) * (outside < -0.5) * (region != VENTRICLES)
    nodes, share, ids = _blocks(fluid)
    edges, kept = _connected(_edges(ids), len(nodes))
    nodes, share = nodes[kept], share[kept]
    steps = nodes[edges[:, 0]] - nodes[edges[:, 1]]
    nearest = ndimage.distance_transform_edt(region == 0, return_distances=False, return_indices=True)
    regions = region[tuple(n[tuple(nodes.round().astype(int).T)] for n in nearest)]
    lengths = np.sqrt((steps**2).sum(1))
    depth = -outside[tuple(nodes.round().astype(int).T)]
    return Ground(outside, nodes, share, regions, depth, edges, lengths, spatial.cKDTree(nodes))


def _blocks(fluid, least=0.14):
    """Centroids and fractions of the fluid in blocks of 2 x 2 x 2, and each block's number, -1 without enough of it."""
    even = fluid[tuple(slice(0, n - n % 2) for n in fluid.shape)]
    a, b, c = (n // 2 for n in even.shape)
    cells = even.reshape(a, 2, b, 2, c, 2)
    share = cells.mean((1, 3, 5))
    ids = np.full(share.shape, -1)
    kept = share > least
    ids[kept] = np.arange(kept.sum())
    place = np.argwhere(kept) * 2.0 + 0.5
    for axis, one in enumerate((1, 3, 5)):
        halves = cells.mean(tuple({1, 3, 5} - {one}))
        low, high = (np.take(halves, half, axis=axis + 1)[kept] for half in (0, 1))
        place[:, axis] += 0.5 * (high - low) / (high + low)
    return place.astype(np.float32), share[kept].astype(np.float32), ids


def _edges(ids):
    """Pairs of neighbours among numbered blocks (26-connected): (e, 2)."""
    padded = np.pad(ids, 1, constant_values=-1)
    pairs = []
    for step in product((-1, 0, 1), repeat=3):
        if step > (0, 0, 0):
            other = padded[tuple(slice(1 + s, n + 1 + s) for s, n in zip(step, ids.shape, strict=True))]
            both = (ids >= 0) & (other >= 0)
            pairs.append(np.stack([ids[both], other[both]], axis=1))
    return np.concatenate(pairs)


def _connected(edges, n):
    """The edges of the largest connected part of n nodes, numbered anew, and which nodes that is."""
    a, b = edges.T
    _, part = csgraph.connected_components(sparse.csr_array((np.ones(len(a), bool), (a, b)), shape=(n, n)), False)
    kept = part == np.bincount(part).argmax()
    number = np.cumsum(kept) - 1
    return number[edges[kept[a]]], kept


# ---------------------------------------------------------------------------------------------------------- growing


def grow(ground, roots, leaves, leaf_mm, rng):
    """Grow the tree that joins leaves to the nearest of some roots.

    Parameters
    ----------
    ground : Ground
    roots : (r, 3) array
        Template voxels on larger vessels that branches leave.
    leaves : (n,) int array
        Nodes of the ground.
    leaf_mm : (n,) array
        Radius of the branches that end there.
    rng : numpy.random.Generator

    Returns
    -------
    Tree
    """
    _, starts = ground.near.query(roots)
    parents = _ways_back(ground, np.unique(starts), rng)
    used, parent, flow = _flow(parents, leaves, leaf_mm)
    points = ground.nodes[used].astype(np.float64)
    is_root = parent == np.arange(len(used))
    points += rng.normal(0, 0.4, points.shape)
    points = _smoothed(points, parent, is_root)
    trunk = dict(zip(starts.tolist(), roots, strict=True))
    points[is_root] = [trunk[node] for node in used[is_root].tolist()]
    return Tree(points, parent, np.cbrt(flow))


def _ways_back(ground, starts, rng):
    """For each node the next one on its way to the nearest start (-9999 at starts and where there is no way)."""
    cost = np.exp(UNEVEN * rng.standard_normal(len(ground.nodes))) / (ground.fluid + 0.1)
    a, b = ground.edges.T
    weights = ground.lengths * (cost[a] + cost[b])
    graph = sparse.csr_array((weights, (a, b)), shape=(len(cost),) * 2)
    return csgraph.dijkstra(graph, False, starts, return_predecessors=True, min_only=True)[1]


def _flow(parents, leaves, leaf_mm):
    """The nodes on the ways from the leaves, their parents among them, and the sum of the cubed radii behind each."""
    order, place, flow = [], {}, {}
    for leaf, radius in zip(leaves.tolist(), leaf_mm.tolist(), strict=True):
        node = leaf
        while node >= 0:
            if node not in place:
                place[node] = len(order)
                order.append(node)
            flow[node] = flow.get(node, 0.0) + radius**3
            node = int(parents[node])
    parent = [place.get(int(parents[node]), at) for at, node in enumerate(order)]
    return np.array(order), np.array(parent), np.array([flow[node] for node in order])


def _smoothed(points, parent, is_root, times=2):
    """Points drawn to the middle of their neighbours along the tree: nodes lie on a grid, vessels do not."""
    child = np.flatnonzero(~is_root)
    for _ in range(times):
        total = points[parent].copy()
        count = np.ones(len(points))
        np.add.at(total, parent[child], points[child])
        np.add.at(count, parent[child], 1)
        points = 0.4 * points + 0.6 * total / count[:, None]
    return points


def to_fluid(points, ground, times=3):
    """Move the points of a line (n, 3) to the middle of the fluid around them, and smooth the line; its ends stay."""
    for _ in range(times):
        away, near = ground.near.query(points, k=12, distance_upper_bound=5)
        near = np.minimum(near, len(ground.nodes) - 1)
        weight = np.where(np.isfinite(away), ground.fluid[near] ** 2 * np.exp(-((away / 2.5) ** 2)), 0) + 1e-9
        middle = (weight[..., None] * ground.nodes[near]).sum(1) / weight.sum(1, keepdims=True)
        middle[~np.isfinite(away[:, 0])] = points[~np.isfinite(away[:, 0])]
        points[1:-1] = 0.4 * points[1:-1] + 0.4 * middle[1:-1] + 0.1 * (points[:-2] + points[2:])
    return points


# ---------------------------------------------------------------------------------------------------------- drawing


def resampled(points, step):
    """A polyline (n, 3) at equal steps: (m, 3)."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(int(along[-1] / step), 2))
    return np.stack([np.interp(at, along, p) for p in points.T], axis=1)


def along(tree):
    """The points to draw a tree at and their radii: (m, 3) and (m,)."""
    child = np.flatnonzero(tree.parent != np.arange(len(tree.parent)))
    first, last = tree.points[child], tree.points[tree.parent[child]]
    share = np.linspace(0, 1, 5)[:-1, None, None]
    points = (first + share * (last - first)).reshape(-1, 3)
    return points, np.tile(tree.radius[child], len(share))


def draw_tubes(shape, points, radii, contrast):
    """How much of each voxel tubes fill, and the contrast they bring: two volumes of a shape, float32.

    Parameters
    ----------
    shape : tuple of three int
    points : (n, 3) array
        Points along all tubes, POINT_MM apart or less, in voxels of 1 mm.
    radii, contrast : (n,) arrays
        Radius in mm, and contrast of the blood with white matter, at each point.

    Notes
    -----
    A tube's cover, summed over its section, is the section's area: a vessel thinner than a voxel fills it in part.
    """
    cover, signal = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    reaches = np.ceil(np.maximum(radii, 0.5) + 0.2).astype(int)
    for reach in np.unique(reaches):
        here = reaches == reach
        offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        offsets = offsets[(offsets**2).sum(1) <= (reach + 1) ** 2]
        nearest = np.round(points[here]).astype(np.int32)
        off = (nearest - points[here]).astype(np.float32)
        away = np.sqrt(sum((off[:, axis, None] + offsets[:, axis].astype(np.float32)) ** 2 for axis in range(3)))
        soft, share = _soft(radii[here])
        part = np.clip(soft[:, None] + 0.5 - away, 0, 1) * share[:, None]
        voxels = nearest[:, None] + offsets
        keep = (part > 0) & np.all((voxels >= 0) & (voxels < shape), axis=2)
        flat = np.ravel_multi_index(tuple(voxels[keep].T), shape)
        part = part[keep].astype(np.float32)
        np.maximum.at(cover.ravel(), flat, part)
        value = np.broadcast_to(contrast[here, None], keep.shape)[keep]
        np.maximum.at(signal.ravel(), flat, part * value.astype(np.float32))
    return cover, signal


def _soft(radius):
    """The radius at half height and the height of a tube with an edge 1 mm wide, its section pi radius^2 in sum."""
    return np.sqrt(np.maximum(radius**2 - 1 / 12, 0.25)), np.minimum(3 * radius**2, 1)
