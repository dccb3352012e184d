"""Results in one file: runs, and a suite with its runs, packed and put elsewhere.

An archive is a plain .zip, whose first member is `manifest.json`:

    manifest.json                     format, package version, and of every other member its name,
                                      bytes and SHA-256
    runs/<fingerprint>/record.json    the `RunRecord`
    runs/<fingerprint>/*.safetensors  weights, predictions, probes: all of a run's files, or none
    suite/...                         of a suite: report, executed notebooks, results, figures,
                                      tables, ledger

Nothing in it is a pickle, and nothing is run when it is read. The bytes follow from the content
alone. An archive from elsewhere is taken for hostile: what it says is checked, member by member,
before anything is put in its place. What the checks cannot know is whether its numbers are true,
nor what the scripts of its HTML pages do in a browser: that is a matter of trusting the sender.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fdlab import __version__
from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.files import (
    checksum,
    find_damage,
    find_inside,
    put_folder,
    replace_file,
    restore_folder,
    stays_inside,
)
from fdlab.core.locks import Taken, holding
from fdlab.core.records import RunRecord
from fdlab.core.results import read_result
from fdlab.execute.ledger import FOLDER as DONE
from fdlab.figures.save import FIGURES, RESULTS, TABLES
from fdlab.training.runs import find_run_damage, list_runs

FORMAT = 1
MANIFEST = "manifest.json"
RECORD = "record.json"
SUITE, RUNS = "suite", "runs"
# Folder of a suite → suffixes of what is packed, and may be unpacked, there.
HELD = {
    "": (".html",),
    "notebooks": (".html", ".ipynb"),
    RESULTS: (".json",),
    FIGURES: (".pdf", ".png"),
    TABLES: (".csv", ".json", ".md", ".tex"),
    DONE: (".json",),
}
OF_RUN = (".json", ".safetensors")
PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._+=,-]*[A-Za-z0-9_+=-])?")  # of a member's name
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
REQUIRED = ("last.safetensors", "predictions.safetensors", "validation.safetensors")
TEXTS = (".csv", ".html", ".ipynb", ".json", ".md", ".tex")  # worth compressing
DATE = (1980, 1, 1, 0, 0, 0)  # the first that the format knows
MOST_MANIFEST = 1 << 26  # bytes
MOST_RECORD = 1 << 26
RATIO, SLACK = 200, 1 << 16  # bytes that one packed byte may become, beyond so many
BLOCK = 1 << 20
LISTED = 5  # of a long list, in a note


@dataclass(frozen=True)
class Packed:
    """What an archive holds. runs: fingerprints. suite: the folder's name, "" for none."""

    runs: list[str]
    suite: str
    weights: bool
    files: int
    bytes: int
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        kind = "with weights" if self.weights else "records alone"
        suite = f" and suite {self.suite}" if self.suite else ""
        return f"{len(self.runs)} runs ({kind}){suite}: {self.files} files, {self.bytes:,} bytes"


@dataclass(frozen=True)
class Unpacked:
    """What an import did. put: fingerprints that are finished runs now. found: those that were
    there already. kept: those that stay as they are here, as the notes say. folder: of what else
    the archive held, None for nothing."""

    put: list[str]
    found: list[str]
    kept: list[str]
    folder: Path | None
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        said = [f"{len(self.put)} runs put into {paths.runs()}"]
        if self.found:
            said.append(f"{len(self.found)} were there already")
        if self.kept:
            said.append(f"{len(self.kept)} stay as they are here")
        if self.folder:
            said.append(f"the rest is at {self.folder}")
        return "; ".join(said)


