"""Building for CUDA: kernels to CUDA C by TVM's code generator, and to cubins and PTX by NVRTC. Needs no GPU.

TVM's own drivers of NVRTC and nvcc pass --use_fast_math, which flushes denormals and fuses; here each flag that keeps
IEEE 754's results is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm.tirx import transform

from .errors import MissingExtraError, TargetError
from .layout import Signature, directory
from .predicates import Canonical
from .runtime.cuda import Code, Launch
from .runtime.format import pack
from .schedules import cuda, cuda_link, cuda_ptx

EXACT = ("--ftz=false", "--fmad=false", "--prec-div=true", "--prec-sqrt=true")
"""Denormals stay, nothing is fused, divisions and square roots are rounded correctly."""


@dataclass(frozen=True)
class Prepared:
    """What the kernels of a forest are made of, and the model that they read.

    Args:
        parts: All numbers, and what code depends on, see `cuda.parts`.
        launches: entry -> how it is launched.
        model: A blob with the parts' tables, a directory each.
    """

    parts: tuple[cuda.Part, ...]
    launches: Mapping[str, Launch]
    model: np.ndarray

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return tuple(part.signature for part in self.parts)


def prepare(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> Prepared:
    """The tables of a forest for a strategy, and how its kernels are launched.

    Args:
        canonical: The forest, which the strategy can serve.
        strategy: A name of `woodpecker.schedules.cuda_strategies`.
        options: All of its options, and "cuda_spread_trees".

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    parts = cuda.parts(canonical, strategy, options)
    model = pack([directory(part.layout, part.signature) for part in parts], {})
    return Prepared(parts, cuda.launches(parts, options["cuda_spread_trees"]), model)


def kernels(
    signatures: Sequence[Signature],
    entries: Sequence[str] = cuda.ENTRIES,
    directories: Sequence[int] = (0, 1),
) -> dict[str, tvm.tirx.PrimFunc]:
    """entry -> its kernel, under that name; ``directories`` are the numbers of the parts' directories."""
    made = {}
    for entry in entries:
        part = cuda.serving(signatures, entry)
        made[entry] = cuda.kernel(signatures[part], entry, entry, directories[part])
    return made


def source(kernels: Mapping[str, tvm.tirx.PrimFunc], arch: str) -> str:
    """The CUDA C of kernels of `woodpecker.schedules.cuda`, by their symbols, without includes.

    Args:
        kernels: symbol -> kernel.
        arch: "sm_90" or the like.
    """
    target = tvm.target.Target({"kind": "cuda", "arch": arch})
    module = tvm.IRModule({name: kernel.with_attr("target", target) for name, kernel in kernels.items()})
    # These are functions of the device already: there is no host code to split off, nor anything to move or merge.
    passes = [
        transform.StmtSimplify(),
        transform.FlattenBuffer(),
        transform.VectorizeLoop(True),
        transform.UnrollLoop(),
        transform.StmtSimplify(),
        transform.LowerIntrin(),
    ]
    with target:
        module = tvm.ir.transform.Sequential(passes)(module)
    text = tvm.get_global_func("target.build.cuda")(module, target).inspect_source()
    begin = text.index('extern "C" __global__')
    return _TYPES + cuda_link.FUNCTIONS + cuda_ptx.SOURCE + text[begin:]


_TYPES = """\
typedef signed char int8_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long long uint64_t;
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
"""
"""What the code needs of the headers that TVM includes, which take NVRTC half a second to read."""


def assemble(text: str, arch: str, kind: str = "cubin") -> Code:
    """Compile CUDA C.

    Args:
        text: From `source`.
        arch: "sm_90" or the like.
        kind: "cubin" or "ptx".

    Raises:
        MissingExtraError: NVRTC is not installed.
        TargetError: it does not know the architecture, or refuses the code.
    """
    nvrtc = _nvrtc()
    chosen = arch if kind == "cubin" else arch.replace("sm_", "compute_")
    options = [option.encode() for option in (f"--gpu-architecture={chosen}", *EXACT)]
    _, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            reason = nvrtc.nvrtcGetErrorString(status)[1].decode()
            log = _bytes(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode(errors="replace")
            raise TargetError(f"NVRTC does not compile for {arch}: {reason}. {log.strip(_ENDS)}")
        size, get = (
            (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
            if kind == "cubin"
            else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
        )
        return Code(kind, arch, _bytes(program, size, get))
    finally:
        nvrtc.nvrtcDestroyProgram(program)


_ENDS = "\0\n"


def _bytes(program: Any, size: Callable[[Any], Any], get: Callable[[Any, bytearray], Any]) -> bytes:
    _, nbytes = size(program)
    found = bytearray(nbytes)
    get(program, found)
    return bytes(found)


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # the bindings come without the library, and say so when called
        raise MissingExtraError(
            "compiling for CUDA needs NVRTC, which is not installed: pip install 'woodpecker[compiler,cuda]'"
        ) from error
    return nvrtc
