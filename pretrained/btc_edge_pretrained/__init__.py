"""The weights that btc-edge's networks start from (`weights.npz` is of `edge`, `lite0.npz` of
`lite0`), see the README."""
