/* A GPU's grid on a CPU: runs CUDA C kernels as C++. The threads of a block are coroutines, one after the other;
   __syncthreads() lets the next one run, so that a kernel which forgets it reads what is not there yet. */
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define __global__
#define __launch_bounds__(threads)
#define __restrict__ __restrict
#define uchar unsigned char
#define uint unsigned int

template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
static inline double __dmul_rn(double a, double b) { return a * b; } /* compiled without contraction */
static inline float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline double __longlong_as_double(long long bits) { double x; memcpy(&x, &bits, 8); return x; }

static struct { unsigned x; } blockIdx, threadIdx;
static uchar *shared_memory;

static const size_t STACK = 64 * 1024, GUARD = 4096;
static ucontext_t scheduler, *contexts;
static bool *finished;
static void (*running)(void);

static void __syncthreads() { swapcontext(&contexts[threadIdx.x], &scheduler); }

static void thread() {
    running();
    finished[threadIdx.x] = true;
}

/* Runs `body` for every thread of every block. `backwards`: the last thread of a block first. Returns how many bytes
   beyond its shared memory it has overwritten, or -1: some threads of a block wait where others have ended. */
static int emulate(void (*body)(void), int blocks, int threads, size_t shared_bytes, bool backwards) {
    uchar *stacks = (uchar *)malloc(threads * STACK), *memory = (uchar *)aligned_alloc(64, shared_bytes + GUARD);
    contexts = (ucontext_t *)malloc(threads * sizeof *contexts);
    finished = (bool *)malloc(threads);
    shared_memory = memory;
    running = body;
    int wrong = 0;
    for (int block = 0; block < blocks && wrong == 0; block++) {
        blockIdx.x = block;
        memset(memory, 0xA5, shared_bytes + GUARD);
        memset(finished, 0, threads);
        for (int t = 0; t < threads; t++) {
            getcontext(&contexts[t]);
            contexts[t].uc_stack.ss_sp = stacks + t * STACK;
            contexts[t].uc_stack.ss_size = STACK;
            contexts[t].uc_link = &scheduler;
            makecontext(&contexts[t], thread, 0);
        }
        for (int ended = 0; ended == 0;) {
            for (int i = 0; i < threads; i++) {
                threadIdx.x = backwards ? threads - 1 - i : i;
                swapcontext(&scheduler, &contexts[threadIdx.x]);
            }
            for (int t = 0; t < threads; t++) ended += finished[t];
            if (ended != 0 && ended != threads) wrong = -1;
        }
        for (size_t i = 0; i < GUARD; i++) wrong += memory[shared_bytes + i] != 0xA5;
    }
    free(stacks);
    free(memory);
    free(contexts);
    free(finished);
    return wrong;
}
