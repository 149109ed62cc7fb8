"""The strategies that there are for CUDA, a module each.

NAME                                    of the strategy
OPTIONS                                 option -> `Option`; all names begin with "cuda_"
FEW                                     the walk whose kernel ``few`` serves a few rows: NAME, if that is a walk, or
                                        None: the cheapest, whose tables then stand in a directory of their own
space(canonical)                        option -> candidates, for tuning
wrong_options(options)                  why it can't have these options, whatever the forest; or None
refusal(canonical, options)             why it can't serve a forest; or None
cycles(canonical, options)              estimated cycles of a multiprocessor for a row of a large batch
lay_out(canonical, options)             all tables, the constant ``threads``, and the places of what a block keeps
launch(layout, kind)                    how a kernel is launched: "raw", "apply", and of a walk "few"
emit(frame, kind)                       its code, into a frame whose tables are open
"""

from __future__ import annotations

from types import ModuleType

from . import cuda_perfect_tree_traversal, cuda_tree_traversal

STRATEGIES: dict[str, ModuleType] = {m.NAME: m for m in (cuda_perfect_tree_traversal, cuda_tree_traversal)}
WALKING = {name: module for name, module in STRATEGIES.items() if name == module.FEW}
