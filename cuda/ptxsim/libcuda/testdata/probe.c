// A program linked against -lcuda: walks through the driver functions that
// package cuda uses and prints one line per step. Declares what it needs itself,
// so that no CUDA header is wanted.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ptr;
typedef void *handle;
int cuInit(unsigned), cuDriverGetVersion(int *), cuDeviceGetCount(int *), cuDeviceGet(int *, int);
int cuDeviceGetName(char *, int, int), cuDeviceTotalMem_v2(size_t *, int), cuDeviceGetAttribute(int *, int, int);
int cuCtxCreate_v2(handle *, unsigned, int), cuCtxDestroy_v2(handle), cuCtxSynchronize(void), cuCtxGetCurrent(handle *);
int cuModuleLoadData(handle *, const void *), cuModuleGetFunction(handle *, handle, const char *), cuModuleUnload(handle);
int cuModuleGetGlobal_v2(ptr *, size_t *, handle, const char *);
int cuModuleLoadDataEx(handle *, const void *, unsigned, int *, void **);
int cuMemAlloc_v2(ptr *, size_t), cuMemFree_v2(ptr), cuMemGetInfo_v2(size_t *, size_t *);
int cuMemcpyHtoD_v2(ptr, const void *, size_t), cuMemcpyDtoH_v2(void *, ptr, size_t), cuMemsetD32_v2(ptr, unsigned, size_t);
int cuMemcpyHtoDAsync_v2(ptr, const void *, size_t, handle), cuMemcpyDtoHAsync_v2(void *, ptr, size_t, handle);
int cuMemAllocHost_v2(void **, size_t), cuMemFreeHost(void *);
int cuLaunchKernel(handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, handle, void **, void **);
int cuStreamCreate(handle *, unsigned), cuStreamSynchronize(handle), cuStreamDestroy_v2(handle);
int cuStreamBeginCapture_v2(handle, int), cuStreamEndCapture(handle, handle *), cuGraphInstantiateWithFlags(handle *, handle, unsigned long long);
int cuGraphLaunch(handle, handle), cuGraphDestroy(handle), cuGraphExecDestroy(handle);
int cuEventCreate(handle *, unsigned), cuEventRecord(handle, handle), cuEventSynchronize(handle), cuEventElapsedTime(float *, handle, handle);
int cuGetErrorName(int, const char **), cuArrayDestroy(handle), cuFuncGetAttribute(int *, int, handle), cuFuncSetAttribute(handle, int, int);

static const char *ptx =
    ".version 8.5\n.target sm_80\n.address_size 64\n"
    ".global .align 4 .u32 bias = 5;\n"
    ".visible .entry axpy(.param .u64 y, .param .u64 x, .param .f32 a, .param .u32 n) .maxntid 64, 1, 1 {\n"
    " .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %rd<6>;\n"
    " ld.param.u64 %rd1, [y]; ld.param.u64 %rd2, [x]; ld.param.f32 %f1, [a]; ld.param.u32 %r1, [n];\n"
    " mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    " setp.ge.s32 %p1, %r5, %r1; @%p1 bra DONE;\n"
    " mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;\n"
    " ld.global.f32 %f2, [%rd5]; ld.global.f32 %f3, [%rd4]; fma.rn.f32 %f3, %f1, %f2, %f3; st.global.f32 [%rd4], %f3;\n"
    "DONE: ret; }\n";

static void say(const char *what, int r) {
    const char *name = "?";
    cuGetErrorName(r, &name);
    printf("%s: %s\n", what, name ? name : "(none)");
}

