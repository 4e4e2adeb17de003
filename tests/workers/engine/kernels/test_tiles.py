"""Tiles of AMX are whole, whatever a compiler leaves out that it takes for unread."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from guideway.workers.engine.kernels import native

TOLD = """
#include <stdio.h>
#include "linears/tiles.h"

#if TILES
/* With nothing around it: what compilers leave out depends on that. */
__attribute__((noinline)) static void begin(void)
{
    begin_tiles();
}
#endif

int main(void)
{
#if TILES
    uint8_t shape[64];
    if (!may_use_tiles()) return 0;
    begin();
    _tile_storeconfig(shape);
    end_tiles();
    fwrite(shape, 1, sizeof shape, stdout);
#endif
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_all_tiles_are_whole(tmp_path: Path, level: str) -> None:
    """GCC 12 knows of 8 bytes only that the instruction reads which sets the shape of tiles."""
    (tmp_path / "told.c").write_text(TOLD)
    flags = [level, "-march=native", "-std=gnu11", f"-I{Path(native.__file__).parent}"]
    subprocess.run(["cc", *flags, "told.c", "-o", "told"], cwd=tmp_path, check=True, timeout=60)
    shape = subprocess.run([tmp_path / "told"], stdout=subprocess.PIPE, check=True, timeout=10).stdout
    if not shape:
        pytest.skip("this processor has no tiles")
    assert shape == bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
