"""The weights that btc-edge's networks start from (`edge`: `weights.npz`, `lite0`: `lite0.npz`), see
the README."""
