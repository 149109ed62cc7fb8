/* The part of artifact.c that only a shared library has: the parallel entries for tvm-ffi.
 *
 * For each entry E of the calling convention  E(X, out, scratch, model, row_begin, row_end)  a shared library exports
 * E_parallel(X, out, scratch, model, row_begin, row_end, num_tasks), where scratch holds num_tasks scratches. Tasks take
 * whole row blocks until none is left; every row is computed by one task alone, so results do not depend on num_tasks.
 */
#ifndef WP_ENTRIES_H
#define WP_ENTRIES_H

typedef struct {
  const wp_kernel* kernel;
  const wp_any* args;
  const wp_tensor* scratch;
  wp_rows* rows;
} wp_call;

static int wp_run_call(const void* data, int task, int tasks) {
  const wp_call* call = data;
  wp_tensor mine = *call->scratch;
  mine.data = (char*)mine.data + (int64_t)task * call->kernel->scratch_bytes;
  wp_any own[6], result;
  memcpy(own, call->args, sizeof own);
  own[2] = wp_any_tensor(&mine);
  int failed = 0;
  while (!failed && wp_take_rows(call->rows, tasks, &own[4].v_int64, &own[5].v_int64)) {
    memset(&result, 0, sizeof result);
    failed = call->kernel->entry(0, own, 6, &result);
  }
  return failed;
}

static int wp_parallel(const wp_kernel* kernel, int equal, const wp_any* args, int32_t num_args, wp_any* result) {
  if (num_args != 7 || (args[2].type_index != WP_FFI_DLTENSOR_PTR && args[2].type_index != WP_FFI_TENSOR) ||
      args[4].type_index != WP_FFI_INT || args[5].type_index != WP_FFI_INT || args[6].type_index != WP_FFI_INT)
    return kernel->entry(0, args, num_args, result); /* raises the error about its arguments */
  const char* tensor = args[2].v_ptr;
  const void* scratch = tensor + (args[2].type_index == WP_FFI_TENSOR ? WP_FFI_HEADER_BYTES : 0);
  int64_t wanted = args[6].v_int64;
  int tasks = wanted < 1 ? 1 : wanted > WP_MAX_TASKS ? WP_MAX_TASKS : (int)wanted;
  wp_rows rows = wp_share_rows(args[4].v_int64, args[5].v_int64, kernel->row_block, tasks, equal);
  wp_call call = {kernel, args, scratch, &rows};
  /* An error belongs to the thread that met it: meet it here, so that the caller sees it. */
  return wp_run_parallel(wp_run_call, &call, tasks) ? kernel->entry(0, args, 6, result) : 0;
}

#define WP_EXPORT_PARALLEL(name, suffix, row_block, scratch_bytes, equal)                                      \
  WP_EXPORT int WP_SYMBOL(name##_parallel##suffix)(void* self, const wp_any* args, int32_t n, wp_any* result); \
  int WP_SYMBOL(name##_parallel##suffix)(void* self, const wp_any* args, int32_t n, wp_any* result) {          \
    static const wp_kernel kernel = {WP_SYMBOL(name##suffix), row_block, scratch_bytes};                       \
    (void)self;                                                                                                \
    return wp_parallel(&kernel, equal, args, n, result);                                                       \
  }
#define WP_EXPORT_ROWS(name, suffix, row_block, scratch_bytes) \
  WP_EXPORT_PARALLEL(name, suffix, row_block, scratch_bytes, 0)
/* Groups of trees in place of rows: each call computes the column values anew, so there is one call a task. */
#define WP_EXPORT_TREES(name, suffix, row_block, scratch_bytes) \
  WP_EXPORT_PARALLEL(name, suffix, row_block, scratch_bytes, 1)
WP_KERNELS(WP_EXPORT_ROWS)
WP_TERMS(WP_EXPORT_TREES)

/* () -> the address of the model blob. */
WP_EXPORT int WP_SYMBOL(model)(void* self, const wp_any* args, int32_t num_args, wp_any* result);
int WP_SYMBOL(model)(void* self, const wp_any* args, int32_t num_args, wp_any* result) {
  (void)self, (void)args, (void)num_args;
  *result = wp_any_int((int64_t)(uintptr_t)WP_BLOB_DATA);
  return 0;
}

#endif
