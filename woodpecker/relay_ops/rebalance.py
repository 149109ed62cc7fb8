"""Trees cut in halves: every tree as a balanced one of the same leaves, whose tests are masks computed from its own.

A leaf number costs a multiplexer for each bit in which the two sides of a node may differ: one a leaf where trees are
balanced, and as many as a leaf number has bits where each node splits off one leaf. But a tree may be cut elsewhere
than at its root. Follow the way from the root to the larger child, to a node whose children lie on different sides of
the cut; what hangs off the way goes to one side or the other, whole. Which side a row is on is one mask more:

    mask = the last node's test; for each node before it, from the last but one up:
        mask = test == (the way goes left there) ? mask : side             # side: 0 or 1, where goes what hangs off

and on each side the way without what went to the other is a tree again, since rows that do not get there may go
anywhere. So the cut can be made where no side has more leaves than half of the numbers, the first such place is taken,
and the sides are cut in their turn. What a cut costs is the length of its mask. Of 500 LightGBM trees of 255 leaves and
up to 31 levels, 672 multiplexers a tree become 433.

The idea of cutting trees in halves, rather than at the root, is that of parallel tree contraction (Miller, Reif, FOCS
1985) and of Brent's formula restructuring (1974), here for few operations instead of few levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..forest import LEAF, node_depth, tree_of_node
from ..predicates import Canonical

MAX_STEPS = 64
"""Nodes on the way to a cut; a tree that needs more is left as it is."""
CHUNK = 2**20
"""Leaf numbers of the trees that are cut at once: bounds the memory."""


@dataclass(frozen=True)
class Cuts:
    """Trees over the nodes of a forest, each inner node once; its test is that of the node, or a mask made by steps.

    Args:
        root: (T,) int64.
        left, right: (N,) int64 children of inner nodes, among all nodes; meaningless at leaves. The left one is where
            the mask is 1.
        owner: (S,) int64: of each step, the node whose mask it belongs to.
        place: (S,) int64: from 0 up among the steps of that node, in the order in which they are computed.
        test: (S,) int64: the node whose test chooses.
        keeps_left: (S,) bool: the mask so far is kept where the test says left, else where it says right.
        side: (S,) int64: 0 or 1, what the mask becomes elsewhere.
    """

    root: np.ndarray
    left: np.ndarray
    right: np.ndarray
    owner: np.ndarray
    place: np.ndarray
    test: np.ndarray
    keeps_left: np.ndarray
    side: np.ndarray


def rebalanced(canonical: Canonical) -> Cuts:
    """The trees cut in halves, but for those of which a half is not found in MAX_STEPS nodes."""
    forest = canonical.forest
    tree = tree_of_node(forest)
    base = forest.tree_offset[:-1][tree]
    left, right = base + forest.left, base + forest.right
    roots = forest.tree_offset[:-1].astype(np.int64)
    work = _Work(left.copy(), right.copy(), _sizes(canonical, left, right), [], [], [])
    at_once = max(1, CHUNK >> canonical.leaf_bits)
    for i in range(0, len(roots), at_once):
        # A part hangs from a place: 2 i and 2 i + 1 are the left and the right one at node i, -1 - t is the top of t.
        parts, hangs = roots[i : i + at_once], -1 - np.arange(i, min(i + at_once, len(roots)))
        while len(parts):
            parts, hangs = _cut(work, parts, hangs)
    stuck = np.zeros(forest.n_trees, bool)
    stuck[tree[_joined(work.stuck, 1)[0]]] = True
    node, hangs = _joined(work.cuts, 2)
    node, hangs = node[~stuck[tree[node]]], hangs[~stuck[tree[node]]]
    root, top, odd = roots.copy(), hangs < 0, hangs % 2 == 1
    root[-1 - hangs[top]] = node[top]
    left[hangs[~top & ~odd] // 2] = node[~top & ~odd]
    right[hangs[~top & odd] // 2] = node[~top & odd]
    steps = _joined(work.steps, 5)
    owner, place, test, keeps_left, side = (column[~stuck[tree[steps[0]]]] for column in steps)
    return Cuts(root, left, right, owner, place, test, keeps_left.astype(bool), side)


@dataclass(frozen=True)
class _Work:
    """Trees while they are cut: arrays that change, and lists that grow.

    Args:
        left, right, size: (N,) int64 children and leaves, of the parts that are left of the trees.
        cuts: (node, where it hangs) arrays: nodes whose test cuts a part, and leaves.
        steps: Arrays of the columns of `Cuts`.
        stuck: Arrays of nodes whose trees are left as they are.
    """

    left: np.ndarray
    right: np.ndarray
    size: np.ndarray
    cuts: list[tuple[np.ndarray, ...]]
    steps: list[tuple[np.ndarray, ...]]
    stuck: list[tuple[np.ndarray, ...]]


def _joined(parts: list[tuple[np.ndarray, ...]], columns: int) -> list[np.ndarray]:
    nothing = np.zeros(0, np.int64)
    return [np.concatenate([nothing, *(part[i] for part in parts)]) for i in range(columns)]


def _sizes(canonical: Canonical, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,) int64 leaves below each node."""
    depth, leaf = node_depth(canonical.forest), canonical.forest.kind == LEAF
    size = leaf.astype(np.int64)
    for d in range(canonical.max_depth - 1, -1, -1):
        level = np.flatnonzero((depth == d) & ~leaf)
        size[level] = size[left[level]] + size[right[level]]
    return size


