"""What the suite measures beside the table of contestants: one module a study, one runner for all. See docs/benchmarks.md.

A study is cells, each measured in a fresh process and kept in a state file, and a report that is made from their data.
"""
