/* A thread pool of a model's own. It starts on the first parallel call. Workers spin for a moment before they sleep, so
 * that calls in a row cost a few microseconds. It is safe after fork: the child starts with no workers. While one call
 * uses the pool, another thread's call runs its tasks itself, one after the other. Workers outlive calls, so the code
 * has to stay: it is linked with -z nodelete, and where it is part of a program's own plugin, that is kept in memory.
 */
#ifndef WP_POOL_H
#define WP_POOL_H

#include <stdint.h>

/* One of a job's tasks; returns 0, or what went wrong. */
typedef int (*wp_task)(const void* job, int task, int tasks);

enum { WP_MAX_TASKS = 256, WP_SPINS = 2000 };

static int wp_run_all(wp_task run, const void* job, int tasks) {
  int failed = 0;
  for (int task = 0; task < tasks && !failed; task++) failed = run(job, task, tasks);
  return failed;
}

/* Rows that tasks take from until none is left: a task on a faster core takes more. */
typedef struct {
  int64_t next, end; /* next: the first row that nobody has taken yet */
  int64_t block;     /* rows are taken in whole blocks */
  int64_t least;     /* blocks that a task takes at least */
} wp_rows;

static wp_rows wp_share_rows(int64_t begin, int64_t end, int64_t block, int tasks, int equal) {
  int64_t blocks = (end - begin + block - 1) / block, least = equal ? (blocks + tasks - 1) / tasks : blocks / 16 / tasks;
  return (wp_rows){begin, end, block, least > 1 ? least : 1};
}

/* Take rows [*begin, *end): half of the task's share of what is left, so that few are left for the last to wait for.
 * (Polychronopoulos and Kuck, "Guided Self-Scheduling", 1987.) Returns 0 if there are none. */
static int wp_take_rows(wp_rows* rows, int tasks, int64_t* begin, int64_t* end) {
  int64_t first = __atomic_load_n(&rows->next, __ATOMIC_RELAXED), last;
  do {
    if (first >= rows->end) return 0;
    int64_t left = (rows->end - first + rows->block - 1) / rows->block;
    int64_t take = tasks == 1 ? left : left / (2 * (int64_t)tasks);
    if (take < rows->least) take = rows->least < left ? rows->least : left;
    last = take == left ? rows->end : first + take * rows->block;
  } while (!__atomic_compare_exchange_n(&rows->next, &first, last, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  *begin = first;
  *end = last;
  return 1;
}

#ifdef __wasm__ /* no threads */

static int wp_run_parallel(wp_task run, const void* job, int tasks) { return wp_run_all(run, job, tasks); }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

static struct {
  pthread_mutex_t busy;          /* held by the call that uses the pool */
  pthread_mutex_t mutex;         /* protects sleeping */
  pthread_cond_t wake;
  int workers;
  _Atomic uint32_t generation;   /* of jobs */
  _Atomic uint32_t ticket;       /* tasks << 16 | next task, in one word: a late worker can't mix two jobs */
  _Atomic int pending, failed;
  int tasks;
  wp_task run;
  const void* job;
} wp_pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void wp_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* A task that nobody has taken yet, or -1. Its job can't end before the task is done, so its data stay valid. */
static int wp_claim(void) {
  uint32_t ticket = atomic_load(&wp_pool.ticket);
  do {
    if ((ticket & 0xffff) >= ticket >> 16) return -1;
  } while (!atomic_compare_exchange_weak(&wp_pool.ticket, &ticket, ticket + 1));
  return (int)(ticket & 0xffff);
}

static void wp_work(void) {
  for (int task; (task = wp_claim()) >= 0;) {
    int failed = wp_pool.run(wp_pool.job, task, wp_pool.tasks);
    if (failed) atomic_store(&wp_pool.failed, failed);
    atomic_fetch_sub(&wp_pool.pending, 1);
  }
}

static void* wp_worker(void* start) {
  uint32_t seen = (uint32_t)(uintptr_t)start;
  for (;;) {
    for (int i = 0; i < WP_SPINS && atomic_load(&wp_pool.generation) == seen; i++) wp_relax();
    if (atomic_load(&wp_pool.generation) == seen) {
      pthread_mutex_lock(&wp_pool.mutex);
      while (atomic_load(&wp_pool.generation) == seen) pthread_cond_wait(&wp_pool.wake, &wp_pool.mutex);
      pthread_mutex_unlock(&wp_pool.mutex);
    }
    seen = atomic_load(&wp_pool.generation);
    wp_work();
  }
  return 0;
}

#ifndef _WIN32
static void wp_child_after_fork(void) {
  pthread_mutex_init(&wp_pool.busy, 0);
  pthread_mutex_init(&wp_pool.mutex, 0);
  pthread_cond_init(&wp_pool.wake, 0);
  wp_pool.workers = 0;
  atomic_store(&wp_pool.ticket, 0);
}
#endif

/* Keep the library or program that holds this code, so that unloading it does not take the code from the workers. */
#if defined(_WIN32)
static void wp_stay(void) {
  HMODULE self;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, (LPCSTR)(void*)&wp_pool,
                     &self);
}
#elif defined(WP_SHARED) && defined(__ELF__) /* linked with -z nodelete */
static void wp_stay(void) {}
#else
/* Before glibc 2.34 these are libdl's, and a program with no dynamic linker has neither, nor plugins. */
extern int dladdr(const void*, Dl_info*) __attribute__((weak));
extern void* dlopen(const char*, int) __attribute__((weak));
static void wp_stay(void) {
  Dl_info self;
  if (dladdr && dlopen && dladdr((const void*)&wp_pool, &self))
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
}
#endif

static void wp_grow(int workers) {
  if (!wp_pool.workers) wp_stay();
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
#ifndef _WIN32
  static int hooked;
  if (!hooked) hooked = !pthread_atfork(0, 0, wp_child_after_fork);
  sigset_t all, before; /* a worker inherits the mask: signals are for the host's own threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
  while (wp_pool.workers < workers) {
    pthread_t thread;
    void* seen = (void*)(uintptr_t)atomic_load(&wp_pool.generation);
    if (pthread_create(&thread, &attr, wp_worker, seen)) break; /* fewer workers do all the work as well */
    wp_pool.workers++;
  }
#ifndef _WIN32
  pthread_sigmask(SIG_SETMASK, &before, 0);
#endif
  pthread_attr_destroy(&attr);
}

/* Run all tasks of a job, and wait for them. Returns 0, or what one of them returned. */
static int wp_run_parallel(wp_task run, const void* job, int tasks) {
  if (tasks > WP_MAX_TASKS) tasks = WP_MAX_TASKS;
  if (tasks == 1 || pthread_mutex_trylock(&wp_pool.busy)) return wp_run_all(run, job, tasks);
  wp_grow(tasks - 1);
  wp_pool.run = run;
  wp_pool.job = job;
  wp_pool.tasks = tasks;
  atomic_store(&wp_pool.failed, 0);
  atomic_store(&wp_pool.pending, tasks);
  atomic_store(&wp_pool.ticket, (uint32_t)tasks << 16);
  pthread_mutex_lock(&wp_pool.mutex);
  atomic_fetch_add(&wp_pool.generation, 1);
  pthread_cond_broadcast(&wp_pool.wake);
  pthread_mutex_unlock(&wp_pool.mutex);
  wp_work();
  for (int spins = 0; atomic_load(&wp_pool.pending);) {
    if (spins < WP_SPINS) spins++, wp_relax();
    else sched_yield();
  }
  int failed = atomic_load(&wp_pool.failed);
  pthread_mutex_unlock(&wp_pool.busy);
  return failed;
}

#endif
#endif
