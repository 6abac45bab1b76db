"""Public data sets are fetched here, unpacked, written down as LLaVA JSON."""
