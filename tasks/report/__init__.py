"""Writing down what a release did, for people and for programs."""
