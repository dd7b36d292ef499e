"""The science: arrays in, arrays out; no network, no clock, no environment."""
