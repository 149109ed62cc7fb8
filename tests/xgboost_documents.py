"""A small XGBoost model as the document that its files hold, and writers of both formats."""

from __future__ import annotations

import json
import struct
from typing import Any


def tree(number: int = 0) -> dict[str, Any]:
    """A split on a number, below it one on a category, and a pruned pair of nodes.

    0: x0 < 0.5 ? 1 : 2;  2: x1 in {1, 3} ? 6 : 5;  1, 5, 6: leaves;  3, 4: deleted.
    """
    return {
        "id": number,
        "tree_param": {"num_nodes": "7", "num_deleted": "2", "num_feature": "2", "size_leaf_vector": "1"},
        "left_children": [1, -1, 5, -1, -1, -1, -1],
        "right_children": [2, -1, 6, -1, -1, -1, -1],
        "parents": [2147483647, 0, 0, 1, 1, 2, 2],
        "split_indices": [0, 0, 1, 2147483647, 2147483647, 0, 0],
        "split_conditions": [0.5, -1.5, 1e-45, 0.0, 0.0, 0.25, 2.0],
        "default_left": [1, 0, 0, 1, 1, 0, 0],
        "split_type": [0, 0, 1, 0, 0, 0, 0],
        "categories_nodes": [2],
        "categories_segments": [0],
        "categories_sizes": [2],
        "categories": [3, 1],
        "base_weights": [0.0] * 7,
        "loss_changes": [1.0] * 7,
        "sum_hessian": [4.0] * 7,
    }


def document() -> dict[str, Any]:
    model = {
        "gbtree_model_param": {"num_trees": "2", "num_parallel_tree": "1"},
        "iteration_indptr": [0, 1, 2],
        "tree_info": [0, 0],
        "trees": [tree(0), tree(1)],
        "cats": {
            "enc": [{"offsets": [], "values": []}, {"type": 15, "values": [7, 8, 9, 10]}],
            "feature_segments": [0, 0, 4],
            "sorted_idx": [0, 1, 2, 3],
        },
    }
    return {
        "learner": {
            "attributes": {},
            "feature_names": ["a", "b"],
            "feature_types": ["float", "c"],
            "gradient_booster": {"name": "gbtree", "model": model},
            "learner_model_param": {
                "base_score": "[1.25E0]",
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": "2",
                "num_target": "1",
            },
            "objective": {"name": "reg:squarederror"},
        },
        "version": [3, 2, 0],
    }


FLOATS = ("split_conditions", "base_weights", "loss_changes", "sum_hessian", "leaf_weights", "weight_drop")
BYTES = ("default_left", "split_type")


def ubj(value: Any, key: str = "") -> bytes:
    """UBJSON as XGBoost writes it: 64-bit lengths, typed arrays for the nodes of a tree."""
    if isinstance(value, dict):
        return b"{" + b"".join(ubj_text(k) + ubj(v, k) for k, v in value.items()) + b"}"
    if isinstance(value, str):
        return b"S" + ubj_text(value)
    if isinstance(value, list):
        if value and all(type(v) in (int, float) for v in value) and key != "version":
            code, form = ("d", "f") if key in FLOATS else ("U", "B") if key in BYTES else ("l", "i")
            return b"[$" + code.encode() + b"#L" + struct.pack(f">q{len(value)}{form}", len(value), *value)
        return b"[#L" + struct.pack(">q", len(value)) + b"".join(ubj(v) for v in value)
    if value is None or isinstance(value, bool):
        return {None: b"Z", True: b"T", False: b"F"}[value]
    if isinstance(value, float):
        return b"d" + struct.pack(">f", value)
    return b"l" + struct.pack(">i", value)


def ubj_text(text: str) -> bytes:
    return b"L" + struct.pack(">q", len(text.encode())) + text.encode()


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def trees(doc: dict[str, Any]) -> list[dict[str, Any]]:
    return doc["learner"]["gradient_booster"]["model"]["trees"]
