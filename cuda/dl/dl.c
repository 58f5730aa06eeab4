// A stand-in for -lcuda that opens the real libcuda.so.1 when the program starts
// and forwards every call to it. Linked statically, it lets one binary start on
// machines without a driver: there cuInit succeeds and cuDeviceGetCount says that
// there are no devices; every other function answers CUDA_ERROR_NOT_INITIALIZED (3), or, where the driver is
// older than the function, CUDA_ERROR_NOT_FOUND (500).
//
// Each function is a jump through a table, so that arguments of any signature pass
// untouched. System V calling convention, x86-64 and aarch64.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>

enum {
#define X(name) index_##name,
#include "functions.h"
#undef X
    count
};

static const char *const names[] = {
#define X(name) #name,
#include "functions.h"
#undef X
};

__attribute__((visibility("hidden"))) void *sparserun_cuda_table[count];

#if defined(__x86_64__)
#define JUMP(name) \
    __asm__(".text\n.globl " #name "\n.type " #name ",@function\n" #name ":\n" \
            "  movq sparserun_cuda_table+8*slot_" #name "(%rip), %rax\n  jmp *%rax\n");
#elif defined(__aarch64__)
#define JUMP(name) \
    __asm__(".text\n.globl " #name "\n.type " #name ",%function\n" #name ":\n" \
            "  adrp x16, sparserun_cuda_table+8*slot_" #name "\n" \
            "  ldr x16, [x16, :lo12:sparserun_cuda_table+8*slot_" #name "]\n  br x16\n");
#else
#error "no forwarding for this architecture"
#endif
#include "slots.h"
#define X(name) JUMP(name)
#include "functions.h"
#undef X

static int no_driver(void) { return 3; }
static int not_found(void) { return 500; }
static int no_devices(int *n) { return *n = 0, 0; }
static int no_version(int *n) { return *n = 0, 0; }

// sparserun_cuda_error is NULL where a driver was found and started, else why not.
const char *sparserun_cuda_error;

static int (*real_init)(unsigned);
static char init_error[64];

// gorgonia.org/cu ends the process when cuInit fails (no device, a driver that does
// not fit the kernel module, ...), so it always succeeds and its answer is kept.
static int init(unsigned flags) {
    int r = real_init ? real_init(flags) : 0;
    if (r) {
        snprintf(init_error, sizeof init_error, r == 100 ? "cuInit: CUDA_ERROR_NO_DEVICE (%d)" : "cuInit: CUresult %d", r);
        sparserun_cuda_error = init_error;
        sparserun_cuda_table[index_cuDeviceGetCount] = (void *)no_devices;
    }
    return 0;
}

__attribute__((constructor)) static void load(void) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!lib) sparserun_cuda_error = dlerror();
    for (int i = 0; i < count; i++) {
        void *f = lib ? dlsym(lib, names[i]) : NULL;
        sparserun_cuda_table[i] = f ? f : lib ? (void *)not_found : (void *)no_driver;
    }
    if (lib) real_init = (int (*)(unsigned))dlsym(lib, "cuInit");
    sparserun_cuda_table[index_cuInit] = (void *)init;
    if (!lib) {
        sparserun_cuda_table[index_cuDeviceGetCount] = (void *)no_devices;
        sparserun_cuda_table[index_cuDriverGetVersion] = (void *)no_version;
    }
}
