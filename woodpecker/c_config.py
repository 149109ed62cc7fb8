"""config.h: what the C sources of an artifact (``runtime/c``) have to know of its model.

It is made from the manifest alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .c_names import in_c_library
from .errors import InputError

ANY_MODEL = "woodpecker_model"
"""The function of every shared library that returns its model in C."""

STATIC_SUFFIXES = (".a", ".lib")
"""How the names of static libraries end."""

# The words of C and C++ that a function can't be named.
_KEYWORDS = re.compile(
    "alignas|alignof|and|and_eq|asm|auto|bitand|bitor|bool|break|case|catch|char|class|compl|concept|const|consteval|"
    "constexpr|constinit|const_cast|continue|co_await|co_return|co_yield|decltype|default|delete|do|double|dynamic_cast|"
    "else|enum|explicit|export|extern|false|float|for|friend|goto|if|inline|int|long|main|mutable|namespace|new|noexcept|"
    "not|not_eq|nullptr|operator|or|or_eq|private|protected|public|register|reinterpret_cast|requires|restrict|return|"
    "short|signed|sizeof|static|static_assert|static_cast|struct|switch|template|this|thread_local|throw|true|try|"
    "typedef|typeid|typename|typeof|typeof_unqual|union|unsigned|using|virtual|void|volatile|wchar_t|while|xor|xor_eq"
)


def getter(prefix: str) -> str:
    """The C function that returns the model of this prefix; no two models share it."""
    return f"wp_model_{prefix.removeprefix('wp_')}"


def check_symbol(symbol: Any) -> str | None:
    """A name that a caller wants for that function.

    Raises:
        InputError: it is no name that C and C++ programs may use, or one of the C library or of woodpecker's own.
    """
    if symbol is None:
        return None
    named = isinstance(symbol, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", symbol, re.ASCII) is not None
    # What headers define as macros has no small letter.
    if not named or "__" in symbol or symbol == symbol.upper() or _KEYWORDS.fullmatch(symbol):
        raise InputError(
            "symbol must be a name of C: a letter, then up to 62 letters, digits and single underscores, and a small "
            f"letter among them; found {symbol!r}"
        )
    if symbol.startswith(("wp_", "TVMFFI")) or symbol == ANY_MODEL:
        raise InputError(f"the symbol {symbol!r} is one that woodpecker uses itself: choose another name")
    if in_c_library(symbol):
        raise InputError(
            f"the symbol {symbol!r} is a name of the C library, whose function it would replace in the program: choose "
            f"another name, such as '{symbol[:57]}_model'"
        )
    return str(symbol)


def check_format(format: Any, path: Path) -> str:
    """ "shared" or "static"; None decides by the path's suffix.

    Raises:
        InputError: it is neither.
    """
    if format is None:
        return "static" if path.suffix in STATIC_SUFFIXES else "shared"
    if format not in ("shared", "static"):
        raise InputError(f"format must be 'shared', 'static' or None, found {format!r}")
    return str(format)


def version_script(prefix: str, symbol: str | None) -> str:
    """A linker's list of the symbols that a shared library exports."""
    names = [f"__tvm_ffi_{prefix}_*", getter(prefix), ANY_MODEL, *([symbol] if symbol else [])]
    return f"{{ global: {' '.join(f'{name};' for name in names)} local: *; }};\n"