def _cut(work: _Work, parts: np.ndarray, hangs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut every part, given by its root and where it hangs, in two; what they fall into, likewise."""
    left, right, size = work.left, work.right, work.size
    one = size[parts] == 1
    work.cuts.append((parts[one], hangs[one]))
    parts, hangs = parts[~one], hangs[~one]
    leaves = size[parts]
    half = 2 ** (np.ceil(np.log2(leaves)).astype(np.int64) - 1)
    sums = np.arange(int(half.max(initial=0)) + 1)
    # Down the larger children. ``reachable``: how many leaves what hangs off may bring to the side of the way's end.
    reachable = np.zeros((len(parts), len(sums)), bool)
    reachable[:, 0] = True
    way: list[tuple[np.ndarray, ...]] = []
    who, node = np.arange(len(parts)), parts
    found = np.zeros(len(parts), bool)
    cut, near, far, total = (np.zeros(len(parts), np.int64) for _ in range(4))
    while len(who):
        larger = np.where(size[left[node]] >= size[right[node]], left[node], right[node])
        other = left[node] + right[node] - larger
        least, most = leaves[who] - half[who] - size[larger], half[who] - size[larger]
        fits = reachable & (sums >= least[:, None]) & (sums <= most[:, None])
        done = fits.any(1)
        at = who[done]
        found[at], cut[at], near[at], far[at] = True, node[done], larger[done], other[done]
        total[at] = fits[done].argmax(1)
        stuck = ~done & ((size[larger] == 1) | (len(way) == MAX_STEPS))
        work.stuck.append((node[stuck],))
        on = ~(done | stuck)
        way.append((who[on], node[on], larger[on], other[on], reachable[on]))
        who, node = who[on], larger[on]
        reachable = reachable[on] | _shifted(reachable[on], size[other[on]])
    # Up again: what hangs off goes to the side where it makes the sum.
    near_is_left = left[cut] == near
    place = np.zeros(len(parts), np.int64)
    for step in reversed(way):
        who, node, larger, other, reachable = (column[found[step[0]]] for column in step)
        each = np.arange(len(who))
        rest = total[who] - size[other]
        to_near = (rest >= 0) & reachable[each, np.maximum(rest, 0)] & ~reachable[each, total[who]]
        total[who] = np.where(to_near, rest, total[who])
        end = np.where(to_near, near[who], far[who])
        keeps_left = left[node] == larger
        left[node], right[node] = np.where(keeps_left, end, other), np.where(keeps_left, other, end)
        size[node] = size[end] + size[other]
        near[who], far[who] = np.where(to_near, node, near[who]), np.where(to_near, far[who], node)
        work.steps.append((cut[who], place[who], node, keeps_left, (to_near == near_is_left[who]).astype(np.int64)))
        place[who] += 1
    work.cuts.append((cut[found], hangs[found]))
    cut, near, far, near_is_left = cut[found], near[found], far[found], near_is_left[found]
    return np.concatenate([near, far]), np.concatenate([2 * cut + ~near_is_left, 2 * cut + near_is_left])


def _shifted(reachable: np.ndarray, by: np.ndarray) -> np.ndarray:
    """reachable[i, s - by[i]] at [i, s], False where there is no such."""
    at = np.arange(reachable.shape[1]) - by[:, None]
    return np.take_along_axis(reachable, np.maximum(at, 0), 1) & (at >= 0)
