"""What the package's metadata holds for a README: on an index page only links with an address lead anywhere."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def readme(text: str, repository: str | None, version: str) -> str:
    """The README with its relative links and pictures at the repository's address; as it is where there is none."""
    if repository is None:
        return text
    tree = f"{repository.rstrip('/')}/{{}}/v{version}/"
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{tree.format('raw')}", text)
    return re.sub(r"((?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\()(?![a-z]+:|#)", rf"\1{tree.format('blob')}", text)


class Readme(MetadataHookInterface):
    """Gives the metadata its `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets it; the version is known by then, since it is read off the package itself."""
        package = (Path(self.root) / "src/fedtangent/__init__.py").read_text(encoding="utf-8")
        version = re.search(r'^__version__ = "(.+)"$', package, re.MULTILINE)
        assert version is not None
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme(text, address, version[1])}
