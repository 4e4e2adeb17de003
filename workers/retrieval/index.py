"""A version of a set in Qdrant: filled from its folder, then searched. The same code works with and without a server.

Without a server the index is in this process's memory, and is made from the artefact each time it is opened. Qdrant's
local folders are not used: they serve only one process, and they are pickles.

On a server each version has a collection of its own, named by its owner and its artefact's digest. So a switch of
versions is a switch of names, a version is dropped with its collection, and a search needs no filter for the version. A
collection is searched only when it has all its passages. To fill it twice changes nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import httpx
import msgspec
import numpy as np
import stamina
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import Condition, Metadata, Scalar, is_filterable
from guideway.workers.retrieval.embedder import Vectors
from guideway.workers.retrieval.set_folder import SetFolder

T = TypeVar("T")
LOCAL_LIMIT: Final = 20_000
"""Qdrant recommends its local mode for sets of at most so many passages; for larger sets use a server."""
_POINTS_A_REQUEST: Final = 512
_POINT_BYTES: Final = 1500
"""About the size of the Python objects of one passage in local mode."""
_WORDS: Final = ("true", "True", "TRUE", "false", "False", "FALSE")
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
"""How integers are written. `007` is a text."""
_TIMEOUT_S: Final = 10
_ATTEMPTS: Final = 3


class Hit(NamedTuple):
    """A passage that was found."""

    id: str
    text: str
    score: float
    """Cosine of the angle between query and passage."""
    vector: Vectors | None
    """[dimension], float32; None if vectors were not asked for."""


class Qdrant:
    """Keeps the indexes: on a server, or in this process's memory."""

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = url
        self._server = (
            QdrantClient(url, api_key=api_key, timeout=_TIMEOUT_S, check_compatibility=False) if url else None
        )

    def open(self, key: str, passages: int, read: Callable[[], SetFolder]) -> Index:
        """The complete index of an artefact. key: see `index_key`. passages: how many it has.

        read: called if some are missing.

        Raises: Refusal `retrieval_failed` if the server cannot be reached; whatever `read` raises.
        """
        # Each local index has its own client: when it is closed, the memory is free again.
        client = self._server or QdrantClient(":memory:")
        index = Index(client, _collection(key), owned=self._server is None)
        if index.count() != passages:
            index.fill(read())
        return index

    def drop(self, key: str) -> None:
        """Remove the artefact's collection from the server, if there is one. Raises: Refusal `retrieval_failed`."""
        if self._server is not None:
            server = self._server
            _patiently(lambda: server.delete_collection(_collection(key)))


class Index:
    """The index of one version of a set."""

    def __init__(self, client: QdrantClient, collection: str, *, owned: bool) -> None:
        self._client = client
        self._collection = collection
        self._owned = owned
        self.bytes = 0
        """About how many bytes of this process's memory it takes; 0 on a server."""

    def count(self) -> int:
        """How many passages it has; all of its set when it is complete. Raises: Refusal `retrieval_failed`."""
        if not _patiently(lambda: self._client.collection_exists(self._collection)):
            return 0
        return _patiently(lambda: self._client.count(self._collection, exact=True)).count

    def fill(self, content: SetFolder) -> None:
        """Put all passages in, even if some are there already. Raises: Refusal `retrieval_failed`."""
        if not _patiently(lambda: self._client.collection_exists(self._collection)):
            _patiently(lambda: self._create(content.vectors.shape[1]))
        for points in _batches(content):
            _patiently(lambda points=points: self._upsert(points))  # type: ignore[misc]
        found = self.count()
        if found != len(content.passages):
            raise Refusal(
                FailureCode.RETRIEVAL_FAILED,
                f"the index holds {found} of {len(content.passages)} passages: delete its collection on the server",
            )
        if self._owned:
            payload_bytes = sum(len(msgspec.json.encode(passage)) for passage in content.passages)
            self.bytes = content.vectors.nbytes + payload_bytes + _POINT_BYTES * len(content.passages)

    def search(
        self,
        queries: Sequence[Vectors],
        conditions: Sequence[Sequence[Condition]],
        limits: Sequence[int],
        *,
        vectors: bool = False,
    ) -> list[list[Hit]]:
        """For each query, the best passages that fulfil its conditions, best first.

        queries: [dimension] each. conditions, limits: one for each query. vectors: return the passages' vectors too.

        Raises: Refusal `retrieval_failed`.
        """
        asked = [
            models.QueryRequest(
                query=query.tolist(), filter=_filter(required), limit=limit, with_payload=True, with_vector=vectors
            )
            for query, required, limit in zip(queries, conditions, limits, strict=True)
        ]
        answers = _patiently(lambda: self._client.query_batch_points(self._collection, asked))
        return [[_hit(point) for point in answer.points] for answer in answers]

    def close(self) -> None:
        if self._owned:
            self._client.close()

    def _create(self, dimension: int) -> None:
        try:
            self._client.create_collection(
                self._collection, vectors_config=models.VectorParams(size=dimension, distance=models.Distance.DOT)
            )
        except UnexpectedResponse as error:
            # Another worker has created it meanwhile.
            if error.status_code != httpx.codes.CONFLICT:
                raise

    def _upsert(self, points: models.Batch) -> None:
        with warnings.catch_warnings():
            # We warn in our own words: see LOCAL_LIMIT.
            warnings.simplefilter("ignore", UserWarning)
            self._client.upsert(self._collection, points)


