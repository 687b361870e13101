"""A data set's description in Croissant, the JSON-LD format of MLCommons, for other programs.

Croissant Format Specification 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.card import CardText
from trainer.prepare.rows import Row, groups_text


def describe(
    files: Mapping[str, str], rows: Sequence[Row], partial: Sequence[Row], card: CardText
) -> str:
    """The text of croissant.json.

    Args:
        files: by key of the card (images, groups, boxes, partial, partial_groups): names relative
            to the description; none where there are no pictures.
        rows, partial: what the tables hold.
        card: what is known of the data.
    """
    content: dict[str, Any] = {
        "@type": "sc:Dataset",
        "name": card.joined("title"),
        "license": card.joined("license"),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": files["groups"],
                "contentUrl": files["groups"],
                "encodingFormat": "text/csv",
                "sha256": hashlib.sha256(groups_text(rows).encode()).hexdigest(),
            }
        ]
        if "groups" in files
        else [],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
