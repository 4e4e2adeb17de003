"""What is in the catalogue, by the names that people give it."""

from __future__ import annotations

from guideway.catalogue.entries import KINDS, Catalogue, Identity, Kind
from guideway.catalogue.topic import CatalogueFollower
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.kinds.router import ROUTER
from guideway.schemas.manifests import Manifest
from guideway.schemas.names.addresses import NAME
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings


async def catalogue_of(settings: Settings) -> Catalogue:
    """The catalogue as it is now. Raises Refusal(broker_unreachable | invalid_setting) where there is none."""
    async with CatalogueFollower(settings.answering_cluster()) as reader:
        return reader.catalogue


async def catalogue_if_there(settings: Settings) -> Catalogue | None:
    """The catalogue as it is now; None where there is no broker or no catalogue."""
    try:
        return await catalogue_of(settings)
    except Refusal:
        return None


def kind_of(text: str) -> Kind:
    """Of `endpoint`, `endpoints` and the like. Raises Refusal(invalid_setting)."""
    for kind in KINDS:
        if text in (kind, f"{kind}s", f"{kind}es"):
            return kind
    near = did_you_mean(text, KINDS)
    raise Refusal(FailureCode.INVALID_SETTING, f"{text!r} is no kind: {near}write {', '.join(KINDS)}")


def identity_of(kind: str, name: str) -> Identity:
    """What is meant by a kind and `NAMESPACE/NAME`, or a model size or a namespace. Raises Refusal(invalid_setting)."""
    known = kind_of(kind)
    namespace, slash, rest = name.strip("/").partition("/")
    if not slash:
        return Identity(known, namespace, ROUTER) if known == "router" else Identity(known, "public", namespace)
    return Identity(known, namespace, rest)


def found_in(catalogue: Catalogue, identity: Identity) -> tuple[int, Manifest]:
    """The newest version. Raises Refusal(unknown_endpoint | guidance_unknown | unknown_model_size)."""
    latest = catalogue.latest(identity)
    if latest is None:
        code = FailureCode.UNKNOWN_ENDPOINT if identity.kind == "endpoint" else FailureCode.GUIDANCE_UNKNOWN
        code = FailureCode.UNKNOWN_MODEL_SIZE if identity.kind == "model" else code
        known = [f"{one.namespace}/{one.name}" for one in catalogue.identities(identity.kind)]
        near = did_you_mean(f"{identity.namespace}/{identity.name}", known)
        # Whoever asks for `small` or for a namespace names no other one.
        whole = identity.kind not in ("model", "namespace")
        what = identity if whole else f"{identity.kind} {identity.name}"
        raise Refusal(code, f"the catalogue has no {what}: {near}`guideway get {identity.kind}` lists what it has")
    return latest


def found_set(catalogue: Catalogue, name: str) -> tuple[SetRef, RetrievalSet]:
    """By `NAMESPACE/NAME[@VERSION]`. Raises Refusal(invalid_setting | guidance_unknown)."""
    plain, at, version = name.strip("/").partition("@")
    namespace, _ = split_name(plain)
    if at and not version.isdigit():
        raise Refusal(FailureCode.INVALID_SETTING, f"{name!r}: a version is a number, as `guideway sets list` shows it")
    try:
        return catalogue.retrieval_set(name.strip("/"), for_namespace=namespace)
    except Refusal as refusal:
        sets = [f"{one.namespace}/{one.name}" for one in catalogue.identities("set")]
        if refusal.code is not FailureCode.GUIDANCE_UNKNOWN or (plain in sets and not at):
            raise
        near = "" if plain in sets else did_you_mean(plain, sets)
        raise Refusal(refusal.code, f"there is no retrieval set {name}: {near}`guideway sets list` lists all") from None


def split_name(name: str) -> tuple[str, str]:
    """(namespace, name). Raises Refusal(invalid_setting)."""
    namespace, _, plain = name.strip("/").partition("/")
    if not (NAME.fullmatch(namespace) and NAME.fullmatch(plain)):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{name!r} is no set's name: write NAMESPACE/NAME, in lower-case letters, digits and hyphens",
        )
    return namespace, plain