def export(
    archive: Path, fingerprints: list[str] | None = None, suite: str = "", weights: bool = False
) -> Packed:
    """Pack finished runs, their teachers' runs, and a suite's folder into `archive`, whole or not
    at all.

    fingerprints: starts of names, as `fdlab runs show` takes them; without any, the runs that the
    suite's results name, or without a suite every finished run. suite: a folder's name in outputs,
    such as digits-quick. weights: pack the runs' safetensors too, so that the runs are found as
    finished where the archive is imported.
    """
    if archive.suffix != ".zip" or archive.is_dir():
        raise UserError(f"{archive}: expected the name of a file that ends in .zip")
    notes: list[str] = []
    members: dict[str, Path] = {}
    folder = _find_suite(suite) if suite else None
    if folder:
        members |= {f"{SUITE}/{name}": find_inside(folder, name) for name in _list_suite(folder)}
    names = _choose_runs(fingerprints or [], folder, notes)
    for name in names:
        run = find_inside(paths.runs(), name)
        files = [RECORD, *RunRecord.read(run / RECORD).files] if weights else [RECORD]
        members |= {f"{RUNS}/{name}/{file}": find_inside(run, file) for file in files}
    for name in members:
        if reason := _find_fault(name):
            raise UserError(f"{members[name]} cannot be packed: {reason}")
    listed = [
        {"name": name, "bytes": path.stat().st_size, "sha256": checksum(path)}
        for name, path in sorted(members.items())
    ]
    manifest = {"format": FORMAT, "fdlab": __version__, "suite": suite, "members": listed}
    with replace_file(archive) as beside, zipfile.ZipFile(beside, "w") as file:
        text = json.dumps(manifest, indent=1).encode() + b"\n"
        _write(file, MANIFEST, text)
        for entry in listed:
            _copy(file, entry, members[entry["name"]])
    size = archive.stat().st_size
    return Packed(names, suite, weights, len(members), size, notes)


def unpack(archive: Path, name: str = "") -> Unpacked:
    """Check an archive, then put its complete runs into outputs/runs, where they do not exist, and
    everything else into outputs/imported/<name>/.

    name: of that folder; by default the suite's, or the archive's own. Whatever is wrong is a
    `UserError` that names the member and the reason, and then nothing was put anywhere. A run that
    exists with another outcome is named and kept.
    """
    with _opened(archive) as file:
        manifest, infos = _read_manifest(archive, file)
        with tempfile.TemporaryDirectory(prefix="fdlab-import-") as scratch:
            records = _check(archive, file, manifest, infos, Path(scratch))
        members = {entry["name"]: entry for entry in manifest["members"]}
        complete = {run for run in records if f"{RUNS}/{run}/{REQUIRED[0]}" in members}
        rest = [m for m in members if m.startswith(f"{SUITE}/") or m.split("/")[1] not in complete]
        name = name or manifest["suite"] or archive.stem
        if rest and not PART.fullmatch(name):
            raise UserError(
                f"{name!r} is no name for a folder: expected letters, digits, - and _; "
                "give another name with --as"
            )
        target = paths.outputs() / "imported" / name
        wanted = {_place(member): members[member]["sha256"] for member in rest}
        exists = bool(rest) and target.exists()
        if exists and (damage := find_damage(target, wanted)):
            raise UserError(
                f"{target} exists and differs ({damage}): give another name with --as, or remove it"
            )
        return _put(archive, file, infos, members, records, complete, rest, target, exists)


def _find_suite(name: str) -> Path:
    folder = paths.outputs() / name
    if not PART.fullmatch(name) or not (folder / "notebooks").is_dir():
        held = sorted(path.parent.name for path in paths.outputs().glob("*/notebooks"))
        raise UserError(
            f"{name!r} is no suite's folder in {paths.outputs()}: expected one of "
            f"{', '.join(held) or 'those that fdlab reproduce writes, and there is none yet'}"
        )
    return folder


def _list_suite(folder: Path) -> list[str]:
    """What of a suite is packed, relative to its folder."""
    found = [
        path.relative_to(folder).as_posix()
        for below, suffixes in HELD.items()
        for path in sorted((folder / below).glob("*"))
        if path.suffix in suffixes and path.name[0] != "." and path.is_file()
    ]
    if not found:
        raise UserError(f"{folder} holds nothing to pack")
    return found


def _choose_runs(starts: list[str], folder: Path | None, notes: list[str]) -> list[str]:
    """Fingerprints of finished runs, sorted, each with its teacher's."""
    finished: dict[str, RunRecord] = {}
    damaged: dict[str, str] = {}
    for path, record, damage in list_runs():
        if record:
            finished[path.name] = record
        else:
            damaged[path.name] = damage or ""
    if starts:
        chosen = [_match(start, finished, damaged) for start in starts]
    elif folder:
        results = sorted((folder / RESULTS).glob("*.json"))
        named = {run for path in results for run in getattr(read_result(path), "runs", [])}
        chosen = sorted(named & set(finished))
        if gone := sorted(named - set(finished)):
            more = " …" if len(gone) > LISTED else ""
            listed = ", ".join(map(str, gone[:LISTED]))
            notes.append(f"{len(gone)} runs of {folder.name} are not here: {listed}{more}")
    else:
        chosen = sorted(finished)
        notes += [f"left out: {damage}" for damage in damaged.values()]
        if not chosen:
            raise UserError(f"{paths.runs()} holds no finished run to export")
    waiting, found = list(chosen), set()
    while waiting:
        name = waiting.pop()
        if name in finished and name not in found:
            found.add(name)
            waiting += filter(None, [finished[name].teacher])
    return sorted(found)


