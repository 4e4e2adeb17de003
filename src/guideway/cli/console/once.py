"""Options that take one value: given twice, the first would vanish without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperOption

from guideway.schemas.failures import FailureCode, Refusal


class Command(TyperCommand):
    """A command that refuses an option of one value where it is given several times."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the plain one. Raises also: Refusal `invalid_setting`."""
        single = {
            name: option
            for option in self.params
            if isinstance(option, TyperOption) and not (option.multiple or option.count or option.is_flag)
            for name in option.opts
        }
        seen: set[TyperOption] = set()
        for name in _given(args, single):
            if single[name] in seen:
                raise Refusal(FailureCode.INVALID_SETTING, f"{name} is given twice and takes one value: give it once")
            seen.add(single[name])
        return super().parse_args(ctx, args)


def _given(args: Sequence[str], single: Mapping[str, object]) -> Iterator[str]:
    """The names of those options that stand in the arguments, each as often as it does."""
    rest = iter(args)
    for one in rest:
        if one == "--":
            return
        name, has_value, _ = one.partition("=")
        if name in single:
            yield name
            if not has_value:
                next(rest, None)
        elif not one.startswith("--") and one[:2] in single:
            yield one[:2]  # -n5
