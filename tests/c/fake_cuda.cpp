/* A CUDA driver without a GPU, as far as woodpecker calls one. The image of a module is "emulated:" and the path of a
   library that `tests/cuda_support.py` made. Memory is the host's, checked for what lies beyond it.

   A stream does nothing until something waits for it: kernels, and copies from and to pinned memory, read and write
   only then, so that whoever forgets to wait, or overwrites what a copy still reads, gets wrong bits. Copies of other
   memory of the host are done when they return, as CUDA says. Each thread has contexts of its own.

   fake_state reports what is in use: allocations, modules, contexts on the stack, launches, mistakes (bytes overrun,
   pinned memory or code that went while a stream used it), streams, pinned blocks. fake_log has the names of the
   functions called since it was read. fake_begin, fake_end and fake_replay are a CUDA graph: between the first two,
   what is asked of the stream is recorded, and what waits or allocates fails. */
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

struct Work {
    std::function<void()> run;
    std::vector<const void *> uses; /* memory that may be of the host */
};
typedef std::map<uint64_t, size_t> Blocks;
static const size_t GUARD = 256;
static std::map<void *, int> shared_bytes; /* that kernels asked for, as every GPU from sm_80 on grants them */
static const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, NO_BINARY = 209, NOT_FOUND = 500, CAPTURE = 900;
static std::recursive_mutex lock;
static Blocks memory, pinned, registered;
static std::map<void *, std::deque<Work>> streams;
static std::vector<Work> recorded;
static void *last_stream, *recording = &recorded;
static int modules, depth, launches, mistakes, made_streams, leaving, waits;
static size_t pinned_limit = (size_t)1 << 40;
static std::string names;
static thread_local std::vector<void *> contexts;

#define ENTER                                                                                                          \
    std::lock_guard<std::recursive_mutex> guard(lock);                                                                 \
    names += std::string(__func__) + " ";
#define CAPTURING (recording != &recorded)

static const Blocks::value_type *holder(const Blocks &blocks, uint64_t address, size_t bytes) {
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin()) return nullptr;
    auto found = std::prev(next);
    return address + bytes <= found->first + found->second ? &*found : nullptr;
}
static bool locked(const void *at, size_t bytes) {
    return holder(pinned, (uint64_t)at, bytes) || holder(registered, (uint64_t)at, bytes);
}
static void *key(void *stream) { return stream == (void *)1 ? nullptr : stream; } /* both are the default stream */
static void finish(void *stream) {
    auto &todo = streams[key(stream)];
    while (!todo.empty()) {
        Work next = todo.front();
        todo.pop_front();
        next.run();
    }
}
static void finish_all() {
    for (auto &each : streams) finish(each.first);
}
static bool idle() {
    for (auto &each : streams)
        if (!each.second.empty()) return false;
    return true;
}
static void later(void *stream, std::function<void()> run, std::vector<const void *> uses = {}) {
    Work work{run, uses};
    if (key(stream) == recording) recorded.push_back(work);
    else streams[key(stream)].push_back(work);
}
static char *take(Blocks &blocks, size_t bytes) {
    char *made = (char *)aligned_alloc(256, (bytes + GUARD + 255) / 256 * 256);
    memset(made, 0xA5, bytes + GUARD);
    blocks[(uint64_t)made] = bytes;
    return made;
}
static int give(Blocks &blocks, uint64_t address) {
    auto found = blocks.find(address);
    if (found == blocks.end()) return INVALID_VALUE;
    for (size_t i = 0; i < GUARD; i++) mistakes += ((unsigned char *)address)[found->second + i] != 0xA5;
    free((void *)address);
    blocks.erase(found);
    return 0;
}

extern "C" {
void fake_state(int *out) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    int allocations = (int)memory.size() - leaving;
    int state[] = {allocations, modules, depth, launches, mistakes, made_streams, (int)pinned.size()};
    memcpy(out, state, sizeof state);
}
void *fake_stream(void) { return last_stream; } /* that of the last launch */
int fake_waits(void) { return waits; }
void fake_log(char *out, size_t bytes) {
    snprintf(out, bytes, "%s", names.c_str());
    names.clear();
}
void fake_pinned_limit(size_t bytes) { pinned_limit = bytes; }
void fake_register(void *at, size_t bytes) { registered[(uint64_t)at] = bytes; }
void fake_forget(void *at) { registered.erase((uint64_t)at); }
void fake_begin(void *stream) { recorded.clear(), recording = key(stream); }
void fake_end(void) { recording = &recorded; }
void fake_replay(void *stream) {
    for (auto &each : recorded) later(stream, each.run, each.uses);
}
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int) { *device = 7; return 0; }
int cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "an emulated GPU"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 16 ? 2 : which == 75 ? 9 : which == 13 ? 1000000 : 0; /* two, sm_90, 1 GHz */
    return device == 7 ? 0 : INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **context, int) { *context = &depth; return 0; }
