"""A version of a Kaggle data set, through kagglehub."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.errors import DataError
from trainer.prepare.fetch.origin import ATTEMPTS, Desk, Told, failure, is_cut, quiet_libraries

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
            from kagglehub.config import get_cache_folder
        return Path(get_cache_folder()).expanduser() / "datasets" / self.owner / self.name

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
            self.bare(), title=found.title, license=found.license_name, size=size or None
        )

    def _download(self) -> Path:
        """kagglehub goes on with an archive that is not whole, but does not try again itself."""
        import kagglehub
        from kagglehub.exceptions import DataCorruptionError

        for attempt in range(ATTEMPTS):
            before = self._size()
            try:
                with quiet_libraries():
                    return Path(kagglehub.dataset_download(self.handle))
            except (
                *(DataCorruptionError, zipfile.BadZipFile, tarfile.TarError, zlib.error),
                *(EOFError, ValueError, NotImplementedError),
            ) as error:
                if is_cut(error):  # an answer that is no JSON is a ValueError, too
                    raise
                # kagglehub would take the archive for whole the next time.
                with suppress(FileNotFoundError):
                    self._archive().unlink()
                raise DataError(
                    f"{self.spec}: what came is damaged, and was deleted; give the same command "
                    "again"
                ) from None
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