def _match(start: str, finished: dict[str, RunRecord], damaged: dict[str, str]) -> str:
    matches = [name for name in finished if name.startswith(start)]
    if len(matches) != 1 or not start:
        wrong = next((damage for name, damage in damaged.items() if name.startswith(start)), "")
        raise UserError(
            f"{len(matches)} finished runs start with {start!r}: expected exactly one; "
            + (wrong or "see `fdlab runs list`")
        )
    return matches[0]


def _find_fault(name: str) -> str:
    """Why a member may not have this name; "" where it may."""
    if not stays_inside(name) or "\\" in name:
        return "its name leaves the folder"
    parts = name.split("/")
    if not all(PART.fullmatch(part) for part in parts):
        return "its name holds other signs than letters, digits and . _ + = , -"
    suffix = PurePosixPath(name).suffix
    if parts[0] == RUNS and len(parts) == 3:
        if not FINGERPRINT.fullmatch(parts[1]):
            return f"{parts[1]} is no fingerprint"
        allowed = OF_RUN if parts[2] == RECORD else OF_RUN[1:]
    elif parts[0] == SUITE and len(parts) in (2, 3):
        allowed = HELD.get(parts[1] if len(parts) == 3 else "", ())
    else:
        allowed = ()
    return "" if suffix in allowed else f"no {suffix or 'file without a suffix'} belongs there"


def _describe_member(name: str, packed: bool) -> zipfile.ZipInfo:
    """The same bytes wherever and whenever it is written."""
    info = zipfile.ZipInfo(name, DATE)
    info.create_system = 3  # of the permissions that follow
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    return info


def _write(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    packed = len(zlib.compress(content)) * RATIO > len(content)
    file.writestr(_describe_member(name, packed), content)


def _copy(file: zipfile.ZipFile, entry: dict[str, Any], path: Path) -> None:
    if path.suffix in TEXTS:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        _write(file, entry["name"], content)
    else:
        info = _describe_member(entry["name"], packed=False)
        info.file_size = entry["bytes"]
        hashed = hashlib.sha256()
        with path.open("rb") as source, file.open(info, "w") as target:
            while block := source.read(BLOCK):
                hashed.update(block)
                target.write(block)
        found = hashed.hexdigest()
    if found != entry["sha256"]:
        raise UserError(f"{path} changed while it was packed: export again")


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """An archive to read; what is wrong with the file itself is a `UserError`."""
    if not archive.is_file():
        raise UserError(f"{archive}: no such archive")
    try:
        with zipfile.ZipFile(archive) as file:
            yield file
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, RuntimeError) as error:
        raise UserError(f"{archive} is damaged, or no .zip archive: {error}") from None


