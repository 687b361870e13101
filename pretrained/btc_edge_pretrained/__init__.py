"""The weights that btc-edge's network `edge` starts from: `weights.npz`, see the README."""
