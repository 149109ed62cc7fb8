"""Forests from nested dictionaries."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import forest as ir
from woodpecker import reference
from woodpecker.errors import InvalidModelError
from woodpecker.nested import from_nested

from .gallery import chain, leaf, member, small, split


class TestNested:
    def test_numbers_nodes_in_preorder(self):
        forest = small()
        assert forest.kind.tolist() == [ir.LEAF, ir.LT, ir.LEAF, ir.IN, ir.LEAF, ir.LEAF]
        assert forest.left.tolist() == [0, 1, 0, 3, 0, 0] and forest.right.tolist() == [0, 2, 0, 4, 0, 0]
        assert forest.leaf_id.tolist() == [0, -1, 1, -1, 3, 4]
        assert forest.set_values.tolist() == [2.0, 5.0] and forest.tree_offset.tolist() == [0, 1, 6]

    def test_scores_as_its_dictionaries_say(self):
        X = np.array([[1.0, 0.0], [2.0, 5.0], [2.0, 3.0], [np.nan, 2.0], [np.nan, np.nan]])
        assert reference.predict_raw(small(), X)[:, 0].tolist() == [1.5, 2.5, 3.5, 2.5, 3.5]
        assert reference.apply(small(), X).tolist() == [[0, 1], [0, 3], [0, 4], [0, 3], [0, 4]]

    def test_own_ids_missing_and_base_score(self):
        tree = split(0, 0.0, leaf(1.0, id=7), leaf(2.0, id=9), op="<=", missing="left", missing_rule="zero")
        forest = from_nested([tree], 1, base_score=10.0, dtype=np.float32)
        X = np.array([[0.0], [np.nan], [-1.0], [1.0], [1e-36]])
        assert reference.apply(forest, X)[:, 0].tolist() == [7, 7, 7, 9, 7]
        assert reference.predict_raw(forest, X).dtype == np.float32
        assert reference.predict_raw(forest, X)[:, 0].tolist() == [11, 11, 11, 12, 11]

    def test_outputs(self):
        assert from_nested([leaf(1.0)] * 3, 1, tree_output=[0, 2, 1]).n_outputs == 3
        assert from_nested([leaf([1.0, 2.0])], 1).n_outputs == 2
        assert from_nested([leaf(1.0)], 1, n_outputs=4, base_score=[1, 2, 3, 4]).base_score.tolist() == [1, 2, 3, 4]
        assert from_nested([], 2).n_trees == 0

    def test_linear_leaves_default_to_their_value(self):
        forest = from_nested([split(0, 0.0, leaf(1.0), leaf(2.0, coef={0: 3.0}))], 1, input_dtype="float64")
        X = np.array([[-1.0], [1.0], [np.nan]])
        assert reference.predict_raw(forest, X)[:, 0].tolist() == [1.0, 5.0, 2.0]

    def test_thousands_of_levels(self):
        assert ir.tree_depth(chain(5000)).tolist() == [5000]

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ([1, 2], "tree 1, node 0: expected a dictionary, found list"),
            (split(0, 0.0, leaf(1.0), None), "tree 1, node 2: expected a dictionary, found NoneType"),
            ({"feature": 0, "op": "<"}, r"tree 1, node 0: keys \['left', 'right'\] are absent"),
            ({"value": 1.0, "colour": 2}, r"unknown keys \['colour'\] in a leaf"),
            (split(0, 0.0, leaf(1.0), leaf(2.0), gain=1), r"unknown keys \['gain'\] in an inner node"),
            (split(0, 0.0, leaf(1.0), leaf(2.0), op=">"), "op must be one of <, <=, in, found '>'"),
            (split(0, 0.0, leaf(1.0), leaf(2.0), missing="both"), "missing must be 'left' or 'right', found 'both'"),
            (split(0, 0.0, leaf(1.0), leaf(2.0), missing_rule="inf"), "missing_rule must be"),
            (split(0, "low", leaf(1.0), leaf(2.0)), "tree 1, node 0: could not convert string to float"),
            (split(0, 0.0, leaf(1.0), leaf(2.0), op="in"), "op 'in' needs 'categories'"),
            ({"feature": 0, "op": "<", "left": leaf(1.0), "right": leaf(2.0)}, "op '<' needs 'threshold'"),
            (split(0, 0.0, leaf(1.0), leaf([1.0, 2.0])), "node 2: leaves must have 1 values each"),
            (leaf("much"), "the value 'much' is no number"),
            (leaf(1.0, id=1.5), "tree 1, node 0: .*float"),
            (leaf(1.0, id="a"), "tree 1, node 0: .*str"),
            (leaf(1.0, const="a"), "tree 1, node 0: could not convert"),
            (leaf(1.0, coef={0.5: 1.0}), "tree 1, node 0: .*float"),
            (leaf(1.0, coef=[1.0]), "tree 1, node 0: "),
            (leaf(10**400), "tree 1, node 0: the value .* is no number"),
            (leaf(1.0, const=10**400), "tree 1, node 0: int too large"),
            (split(0, 10**400, leaf(1.0), leaf(2.0)), "tree 1, node 0: int too large"),
            (leaf(1.0, cover="much"), "tree 1, node 0: could not convert"),
            (split(3, 0.0, leaf(1.0), leaf(2.0)), r"tree 1, node 0: feature out of range \[0, 2\)"),
            (split(0, float("nan"), leaf(1.0), leaf(2.0)), "tree 1, node 0: the threshold is NaN"),
            (leaf(float("nan")), "tree 1, node 0: the leaf value is not finite"),
            (member(0, ["red"], leaf(1.0), leaf(2.0)), "could not convert string to float"),
        ],
    )
    def test_errors_name_the_place(self, tree, message):
        with pytest.raises(InvalidModelError, match=message):
            from_nested([leaf(0.5), tree], 2)

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            (split(0, 0.0, leaf(1.0), leaf(2.0), op=[]), r"op must be one of <, <=, in, found \[\]"),
            ({"value": 1.0, 3: 4, "a": 1}, r"unknown keys \['a', 3\] in a leaf"),
            (split(0, 0.0, leaf(1.0), leaf(2.0)) | {3: 4, "a": 1}, r"unknown keys \['a', 3\] in an inner node"),
            (member(0, [10**400], leaf(1.0), leaf(2.0)), "tree 0, node 0: int too large"),
        ],
    )
    def test_odd_nodes(self, tree, message):
        with pytest.raises(InvalidModelError, match=message):
            from_nested([tree], 2)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"dtype": "zz"}, "data type 'zz' not understood"),
            ({"base_score": {}}, "the numbers do not fit"),
            ({"n_outputs": 1.5}, "the numbers do not fit"),
            ({"n_outputs": "a"}, "the numbers do not fit"),
            ({"n_outputs": 2**40}, "n_outputs must be from 1 to 1048576, found 1099511627776"),
            ({"n_outputs": -1}, "n_outputs must be from 1 to 1048576, found -1"),
            ({"tree_output": ["a"]}, "tree_output must be integers"),
            ({"tree_output": [0.5]}, "tree_output must be integers"),
            ({"tree_output": [True]}, "tree_output must be integers"),
            ({"tree_output": [2**31 - 1]}, r"tree_output must be integers in \[0, 1048576\)"),
            ({"tree_output": [2**40]}, r"tree_output must be integers in \[0, 1048576\)"),
            ({"trees": None}, "trees must be a list of dictionaries, found NoneType"),
            ({"trees": leaf(1.0)}, "trees must be a list of dictionaries, found dict"),
            ({"nonsense": 1}, r"unknown fields \['nonsense'\]; known: category_rule, "),
            ({"kind": 3}, r"unknown fields \['kind'\]"),
        ],
    )
    def test_wrong_arguments(self, fields, message):
        with pytest.raises(InvalidModelError, match=message):
            from_nested(**{"trees": [leaf(1.0)], "n_features": 2, **fields})

    def test_one_dictionary_in_two_places(self):
        shared = split(0, 0.0, leaf(1.0), leaf(2.0))
        with pytest.raises(InvalidModelError, match="the same dictionary stands in two places"):
            from_nested([split(0, 1.0, shared, shared)], 1)
        loop = split(0, 0.0, leaf(1.0), leaf(2.0))
        loop["right"] = loop
        with pytest.raises(InvalidModelError, match="the same dictionary stands in two places"):
            from_nested([loop], 1)
