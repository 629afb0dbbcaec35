"""The manifests as they are rendered, checked without a cluster."""
