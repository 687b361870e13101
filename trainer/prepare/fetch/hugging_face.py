"""A revision of a data set of the Hugging Face Hub, through huggingface_hub.

It goes on with part of a file within a process only; the next has the files that came whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError, UsageError
from trainer.prepare.fetch.origin import Desk, Told, failure, plain, quiet_libraries

LOGIN = "put a token of https://huggingface.co/settings/tokens into HF_TOKEN, or: hf auth login"
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HuggingFace:
    """See `Origin`. The revision is a commit hash or a tag."""

    owner: str
    name: str
    revision: str
    sha256: str = ""

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def spec(self) -> str:
        return f"hf:{self.repository}@{self.revision}"

    @property
    def key(self) -> str:
        return self.spec

    @property
    def source(self) -> str:
        return self.name

    def bare(self) -> Told:
        commit = self.revision if _COMMIT.fullmatch(self.revision) else ""
        return self._at(commit) if commit else Told(url=self._page())

    def links_into(self, folder: Path) -> Path | None:
        """The cache keeps a file under its digest, and links to it from each snapshot."""
        return folder.parent.parent

    def cached(self, told: Told | None) -> Path | None:
        with quiet_libraries():
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

            try:
                place = snapshot_download(
                    self.repository,
                    repo_type="dataset",
                    revision=told.version if told else self.revision,
                    local_files_only=True,
                )
            except LocalEntryNotFoundError:  # one that is not whole, too
                return None
            except HFValidationError:
                raise UsageError(f"{self.spec}: no data set can have this name") from None
        return Path(place)

    def obtain(self, desk: Desk) -> tuple[Told, Path]:
        try:
            with quiet_libraries():
                told = self._ask()
            desk.announce(told)
            with quiet_libraries():
                from huggingface_hub import snapshot_download

                place = snapshot_download(
                    self.repository, repo_type="dataset", revision=told.version
                )
            return told, Path(place)
        except (DataError, UsageError):
            raise
        except Exception as error:
            raise failure(self.spec, "Hugging Face", LOGIN, error) from None

    def _page(self) -> str:
        return f"https://huggingface.co/datasets/{self.repository}"

    def _at(self, commit: str) -> Told:
        return Told(url=f"{self._page()}/tree/{commit}", version=commit)

    def _ask(self) -> Told:
        from huggingface_hub import HfApi

        api = HfApi()
        if not _COMMIT.fullmatch(self.revision):
            self._check(api.list_repo_refs(self.repository, repo_type="dataset"))
        found = api.dataset_info(self.repository, revision=self.revision, files_metadata=True)
        if not _COMMIT.fullmatch(found.sha or ""):
            raise ValueError("no commit")
        said: Any = found.card_data or {}
        files = found.siblings or []
        return replace(
            self._at(found.sha),
            title=plain(said.get("pretty_name")),
            license=plain(said.get("license")),
            citation=plain(found.citation),
            size=sum(each.size or 0 for each in files),
            digests={each.rfilename: each.lfs.sha256 for each in files if each.lfs is not None},
        )

    def _check(self, refs: Any) -> None:
        """Refuse a branch, which moves, and a shortened hash."""
        if any(each.name == self.revision for each in refs.tags):
            return
        for each in refs.branches:
            if each.name == self.revision:
                raise UsageError(
                    f"{self.revision} is a branch of {self.repository}, which moves, and no "
                    f"version; today it is hf:{self.repository}@{each.target_commit}"
                )
        raise UsageError(
            f"{self.repository} has no tag {self.revision}; name a tag, or a commit by all 40 "
            f"digits of its hash: {self._page()}/commits/main lists them"
        )
