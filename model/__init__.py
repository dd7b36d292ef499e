"""The science: arrays in, arrays out; no internet, no clock, no environment."""
