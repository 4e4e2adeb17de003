"""The folder of a job in the store: `STORE/batch.v1/NAMESPACE/JOB/`. No namespace has a dot, so it is the part of none.

    index.DIGEST        the pieces of the input, and the hash of each
    input/NUMBER.*      rows, written by whoever submits the job, and the begin of their hash
    results/NUMBER      replies to all rows of that piece; what is there is final
    results/NUMBER.*    replies to some of them, where others are waited for, or where they are long
    notes/DIGEST        what is under way, where that is too long for a commit
    owner, decision     which record of the job's topic is carried out, and how it ends
    ended               what the watchers are told of its end
    output.*, errors.*  what came of the job, once it has ended
    taken               there once somebody has copied that out of the store

Everything is written under another name and then renamed, so that what has its name is whole. Methods raise OSError and
whatever else a store has for not being there or being full.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, Final

from guideway.catalogue.artefacts.opening import opened, put_whole, written_s
from guideway.producers.batch import stored
from guideway.producers.batch.parts import Finished, PieceResults
from guideway.producers.batch.stored import Damaged, Decision, Head, Index, Part, StoredRow
from guideway.schemas.names.addresses import NAME
from guideway.schemas.services.batch import JOB_ID, BatchEnded

FOLDER: Final = "batch.v1"
_SHOWN: Final = 16
"""Characters of a digest in a name: two that read one file a little differently write two sets of pieces."""
_LENGTH: Final = 4
"""Bytes that say how long the head is, with which results begin."""
_MOST_HEAD: Final = 2**16
_SMALL: Final = 4 * 2**20
"""Results of so many bytes are read at once, more of them row by row."""
_BLOCK: Final = 2**20


class JobFolder:
    """Of one job. Any number of processes may read; those that write write the same."""

    def __init__(self, store: str, namespace: str, job: str) -> None:
        """store: any fsspec address. Raises Refusal(invalid_setting) if it cannot be opened."""
        assert NAME.fullmatch(namespace)
        assert JOB_ID.fullmatch(job)
        self._fs, base = opened(store)
        self.path = f"{base}/{FOLDER}/{namespace}/{job}"

    # The input --------------------------------------------------------------------------------------------------------

    def put_rows(self, number: int, rows: list[StoredRow]) -> stored.PieceOf:
        """Write a piece of the input."""
        data = stored.ROWS.encode(rows)
        digest = stored.digest(data)
        self._put(_input(number, digest), data)
        return stored.PieceOf(len(rows), digest)

    def put_index(self, index: Index) -> str:
        """Write the list of pieces; returns its digest."""
        data = stored.INDEX.encode(index)
        digest = stored.digest(data)
        self._put(_index(digest), data)
        return digest

    def index(self, digest: str) -> Index:
        """The list of pieces. Raises Damaged, where it is another than that of this digest."""
        return stored.INDEX.decode(self._unchanged(_index(digest), digest, "the list of its pieces"))

    def rows(self, index: Index, number: int) -> list[StoredRow]:
        """A piece of the input. Raises Damaged."""
        digest = index.pieces[number].digest
        return stored.ROWS.decode(self._unchanged(_input(number, digest), digest, f"piece {number} of its input"))

    def put_note(self, note: bytes) -> str:
        """Write what is under way; returns the name to read it by."""
        self._put(f"notes/{(name := stored.digest(note))}", note)
        return name

    def note(self, name: str) -> bytes:
        """What was written there. Raises Damaged, FileNotFoundError."""
        return self._unchanged(f"notes/{name}", name, "what is noted of its rows under way")

    # The results ------------------------------------------------------------------------------------------------------

    def put_part(self, number: int, part: Part) -> None:
        """Write results of a piece: all of them under the piece's number, some under a name of their own."""
        head = stored.HEAD.encode(part.head)
        name = _numbered("results", number) + ("" if part.is_whole else f".{uuid.uuid4().hex[:12]}")
        in_order = [part.replies[place] for place in sorted(part.replies)]
        self._put(name, b"".join([len(head).to_bytes(_LENGTH, "big"), head, *in_order]))

    def parts(self) -> dict[int, list[str]]:
        """The names of all results, by piece; those of a whole piece first."""
        found: dict[int, list[str]] = {}
        for name in sorted(self._names("results")):
            number = name.partition(".")[0]
            if number.isascii() and number.isdigit():
                found.setdefault(int(number), []).append(name)
        return found

    def head(self, name: str) -> Head:
        """What stands before these results. Raises Damaged."""
        data = self._fs.cat_file(f"{self.path}/results/{name}", start=0, end=_LENGTH + _MOST_HEAD)
        length = int.from_bytes(data[:_LENGTH], "big")
        return stored.HEAD.decode(data[_LENGTH : _LENGTH + length])

    def finished(self) -> Finished:
        """What is answered and written. Only the beginning of each part is read. Raises Damaged."""
        found = Finished()
        for number, names_ in self.parts().items():
            for name in names_:
                found.add(number, self.head(name))
        return found

    def results_of(self, names_: Iterable[str]) -> PieceResults:
        """Results of one piece, by the names of its parts; to be closed. Raises Damaged."""
        found = PieceResults()
        try:
            for name in names_:
                self._add(found, f"{self.path}/results/{name}")
        except BaseException:
            found.close()
            raise
        return found

    def _add(self, results: PieceResults, path: str) -> None:
        file: IO[bytes] = self._fs.open(path, "rb", block_size=_BLOCK)
        data = file.read(_LENGTH)
        begin = _LENGTH + (length := int.from_bytes(data, "big"))
        if length > _MOST_HEAD:
            file.close()
            raise Damaged("a part of its results does not begin as one")
        head = stored.HEAD.decode(file.read(length))
        if sum(head.sizes) <= _SMALL:
            with file:
                results.add(head, io.BytesIO(file.read()), 0)
        else:
            results.add(head, file, begin)

    # The whole job ----------------------------------------------------------------------------------------------------

    def owner(self, record: str) -> str:
        """Which record of the job's topic is carried out: the first that asked, as it names itself.

        Whoever asks for one of a job asks for no other meanwhile, and in the order of the topic.
        """
        with contextlib.suppress(FileNotFoundError):
            return self._read("owner").decode("utf-8", "replace")
        self._put("owner", record.encode())
        return record

    def is_begun(self) -> bool:
        """Whether a job of this id was ever taken up."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(f"{self.path}/owner"))

    def died(self) -> int:
        """Note that batchers died of the job; returns how often that was noted without a piece being finished since."""
        done, count = len(self._names("results")), 0
        with contextlib.suppress(FileNotFoundError, ValueError):
            pieces, _, before = self._read("deaths").decode("ascii").partition(" ")
            count = int(before) if int(pieces) == done else 0
        self._put("deaths", f"{done} {count + 1}".encode())
        return count + 1

    def decision(self) -> Decision | None:
        """How the job ends; None: that is open. Raises Damaged."""
        try:
            return stored.DECISION.decode(self._read("decision"))
        except FileNotFoundError:
            return None

    def decide(self, decision: Decision) -> None:
        """From now on the job ends so."""
        self._put("decision", stored.DECISION.encode(decision))

    def ended(self) -> BatchEnded | None:
        """How the job has ended, with its output; None: it has none yet. Raises Damaged."""
        try:
            return stored.ENDED.decode(self._read("ended"))
        except FileNotFoundError:
            return None

    def end(self, ended: BatchEnded) -> None:
        """The job has ended so, whoever comes upon its record again."""
        self._put("ended", stored.ENDED.encode(ended))

    @contextmanager
    def writing(self, *names_: str) -> Iterator[list[IO[bytes]]]:
        """Files that get their names when all are written; none does where that fails."""
        fresh = [f"{self.path}/.{uuid.uuid4().hex}" for _ in names_]
        self._fs.makedirs(self.path, exist_ok=True)
        try:
            with contextlib.ExitStack() as stack:
                yield [stack.enter_context(self._fs.open(one, "wb")) for one in fresh]
            for one, name in zip(fresh, names_, strict=True):
                self._fs.mv(one, f"{self.path}/{name}")
        finally:
            for one in fresh:
                with contextlib.suppress(OSError):
                    self._fs.rm_file(one)

    @contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        """One of its files. Raises FileNotFoundError."""
        with self._fs.open(f"{self.path}/{name}", "rb") as file:
            yield file

    def open(self, name: str) -> BinaryIO:
        """One of its files, to be closed. Raises FileNotFoundError."""
        found: BinaryIO = self._fs.open(f"{self.path}/{name}", "rb")
        return found

    def is_to_be_taken(self, name: str) -> bool:
        """Whether this file of results is there, and nobody has taken the results yet."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(f"{self.path}/{name}") and not self._fs.exists(f"{self.path}/taken"))

    def take(self) -> None:
        """Somebody has the results."""
        self._put("taken", b"")

    def forget_pieces(self) -> None:
        """The job has ended: its output is all that is kept."""
        for part in ("input", "notes", "results"):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(f"{self.path}/{part}", recursive=True)

    def forget_results(self) -> bool:
        """All but that and how the job has ended, which keeps its record from being carried out again.

        Returns whether there was anything.
        """
        kept, found = {"owner", "ended"}, False
        for name in self._names(""):
            if name not in kept:
                found = True
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm(f"{self.path}/{name}", recursive=True)
        return found

    def delete(self, name: str) -> None:
        """Remove one of its files. Raises FileNotFoundError."""
        self._fs.rm_file(f"{self.path}/{name}")

    def changed_s(self) -> float | None:
        """When something was last written here, Unix time in seconds; None: the store does not say."""
        self._fs.invalidate_cache()
        times = []
        for part in ("", "/input", "/results"):
            with contextlib.suppress(FileNotFoundError):
                listed = self._fs.ls(f"{self.path}{part}", detail=True)
                times += [written_s(one) for one in listed if one.get("type") == "file"]
        found = [one for one in times if one is not None]
        return max(found) if found and len(found) == len(times) else None

    def remove(self) -> None:
        """All of it."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self.path, recursive=True)

    def _read(self, name: str) -> bytes:
        path = f"{self.path}/{name}"
        data: bytes = self._fs.cat_file(path, start=0, end=stored.MAX_PIECE_BYTES + 1)
        if len(data) > stored.MAX_PIECE_BYTES:
            raise Damaged(f"{name} is larger than anything that is written there")
        return data

    def _unchanged(self, name: str, digest: str, what: str) -> bytes:
        if stored.digest(data := self._read(name)) != digest:
            raise Damaged(f"{what} has changed since it was submitted")
        return data

    def _put(self, name: str, data: bytes) -> None:
        put_whole(self._fs, f"{self.path}/{name}", data)

    def _names(self, part: str) -> list[str]:
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            # Stores differ in what they say of a file where nobody asks for its name alone.
            found: list[str] = self._fs.ls(f"{self.path}/{part}".rstrip("/"), detail=False)
            return [path.rstrip("/").rpartition("/")[2] for path in found]
        return []


def _input(number: int, digest: str) -> str:
    return f"{_numbered('input', number)}.{digest[:_SHOWN]}"


def _index(digest: str) -> str:
    return f"index.{digest[:_SHOWN]}"


def _numbered(part: str, number: int) -> str:
    return f"{part}/{number:08d}"
