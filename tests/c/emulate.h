/* A GPU's grid on a CPU: runs CUDA C kernels as C++. The threads of a block are coroutines, one after the other, each as
   far as it gets: a barrier of the block or of a warp, or an instruction of a whole warp, lets the next one run, until
   all have arrived. So a kernel which forgets a barrier reads what is not there yet. What a thread puts for other blocks
   they don't see before its fence, and what it takes of theirs is not there without a fence after the count of blocks. */
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <ucontext.h>
#include <utility>

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
static const int WARP = 32, RESIDENT = 64;
enum wait { RUNS, BLOCK, WARP_BARRIER, BALLOT, MMA, FINISHED };
static ucontext_t scheduler, *contexts;
static wait *waits; /* for what each thread waits */
static bool given[1024]; /* to a ballot, by each thread */
static void (*running)(void);

static void wait_for(wait what) {
    waits[threadIdx.x] = what;
    swapcontext(&contexts[threadIdx.x], &scheduler);
}

static void __syncthreads() { wait_for(BLOCK); }
static void __syncwarp() { wait_for(WARP_BARRIER); }

static unsigned __ballot_sync(unsigned lanes, int predicate) {
    if (lanes != 0xffffffffu) abort();
    given[threadIdx.x] = predicate != 0;
    wait_for(BALLOT); /* for the others */
    unsigned found = 0;
    for (int lane = 0; lane < WARP; lane++) found |= (unsigned)given[threadIdx.x / WARP * WARP + lane] << lane;
    wait_for(BALLOT); /* until they have read it */
    return found;
}

/* What threads have put and not fenced off; when each thread has fenced last, and each block counted. */
struct put {
    int block, thread, size;
    uchar bytes[8];
};
static std::map<void *, put> pending;
static std::map<std::pair<int, int>, long> fenced;
static std::map<int, long> counted;
static long now;
static bool pausing, paused; /* whether a block stops where it counts; whether it has */

static void __threadfence() {
    fenced[{blockIdx.x, threadIdx.x}] = ++now;
    for (auto each = pending.begin(); each != pending.end();) {
        bool mine = each->second.block == (int)blockIdx.x && each->second.thread == (int)threadIdx.x;
        if (mine) memcpy(each->first, each->second.bytes, each->second.size);
        each = mine ? pending.erase(each) : std::next(each);
    }
}

static unsigned atomicInc(unsigned *at, unsigned most) {
    unsigned before = *at;
    *at = before >= most ? 0 : before + 1;
    counted[blockIdx.x] = ++now;
    if (pausing) paused = true, swapcontext(&contexts[threadIdx.x], &scheduler);
    return before;
}

template <class T> static void wp_put(T *at, T x) {
    put own = {(int)blockIdx.x, (int)threadIdx.x, sizeof x, {}};
    memcpy(own.bytes, &x, sizeof x);
    pending[at] = own;
}

template <class T> static T wp_take(T *at) {
    T x;
    auto own = pending.find((void *)at);
    if (own != pending.end() && own->second.block == (int)blockIdx.x) memcpy(&x, own->second.bytes, sizeof x);
    else if (fenced[{blockIdx.x, threadIdx.x}] < counted[blockIdx.x]) memset(&x, 0x3C, sizeof x);
    else memcpy(&x, at, sizeof x);
    return x;
}

static inline void wp_load4(unsigned *to, const unsigned *from) {
    if ((uintptr_t)from % 16 != 0) abort(); /* a GPU faults */
    memcpy(to, from, 16);
}

static inline unsigned wp_word(const uchar *at) {
    if ((uintptr_t)at % 4 != 0) abort();
    unsigned word;
    memcpy(&word, at, 4);
    return word;
}

/* prmt.b32, as PTX defines its generic form */
static inline unsigned wp_permute(unsigned a, unsigned b, unsigned selector) {
    unsigned char bytes[8], found[4];
    memcpy(bytes, &a, 4);
    memcpy(bytes + 4, &b, 4);
    for (int i = 0; i < 4; i++) {
        unsigned digit = selector >> 4 * i & 15, byte = bytes[digit & 7];
        found[i] = digit & 8 ? (byte & 128 ? 255 : 0) : byte;
    }
    unsigned d;
    memcpy(&d, found, 4);
    return d;
}

/* mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32, d += a b, with the fragments that PTX documents: byte i of a thread's
   16 of a, row-major, of its 8 of b, column-major, and its i-th of 4 numbers of d. */
static signed char matrix_a[2][32][16][32], matrix_b[2][32][32][8]; /* of each warp, of two products in turn */
static bool turn[1024];

static void wp_mma_s8(int *d, const unsigned *a, const unsigned *b) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, group = lane >> 2, in_group = lane & 3;
    const signed char *bytes = (const signed char *)a;
    bool odd = turn[threadIdx.x] = !turn[threadIdx.x];
    for (int i = 0; i < 16; i++) {
        int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
        matrix_a[odd][warp][row][in_group * 4 + (i & 3) + (i >= 8 ? 16 : 0)] = bytes[i];
    }
    bytes = (const signed char *)b;
    for (int i = 0; i < 8; i++) matrix_b[odd][warp][in_group * 4 + (i & 3) + (i >= 4 ? 16 : 0)][group] = bytes[i];
    wait_for(MMA); /* for the fragments of the others */
    int sums[4];
    for (int i = 0; i < 4; i++) {
        sums[i] = d[i];
        for (int k = 0; k < 32; k++)
            sums[i] += matrix_a[odd][warp][i < 2 ? group : group + 8][k] * matrix_b[odd][warp][k][in_group * 2 + (i & 1)];
    }
    memcpy(d, sums, sizeof sums);
}

