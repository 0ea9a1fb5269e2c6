"""HTTP for machines: the JSON API."""
