/* Linked into every artifact: the model blob, and a thread pool that runs compiled entries over shares of rows.
 *
 * For each entry E of the calling convention  E(X, out, scratch, model, row_begin, row_end)  it exports
 * E_parallel(X, out, scratch, model, row_begin, row_end, num_tasks), where scratch holds num_tasks scratches. Rows are
 * shared out in whole row blocks, one share a task; every row is computed by one task alone, so results do not depend
 * on num_tasks.
 *
 * Macros: WP_PREFIX, the model's unique prefix; WP_BLOB, the blob's file name; WP_KERNELS(M),
 * M(name, suffix, rows of a block, bytes of a scratch) for each entry of each CPU level, whose suffix is empty where
 * there is one level only. This file itself runs on every CPU of the architecture.
 *
 * The pool starts on the first parallel call. Workers spin for a moment before they sleep, so that calls in a row
 * cost a few microseconds. It is safe after fork: the child starts with no workers. While one call uses the pool,
 * another thread's call runs its tasks itself, one after the other. The library is linked with -z nodelete, because
 * workers outlive calls.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define STR_(x) #x
#define STR(x) STR_(x)
#define SYMBOL(name) CAT(CAT(__tvm_ffi_, WP_PREFIX), CAT(_, name))
#define EXPORT __attribute__((visibility("default")))

__asm__(".section .rodata\n"
        ".balign 64\n"
        ".hidden " STR(CAT(WP_PREFIX, _blob)) "\n"
        ".globl " STR(CAT(WP_PREFIX, _blob)) "\n"
        STR(CAT(WP_PREFIX, _blob)) ":\n"
        ".incbin \"" WP_BLOB "\"\n"
        ".balign 64\n"
        ".text\n");
extern const char CAT(WP_PREFIX, _blob)[] __attribute__((visibility("hidden")));

/* The stable C ABIs of tvm-ffi (c_api.h) and DLPack, as far as they are used here. */
typedef struct { int32_t type_index; uint32_t zero_padding; union { int64_t v_int64; void* v_ptr; }; } Any;
typedef struct { int32_t code_bits_lanes; } DLDataType;
typedef struct {
  void* data;
  struct { int32_t type, id; } device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;
enum { kInt = 1, kDLTensorPtr = 7, kTensor = 70, kObjectHeaderBytes = 24 };
typedef int (*Entry)(void*, const Any*, int32_t, Any*);
typedef struct { Entry entry; int64_t row_block, scratch_bytes; } Kernel;

enum { kMaxWorkers = 255, kSpins = 2000 };

static struct {
  pthread_mutex_t busy;          /* held by the call that uses the pool */
  pthread_mutex_t mutex;         /* protects sleeping */
  pthread_cond_t wake;
  int workers;
  _Atomic uint32_t generation;   /* of jobs */
  _Atomic uint32_t ticket;       /* tasks << 16 | next task, in one word: a late worker can't mix two jobs */
  _Atomic int pending, failed;
  int tasks;
  const Kernel* kernel;
  const Any* args;
  const DLTensor* scratch;
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int run_task(const Kernel* kernel, const Any* args, const DLTensor* scratch, int task, int tasks) {
  int64_t begin = args[4].v_int64, end = args[5].v_int64;
  int64_t blocks = (end - begin + kernel->row_block - 1) / kernel->row_block;
  int64_t share = (blocks + tasks - 1) / tasks * kernel->row_block;
  int64_t first = begin + task * share;
  if (first >= end) return 0;
  DLTensor mine = *scratch;
  mine.data = (char*)scratch->data + (int64_t)task * kernel->scratch_bytes;
  Any own[6], result = {0};
  memcpy(own, args, sizeof own);
  own[2] = (Any){.type_index = kDLTensorPtr, .v_ptr = &mine};
  own[4].v_int64 = first;
  own[5].v_int64 = first + share < end ? first + share : end;
  return kernel->entry(0, own, 6, &result);
}

/* A task that nobody has taken yet, or -1. Its job can't end before the task is done, so its data stay valid. */
static int claim(void) {
  uint32_t ticket = atomic_load(&pool.ticket);
  do {
    if ((ticket & 0xffff) >= ticket >> 16) return -1;
  } while (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1));
  return (int)(ticket & 0xffff);
}

static void work(void) {
  for (int task; (task = claim()) >= 0;) {
    if (run_task(pool.kernel, pool.args, pool.scratch, task, pool.tasks)) atomic_store(&pool.failed, 1);
    atomic_fetch_sub(&pool.pending, 1);
  }
}

static void* worker(void* start) {
  uint32_t seen = (uint32_t)(uintptr_t)start;
  for (;;) {
    for (int i = 0; i < kSpins && atomic_load(&pool.generation) == seen; i++) relax();
    if (atomic_load(&pool.generation) == seen) {
      pthread_mutex_lock(&pool.mutex);
      while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.wake, &pool.mutex);
      pthread_mutex_unlock(&pool.mutex);
    }
    seen = atomic_load(&pool.generation);
    work();
  }
  return 0;
}

