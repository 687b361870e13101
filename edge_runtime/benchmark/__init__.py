"""`btc-edge benchmark`: latency, memory and accuracy of models on this device."""
