"""How fast is it, beside its peers? Run by `make bench` and `make bench-claims`."""