int cuCtxGetCurrent(void **context) {
    ENTER *context = contexts.empty() ? nullptr : contexts.back();
    return 0;
}
int cuCtxSetCurrent(void *context) {
    ENTER if (context != &depth) return INVALID_VALUE;
    if (contexts.empty()) contexts.push_back(context);
    else contexts.back() = context;
    return 0;
}
int cuCtxPushCurrent_v2(void *context) {
    ENTER if (context != &depth) return INVALID_VALUE;
    depth++, contexts.push_back(context);
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    *context = contexts.back();
    depth--, contexts.pop_back();
    return 0;
}
int cuModuleLoadData(void **module, const char *image) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    if (strncmp(image, "emulated:", 9) != 0 || !(*module = dlopen(image + 9, RTLD_NOW))) return NO_BINARY;
    modules++;
    return 0;
}
int cuModuleUnload(void *module) {
    ENTER if (!idle()) mistakes++, finish_all();
    modules--;
    return dlclose(module);
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    char full[256];
    snprintf(full, sizeof full, "run_%s", name);
    return (*function = dlsym(module, full)) ? 0 : NOT_FOUND;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    if (attribute != 8 || value < 0 || value > 99 * 1024) return INVALID_VALUE;
    shared_bytes[function] = value;
    return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    if (CAPTURING) return CAPTURE;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > 1u << 30) return OUT_OF_MEMORY;
    *address = (uint64_t)take(memory, bytes);
    return 0;
}
int cuMemFree_v2(uint64_t address) {
    ENTER if (CAPTURING) return CAPTURE;
    finish_all();
    return give(memory, address);
}
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *) { return cuMemAlloc_v2(address, bytes); }
int cuMemFreeAsync(uint64_t address, void *stream) {
    ENTER if (CAPTURING) return CAPTURE;
    if (!memory.count(address)) return INVALID_VALUE;
    leaving++;
    later(stream, [=] { leaving--, give(memory, address); });
    return 0;
}
int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    if (CAPTURING) return CAPTURE;
    if (bytes == 0 || flags != 2) return INVALID_VALUE; /* 2: mapped */
    if (bytes > pinned_limit) return OUT_OF_MEMORY;
    *at = take(pinned, bytes);
    return 0;
}
int cuMemHostGetDevicePointer_v2(uint64_t *address, void *at, unsigned) {
    ENTER *address = (uint64_t)at;
    return pinned.count((uint64_t)at) ? 0 : INVALID_VALUE;
}
int cuMemFreeHost(void *at) {
    ENTER Blocks going;
    if (!pinned.count((uint64_t)at)) return INVALID_VALUE;
    going[(uint64_t)at] = pinned[(uint64_t)at];
    for (auto &each : streams)
        for (auto &work : each.second)
            for (auto used : work.uses) mistakes += holder(going, (uint64_t)used, 1) != nullptr;
    return give(pinned, (uint64_t)at);
}
int cuPointerGetAttribute(void *value, int which, uint64_t address) {
    ENTER if (which != 2) return INVALID_VALUE; /* 2: the type of the memory; of pageable memory nothing is known */
    bool host = locked((void *)address, 1);
    *(unsigned *)value = host ? 1 : 2;
    return host || holder(memory, address, 1) ? 0 : INVALID_VALUE;
}
int cuCtxSynchronize(void) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    if (CAPTURING) return CAPTURE;
    finish_all();
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    ENTER if (!holder(memory, to, bytes)) return INVALID_VALUE;
    later(stream, [=] { memcpy((void *)to, from, bytes); }, {from});
    if (!locked(from, bytes)) finish(stream);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    ENTER if (!holder(memory, from, bytes)) return INVALID_VALUE;
    later(stream, [=] { memcpy(to, (void *)from, bytes); }, {to});
    if (!locked(to, bytes)) finish(stream);
    return 0;
}
int cuMemsetD32Async(uint64_t to, unsigned value, size_t count, void *stream) {
    ENTER if (!holder(memory, to, 4 * count)) return INVALID_VALUE;
    later(stream, [=] { std::fill_n((unsigned *)to, count, value); });
    return 0;
}
int cuStreamIsCapturing(void *stream, int *capturing) {
    ENTER *capturing = CAPTURING && key(stream) == recording;
    return 0;
}
int cuStreamCreate(void **stream, unsigned) {
    ENTER *stream = malloc(1);
    made_streams++;
    return 0;
}
int cuStreamDestroy_v2(void *stream) {
    ENTER finish(stream);
    streams.erase(stream), free(stream), made_streams--;
    return 0;
}
int cuStreamSynchronize(void *stream) {
    ENTER waits++;
    if (CAPTURING) return CAPTURE;
    finish(stream);
    return 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    ENTER if (!holder(memory, to, bytes) || !holder(memory, from, bytes)) return INVALID_VALUE;
    later(stream, [=] { memcpy((void *)to, (void *)from, bytes); });
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER *free = 1 << 22, *total = 1 << 23;
    return contexts.empty() ? NO_CONTEXT : 0;
}
int cuLaunchKernel(void *function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                   unsigned shared, void *stream, void **parameters, void **) {
    ENTER if (contexts.empty()) return NO_CONTEXT;
    auto asked = shared_bytes.find(function);
    if (shared > (unsigned)(asked == shared_bytes.end() ? 48 * 1024 : asked->second)) return INVALID_VALUE;
    if (blocks == 0 || threads == 0 || threads > 1024) return INVALID_VALUE;
    struct { void *pointers[4]; int64_t numbers[4]; } p;
    for (int i = 0; i < 4; i++) memcpy(&p.pointers[i], parameters[i], 8), memcpy(&p.numbers[i], parameters[4 + i], 8);
    if (p.numbers[3] != blocks) return INVALID_VALUE;
    auto run = (int (*)(void *, void *, void *, void *, int64_t, int64_t, int64_t, int64_t, int, int64_t, int))function;
    int order = launches++ % 3 * 2; /* of blocks: first to last, last to first, in turn */
    later(stream, [=] {
        mistakes += run(p.pointers[0], p.pointers[1], p.pointers[2], p.pointers[3], p.numbers[0], p.numbers[1],
                        p.numbers[2], p.numbers[3], threads, shared, order) != 0;
    }, {p.pointers[0], p.pointers[1]});
    last_stream = stream;
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == NO_BINARY ? "no kernel image is available for execution on the device" : "invalid argument";
    return 0;
}
}
