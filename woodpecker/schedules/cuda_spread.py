"""CUDA kernel of the walks for fewer rows than multiprocessors: several blocks share the trees of a row.

    spread(X, out, scratch, model, ...):        # rows * m blocks: the m blocks of a row have equal runs of trees
        row = block % rows, run = block / rows
        V[c] = column values of the row
        tree t of the run = thread, ..:         term[row, t] = value[leaf position in the tree]     # in scratch
        fence                                   # whoever sees what follows sees the terms
        arrived = counter[row]++, or 0 where it was m - 1
        where arrived == m - 1:                 # all other blocks of the row have been here
            output k = thread, ..:              out[row, k] = (base_score[k] + term[row, 0] + ..) / divisor

so a row's sum is the same sequence of additions as anywhere else. The last block leaves the counter at 0, as the first
launch found it: memory is zeroed once, or before each launch where it is other people's.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops.predicate import Expr
from ..runtime.cuda import COUNTER_BYTES, SHARED_BYTES, Launch
from . import cuda_ptx, cuda_ranks
from .cuda_blocks import fill
from .cuda_sums import add_terms, each_value, store
from .cuda_tir import Frame, register, shared_view, synchronise, variable, view
from .cuda_walks import walk
from .tir import const

ROUNDS = 2
"""Trees that a thread of a lone block walks, one after the other, up to which a row has no more blocks: scratch and the
counter cost a microsecond or two by an estimate, which one walk that is spared does not pay for."""
STAGED = 1024
"""Terms that the threads bring to shared memory together, where those that add them up read them."""
_ARRIVED, _STAGED_AT = 0, 64
_VALUES_AT = _STAGED_AT + 8 * STAGED


def launch(layout: Layout, trees: int) -> Launch:
    """How the kernel is launched: a row has a block for each ``trees`` trees at most; 0: it has one, of "few"."""
    scalars = layout.scalars
    terms, n_trees = scalars["row_values_offset"], scalars["n_trees"]
    nbytes = _VALUES_AT + scalars["row_bytes"] - terms
    worth = trees and n_trees > ROUNDS * trees and nbytes <= SHARED_BYTES
    return Launch(layout.constants["threads"], 1, nbytes, terms, -(-n_trees // trees) if worth else 0)


def emit(frame: Frame) -> None:
    """The code of the kernel, whose grid has as many blocks for one row as for another, and COUNTER_BYTES / 4 rows at
    most."""
    tables, flags, acc = frame.tables, frame.signature.flags, frame.signature.acc_dtype
    n_trees, n_outputs, threads = frame.scalar("n_trees"), frame.scalar("n_outputs"), const(frame.threads)
    rows = register(tirx.Cast("int32", frame.parameters.rows))
    sharing = register(tirx.truncdiv(tirx.Cast("int32", frame.parameters.blocks), rows))
    run = register(tirx.truncdiv(frame.block, rows))
    row = register(tirx.Cast("int64", frame.block - run * rows))
    kept = TB.alloc_buffer((1,), "uint8", scope="shared.dyn").data
    arrived, staged = (
        shared_view(kept, dtype, const(at, "int64")) for dtype, at in (("uint32", _ARRIVED), (acc, _STAGED_AT))
    )
    frame.V = shared_view(kept, cuda_ranks.dtype_of_values(frame), const(_VALUES_AT, "int64"))
    scratch = frame.parameters.scratch
    terms = view(scratch, acc, const(COUNTER_BYTES, "int64") + row * frame.scalar64("row_values_offset"))
    vector = "vector" in flags

    fill(frame, row, const(1))
    each = register(tirx.truncdiv(n_trees + sharing - const(1), sharing))
    begin = register(run * each)
    end = register(tirx.min(begin + each, n_trees))

    def tree(at: Expr) -> None:
        t = register(begin + at)
        (position,) = walk(frame, [t], const(0))

        def keep(k: Expr, value: Expr) -> None:
            cuda_ptx.put(terms, t * n_outputs + k if vector else t, value)

        each_value(frame, t, row, position, keep)

    _mine(frame, end - begin, tree)
    cuda_ptx.fence()
    synchronise()  # the terms of all threads are there
    with TB.If(frame.thread == const(0)), TB.Then():
        counter = view(scratch, "uint32", row * const(4, "int64"))
        before = cuda_ptx.increment(counter, const(0), tirx.Cast("uint32", sharing - const(1)))
        TB.buffer_store(arrived, before, [0])
    synchronise()
    with TB.If(arrived[0] == tirx.Cast("uint32", sharing - const(1))), TB.Then():
        cuda_ptx.fence()

        with TB.serial(0, tirx.truncdiv(n_outputs + threads - const(1), threads)) as i:
            k = register(i * threads + frame.thread)
            sum_ = variable(tables["base_score"][tirx.min(k, n_outputs - const(1))])
            if vector:  # neighbouring threads read neighbouring terms
                with TB.If(k < n_outputs), TB.Then():
                    add_terms(frame, sum_, k, const(0), n_trees, lambda t: cuda_ptx.take(terms, t * n_outputs + k))
            else:
                with TB.serial(0, tirx.truncdiv(n_trees + const(STAGED - 1), const(STAGED))) as piece:
                    first = register(piece * const(STAGED))
                    count = register(tirx.min(n_trees - first, const(STAGED)))
                    _mine(frame, count, lambda j: TB.buffer_store(staged, cuda_ptx.take(terms, first + j), [j]))
                    synchronise()
                    with TB.If(k < n_outputs), TB.Then():
                        add_terms(frame, sum_, k, first, count, lambda j: staged[j])
                    synchronise()  # the next piece overwrites this one
            with TB.If(k < n_outputs), TB.Then():
                store(frame, row, k, sum_[0])


def _mine(frame: Frame, n: Expr, body: Callable[[Expr], None]) -> None:
    """Emit ``body(i)`` for each of n numbers that is the thread's."""
    threads = const(frame.threads)
    with TB.serial(0, tirx.truncdiv(n + threads - const(1), threads)) as i:
        at = register(i * threads + frame.thread)
        with TB.If(at < n), TB.Then():
            body(at)
