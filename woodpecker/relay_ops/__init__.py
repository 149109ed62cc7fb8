"""The operators of a prediction, free of any target: predicates, strategies, aggregation, links.

The folder's name is the project's plan: Relay was TVM's graph IR until 0.20, and Relax is its successor. What is here
are the graph-level operators that Relay once stood for.

A strategy is a module with the same few functions as its siblings:

    NAME, OPTIONS                   its name, and its options with their defaults and ranges
    TABLE_OPTIONS                   the options that its tables depend on
    applicable(canonical, options)  None, or the reason why it cannot serve this forest; allocates nothing
    choose(canonical, options)      the options with those that were left to the forest
    space(canonical)                option -> the values that tuning tries; may be absent: the defaults alone are tried
    cost(canonical, rows, vectors)  estimated ns per row, for `auto`; see `woodpecker.relay_ops.vectors`
    prepare(canonical, options)     numbers: a `Layout` of numpy tables; and positions, int64: which leaf of the IR each
                                    leaf position of the tables is, -1: none
    forward(...)                    the tensor program as a TE graph: column values (C + 1, n) -> positions (n, T); its
                                    expressions (`step`, `test`) are those of the kernels. The three classics have one
"""
