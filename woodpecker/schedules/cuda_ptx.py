"""Instructions of a GPU that CUDA C has no operator for, as functions of the code; PTX says what each computes."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..relay_ops.predicate import Expr
from .tir import const

SOURCE = """\
static __device__ __forceinline__ void wp_load4(unsigned* to, const unsigned* from) {
  uint4 words = __ldg((const uint4*)from);
  to[0] = words.x;
  to[1] = words.y;
  to[2] = words.z;
  to[3] = words.w;
}
static __device__ __forceinline__ unsigned wp_word(const unsigned char* at) { return *(const unsigned*)at; }
static __device__ __forceinline__ void wp_put(float* at, float x) {
  asm volatile("st.relaxed.gpu.f32 [%0], %1;" : : "l"(at), "f"(x) : "memory");
}
static __device__ __forceinline__ void wp_put(double* at, double x) {
  asm volatile("st.relaxed.gpu.f64 [%0], %1;" : : "l"(at), "d"(x) : "memory");
}
static __device__ __forceinline__ float wp_take(const float* at) {
  float x;
  asm volatile("ld.relaxed.gpu.f32 %0, [%1];" : "=f"(x) : "l"(at) : "memory");
  return x;
}
static __device__ __forceinline__ double wp_take(const double* at) {
  double x;
  asm volatile("ld.relaxed.gpu.f64 %0, [%1];" : "=d"(x) : "l"(at) : "memory");
  return x;
}
static __device__ __forceinline__ unsigned wp_permute(unsigned a, unsigned b, unsigned selector) {
  unsigned d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}
static __device__ __forceinline__ void wp_mma_s8(int* d, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
"""

SIGN = 0x8888
"""In a selector: each byte is that bit 7 eight times."""


def word(table: Any, index: Expr) -> Expr:
    """The word that begins at a byte of a table of uint8; the index is a multiple of 4."""
    return tirx.call_extern("uint32", "wp_word", tirx.address_of(table[index]))


def permute(a: Expr, b: Expr, selector: int) -> Expr:
    """Four of the eight bytes of two words: hexadecimal digits, the lowest byte's last, number those of a 0 to 3 and
    those of b 4 to 7; 8 more: see `SIGN`. Operands of any type of 32 bits; the result is uint32."""
    a, b = (tirx.Cast("uint32", x) for x in (a, b))
    return tirx.call_pure_extern("uint32", "wp_permute", a, b, const(selector, "uint32"))


def multiply(d: Any, a: Any, b: Any) -> None:
    """d += a b, by a whole warp: a is 16 by 32 and b 32 by 8, of int8, d 16 by 8 of int32. Each thread holds 4 words of
    a, 2 of b and 4 of d, by PTX's layout of fragments."""
    operands = (tirx.address_of(buffer[0]) for buffer in (d, a, b))
    TB.evaluate(tirx.call_extern("void", "wp_mma_s8", *operands))


def synchronise_warp() -> None:
    """All threads of the warp get here before one goes on, and see what the others have stored."""
    TB.evaluate(tirx.call_extern("void", "__syncwarp"))


def put(table: Any, index: Expr, value: Expr) -> None:
    """Store a float to memory of the GPU, for other blocks: no compiler may keep it back, as it may what is stored
    through a pointer that is restrict."""
    TB.evaluate(tirx.call_extern("void", "wp_put", tirx.address_of(table[index]), value))


def take(table: Any, index: Expr) -> Expr:
    """What another block has `put`."""
    return tirx.call_extern(str(table.dtype), "wp_take", tirx.address_of(table[index]))


def fence() -> None:
    """What the thread has stored before is there for whoever sees what it stores afterwards; and what it reads
    afterwards is no older than what it has read before."""
    TB.evaluate(tirx.call_extern("void", "__threadfence"))


def increment(table: Any, index: Expr, most: Expr) -> Expr:
    """Add 1 to a number (uint32) in memory of the GPU, or make it 0 where it is ``most``, atomically. What it was."""
    return tirx.call_extern("uint32", "atomicInc", tirx.address_of(table[index]), most)


def load4(table: Any, index: Expr) -> Any:
    """Four words of a table of uint32, by one instruction, in registers; the index is a multiple of 4."""
    words = TB.alloc_buffer((4,), "uint32", scope="local")
    operands = (tirx.address_of(words[0]), tirx.address_of(table[index]))
    TB.evaluate(tirx.call_extern("void", "wp_load4", *operands))
    return words
