"""verdict.json of a run folder: the verdict in full, for programs, and all that judging needs beside results.csv.

    script, experiment      which claim was on trial;  claim, source: its sentence, and whose it is
    verdict                 the fields of judging.verdict.Verdict
    seeds, configs          the seeds that were judged; how many rows they are, the first ones of results.csv
    chances                 [chance, limit] of those rows' training sets, in their order (judging/chance.py)
    failed                  {config id: why it has no result}
    taken                   the sentence on what defaults came from a stored file; "" for none
    versions, machine       what computed the rows, and where they were judged
    seconds, date           what the rows took in all; when they were judged (UTC)
    files                   {name: SHA-256} of the results.csv and flags.cfg that belong to it; of kept figures, too
"""
import dataclasses
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from judging.verdict import Claim, Verdict
from reporting import files

NAME = "verdict.json"
BELONG = ("results.csv", "flags.cfg")


def write(folder: str | Path, *, claim: Claim, verdict: Verdict, **facts: Any) -> None:
    """Keep a verdict beside the results.csv and flags.cfg that it was made of; facts: the other entries, as above."""
    content = {
        "claim": claim.sentence,
        "source": claim.source,
        "verdict": dataclasses.asdict(verdict),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
    }
    write_content(folder, content)


def write_content(folder: str | Path, content: dict, also: Iterable[str] = ()) -> None:
    """Write verdict.json with these entries, and with the checksums of the files that it belongs to; also: of these."""
    checksums = {name: files.file_digest(Path(folder) / name) for name in (*BELONG, *also)}
    files.write_json(Path(folder) / NAME, {**content, "files": checksums})


def read(folder: str | Path) -> dict:
    """The entries of a folder's verdict.json.

    Raises FileNotFoundError where there is none, ValueError where it is damaged or is of other results than the folder
    has, as after a run whose judge failed.
    """
    path = Path(folder) / NAME
    content = files.read_json(path)
    for name, checksum in content["files"].items():
        beside = Path(folder) / name
        if not beside.exists():
            raise ValueError(f"{beside} is missing")
        if files.file_digest(beside) != checksum:
            raise ValueError(f"{beside} is not what {NAME} was made of (its checksum does not match)")
    return content


def as_verdict(entries: dict) -> Verdict:
    """The Verdict of verdict.json's entry `verdict`."""
    groups = tuple((label, outcome) for label, outcome in entries["groups"])
    return Verdict(**{**entries, "groups": groups, "measured": tuple(entries["measured"])})
