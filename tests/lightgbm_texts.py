"""LightGBM model texts written by hand, for tests."""

from __future__ import annotations

from typing import Any


def join(values: Any) -> str:
    return " ".join(v if isinstance(v, str) else f"{v:.17g}" for v in values)


def tree_text(i: int, **fields: Any) -> str:
    n = len(fields["leaf_value"])
    fields = {"num_leaves": [n], "num_cat": [0], **fields}
    fields.setdefault("is_linear", [0])
    return f"Tree={i}\n" + "".join(f"{key}={join(value)}\n" for key, value in fields.items()) + "shrinkage=1\n\n\n"


def model_text(trees: list[str], n_features: int = 1, objective: str = "regression", version: str = "v4") -> str:
    header = f"tree\nversion={version}\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\n"
    header += f"max_feature_idx={n_features - 1}\nobjective={objective}\n"
    header += f"feature_names={join(f'Column_{i}' for i in range(n_features))}\n"
    return header + f"feature_infos={join(['none'] * n_features)}\n\n" + "".join(trees) + "end of trees\n"


def stump(i: int, threshold: float, decision_type: int, **fields: Any) -> str:
    return tree_text(
        i,
        split_feature=[0],
        split_gain=[1],
        threshold=[threshold],
        decision_type=[decision_type],
        left_child=[-1],
        right_child=[-2],
        leaf_value=[1 + i, -0.5 * i],
        **fields,
    )


def linear_text() -> str:
    first = tree_text(
        0,
        split_feature=[0, 1],
        threshold=[0.0, 1.0],
        decision_type=[10, 8],
        left_child=[1, -1],
        right_child=[-2, -3],
        leaf_value=[0.1, 0.2, 0.3],
        is_linear=[1],
        leaf_const=[1e-3, 7.0, 1 / 3],
        num_features=[3, 0, 2],
        leaf_features=["2 0 1 ", "", "2 2 "],
        leaf_coeff=["0.1 -3e17 0.7 ", "", "1e-300 2.5 "],
    )
    single = tree_text(
        1,
        leaf_value=[5.0],
        split_feature=[],
        left_child=[],
        right_child=[],
        threshold=[],
        is_linear=[1],
        leaf_const=[0.3],
        num_features=[1],
        leaf_features=["1 "],
        leaf_coeff=["0.1 "],
    )
    return model_text([first, single, stump(2, 0.3, 2)], 3)
