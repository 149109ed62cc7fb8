"""Static C programs of a model and nothing else, for figures that Python and its libraries would hide."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker import toolchain
from woodpecker.predicates import canonicalise
from woodpecker.targets import resolve
from woodpecker.tuning.rows import sampled

from .contestants import NO_LOGS

INCLUDE = Path(wp.__file__).parent / "runtime" / "c"
ROWS, LIBRARY = "rows.bin", "model.a"
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "woodpecker.h"
WP_DECLARE_MODEL(the_model);
int main(int argc, char** argv) {
  const wp_model* model = the_model();
  int64_t rows = atol(argv[1]), features = wp_n_features(model);
  size_t scratch_size = wp_scratch_size(model, 1), out_size = (size_t)rows * (size_t)wp_n_outputs(model) * 8;
  float* X = malloc((size_t)(rows * features) * sizeof *X);
  void *scratch = malloc(scratch_size), *out = malloc(out_size);
  FILE* file = fopen(argv[2], "rb");
  size_t values = (size_t)(rows * features);
  char line[256];
  int status;
  if (!file || fread(X, sizeof *X, values, file) != values) return 99;
  status = (int)wp_predict_raw_f32(model, X, rows, features, out, out_size, scratch, scratch_size, 1);
  if (argc == 3 || status != 0) return status;
  printf("scratch: %zu\\n", scratch_size);
  file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, "VmHWM:", 6)) fputs(line, stdout);
  return 0;
}
"""


def read(path: Path) -> wp.Forest:
    """A model file, or a scikit-learn model that the suite has pickled: load your own only.

    Raises:
        UnsupportedModelError, ModelFormatError, ...: see `woodpecker.from_model`. OSError: it can't be read.
    """
    return wp.from_model(pickle.loads(path.read_bytes()) if path.suffix == ".pkl" else path)


def build(forest: wp.Forest, target: Any, folder: Path, n_rows: int, **options: Any) -> Path:
    """A stripped program, and ``n_rows`` float32 rows for it beside it, in the file ROWS.

    ``program ROWS FILE`` predicts so many of the file's rows in one call; with a third argument it prints its scratch
    in bytes and the peak of its memory (VmHWM).

    Args:
        forest: The model.
        target: What to compile for; its C library should be musl, whose programs link statically.
        folder: For the program.
        n_rows: Rows, along the paths of the forest.
        **options: Of `woodpecker.compile`.

    Raises:
        StrategyError: the strategy can't serve the forest. TargetError, MissingExtraError: see `woodpecker.compile`.
    """
    sampled(canonicalise(forest), n_rows, 0, "float32").astype(np.float32).tofile(folder / ROWS)
    wp.compile(forest, target=target, tuning_logs=NO_LOGS, **options).save(folder / LIBRARY, symbol="the_model")
    (folder / "main.c").write_text(SOURCE)
    tools = toolchain.find(resolve(target).platform)
    tools.run(["-O2", "-static", "-s", f"-I{INCLUDE}", "main.c", LIBRARY, "-o", "program", "-lm"], folder, "program")
    return folder / "program"