def _read_manifest(
    archive: Path, file: zipfile.ZipFile
) -> tuple[dict[str, Any], dict[str, zipfile.ZipInfo]]:
    """The manifest, and every member by name: the same names in both, each once, none of which
    leads anywhere else, and nothing larger than is said."""
    infos: dict[str, zipfile.ZipInfo] = {}
    seen: dict[str, str] = {}
    for info in file.infolist():
        name = info.orig_filename
        fault = "" if name == MANIFEST else _find_fault(name)
        kind = info.external_attr >> 16
        if not fault and stat.S_IFMT(kind) not in (0, stat.S_IFREG):
            fault = "it is a link, or no file"
        if not fault and info.flag_bits & 1:
            fault = "it is encrypted"
        if not fault and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = "it is packed in an unknown way"
        if not fault and name.casefold() in seen:
            fault = f"but for upper and lower case it stands there as {seen[name.casefold()]!r} too"
        if not fault and info.file_size > RATIO * info.compress_size + SLACK:
            fault = f"{info.compress_size} bytes would become {info.file_size}"
        if fault:
            raise _accuse(archive, name, fault)
        infos[name], seen[name.casefold()] = info, name
    if MANIFEST not in infos:
        raise UserError(f"{archive} holds no {MANIFEST}: expected what `fdlab runs export` writes")
    if infos[MANIFEST].file_size > MOST_MANIFEST:
        raise _accuse(archive, MANIFEST, f"it has more than {MOST_MANIFEST} bytes")
    manifest = _parse_manifest(archive, b"".join(_read(archive, file, infos.pop(MANIFEST))))
    listed: set[str] = set()
    for entry in manifest["members"]:
        name = entry["name"]
        if name in listed:
            raise _accuse(archive, name, "the manifest lists it twice")
        listed.add(name)
        if name not in infos:
            fault = _find_fault(name) or "the manifest lists it, and it is not there"
            raise _accuse(archive, name, fault)
        if infos[name].file_size != entry["bytes"]:
            said = f"{infos[name].file_size} bytes, the manifest says {entry['bytes']}"
            raise _accuse(archive, name, said)
    if extra := sorted(set(infos) - listed):
        raise _accuse(archive, extra[0], "the manifest does not list it")
    total = sum(info.file_size for info in infos.values())
    place = next(p for p in (paths.runs(), *paths.runs().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if total > free:
        raise UserError(f"{archive} would take {total:,} bytes, and {free:,} are free")
    return manifest, infos


def _parse_manifest(archive: Path, content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise _accuse(archive, MANIFEST, "it is no JSON") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise _accuse(archive, MANIFEST, f"its format is {found!r}, expected {FORMAT}")
    members, suite = manifest.get("members"), manifest.get("suite")
    if not isinstance(members, list) or not isinstance(suite, str):
        raise _accuse(archive, MANIFEST, "expected a list of members and a suite's name")
    kinds = {"name": str, "bytes": int, "sha256": str}
    for entry in members:
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != kinds:
            raise _accuse(archive, MANIFEST, "expected name, bytes and sha256 of every member")
    return manifest


def _accuse(archive: Path, member: str, fault: str) -> UserError:
    return UserError(f"{archive}: member {member!r}: {fault}; nothing was imported")


def _read(archive: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """A member's blocks, and not one byte more than it declares."""
    left = info.file_size
    try:
        with file.open(info) as handle:
            while block := handle.read(min(BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise _accuse(archive, info.orig_filename, "it is longer than it says")
                yield block
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, RuntimeError) as error:
        raise _accuse(archive, info.orig_filename, f"it is damaged ({error})") from None
    if left:
        raise _accuse(archive, info.orig_filename, f"it is {left} bytes shorter than it says")


def _check(
    archive: Path,
    file: zipfile.ZipFile,
    manifest: dict[str, Any],
    infos: dict[str, zipfile.ZipInfo],
    scratch: Path,
) -> dict[str, RunRecord]:
    """Compare every member with its checksum; read the records, and what each says of its run."""
    sums, records = {}, {}
    for entry in manifest["members"]:
        name = entry["name"]
        hashed, kept = hashlib.sha256(), []
        is_record = name.startswith(f"{RUNS}/") and name.endswith(f"/{RECORD}")
        if is_record and entry["bytes"] > MOST_RECORD:
            raise _accuse(archive, name, f"it has more than {MOST_RECORD} bytes")
        for block in _read(archive, file, infos[name]):
            hashed.update(block)
            if is_record:
                kept.append(block)
        sums[name] = hashed.hexdigest()
        if sums[name] != entry["sha256"]:
            raise _accuse(archive, name, "it does not match its checksum")
        if is_record:
            records[name.split("/")[1]] = _read_record(archive, name, b"".join(kept), scratch)
    _check_runs(archive, sums, records)
    return records


def _check_runs(archive: Path, sums: dict[str, str], records: dict[str, RunRecord]) -> None:
    """Every run has a record, and beside it all the files that it says, or none. sums: member →
    SHA-256."""
    held: dict[str, dict[str, str]] = {}
    for name in sums:
        if name.startswith(f"{RUNS}/"):
            _, run, file = name.split("/")
            held.setdefault(run, {})[file] = sums[name]
    for run, files in held.items():
        if not files.pop(RECORD, ""):
            raise _accuse(archive, f"{RUNS}/{run}/{RECORD}", "it is not there, but its run is")
        said = records[run].files
        for file in sorted({*files, *said, *REQUIRED}) if files else ():
            if file not in files:
                raise _accuse(archive, f"{RUNS}/{run}/{file}", "it is missing from its run")
            if files[file] != said.get(file):
                raise _accuse(archive, f"{RUNS}/{run}/{file}", "its run's record says otherwise")


def _read_record(archive: Path, name: str, content: bytes, scratch: Path) -> RunRecord:
    path = scratch / RECORD
    path.write_bytes(content)
    try:
        record = RunRecord.read(path)
    except UserError as error:
        raise _accuse(archive, name, str(error).replace(str(path), "it")) from None
    if record.fingerprint != name.split("/")[1]:
        raise _accuse(archive, name, f"it is the record of {record.fingerprint!r}")
    return record


def _place(member: str) -> str:
    """Where a member goes, below outputs/imported/<name>/."""
    return member.removeprefix(f"{SUITE}/")


def _put(
    archive: Path,
    file: zipfile.ZipFile,
    infos: dict[str, zipfile.ZipInfo],
    members: dict[str, dict[str, Any]],
    records: dict[str, RunRecord],
    complete: set[str],
    rest: list[str],
    target: Path,
    exists: bool,
) -> Unpacked:
    """Write everything beside its place, then move it there."""
    found: dict[str, list[str]] = {"put": [], "found": [], "kept": []}
    notes = []
    staged = _Staged(archive, file, infos, members)
    paths.runs().mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            # Below `.import.…`: `fdlab runs clean` takes this lock before it removes such a folder.
            stack.enter_context(holding(paths.runs() / "import", "the import of runs", wait=False))
            runs = stack.enter_context(staged.below(paths.runs(), "import"))
            for run in sorted(complete):
                if not (paths.runs() / run).is_dir() or find_run_damage(paths.runs() / run):
                    for name in [m for m in members if m.startswith(f"{RUNS}/{run}/")]:
                        staged.write(name, runs / run / name.split("/")[2])
            folder = None
            if rest and not exists:
                target.parent.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(staged.below(target.parent, target.name))
                for name in rest:
                    staged.write(name, folder / _place(name))
            for run in sorted(complete):
                outcome, why = _put_run(runs / run, paths.runs() / run, records[run])
                found[outcome].append(run)
                notes += [why] if why else []
            if folder:
                put_folder(folder, target)
    except Taken as error:
        who = error.owner.describe()
        raise UserError(f"another import is at work in {paths.runs()}: {who}") from None
    return Unpacked(**found, folder=target if rest else None, notes=notes)


@dataclass(frozen=True)
class _Staged:
    """Members on their way to their places."""

    archive: Path
    file: zipfile.ZipFile
    infos: dict[str, zipfile.ZipInfo]
    members: dict[str, dict[str, Any]]

    @contextmanager
    def below(self, folder: Path, name: str) -> Iterator[Path]:
        """A folder beside others on the same disk, gone in the end."""
        beside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
        beside.chmod(0o755)
        try:
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def write(self, member: str, path: Path) -> None:
        """Its checksum again: the file may have changed since it was checked."""
        path.parent.mkdir(parents=True, exist_ok=True)
        hashed = hashlib.sha256()
        with path.open("xb") as handle:
            for block in _read(self.archive, self.file, self.infos[member]):
                hashed.update(block)
                handle.write(block)
        if hashed.hexdigest() != self.members[member]["sha256"]:
            raise _accuse(self.archive, member, "it changed while it was read")


def _put_run(source: Path, folder: Path, record: RunRecord) -> tuple[str, str]:
    """Move a whole run into its place: "put"; "found" where the same run is there; else "kept", and
    why the one that is there stays."""
    try:
        with holding(folder, f"run {folder.name}", wait=False):
            restore_folder(folder)
            if folder.is_dir() and not find_run_damage(folder):
                own = RunRecord.read(folder / RECORD)
                if own.outcome == record.outcome:
                    return "found", ""
                ours, theirs = (r.scores.get("validation") for r in (own, record))
                said = [f"{100 * s.accuracy:.1f} %" if s else "no score" for s in (ours, theirs)]
                why = f"run {folder.name} is here with {said[0]}, in the archive with {said[1]}"
                return "kept", f"{why}, and stays as it is"
            if find_run_damage(source):
                return "kept", f"run {folder.name} changed meanwhile: import again"
            put_folder(source, folder)
            return "put", ""
    except Taken as error:
        who = error.owner.describe()
        return "kept", f"run {folder.name} is being trained here and stays: {who}"
