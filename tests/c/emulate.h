/* A GPU's grid on a CPU: runs CUDA C kernels as C++. The threads of a block are coroutines, one after the other;
   __syncthreads() lets the next one run, so that a kernel which forgets it reads what is not there yet. A collective of
   a warp waits for all 32 lanes; each has to get there. */
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
static const int WARP = 32;
enum State { RUNS, AT_BARRIER, AT_COLLECTIVE, ENDED };
static ucontext_t scheduler, *contexts;
static State *states;
static unsigned *given, *gathered; /* by each lane; to each warp */
static void (*running)(void);

static void wait(State state) {
    states[threadIdx.x] = state;
    swapcontext(&contexts[threadIdx.x], &scheduler);
}

static void __syncthreads() { wait(AT_BARRIER); }

static unsigned __ballot_sync(unsigned lanes, int predicate) {
    if (lanes != 0xffffffffu) abort();
    given[threadIdx.x] = predicate != 0;
    wait(AT_COLLECTIVE);
    return gathered[threadIdx.x / WARP];
}

static void thread() {
    running();
    states[threadIdx.x] = ENDED;
}

/* Lets threads [begin, end) go on if all of them wait in this state. */
static bool release(State state, int begin, int end) {
    for (int t = begin; t < end; t++)
        if (states[t] != state) return false;
    if (state == AT_COLLECTIVE) {
        gathered[begin / WARP] = 0;
        for (int t = begin; t < end; t++) gathered[begin / WARP] |= given[t] << (t - begin);
    }
    for (int t = begin; t < end; t++) states[t] = RUNS;
    return true;
}

/* Runs `body` for every thread of every block. `backwards`: the last thread of a block first. Returns how many bytes
   beyond its shared memory it has overwritten, or -1: some threads wait for others, which wait elsewhere or have ended. */
static int emulate(void (*body)(void), int blocks, int threads, size_t shared_bytes, bool backwards) {
    uchar *stacks = (uchar *)malloc(threads * STACK), *memory = (uchar *)aligned_alloc(64, shared_bytes + GUARD);
    contexts = (ucontext_t *)malloc(threads * sizeof *contexts);
    states = (State *)malloc(threads * sizeof *states);
    given = (unsigned *)malloc(threads * sizeof *given);
    gathered = (unsigned *)malloc((threads + WARP - 1) / WARP * sizeof *gathered);
    shared_memory = memory;
    running = body;
    int wrong = 0;
    for (int block = 0; block < blocks && wrong == 0; block++) {
        blockIdx.x = block;
        memset(memory, 0xA5, shared_bytes + GUARD);
        for (int t = 0; t < threads; t++) {
            states[t] = RUNS;
            getcontext(&contexts[t]);
            contexts[t].uc_stack.ss_sp = stacks + t * STACK;
            contexts[t].uc_stack.ss_size = STACK;
            contexts[t].uc_link = &scheduler;
            makecontext(&contexts[t], thread, 0);
        }
        for (bool some = true; some;) {
            for (int i = 0; i < threads; i++) {
                threadIdx.x = backwards ? threads - 1 - i : i;
                if (states[threadIdx.x] == RUNS) swapcontext(&scheduler, &contexts[threadIdx.x]);
            }
            some = release(AT_BARRIER, 0, threads);
            for (int t = 0; t + WARP <= threads; t += WARP) some |= release(AT_COLLECTIVE, t, t + WARP);
        }
        for (int t = 0; t < threads; t++)
            if (states[t] != ENDED) wrong = -1;
        for (size_t i = 0; i < GUARD; i++) wrong += memory[shared_bytes + i] != 0xA5;
    }
    free(stacks);
    free(memory);
    free(contexts);
    free(states);
    free(given);
    free(gathered);
    return wrong;
}
