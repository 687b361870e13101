"""Where the page of btc-export --web has its runtime from: LiteRT.js, and libjpeg-turbo."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "vendored"
