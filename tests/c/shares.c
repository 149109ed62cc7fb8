/* Threads take rows from wp_rows: every row is taken once, in whole blocks, and never few at a time of many. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

enum { MAX_ROWS = 5000, MAX_TAKES = 5000 };
static wp_rows shared;
static unsigned char taken[MAX_ROWS];
static int tasks, begin_row, end_row, takes;

#define CHECK(ok) \
  if (!(ok)) printf("%s: rows %d to %d by %d, %d tasks\n", #ok, begin_row, end_row, (int)shared.block, tasks), exit(1)

static void* take(void* none) {
  for (int64_t begin, end; wp_take_rows(&shared, tasks, &begin, &end);) {
    CHECK(begin >= begin_row && begin < end && end <= end_row);
    CHECK((begin - begin_row) % shared.block == 0);
    CHECK(end == end_row || (end - begin) % shared.block == 0);
    for (int64_t row = begin; row < end; row++) CHECK(!__atomic_fetch_add(&taken[row], 1, __ATOMIC_RELAXED));
    __atomic_fetch_add(&takes, 1, __ATOMIC_RELAXED);
  }
  return none;
}

int main(void) {
  srand(7);
  for (int round = 0; round < 2000; round++) {
    pthread_t threads[4];
    int equal = rand() % 2;
    tasks = 1 + rand() % 4;
    begin_row = rand() % 100;
    end_row = begin_row + rand() % (MAX_ROWS - 100);
    shared = wp_share_rows(begin_row, end_row, 1 + rand() % 600, tasks, equal);
    memset(taken, 0, sizeof taken);
    takes = 0;
    for (int i = 0; i < tasks; i++) pthread_create(&threads[i], 0, take, 0);
    for (int i = 0; i < tasks; i++) pthread_join(threads[i], 0);
    for (int row = 0; row < MAX_ROWS; row++) CHECK(taken[row] == (row >= begin_row && row < end_row));
    CHECK(takes <= 32 * tasks + 1);
    CHECK(takes <= tasks || (tasks > 1 && !equal));
  }
  puts("ok");
}