int main(void) {
    int v = 0, n = 0, dev = 0, attr = 0;
    char name[64] = "";
    size_t total = 0, freeBytes = 0, size = 0;
    int r = cuInit(0);
    say("init", r);
    if (r) return 0;
    cuDriverGetVersion(&v);
    say("count", cuDeviceGetCount(&n));
    say("no context", cuCtxSynchronize());
    cuDeviceGet(&dev, 0);
    cuDeviceGetName(name, sizeof name, dev);
    cuDeviceTotalMem_v2(&total, dev);
    int major = 0, minor = 0;
    cuDeviceGetAttribute(&major, 75, dev);
    cuDeviceGetAttribute(&minor, 76, dev);
    printf("version %d devices %d name '%s' cc %d.%d total %zu\n", v, n, name, major, minor, total);
    handle ctx, cur, mod, fn, st, g, ge, e0, e1;
    say("context", cuCtxCreate_v2(&ctx, 0, dev));
    cuCtxGetCurrent(&cur);
    printf("current %d\n", cur == ctx);
    say("elf", cuModuleLoadData(&mod, "\x7f" "ELF..."));
    char log[200] = "";
    int keys[2] = {5, 6};
    void *vals[2] = {log, (void *)(uintptr_t)sizeof log};
    say("bad text", cuModuleLoadDataEx(&mod, ".version 8.5\n.target sm_80\n.address_size 64\n.visible .entry k() { frobnicate.u32 %r1; }", 2, keys, vals));
    printf("log %s\n", log);
    say("module", cuModuleLoadData(&mod, ptx));
    say("function", cuModuleGetFunction(&fn, mod, "axpy"));
    handle none;
    say("no function", cuModuleGetFunction(&none, mod, "nothing"));
    ptr gp;
    unsigned bias = 0;
    say("global", cuModuleGetGlobal_v2(&gp, &size, mod, "bias"));
    cuMemcpyDtoH_v2(&bias, gp, size);
    cuFuncGetAttribute(&attr, 0, fn);
    printf("bias %u size %zu max threads %d\n", bias, size, attr);
    ptr x = 0, y = 0, z = 0;
    say("alloc x", cuMemAlloc_v2(&x, 400));
    say("alloc y", cuMemAlloc_v2(&y, 400));
    say("alloc z", cuMemAlloc_v2(&z, 400));
    float host[100], *pinned;
    for (int i = 0; i < 100; i++) host[i] = i;
    say("pinned", cuMemAllocHost_v2((void **)&pinned, 400));
    cuMemcpyHtoD_v2(x, host, 400);
    cuMemsetD32_v2(y, 0x3f800000, 100);
    float a = 2;
    unsigned count = 100;
    void *params[] = {&y, &x, &a, &count};
    say("launch", cuLaunchKernel(fn, 2, 1, 1, 64, 1, 1, 0, 0, params, 0));
    cuMemcpyDtoH_v2(host, y, 400);
    printf("y[0] %g y[99] %g\n", host[0], host[99]);
    say("too many threads", cuLaunchKernel(fn, 2, 1, 1, 128, 1, 1, 0, 0, params, 0));
    cuStreamCreate(&st, 1);
    cuEventCreate(&e0, 0);
    cuEventCreate(&e1, 0);
    say("begin", cuStreamBeginCapture_v2(st, 0));
    cuLaunchKernel(fn, 2, 1, 1, 64, 1, 1, 0, st, params, 0);
    cuMemcpyDtoHAsync_v2(pinned, y, 400, st);
    say("end", cuStreamEndCapture(st, &g));
    say("instantiate", cuGraphInstantiateWithFlags(&ge, g, 0));
    cuMemcpyDtoH_v2(host, y, 400);
    printf("captured y[99] %g\n", host[99]);
    cuEventRecord(e0, st);
    for (int i = 0; i < 3; i++) cuGraphLaunch(ge, st);
    cuEventRecord(e1, st);
    say("synchronize", cuStreamSynchronize(st));
    float ms = -1;
    say("elapsed", cuEventElapsedTime(&ms, e0, e1));
    printf("replayed y[99] %g elapsed %d\n", pinned[99], ms >= 0);
    say("array", cuArrayDestroy(0));
    count = 1000;
    say("out of bounds", cuLaunchKernel(fn, 16, 1, 1, 64, 1, 1, 0, 0, params, 0));
    say("after the fault", cuMemcpyDtoH_v2(host, y, 400));
    cuGraphExecDestroy(ge);
    cuGraphDestroy(g);
    cuStreamDestroy_v2(st);
    cuMemFreeHost(pinned);
    say("destroy", cuCtxDestroy_v2(ctx));
    say("context again", cuCtxCreate_v2(&ctx, 0, dev));
    cuMemGetInfo_v2(&freeBytes, &total);
    printf("all free %d\n", freeBytes == total);
    return 0;
}