def _collection(key: str) -> str:
    return f"gw-{key.replace('/sha256:', '-').removeprefix('sha256:')}"


def _batches(content: SetFolder) -> Iterator[models.Batch]:
    for at in range(0, len(content.passages), _POINTS_A_REQUEST):
        some = content.passages[at : at + _POINTS_A_REQUEST]
        yield models.Batch(
            ids=list(range(at, at + len(some))),
            vectors=content.vectors[at : at + len(some)].tolist(),
            payloads=[{"id": one.id, "text": one.text, "metadata": _filterable(one.metadata)} for one in some],
        )


def _filterable(metadata: Metadata) -> Metadata:
    """The metadata with whole numbers as integers: data frames write 2024.0 where one row of the column is empty."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() and is_filterable(int(value)) else value
        for key, value in metadata.items()
    }


def _filter(required: Sequence[Condition]) -> models.Filter | None:
    if not required:
        return None
    return models.Filter(
        must=[
            models.Filter(
                should=[
                    models.FieldCondition(key=f"metadata.{one.key}", match=models.MatchValue(value=value))
                    for value in spellings(one.value)
                ]
            )
            for one in required
        ]
    )


def spellings(value: Scalar) -> list[Scalar]:
    """All spellings of a value, as text and as number or truth value, because all cells of CSV files are texts."""
    if isinstance(value, bool):
        return [value, *(word for word in _WORDS if word.lower() == str(value).lower())]
    if isinstance(value, int):
        return [value, str(value), f"{value}.0"]
    if value in _WORDS:
        return [value, value.lower() == "true"]
    if _INTEGER.fullmatch(value) and is_filterable(int(value)):
        return [value, int(value)]
    return [value]


def _hit(point: Any) -> Hit:
    vector = None if point.vector is None else np.asarray(point.vector, np.float32)
    return Hit(point.payload["id"], point.payload["text"], float(point.score), vector)


def _is_away(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):
        return error.status_code is None or error.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, ResponseHandlingException | httpx.TransportError)


def _patiently(ask: Callable[[], T]) -> T:
    """The result of `ask`, tried a few times while the server is away. Raises: Refusal `retrieval_failed`."""
    try:
        for attempt in stamina.retry_context(on=_is_away, attempts=_ATTEMPTS, wait_initial=0.2, wait_max=1.0):
            with attempt:
                return ask()
    except (ApiException, httpx.TransportError) as error:
        told = f" ({error.status_code})" if isinstance(error, UnexpectedResponse) else ""
        raise Refusal(
            FailureCode.RETRIEVAL_FAILED,
            f"Qdrant does not answer as it should{told}: is GUIDEWAY_QDRANT_URL right, and is the server up?",
        ) from None
    raise AssertionError("the last attempt returns or raises")
