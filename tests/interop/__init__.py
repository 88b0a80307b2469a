"""Models of symlm in the libraries that they are meant for: `make test-interop`."""
