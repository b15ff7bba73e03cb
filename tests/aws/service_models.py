"""botocore's service models, parsed once per process. Otherwise every boto3 session parses them again."""

from functools import cache
from typing import Any

from botocore.loaders import JSONFileLoader, Loader


class CachingFileLoader(JSONFileLoader):  # type: ignore[misc]
    """Loads each file once. The content is not copied: botocore does not change it, and shares it among clients."""

    def load_file(self, file_path: str) -> Any:
        return _load(file_path)


@cache
def _load(file_path: str) -> Any:
    return JSONFileLoader().load_file(file_path)


def cache_service_models() -> None:
    """Parse each model once, from now on."""
    Loader.FILE_LOADER_CLASS = CachingFileLoader
