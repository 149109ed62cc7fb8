/* A thread pool of a model's own. It starts on the first parallel call. Workers spin for a moment before they sleep, so
 * that calls in a row cost a few microseconds. It is safe after fork: the child starts with no workers. While one call
 * uses the pool, another thread's call runs its tasks itself, one after the other. The library is linked with
 * -z nodelete, because workers outlive calls.
 */
#ifndef WP_POOL_H
#define WP_POOL_H

#include <stdint.h>

/* One of a job's tasks; returns 0, or what went wrong. */
typedef int (*Task)(const void* job, int task, int tasks);

enum { kMaxTasks = 256, kSpins = 2000 };

static int run_all(Task run, const void* job, int tasks) {
  int failed = 0;
  for (int task = 0; task < tasks && !failed; task++) failed = run(job, task, tasks);
  return failed;
}

#ifdef __wasm__ /* no threads */

static int run_parallel(Task run, const void* job, int tasks) { return run_all(run, job, tasks); }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

static struct {
  pthread_mutex_t busy;          /* held by the call that uses the pool */
  pthread_mutex_t mutex;         /* protects sleeping */
  pthread_cond_t wake;
  int workers;
  _Atomic uint32_t generation;   /* of jobs */
  _Atomic uint32_t ticket;       /* tasks << 16 | next task, in one word: a late worker can't mix two jobs */
  _Atomic int pending, failed;
  int tasks;
  Task run;
  const void* job;
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
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
    int failed = pool.run(pool.job, task, pool.tasks);
    if (failed) atomic_store(&pool.failed, failed);
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

#ifndef _WIN32
static void child_after_fork(void) {
  pthread_mutex_init(&pool.busy, 0);
  pthread_mutex_init(&pool.mutex, 0);
  pthread_cond_init(&pool.wake, 0);
  pool.workers = 0;
  atomic_store(&pool.ticket, 0);
}
#endif

static void grow(int workers) {
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
#ifndef _WIN32
  static int hooked;
  if (!hooked) hooked = !pthread_atfork(0, 0, child_after_fork);
  sigset_t all, before; /* a worker inherits the mask: signals are for the host's own threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
  while (pool.workers < workers) {
    pthread_t thread;
    void* seen = (void*)(uintptr_t)atomic_load(&pool.generation);
    if (pthread_create(&thread, &attr, worker, seen)) break; /* fewer workers do all the work as well */
    pool.workers++;
  }
#ifndef _WIN32
  pthread_sigmask(SIG_SETMASK, &before, 0);
#endif
  pthread_attr_destroy(&attr);
}

/* Run all tasks of a job, and wait for them. Returns 0, or what one of them returned. */
static int run_parallel(Task run, const void* job, int tasks) {
  if (tasks > kMaxTasks) tasks = kMaxTasks;
  if (tasks == 1 || pthread_mutex_trylock(&pool.busy)) return run_all(run, job, tasks);
  grow(tasks - 1);
  pool.run = run;
  pool.job = job;
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
  return failed;
}

#endif
#endif