static void thread() {
    running();
    waits[threadIdx.x] = FINISHED;
}

/* Lets `count` threads from `first` on go on, if all of them wait for the same, a block or something of a warp. */
static bool release(int first, int count, bool of_block) {
    wait what = waits[first];
    if (what == RUNS || what == FINISHED || (what == BLOCK) != of_block) return false;
    for (int t = first; t < first + count; t++)
        if (waits[t] != what) return false;
    for (int t = first; t < first + count; t++) waits[t] = RUNS;
    return true;
}

/* A block that has begun and not ended. */
struct resident {
    uchar *stacks, *memory;
    ucontext_t *contexts;
    wait *waits;
    int block;
    bool ended;
};

static void begin(resident &own, int block, int threads, size_t shared_bytes) {
    own.block = block, own.ended = false;
    memset(own.memory, 0xA5, shared_bytes + GUARD);
    for (int t = 0; t < threads; t++) {
        getcontext(&own.contexts[t]);
        own.contexts[t].uc_stack.ss_sp = own.stacks + t * STACK;
        own.contexts[t].uc_stack.ss_size = STACK;
        own.contexts[t].uc_link = &scheduler;
        makecontext(&own.contexts[t], thread, 0);
        own.waits[t] = RUNS;
        turn[t] = false;
    }
}

/* Each thread of a block as far as it gets, up to a barrier of the block; or to where one of them counts. Returns false:
   none gets any further. */
static bool step(resident &own, int threads, bool backwards) {
    contexts = own.contexts, waits = own.waits, shared_memory = own.memory, blockIdx.x = own.block;
    for (int w = 0; w < threads / WARP; w++) {
        int first = (backwards ? threads / WARP - 1 - w : w) * WARP;
        do { /* a warp gets as far ahead of the others as it can */
            for (int i = 0; i < WARP; i++) {
                threadIdx.x = first + (backwards ? WARP - 1 - i : i);
                if (waits[threadIdx.x] == RUNS) swapcontext(&scheduler, &contexts[threadIdx.x]);
                if (paused) return true;
            }
        } while (release(first, WARP, false));
    }
    bool any = release(0, threads, true);
    int ended = 0;
    for (int t = 0; t < threads; t++) ended += waits[t] == FINISHED;
    own.ended = ended == threads;
    return any || own.ended;
}

/* Runs `body` for every thread of every block, of whole warps. `order`: 1, the last thread of a block first; 2, the last
   block first; 4, up to RESIDENT blocks in turn, each up to its next barrier; 8, as many, each up to where it counts, and
   then the one that came last to its end, and so on. Returns how many bytes beyond its shared
   memory it has overwritten, or -1: some threads wait for others that wait for something else, or have ended. */
static int emulate(void (*body)(void), int blocks, int threads, size_t shared_bytes, int order) {
    int most = order & (4 | 8) ? min(blocks, RESIDENT) : 1, wrong = 0;
    resident all[RESIDENT];
    for (int i = 0; i < most; i++) {
        all[i].stacks = (uchar *)malloc(threads * STACK);
        all[i].memory = (uchar *)aligned_alloc(64, shared_bytes + GUARD);
        all[i].contexts = (ucontext_t *)malloc(threads * sizeof *contexts);
        all[i].waits = (wait *)malloc(threads * sizeof *waits);
    }
    running = body;
    for (int from = 0; from < blocks && wrong == 0; from += most) {
        int count = min(most, blocks - from);
        for (int i = 0; i < count; i++) begin(all[i], order & 2 ? blocks - 1 - from - i : from + i, threads, shared_bytes);
        pausing = order & 8;
        for (int i = 0; i < count && pausing && wrong == 0; i++)
            for (paused = false; !paused && !all[i].ended && wrong == 0;)
                if (!step(all[i], threads, order & 1)) wrong = -1;
        pausing = paused = false;
        for (int i = count; i-- > 0 && order & 8;)
            while (!all[i].ended && wrong == 0)
                if (!step(all[i], threads, order & 1)) wrong = -1;
        for (int left = count; left > 0 && wrong == 0;) {
            left = 0;
            for (int i = 0; i < count && wrong == 0; i++) {
                if (!all[i].ended && !step(all[i], threads, order & 1)) wrong = -1;
                left += !all[i].ended;
            }
        }
        for (int i = 0; i < count; i++)
            for (size_t byte = 0; byte < GUARD; byte++) wrong += all[i].memory[shared_bytes + byte] != 0xA5;
    }
    for (int i = 0; i < most; i++) free(all[i].stacks), free(all[i].memory), free(all[i].contexts), free(all[i].waits);
    for (auto &each : pending) memcpy(each.first, each.second.bytes, each.second.size);
    pending.clear(), fenced.clear(), counted.clear();
    return wrong;
}
