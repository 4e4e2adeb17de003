"""Patterns of module names: those that are taken mean what they mean to PEFT, and none makes anybody wait."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from guideway.catalogue.adapters.module_patterns import Effort, ModulePattern, PatternRefused, first_match

LAYER = "model.layers.1.self_attn.q_proj"
NAMES = [
    LAYER,
    "model.layers.11.mlp.down_proj",
    "layers.1.q_proj",
    "q_proj",
    "xq_proj",
    "q-proj",
    "a",
    "aa.a",
    "ä.1",
    "",
    ".",
]
PLENTY = 10**9


def peft(pattern: str, name: str) -> bool:
    """`peft.utils.other.get_pattern_key`, of one pattern."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "q_proj|v_proj",
        "self_attn.q_proj",
        "proj",
        LAYER,
        f"^{LAYER}",
        f"^{LAYER}$",
        "^q_proj",
        r"layers\.1\..*q_proj",
        r".*layers.(0|1).*_proj",
        r"layers\.[0-9]+\.self_attn\.(q|k|v)_proj",
        r"layers\.\d{1,2}\.(?:self_attn|mlp)\.\w+",
        r"[^.]+\.[^.]+",
        ".*",
        "",
        "a*",
        "(a?){3}",
        "(^)?a",
        "a$|^layers.*",
        "$",
        r"[\d\-_a-q]*_proj",
    ],
)
def test_a_pattern_means_what_it_means_to_peft(pattern: str) -> None:
    matcher = ModulePattern(pattern, Effort(PLENTY))
    for name in NAMES:
        assert matcher.matches(name, Effort(PLENTY)) == peft(pattern, name), name


ATOMS = st.sampled_from(["a", "b", "1", ".", r"\.", r"\d", r"\w", "[ab]", "[^a.]", "[a-c1_-]", "^", "$", "proj", ""])
TIMES = st.sampled_from(["", "", "", "*", "+", "?", "*?", "{2}", "{1,3}", "{,2}", "{2,}", "{0}"])
PATTERNS = st.recursive(
    st.builds(lambda atom, times: f"{atom}{times}", ATOMS, TIMES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
        st.builds(lambda one, times: f"({one}){times}", inner, TIMES),
    ),
    max_leaves=6,
)
ANYTHING = st.text(r"ab1.*+?(|)[]{}^$\dw,-", max_size=8)
SOME_NAMES = st.lists(st.text("ab1._-p", max_size=6), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pattern=PATTERNS | ANYTHING, names=SOME_NAMES)
def test_any_pattern_that_is_taken_means_what_it_means_to_python(pattern: str, names: list[str]) -> None:
    try:
        matcher = ModulePattern(pattern, Effort(PLENTY))
    except PatternRefused:
        assume(False)
    for name in names:
        assert matcher.matches(name, Effort(PLENTY)) == peft(pattern, name)


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "a)|(b",
        "[",
        "[]",
        "[z-a]",
        "\\",
        "a**",
        "a*+",
        "*a",
        "a{",
        "a{2,1}",
        "a{99999}",
        "^*",
        r"\1",
        r"(a)\1",
        r"\b",
        r"\Z",
        "(?=a)",
        "(?!a)",
        "(?i)a",
        "(?P<n>a)",
        "(" * 500 + ")" * 500,
        "a" * 1001,
        "((a{100}){100}){100}",
        "(((){1000}){1000}){1000}",
        "(((a{0}){1000}){1000}){1000}",
    ],
)
def test_what_is_no_pattern_of_names_is_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused, match=r"names of modules|shorten it"):
        ModulePattern(pattern, Effort(PLENTY))


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*" * 20 + "b", "(.*.*.*.*.*)*b", "(a?){30}a{30}b"])
def test_what_makes_python_go_back_for_ages_costs_little(pattern: str) -> None:
    """Python needs years for the longest of these; here the looks are counted, and bounded by length times length."""
    assert not ModulePattern(pattern, Effort(PLENTY)).matches("a" * 100, Effort(100_000))


def test_matching_ends_with_its_effort() -> None:
    patterns = [(ModulePattern("(.*a){5}b", Effort(PLENTY)), 1.0)]
    effort = Effort(20_000)
    with pytest.raises(PatternRefused, match="take too long"):
        first_match(patterns * 1000, "a" * 200, effort)
    with pytest.raises(PatternRefused, match="take too long"):
        ModulePattern("(a{50}){50}", Effort(1000))


def test_a_pattern_for_each_module_of_a_large_model_is_no_effort() -> None:
    names = [f"model.layers.{layer}.{part}" for layer in range(80) for part in string.ascii_lowercase[:7]]
    effort = Effort(1_000_000)
    patterns = [(ModulePattern(name.replace(".", r"\."), effort), float(at)) for at, name in enumerate(names)]
    assert [first_match(patterns, name, effort) for name in names] == [float(at) for at in range(len(names))]
