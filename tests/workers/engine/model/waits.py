"""What a device would be waited for, how many operators would be launched on it, and how many lines of Python run
meanwhile, counted on a CPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType, ModuleType, TracebackType
from typing import Any, Final

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING: Final = frozenset(
    {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__"}
)
"""Methods of tensors that bring numbers to the host."""
_WAITING_OPERATORS: Final = frozenset({"aten::nonzero", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"})
"""Operators whose result, or its shape, the host has to know."""


class Counts:
    """A context that counts what is done with tensors in it."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.launches = 0
        self._modes: tuple[Any, ...] = (_Methods(self.waits), _Operators(self.waits, self._launched))

    def __enter__(self) -> Counts:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, at)

    def _launched(self) -> None:
        self.launches += 1


class Lines:
    """A context that counts the lines of some modules that run in it: a loop runs its lines once for each turn."""

    def __init__(self, *modules: ModuleType) -> None:
        self.count = 0
        self._files = {module.__file__ for module in modules}

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._see)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        sys.settrace(self._before)

    def _see(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        self.count += event == "line"
        return self._see


class _Methods(TorchFunctionMode):
    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        # The model's device is an object; who brings numbers to the host writes its name.
        if name in WAITING or (name == "to" and "cpu" in args[1:]):
            self._waits[name] += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, waits: Counter[str], launched: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waits, self._launched = waits, launched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        if schema.name in _WAITING_OPERATORS:
            self._waits[schema.name] += 1
        # A view starts nothing: what it gives is what it was given.
        if not any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns):
            self._launched()
        return func(*args, **(kwargs or {}))
