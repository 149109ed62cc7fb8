"""What the suite measures beside its tables of contestants: a module each, and one runner. See docs/benchmarks.md.

A study is cells, each measured in a fresh process and kept in a state file, and a report that is made from their data.
"""
