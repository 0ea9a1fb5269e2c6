"""HTTP for machines: the JSON API, and the metrics of Prometheus."""
