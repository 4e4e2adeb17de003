"""What is said where the catalogue has not what is named, or not for whoever names it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.nearest import did_you_mean


def no_endpoint(namespace: str, name: str, here: Sequence[str]) -> Refusal:
    """`here`: the names of the namespace's endpoints."""
    more = ", …" if len(here) > 20 else ""
    known = f"namespace {namespace} has: {', '.join(here[:20])}{more}" if here else "that namespace has none"
    return Refusal(
        FailureCode.UNKNOWN_ENDPOINT,
        f"there is no endpoint {endpoint_address(namespace, name)}, or it was deleted: correct the address, or "
        f"apply it; {known}",
    )


def no_version(namespace: str, name: str, version: int) -> Refusal:
    """Of an endpoint."""
    return Refusal(
        FailureCode.UNKNOWN_ENDPOINT,
        f"version {version} of endpoint {endpoint_address(namespace, name)} was deleted: publish the event again",
    )


def no_guidance(name: str, versions: Sequence[int]) -> Refusal:
    """`versions`: those that there are of it."""
    return Refusal(
        FailureCode.GUIDANCE_UNKNOWN, f"there is no guidance {name}{_instead(versions)}: apply it, or correct the name"
    )


def guidance_not_shared(name: str, owner: str, namespace: str) -> Refusal:
    """`namespace` may not use the `owner`'s."""
    return Refusal(
        FailureCode.GUIDANCE_FORBIDDEN,
        f"guidance {name} is not shared with namespace {namespace}: "
        f"ask {owner} to add it to the guidance's `shared_with`",
    )


def takes_no_scale(name: str, form: str, scale: str) -> Refusal:
    """Guidance of this form was named with `*SCALE`."""
    return Refusal(
        FailureCode.GUIDANCE_FORBIDDEN,
        f"guidance {name} is of form {form}, and only a lora takes a scale: name it without *{scale}",
    )


def no_set(name: str, versions: Sequence[int]) -> Refusal:
    """`versions`: those that there are of the retrieval set."""
    return Refusal(
        FailureCode.GUIDANCE_UNKNOWN,
        f"there is no retrieval set {name}{_instead(versions)}: create it, or correct the name",
    )


def set_not_shared(name: str, owner: str, namespace: str) -> Refusal:
    """`namespace` may not use the `owner`'s retrieval set."""
    return Refusal(
        FailureCode.GUIDANCE_FORBIDDEN,
        f"retrieval set {name} is not shared with namespace {namespace}: "
        f"ask {owner} to publish it with `--share {namespace}`",
    )


def no_model(size: str, sizes: Sequence[str]) -> Refusal:
    """`sizes`: those that there are."""
    there = f"name one that is there ({', '.join(sizes[:20])}), or " if sizes else ""
    demonstration = "`guideway apply --with-small` adds the one that the packages carry" if size == "small" else ""
    return Refusal(
        FailureCode.UNKNOWN_MODEL_SIZE,
        f"there is no model size {size!r}: {did_you_mean(size, sizes)}{there}"
        f"{demonstration or f'apply a manifest of kind model/v1 with the name {size}'}",
    )


def _instead(versions: Sequence[int]) -> str:
    return f" (there is version {', '.join(map(str, versions[-10:]))})" if versions else ""
