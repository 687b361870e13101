"""A version of a Kaggle data set, through kagglehub."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError
from trainer.prepare.fetch.origin import (
    ATTEMPTS,
    Desk,
    Told,
    failure,
    is_cut,
    plain,
    quiet_libraries,
)
from trainer.prepare.fetch.unpack import DAMAGE, Damaged, check_archive

LOGIN = "put a token of https://www.kaggle.com/settings/api into KAGGLE_API_TOKEN"


@dataclass(frozen=True)
class Kaggle:
    """See `Origin`."""

    owner: str
    name: str
    number: int
    sha256: str = ""

    @property
    def handle(self) -> str:
        return f"{self.owner}/{self.name}/versions/{self.number}"

    @property
    def spec(self) -> str:
        return f"kaggle:{self.handle}"

    @property
    def key(self) -> str:
        return self.spec

    @property
    def source(self) -> str:
        return self.name

    def bare(self) -> Told:
        url = f"https://www.kaggle.com/datasets/{self.handle}"
        return Told(url=url, version=str(self.number))

    def links_into(self, folder: Path) -> Path | None:
        return None

    def cached(self, told: Told | None) -> Path | None:
        base = self._base()
        place = base / "versions" / str(self.number)
        return place if (base / f"{self.number}.complete").exists() and place.is_dir() else None

    def obtain(self, desk: Desk) -> tuple[Told, Path]:
        try:
            with quiet_libraries():
                told = self._ask()
            desk.announce(told)
            return told, self._download()
        except DataError:
            raise
        except Exception as error:
            raise failure(self.spec, "Kaggle", LOGIN, error) from None

    def _base(self) -> Path:
        """The data set's folder in kagglehub's cache."""
        with quiet_libraries():
            from kagglehub import config
        return Path(config.get_cache_folder()).expanduser() / "datasets" / self.owner / self.name

    def _ask(self) -> Told:
        """What Kaggle says; it tells title, licence and size of the current version only."""
        from kagglehub.clients import build_kaggle_client
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self.owner, self.name
        with build_kaggle_client() as client:
            found = client.datasets.dataset_api_client.get_dataset(request)
        newest = found.current_version_number
        if newest and newest < self.number:
            raise DataError(f"{self.spec}: Kaggle has no such version; the newest is {newest}")
        size = found.total_bytes if newest == self.number else None
        return replace(
            self.bare(),
            title=plain(found.title),
            license=plain(found.license_name),
            size=size or None,
        )

    def _download(self) -> Path:
        """kagglehub unpacks without a limit, so its archive is looked at before it does."""
        import kagglehub
        from kagglehub.exceptions import DataCorruptionError

        there = self.cached(None)
        if there is not None:
            return there
        try:
            self._patiently(self._download_archive)
            check_archive(self._archive(), self.spec)
            return Path(self._patiently(lambda: kagglehub.dataset_download(self.handle)))
        except (DataCorruptionError, *DAMAGE, DataError) as error:
            if is_cut(error):  # an answer that is no JSON is a ValueError, too
                raise
            # kagglehub would take the archive for whole the next time.
            with suppress(FileNotFoundError):
                self._archive().unlink()
            if isinstance(error, DataError) and not isinstance(error, Damaged):
                raise
            raise DataError(
                f"{self.spec}: what came is damaged, and was deleted; give the same command again"
            ) from None

    def _download_archive(self) -> None:
        """As the first half of kagglehub's own way, into the file that it goes on with."""
        from kagglehub.clients import build_kaggle_client, download_file
        from kagglehub.handle import parse_dataset_handle
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = self.owner, self.name
        request.dataset_version_number = self.number
        self._archive().parent.mkdir(parents=True, exist_ok=True)
        with build_kaggle_client() as client:
            answer = client.datasets.dataset_api_client.download_dataset(request)
            download_file(answer, str(self._archive()), parse_dataset_handle(self.handle))

    def _patiently(self, work: Callable[[], Any]) -> Any:
        """Try again where a connection was cut, as long as something comes: kagglehub goes on with
        a part, but does not try itself."""
        for attempt in range(ATTEMPTS):
            before = self._size()
            try:
                with quiet_libraries():
                    return work()
            except Exception as error:
                if attempt == ATTEMPTS - 1 or not is_cut(error) or self._size() <= before:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _archive(self) -> Path:
        """What kagglehub downloads into, until it is unpacked."""
        return self._base() / f"{self.number}.archive"

    def _size(self) -> int:
        try:
            return self._archive().stat().st_size
        except OSError:
            return 0