def config(
    manifest: Mapping[str, Any], blob_bytes: int, *, shared: bool, symbol: str | None = None, blob: str = "model.bin"
) -> str:
    """The text of config.h.

    Args:
        manifest: See `woodpecker.manifest`.
        blob_bytes: Bytes of the model blob.
        shared: For a shared library, which has entries for tvm-ffi too; else for a static one.
        symbol: A further name of the function that returns the model.
        blob: The file that holds the blob.
    """
    from .manifest import FEW, TERMS  # with TVM, which `getter` does not need

    prefix, levels = manifest["prefix"], manifest["levels"]
    kernels = [
        f"({name},{level['suffix']},{level['row_block']},{level['scratch_bytes']})"
        for level in levels
        for name in manifest["entries"]
    ]
    # Shared out in single groups of trees. The C interface shares rows only.
    terms = [
        f"({name},{level['suffix']},1,{level['scratch_bytes']})"
        for level in levels
        for name in (TERMS if shared and level["terms"] else ())
    ]
    few = [
        f"({name if level['few_rows'] else raw},{level['suffix']},{level['few_rows']})"
        for level in levels
        for name, raw in zip(FEW, manifest["entries"], strict=False)
    ]
    getters = [getter(prefix), *([ANY_MODEL] if shared else []), *([symbol] if symbol else [])]
    groups, methods = _methods(manifest)
    lines = [
        f"#define WP_PREFIX {prefix}",
        f"#define WP_BLOB {_text(blob)}",
        f"#define WP_BLOB_BYTES {blob_bytes}",
        *(["#define WP_SHARED"] if shared else []),
        f"#define WP_ACC {'float' if manifest['acc_dtype'] == 'float32' else 'double'}",
        f"#define WP_N_FEATURES {manifest['input']['n_features']}",
        f"#define WP_N_OUTPUTS {manifest['n_outputs']}",
        f"#define WP_N_TREES {manifest['n_trees']}",
        f"#define WP_N_ENTRIES {len(manifest['entries'])}",
        *groups,
        _table("WP_KERNELS", kernels),
        _table("WP_FEW", few),
        _table("WP_TERMS", terms),
        _table("WP_LEVELS", [_level(level["target"]) for level in levels]),
        _table("WP_METHODS", methods),
        _table("WP_GETTERS", [f"({name})" for name in getters]),
    ]
    return "\n".join(lines) + "\n"


def _level(target: Mapping[str, Any]) -> str:
    return f"({_text(target['name'])}, {_text(','.join(target['features']))})"


def _methods(manifest: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Arrays, and rows of WP_METHODS, which name them. RandomTreesEmbedding's one-hot rows have no form in C."""
    arrays: list[str] = []
    rows: list[str] = []
    for name, method in manifest["methods"].items():
        kind, link, args = method["kind"], method["link"], method["args"]
        if kind == "leaves_onehot":
            continue
        linked = manifest["n_outputs"] if link is None else manifest["links"][link]["width"]
        rule, width, number, groups = "WP_VALUE", linked, args.get("subtract", 0.0), "0"
        if kind in ("value", "outlier"):
            rule, width = "WP_OUTLIER" if kind == "outlier" else rule, args.get("columns", linked)
        elif kind == "proba" and linked == 1 and "groups" not in args:
            rule, width = "WP_BOTH_CLASSES", 2
        elif kind == "indicator":
            rule = "WP_INDICATOR"
        elif kind == "label":
            test = next((key for key in ("above", "at_least") if key in args), None)
            rule = {"above": "WP_LABEL_ABOVE", "at_least": "WP_LABEL_AT_LEAST", None: "WP_LABEL"}[test]
            number, width = args.get(test, 0.0), 1
            if test is None and (linked > 1 or "groups" in args):
                widths = args.get("groups", [linked])
                groups, width = f"wp_groups_{len(arrays)}", len(widths)
                arrays.append(f"static const int32_t {groups}[] = {{{', '.join(map(str, widths))}}};")
        labels = len(manifest["classes"][0]["values"]) if manifest["classes"] else 0
        place = -1 if link is None else link
        rows.append(f"({_text(name)}, {rule}, {place}, {linked}, {width}, {labels}, {groups}, {float(number).hex()})")
    return arrays, rows


def _table(name: str, rows: Sequence[str]) -> str:
    return " \\\n".join([f"#define {name}(M)", *(f"  M{row}" for row in rows)])


def _text(text: str) -> str:
    """A C string literal."""
    return '"' + "".join(chr(c) if 32 <= c < 127 and c not in b'"\\?' else f"\\{c:03o}" for c in text.encode()) + '"'
