/* Tiles of AMX: registers of 16 rows of 64 bytes, and products of such. */
#ifndef GUIDEWAY_TILES_H
#define GUIDEWAY_TILES_H

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#define TILES 1

#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_LINE 64   /* bytes of a row */
#define TILE_CHUNK 256 /* tokens that one thread takes at a time, whose inputs stay in its second cache */

/* Linux lets a process use tiles that has asked for it (arch_prctl: ARCH_REQ_XCOMP_PERM, of XFEATURE_XTILEDATA). */
static int may_use_tiles(void)
{
    static int known; /* 1: yes, 2: no */
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!found) {
        found = syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? 1 : 2;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found == 1;
}

/* After this, all that was stored is in memory. Compilers are not told all that instructions of tiles read: GCC 12 leaves
 * out what is stored beyond the first 8 bytes of a shape. */
static inline void keep_stores(const void *at)
{
    __asm__ volatile("" ::"r"(at) : "memory");
}

/* All tiles are whole, in this thread, until `end_tiles`. */
static void begin_tiles(void)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shape.bytes[tile] = TILE_LINE, shape.rows[tile] = TILE_ROWS;
    keep_stores(&shape);
    _tile_loadconfig(&shape);
}

/* Threads without tiles are cheaper to leave and to go on with. */
static void end_tiles(void)
{
    _tile_release();
}
#else
#define TILES 0
#endif

#endif
