"""One version of a public collection, downloaded: its files, and a card that says what they are."""
