"""A tree library that woodpecker has never heard of, compiled: the whole integration is one method.

Run it with ``python examples/third_party_library.py``; it needs ``pip install "woodpecker[compiler]"``.
"""

import numpy as np

import woodpecker as wp


class TinyBoost:
    """The library: gradient boosting of stumps for squared error."""

    def fit(self, X, y, rounds=30, rate=0.3):
        self.n_features, self.base, self.stumps = X.shape[1], float(np.mean(y)), []
        for _ in range(rounds):
            residual, best = y - self.predict(X), None
            for feature in range(X.shape[1]):
                for threshold in np.quantile(X[:, feature], np.linspace(0.05, 0.95, 19)):
                    left = X[:, feature] <= threshold
                    low, high = rate * residual[left].mean(), rate * residual[~left].mean()
                    loss = ((residual - np.where(left, low, high) / rate) ** 2).sum()
                    best = min(best or (np.inf,), (loss, feature, float(threshold), low, high))
            self.stumps.append(best[1:])
        return self

    def predict(self, X):
        total = np.full(len(X), self.base)
        for feature, threshold, low, high in self.stumps:
            total += np.where(X[:, feature] <= threshold, low, high)  # NaN goes right
        return total

    def __woodpecker_forest__(self):
        trees = [
            {"feature": f, "op": "<=", "threshold": t, "missing": "right", "left": {"value": a}, "right": {"value": b}}
            for f, t, a, b in self.stumps
        ]
        return wp.Forest.from_nested(trees, self.n_features, base_score=self.base, input_dtype="float64")


def main():
    """Train, compile, compare: returns how many of 10,000 predictions differ in any bit."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4))
    model = TinyBoost().fit(X, np.sin(2 * X[:, 0]) + (X[:, 1] > 0.3))
    rows = rng.choice([*X[:, 0], np.nan, np.inf, -np.inf, *[t for _, t, _, _ in model.stumps]], (10_000, 4))
    predictor = wp.compile(model)
    unequal = int((predictor.predict(rows).view(np.uint64) != model.predict(rows).view(np.uint64)).sum())
    print(f"{len(model.stumps)} stumps compiled; {unequal} of {len(rows)} predictions differ")
    return unequal


if __name__ == "__main__":
    raise SystemExit(main() != 0)
