"""Offline auto-tuning: a job measures plans on a device, and leaves records that later compilations use.

    rows ─┐
    Forest ─space→ candidates ─worker→ times, checked bit by bit ─search→ finalists ─paired run→ Record ─append→ log
    log ─lookup→ the plan of a later compile()

A candidate is a plan (`woodpecker.relay_ops.plan`): strategies with their options, and the row counts from which each
serves. Nothing here is imported by `woodpecker.runtime`, and `lookup`, which `compile` uses, imports nothing heavy.
"""
