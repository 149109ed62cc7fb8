/* A CUDA driver without a GPU, as far as woodpecker calls one. The image of a module is "emulated:" and the path of a
   library that `tests/cuda_support.py` made. Memory is the host's, checked for what lies beyond it; streams are done at
   once. fake_state reports what is in use: allocations, modules, contexts on the stack, launches, bytes overrun. */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>

static const size_t GUARD = 256;
static std::map<uint64_t, size_t> memory;
static std::map<void *, int> shared_bytes; /* that kernels asked for, as every GPU from sm_80 on grants them */
static int modules, depth, launches, overrun, streams;
static void *last_stream;
static int waits;
static const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, NO_BINARY = 209, NOT_FOUND = 500;

static bool inside(uint64_t address, size_t bytes) {
    auto next = memory.upper_bound(address);
    if (next == memory.begin()) return false;
    auto found = std::prev(next);
    return address + bytes <= found->first + found->second;
}

extern "C" {
void fake_state(int *out) {
    int state[] = {(int)memory.size(), modules, depth, launches, overrun, streams};
    memcpy(out, state, sizeof state);
}
void *fake_stream(void) { return last_stream; } /* that of the last launch */
int fake_waits(void) { return waits; }
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int) { *device = 7; return 0; }
int cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "an emulated GPU"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 16 ? 2 : which == 75 ? 9 : which == 13 ? 1000000 : 0; /* two, sm_90, 1 GHz */
    return device == 7 ? 0 : INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **context, int) { *context = &depth; return 0; }
int cuCtxPushCurrent_v2(void *context) { depth++; return context == &depth ? 0 : INVALID_VALUE; }
int cuCtxPopCurrent_v2(void **context) { *context = &depth; depth--; return 0; }
int cuModuleLoadData(void **module, const char *image) {
    if (depth == 0) return NO_CONTEXT;
    if (strncmp(image, "emulated:", 9) != 0 || !(*module = dlopen(image + 9, RTLD_NOW))) return NO_BINARY;
    modules++;
    return 0;
}
int cuModuleUnload(void *module) { modules--; return dlclose(module); }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    char full[256];
    snprintf(full, sizeof full, "run_%s", name);
    return (*function = dlsym(module, full)) ? 0 : NOT_FOUND;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (depth == 0) return NO_CONTEXT;
    if (attribute != 8 || value < 0 || value > 99 * 1024) return INVALID_VALUE;
    shared_bytes[function] = value;
    return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (depth == 0) return NO_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > 1u << 30) return OUT_OF_MEMORY;
    char *made = (char *)aligned_alloc(256, (bytes + GUARD + 255) / 256 * 256);
    memset(made, 0xA5, bytes + GUARD);
    memory[*address = (uint64_t)made] = bytes;
    return 0;
}
int cuMemFree_v2(uint64_t address) {
    auto found = memory.find(address);
    if (found == memory.end()) return INVALID_VALUE;
    for (size_t i = 0; i < GUARD; i++) overrun += ((unsigned char *)address)[found->second + i] != 0xA5;
    free((void *)address);
    memory.erase(found);
    return 0;
}
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *) { return cuMemAlloc_v2(address, bytes); }
int cuMemFreeAsync(uint64_t address, void *) { return cuMemFree_v2(address); }
int cuCtxSynchronize(void) { return depth == 0 ? NO_CONTEXT : 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
    if (!inside(to, bytes)) return INVALID_VALUE;
    memcpy((void *)to, from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
    if (!inside(from, bytes)) return INVALID_VALUE;
    memcpy(to, (void *)from, bytes);
    return 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
    if (!inside(to, bytes) || !inside(from, bytes)) return INVALID_VALUE;
    memcpy((void *)to, (void *)from, bytes);
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 1 << 22, *total = 1 << 23; return depth == 0 ? NO_CONTEXT : 0; }
int cuStreamCreate(void **stream, unsigned) { *stream = malloc(1); streams++; return 0; }
int cuStreamDestroy_v2(void *stream) { free(stream); streams--; return 0; }
int cuStreamSynchronize(void *) { waits++; return 0; }
int cuLaunchKernel(void *function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                   unsigned shared, void *stream, void **parameters, void **) {
    if (depth == 0) return NO_CONTEXT;
    auto asked = shared_bytes.find(function);
    if (shared > (unsigned)(asked == shared_bytes.end() ? 48 * 1024 : asked->second)) return INVALID_VALUE;
    if (blocks == 0 || threads == 0 || threads > 1024) return INVALID_VALUE;
    void *pointers[4];
    int64_t numbers[4];
    for (int i = 0; i < 4; i++) memcpy(&pointers[i], parameters[i], 8), memcpy(&numbers[i], parameters[4 + i], 8);
    if (numbers[3] != blocks) return INVALID_VALUE;
    auto run = (int (*)(void *, void *, void *, void *, int64_t, int64_t, int64_t, int64_t, int, int64_t, int))function;
    overrun += run(pointers[0], pointers[1], pointers[2], pointers[3], numbers[0], numbers[1], numbers[2], numbers[3],
                   threads, shared, 0) != 0;
    launches++;
    last_stream = stream;
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == NO_BINARY ? "no kernel image is available for execution on the device" : "invalid argument";
    return 0;
}
}
