"""Tests on a real Kubernetes with a real KEDA: `make test-cluster`."""
