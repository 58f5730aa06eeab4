// Appends keys and values of new tokens to the paged cache.
//   k, v (rows, kvheads, headdim) T, row strides ldk, ldv; pos, seq (rows) int32;
//   kcache, vcache (pages, pagesize, kvheads, headdim) T; table (seqs, maxpages) int32:
//   position p of sequence s lives in page table[s, p / pagesize], slot p % pagesize.
//   A row with seq < 0 or a page < 0 is skipped (padding of a captured graph).
//
// v1: one block a row, one element a thread and turn.
#pragma once
#include "lane.cuh"

// cache_slot: index of a position's slot among all slots of the pool, or -1.
__device__ __forceinline__ long long cache_slot(const int* table, int maxpages, int pagesize, int seq, int pos) {
    int page = table[size_t(seq) * maxpages + pos / pagesize];
    return page < 0 ? -1 : (long long)(page) * pagesize + pos % pagesize;
}

#define KV_WRITE(T, NAME)                                                                                      \
    KERNEL kv_write_##NAME(T* kcache, T* vcache, const T* k, const T* v, const int* pos, const int* seq,       \
                           const int* table, int maxpages, int pagesize, int width, int ldk, int ldv) {        \
        int row = blockIdx.x;                                                                                  \
        if (seq[row] < 0) return;                                                                              \
        long long slot = cache_slot(table, maxpages, pagesize, seq[row], pos[row]);                            \
        if (slot < 0) return;                                                                                  \
        for (int j = threadIdx.x; j < width; j += blockDim.x) {                                                \
            kcache[slot * width + j] = k[size_t(row) * ldk + j];                                               \
            vcache[slot * width + j] = v[size_t(row) * ldv + j];                                               \
        }                                                                                                      \
    }
KV_WRITE(float, f32)
KV_WRITE(__half, f16)
