/* Keys and values of some tokens of a row, into its pages and out of them, for all layers at once. `native_pages.py` is
 * the caller. */
#include "../kernels.h"

#define PAGE 16 /* tokens; `PAGE_TOKENS` of kv_cache.py is the same number */

/* pages: [all pages, heads, PAGE, bytes] of each tensor; states: [heads, tokens, bytes]; bytes: of a head of a token;
 * held: the row's pages. into: whether states go into the pages. */
void gw_move_states(int64_t tensors, int64_t heads, int64_t bytes, int64_t tokens, const int64_t *held,
                    char *const *pages, char *const *states, int64_t into)
{
    for (int64_t tensor = 0; tensor < tensors; tensor++)
        for (int64_t begin = 0; begin < tokens; begin += PAGE)
            for (int64_t head = 0; head < heads; head++) {
                const int64_t left = tokens - begin, some = left < PAGE ? left : PAGE;
                char *page = pages[tensor] + (held[begin / PAGE] * heads + head) * PAGE * bytes;
                char *state = states[tensor] + (head * tokens + begin) * bytes;
                memcpy(into ? page : state, into ? state : page, (size_t)(some * bytes));
            }
}
