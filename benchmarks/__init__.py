"""The benchmark suite: woodpecker beside every other way to run a tree ensemble on a CPU. See docs/benchmarks.md."""