static void child_after_fork(void) {
  pthread_mutex_init(&pool.busy, 0);
  pthread_mutex_init(&pool.mutex, 0);
  pthread_cond_init(&pool.wake, 0);
  pool.workers = 0;
  atomic_store(&pool.ticket, 0);
}

static void grow(int workers) {
  static int hooked;
  if (!hooked) hooked = !pthread_atfork(0, 0, child_after_fork);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  sigset_t all, before; /* a worker inherits the mask: signals are for the host's own threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool.workers < workers) {
    pthread_t thread;
    void* seen = (void*)(uintptr_t)atomic_load(&pool.generation);
    if (pthread_create(&thread, &attr, worker, seen)) break; /* fewer workers do all the work as well */
    pool.workers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, 0);
  pthread_attr_destroy(&attr);
}

static int parallel(const Kernel* kernel, const Any* args, int32_t num_args, Any* result) {
  if (num_args != 7 || (args[2].type_index != kDLTensorPtr && args[2].type_index != kTensor) ||
      args[4].type_index != kInt || args[5].type_index != kInt || args[6].type_index != kInt)
    return kernel->entry(0, args, num_args, result); /* raises the error about its arguments */
  const char* tensor = args[2].v_ptr;
  const DLTensor* scratch = (const DLTensor*)(tensor + (args[2].type_index == kTensor ? kObjectHeaderBytes : 0));
  int64_t wanted = args[6].v_int64;
  int tasks = wanted < 1 ? 1 : wanted > kMaxWorkers + 1 ? kMaxWorkers + 1 : (int)wanted;
  if (tasks == 1 || pthread_mutex_trylock(&pool.busy)) {
    int failed = 0;
    for (int task = 0; task < tasks && !failed; task++) failed = run_task(kernel, args, scratch, task, tasks);
    return failed;
  }
  grow(tasks - 1);
  pool.kernel = kernel;
  pool.args = args;
  pool.scratch = scratch;
  pool.tasks = tasks;
  atomic_store(&pool.failed, 0);
  atomic_store(&pool.pending, tasks);
  atomic_store(&pool.ticket, (uint32_t)tasks << 16);
  pthread_mutex_lock(&pool.mutex);
  atomic_fetch_add(&pool.generation, 1);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.mutex);
  work();
  for (int spins = 0; atomic_load(&pool.pending);) {
    if (spins < kSpins) spins++, relax();
    else sched_yield();
  }
  int failed = atomic_load(&pool.failed);
  pthread_mutex_unlock(&pool.busy);
  /* An error belongs to the thread that met it: meet it here, so that the caller sees it. */
  return failed ? kernel->entry(0, args, 6, result) : 0;
}

#define DEFINE(name, suffix, row_block, scratch_bytes)                                                           \
  extern int SYMBOL(CAT(name, suffix))(void*, const Any*, int32_t, Any*);                                        \
  EXPORT int SYMBOL(CAT(name, CAT(_parallel, suffix)))(void* self, const Any* args, int32_t n, Any* result) {    \
    static const Kernel kernel = {SYMBOL(CAT(name, suffix)), row_block, scratch_bytes};                          \
    (void)self;                                                                                                  \
    return parallel(&kernel, args, n, result);                                                                   \
  }
WP_KERNELS(DEFINE)

/* () -> the address of the model blob. */
EXPORT int SYMBOL(model)(void* self, const Any* args, int32_t num_args, Any* result) {
  (void)self, (void)args, (void)num_args;
  *result = (Any){.type_index = kInt, .v_int64 = (int64_t)(uintptr_t)CAT(WP_PREFIX, _blob)};
  return 0;
}
